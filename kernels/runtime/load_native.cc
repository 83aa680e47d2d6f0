// Natively quantized checkpoints: codes are packed for the kernels, and the linears of a site must ask for
// one activation form.
#include <algorithm>
#include <optional>
#include <set>

#include "absl/strings/str_cat.h"
#include "formats/base/status.h"
#include "formats/quantized/input_form.h"
#include "formats/quantized/native.h"
#include "kernels/runtime/loaded_model.h"

namespace spikefold {
namespace {

// Linears of a site as stored: activation formats, kept columns and scales are compared on these.
struct SiteInput {
  std::optional<InputForm> first;  // of the linear that decided
  ActivationForm form;
  std::set<int32_t> super_columns;
};

absl::Status AddToSite(const QuantizedLinear& q, bool simulate, SiteInput& site) {
  if (q.format.is_float()) return absl::OkStatus();  // reads the float rows, whatever the form
  for (const SuperWeight& super : q.supers) site.super_columns.insert(super.col);
  if (site.first) {
    const absl::Status same = CheckSameInput(*site.first, InputFormOf(q));
    return same.ok() ? same : absl::DataLossError(same.message());
  }
  site.first = InputFormOf(q);
  ActivationForm& form = site.form;
  form.format = q.act;
  form.static_scale = q.input_scale;
  form.static_zero = q.input_zero;
  form.kept = q.kept_columns;
  form.spike_threshold = q.spike_threshold;
  form.max_spike_rows = q.max_spike_rows;
  form.simulate = simulate;
  return absl::OkStatus();
}

// Float weights that the codes stand for. Super weights stay outside: they multiply the unrounded activation.
absl::Status PackDequantized(const QuantizedLinear& q, Ops& ops, LinearWeights& w) {
  Tensor dense = Dequantize(q);
  for (const SuperWeight& s : q.supers) dense.as<float>()[static_cast<size_t>(s.row * q.k + s.col)] = 0;
  return ops.PackF32(dense, w);
}

// Trellis codes run as the INT8 codes that they stand for.
absl::Status PackCodes(const QuantizedLinear& q, Ops& ops, LinearWeights& w) {
  const std::vector<int8_t> levels = q.format.trellis ? Levels(q) : std::vector<int8_t>();
  w.kept_weight = q.kept_weight_bf16;
  const absl::Status status = ops.PackCodes({.n = q.n,
                                             .k = q.k,
                                             .format = q.format.trellis ? WeightFormat::kS8c : q.format,
                                             .group = q.group,
                                             .codes = q.format.trellis ? levels : q.codes,
                                             .scales = q.scales,
                                             .zeros = q.zeros},
                                            q.act, w);
  if (status.ok()) return absl::OkStatus();
  return absl::Status(status.code(), absl::StrCat(q.module, ": ", status.message()));
}

}  // namespace

class NativeLoader {
 public:
  NativeLoader(const CheckpointReader& reader, const NativeReader& native, bool simulate, LoadedModel& model)
      : reader_(reader),
        native_(native),
        simulate_(simulate),
        model_(model),
        graph_(model.graph_),
        inputs_(graph_.sites.size()) {}

  absl::Status Load(const Progress& progress) {
    const std::vector<int> order = LoadOrder(graph_);
    for (size_t i = 0; i < order.size(); ++i) {
      if (!Report(progress, "loading", static_cast<int64_t>(i), static_cast<int64_t>(order.size()))) {
        return absl::CancelledError("load: stopped");
      }
      const Node& node = graph_.nodes[static_cast<size_t>(order[i])];
      const bool quantized = native_.FindLinear(node.module) != nullptr;
      SF_RETURN_IF_ERROR(quantized ? LoadLinear(order[i]) : model_.LoadFloatNode(reader_, order[i]));
    }
    SF_RETURN_IF_ERROR(SetForms());
    model_.SetRotations();
    const absl::Status kv = model_.set_kv(KvFromNative(native_.info().kv));
    if (!kv.ok()) return absl::DataLossError(absl::StrCat(reader_.path(), ": ", kv.message()));
    return LoadPrefix();
  }

 private:
  absl::Status LoadLinear(int index) {
    const Node& node = graph_.nodes[static_cast<size_t>(index)];
    SF_ASSIGN_OR_RETURN(const QuantizedLinear q, native_.ReadLinear(node.module));
    if (q.n != node.n || q.k != node.k) {
      return absl::DataLossError(absl::StrCat(node.module, ": stored as [", q.n, ", ", q.k,
                                              "]; config.json asks for [", node.n, ", ", node.k, "]"));
    }
    auto w = std::make_shared<LinearWeights>();
    if (q.format.is_float() || simulate_) {
      SF_RETURN_IF_ERROR(PackDequantized(q, model_.ops(), *w));
    } else {
      SF_RETURN_IF_ERROR(PackCodes(q, model_.ops(), *w));
    }
    w->bias = q.bias;
    w->float_input = q.format.is_float();
    for (const SuperWeight& s : q.supers) {
      w->super_slot.push_back(s.col);  // SetForms() turns columns into slots
      w->super_row.push_back(s.row);
      w->super_value.push_back(s.value);
    }
    SF_RETURN_IF_ERROR(model_.ops().Prepare(*w));
    model_.linears_[static_cast<size_t>(index)] = std::move(w);
    return AddInput(index, q);
  }

  // A tied embedding's table is the head's weight and decides the head's input.
  absl::Status AddInput(int index, const QuantizedLinear& q) {
    const bool embedding = graph_.nodes[static_cast<size_t>(index)].role == Role::kEmbedding;
    const Node& head = graph_.nodes[static_cast<size_t>(graph_.sites.back().linears.front())];
    const bool shared = graph_.config.tied_embeddings && native_.FindLinear(head.module) == nullptr;
    if (embedding && !shared) {
      if (q.num_kept + q.num_super == 0) return absl::OkStatus();
      return absl::UnimplementedError(absl::StrCat(
          q.module,
          ": an untied embedding with kept columns or super weights; keep it in float or plain codes"));
    }
    const int site = embedding ? graph_.sites.back().id : graph_.SiteOf(index);
    return AddToSite(q, simulate_, inputs_[static_cast<size_t>(site)]);
  }

  absl::Status SetForms() {
    for (const Site& site : graph_.sites) {
      SiteInput& input = inputs_[static_cast<size_t>(site.id)];
      ActivationForm& form = model_.forms_[static_cast<size_t>(site.id)];
      form = std::move(input.form);
      form.super_columns.assign(input.super_columns.begin(), input.super_columns.end());
      const auto& columns = form.super_columns;
      for (const int linear : site.linears) {
        for (int32_t& slot : model_.linears_[static_cast<size_t>(linear)]->super_slot) {
          slot =
              static_cast<int32_t>(std::lower_bound(columns.begin(), columns.end(), slot) - columns.begin());
        }
      }
    }
    return absl::OkStatus();
  }

  absl::Status LoadPrefix() {
    SF_ASSIGN_OR_RETURN(const NativePrefix stored, native_.ReadPrefix());
    if (stored.ids.empty()) return absl::OkStatus();
    const ModelConfig& c = graph_.config;
    const size_t layers = static_cast<size_t>(c.num_layers);
    const Shape want = {c.num_kv_heads, static_cast<int64_t>(stored.ids.size()), c.head_dim};
    if (stored.k.size() != layers || stored.v.size() != layers) {
      return absl::DataLossError(absl::StrCat(reader_.path(), ": prefix rows of ", stored.k.size(),
                                              " layers; the model has ", layers));
    }
    KvPrefix prefix;
    prefix.tokens = stored.ids;
    for (size_t l = 0; l < layers; ++l) {
      for (const Tensor* t : {&stored.k[l], &stored.v[l]}) {
        if (t->shape() == want) continue;
        return absl::DataLossError(absl::StrCat(reader_.path(), ": prefix rows of layer ", l, " are ",
                                                ShapeString(t->shape()), "; ", ShapeString(want),
                                                " is needed"));
      }
      const auto k = stored.k[l].as<uint16_t>(), v = stored.v[l].as<uint16_t>();
      prefix.k.emplace_back(k.begin(), k.end());
      prefix.v.emplace_back(v.begin(), v.end());
    }
    model_.set_prefix(std::move(prefix));
    return absl::OkStatus();
  }

  const CheckpointReader& reader_;
  const NativeReader& native_;
  const bool simulate_;
  LoadedModel& model_;
  const ModelGraph& graph_;
  std::vector<SiteInput> inputs_;
};

absl::Status LoadedModel::LoadNative(const CheckpointReader& reader, bool simulate,
                                     const Progress& progress) {
  SF_ASSIGN_OR_RETURN(const auto native, NativeReader::Open(reader.path()));
  return NativeLoader(reader, *native, simulate, *this).Load(progress);
}

}  // namespace spikefold
