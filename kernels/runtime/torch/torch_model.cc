#include "kernels/runtime/torch/torch_model.h"

#include <algorithm>
#include <optional>
#include <set>

#include "absl/strings/str_cat.h"
#include "formats/base/dtype.h"
#include "formats/base/status.h"
#include "formats/quantized/native.h"
#include "kernels/runtime/torch/torch_graph.h"

namespace spikefold {
namespace {

absl::Status StatusOf(int32_t failed, const SfTorchError& error) {
  if (failed == 0) return absl::OkStatus();
  const std::string text(error.text, strnlen(error.text, sizeof error.text));
  // LibTorch appends where in its sources the exception was made.
  const std::string first_line = text.substr(0, text.find('\n'));
  if (first_line.find("memory") != std::string::npos) {
    return absl::ResourceExhaustedError(absl::StrCat("torch: ", first_line));
  }
  return absl::InternalError(absl::StrCat("torch: ", first_line));
}

class Loader {
 public:
  Loader(const CheckpointReader& reader, const TorchOptions& options, const SfTorchApi* api)
      : reader_(reader), graph_(reader.graph()), options_(options), api_(api), described_(graph_) {}
  ~Loader() {
    if (model_ != nullptr) api_->destroy(model_);
  }

  absl::StatusOr<SfTorchModel*> Load() {
    if (reader_.kind() == CheckpointKind::kNative) {
      SF_ASSIGN_OR_RETURN(native_, NativeReader::Open(reader_.path()));
      SF_RETURN_IF_ERROR(FindForms());
    }
    if (options_.forms != nullptr) {
      for (size_t i = 0; i < options_.forms->sites.size(); ++i) {
        described_.SetForm(static_cast<int>(i), options_.forms->sites[i]);
      }
      described_.SetTurns(options_.forms->turns);
    }
    SfTorchGraph& settings = described_.settings();
    settings.scale_gradients = options_.forms != nullptr ? 1 : 0;
    settings.bf16 = options_.bf16 ? 1 : 0;
    settings.num_threads = options_.num_threads;
    settings.device = options_.device.c_str();
    SF_RETURN_IF_ERROR(StatusOf(api_->create(&described_.Describe(), &model_, &error_), error_));
    const int64_t count = static_cast<int64_t>(graph_.nodes.size());
    for (int64_t i = 0; i < count; ++i) {
      if (!Report(options_.progress, "loading for LibTorch", i, count)) {
        return absl::CancelledError("load: stopped");
      }
      SF_RETURN_IF_ERROR(LoadNode(static_cast<int>(i)));
    }
    SF_RETURN_IF_ERROR(LoadPrefix());
    SfTorchModel* const model = model_;
    model_ = nullptr;
    return model;
  }

 private:
  bool IsTiedHead(const Node& node) const {
    return node.role == Role::kHead && graph_.config.tied_embeddings &&
           (native_ == nullptr || native_->FindLinear(node.module) == nullptr);
  }

  // The site whose input a stored linear multiplies; a tied table is the head's weight as well.
  int SiteOf(const std::string& module) const {
    const int node = graph_.FindModule(module);
    if (node < 0) return -1;
    const bool table = graph_.nodes[static_cast<size_t>(node)].role == Role::kEmbedding;
    if (!table) return graph_.SiteOf(node);
    return IsTiedHead(graph_.nodes.back()) ? graph_.sites.back().id : -1;
  }

  // The forms of the sites must be known before the model is made.
  absl::Status FindForms() {
    super_columns_.resize(graph_.sites.size());
    for (const bool supers : {true, false}) {
      for (const QuantizedLinearSpec& spec : native_->info().linears) {
        const int site = SiteOf(spec.module);
        const bool plain = spec.act.is_float() && spec.num_kept == 0 && spec.num_super == 0;
        if (site < 0 || spec.format.is_float() || plain) continue;
        SF_ASSIGN_OR_RETURN(const QuantizedLinear q, native_->ReadLinear(spec.module));
        std::vector<int32_t>& columns = super_columns_[static_cast<size_t>(site)];
        if (supers) {
          std::set<int32_t> all(columns.begin(), columns.end());
          for (const SuperWeight& s : q.supers) all.insert(s.col);
          columns.assign(all.begin(), all.end());
        } else {
          described_.SetForm(site, q, columns);
        }
      }
    }
    return absl::OkStatus();
  }

  absl::Status LoadNode(int index) {
    const Node& node = graph_.nodes[static_cast<size_t>(index)];
    if (node.module.empty() || IsTiedHead(node)) return absl::OkStatus();
    if (node.op == Op::kNorm || node.op == Op::kHeadNorm) {
      SF_ASSIGN_OR_RETURN(Tensor gain, reader_.ReadF32(node.module + ".weight"));
      for (float& g : gain.as<float>()) g += graph_.config.norm_gain_offset;
      return StatusOf(api_->set_gain(model_, index, gain.as<float>().data(), gain.num_elements(), &error_),
                      error_);
    }
    if (native_ != nullptr && native_->FindLinear(node.module) != nullptr) return LoadStored(index);
    SF_ASSIGN_OR_RETURN(const Tensor w, reader_.ReadF32(node.module + ".weight"));
    std::optional<Tensor> bias;
    if (node.has_bias) {
      SF_ASSIGN_OR_RETURN(bias, reader_.ReadF32(node.module + ".bias"));
    }
    const SfTorchLinear linear = {.values_f32 = w.as<float>().data(),
                                  .bias = bias ? bias->as<float>().data() : nullptr};
    return StatusOf(api_->set_linear(model_, index, &linear, &error_), error_);
  }

  absl::Status LoadStored(int index) {
    const Node& node = graph_.nodes[static_cast<size_t>(index)];
    SF_ASSIGN_OR_RETURN(const QuantizedLinear q, native_->ReadLinear(node.module));
    if (q.n != node.n || q.k != node.k) {
      return absl::DataLossError(absl::StrCat(node.module, ": stored as [", q.n, ", ", q.k,
                                              "]; config.json asks for [", node.n, ", ", node.k, "]"));
    }
    SfTorchLinear linear{};
    linear.bias = q.bias.empty() ? nullptr : q.bias.data();
    Tensor dense;
    std::vector<int8_t> levels;
    if (q.format.is_float()) {
      dense = Dequantize(q);
      linear.values_f32 = dense.as<float>().data();
    } else {
      if (q.format.trellis) levels = Levels(q);
      linear.values_s8 = q.format.trellis ? levels.data() : q.codes.data();
      linear.num_groups = q.num_groups();
      linear.scales = q.scales.data();
      linear.zeros = q.zeros.empty() ? nullptr : q.zeros.data();
    }
    std::vector<float> kept;
    for (const uint16_t bits : q.kept_weight_bf16) kept.push_back(Bf16ToFloat(bits));
    linear.kept = kept.empty() ? nullptr : kept.data();
    std::vector<int32_t> rows, slots;
    std::vector<float> values;
    for (const SuperWeight& s : q.supers) {
      const std::vector<int32_t>& columns = super_columns_[static_cast<size_t>(SiteOf(node.module))];
      rows.push_back(s.row);
      slots.push_back(
          static_cast<int32_t>(std::lower_bound(columns.begin(), columns.end(), s.col) - columns.begin()));
      values.push_back(s.value);
    }
    linear.num_super = static_cast<int64_t>(rows.size());
    linear.super_row = rows.data();
    linear.super_slot = slots.data();
    linear.super_value = values.data();
    return StatusOf(api_->set_linear(model_, index, &linear, &error_), error_);
  }

  absl::Status LoadPrefix() {
    if (options_.forms != nullptr && options_.forms->prefix != nullptr) {
      return LoadPrefix(*options_.forms->prefix);
    }
    if (native_ == nullptr) return absl::OkStatus();
    SF_ASSIGN_OR_RETURN(const NativePrefix prefix, native_->ReadPrefix());
    if (prefix.ids.empty()) return absl::OkStatus();
    const int64_t positions = static_cast<int64_t>(prefix.ids.size());
    const Shape want = {graph_.config.num_kv_heads, positions, graph_.config.head_dim};
    for (size_t l = 0; l < prefix.k.size(); ++l) {
      if (static_cast<int64_t>(prefix.k.size()) != graph_.config.num_layers || prefix.k[l].shape() != want ||
          prefix.v[l].shape() != want) {
        return absl::DataLossError(absl::StrCat(reader_.path(), ": its prefix does not fit the model"));
      }
      const Tensor k = ToF32(prefix.k[l].view()), v = ToF32(prefix.v[l].view());
      SF_RETURN_IF_ERROR(StatusOf(api_->set_prefix(model_, static_cast<int32_t>(l), positions,
                                                   k.as<float>().data(), v.as<float>().data(), &error_),
                                  error_));
    }
    return absl::OkStatus();
  }

  absl::Status LoadPrefix(const KvPrefix& prefix) {
    const ModelConfig& c = graph_.config;
    const size_t values = static_cast<size_t>(c.num_kv_heads * prefix.size() * c.head_dim);
    const size_t layers = static_cast<size_t>(c.num_layers);
    const bool all = prefix.k.size() == layers && prefix.v.size() == layers;
    for (size_t l = 0; l < layers; ++l) {
      if (!all || prefix.k[l].size() != values || prefix.v[l].size() != values) {
        return absl::DataLossError("the prefix's keys and values do not fit the model; scan again");
      }
      std::vector<float> k, v;
      for (const uint16_t bits : prefix.k[l]) k.push_back(Bf16ToFloat(bits));
      for (const uint16_t bits : prefix.v[l]) v.push_back(Bf16ToFloat(bits));
      SF_RETURN_IF_ERROR(StatusOf(
          api_->set_prefix(model_, static_cast<int32_t>(l), prefix.size(), k.data(), v.data(), &error_),
          error_));
    }
    return absl::OkStatus();
  }

  const CheckpointReader& reader_;
  const ModelGraph& graph_;
  const TorchOptions& options_;
  const SfTorchApi* const api_;
  TorchGraph described_;
  std::unique_ptr<NativeReader> native_;
  std::vector<std::vector<int32_t>> super_columns_;  // by site
  SfTorchModel* model_ = nullptr;
  SfTorchError error_{};
};

}  // namespace

absl::StatusOr<std::unique_ptr<TorchModel>> TorchModel::Load(const CheckpointReader& reader,
                                                             const TorchOptions& options) {
  SF_ASSIGN_OR_RETURN(const TorchPlugin plugin, LoadTorchPlugin());
  if (options.device == "cuda" && plugin.api->cuda_devices() == 0) {
    return absl::AbortedError("backend \"torch\": LibTorch finds no GPU on this machine; use its CPU");
  }
  SF_ASSIGN_OR_RETURN(SfTorchModel* const model, Loader(reader, options, plugin.api).Load());
  return std::unique_ptr<TorchModel>(new TorchModel(plugin.api, model, reader.graph().config.vocab));
}

TorchModel::~TorchModel() { api_->destroy(model_); }

absl::Status TorchModel::Check(absl::Span<const int32_t> tokens, int64_t first_scored, size_t values) const {
  const int64_t size = static_cast<int64_t>(tokens.size());
  if (first_scored < 0 || first_scored >= size) {
    return absl::InvalidArgumentError(absl::StrCat("torch: rows from ", first_scored, " of ", size,
                                                   " tokens; at least one must be scored"));
  }
  for (const int32_t token : tokens) {
    if (token >= 0 && token < vocab_) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        "torch: token ", token, " is outside the vocabulary; 0 to ", vocab_ - 1, " are allowed"));
  }
  const size_t want = static_cast<size_t>((size - first_scored) * vocab_);
  if (values == want) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("torch: ", values, " logits for ", size - first_scored, " rows; ", want, " are needed"));
}

absl::Status TorchModel::Logits(absl::Span<const int32_t> tokens, int64_t first_scored,
                                absl::Span<float> logits) {
  SF_RETURN_IF_ERROR(Check(tokens, first_scored, logits.size()));
  SfTorchError error{};
  const SfTorchWindow window = {tokens.data(), static_cast<int64_t>(tokens.size()), first_scored};
  return StatusOf(api_->logits(model_, &window, logits.data(), &error), error);
}

absl::StatusOr<double> TorchModel::Divergence(absl::Span<const int32_t> tokens, int64_t first_scored,
                                              absl::Span<const float> target) {
  SF_RETURN_IF_ERROR(Check(tokens, first_scored, target.size()));
  SfTorchError error{};
  double mean = 0;
  const SfTorchWindow window = {tokens.data(), static_cast<int64_t>(tokens.size()), first_scored};
  SF_RETURN_IF_ERROR(StatusOf(api_->divergence(model_, &window, target.data(), &mean, &error), error));
  return mean;
}

absl::Status TorchModel::Learn(int node, TorchParameter parameter, float unit) {
  SfTorchError error{};
  return StatusOf(api_->learn(model_, node, static_cast<int32_t>(parameter), unit, &error), error);
}

absl::StatusOr<double> TorchModel::Accumulate(absl::Span<const int32_t> tokens, int64_t first_scored,
                                              absl::Span<const float> target, double count) {
  SF_RETURN_IF_ERROR(Check(tokens, first_scored, target.size()));
  SfTorchError error{};
  double mean = 0;
  const SfTorchWindow window = {tokens.data(), static_cast<int64_t>(tokens.size()), first_scored};
  SF_RETURN_IF_ERROR(StatusOf(api_->accumulate(model_, &window, target.data(), count, &mean, &error), error));
  return mean;
}

absl::StatusOr<bool> TorchModel::AdamStep(double rate, double beta1, double beta2) {
  SfTorchError error{};
  int32_t finite = 1;
  SF_RETURN_IF_ERROR(StatusOf(api_->adam_step(model_, rate, beta1, beta2, &finite, &error), error));
  return finite != 0;
}

absl::Status TorchModel::Remember() {
  SfTorchError error{};
  return StatusOf(api_->remember(model_, &error), error);
}
absl::Status TorchModel::Recall() {
  SfTorchError error{};
  return StatusOf(api_->recall(model_, &error), error);
}

absl::StatusOr<bool> TorchModel::CayleyStep(double rate, double beta1, double beta2) {
  SfTorchError error{};
  int32_t finite = 1;
  SF_RETURN_IF_ERROR(StatusOf(api_->cayley_step(model_, rate, beta1, beta2, &finite, &error), error));
  return finite != 0;
}

absl::StatusOr<std::vector<double>> TorchModel::ReadTurn(int turn, int64_t order) {
  SfTorchError error{};
  std::vector<double> values(static_cast<size_t>(order * order));
  SF_RETURN_IF_ERROR(StatusOf(api_->read_turn(model_, turn, values.data(), order * order, &error), error));
  return values;
}

absl::StatusOr<std::vector<float>> TorchModel::Read(int node, TorchParameter parameter, int64_t size) {
  SfTorchError error{};
  std::vector<float> values(static_cast<size_t>(size));
  SF_RETURN_IF_ERROR(StatusOf(
      api_->read(model_, node, static_cast<int32_t>(parameter), values.data(), size, &error), error));
  return values;
}

}  // namespace spikefold
