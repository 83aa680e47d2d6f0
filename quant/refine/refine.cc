#include "quant/refine/refine.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "absl/strings/str_cat.h"
#include "formats/base/status.h"
#include "formats/quantized/native.h"
#include "kernels/runtime/torch/torch_model.h"

namespace spikefold {
namespace {

constexpr double kPi = 3.14159265358979323846;
constexpr int64_t kPoints = 4;  // of the curve, beside the first

using Window = std::vector<int32_t>;

// What the float model says behind the prefix, as logits of every row. LibTorch runs it where it runs the
// model that learns; the prefix's tokens go before each window, so that nothing need be kept of them.
class Teacher {
 public:
  static absl::StatusOr<Teacher> Make(const CheckpointReader& reader, const Window& prefix,
                                      const TorchOptions& options) {
    SF_ASSIGN_OR_RETURN(auto model, TorchModel::Load(reader, options));
    return Teacher(std::move(model), prefix, reader.graph().config.vocab);
  }

  // Valid until the next call.
  absl::StatusOr<absl::Span<const float>> Logits(const Window& window) {
    Window tokens = prefix_;
    tokens.insert(tokens.end(), window.begin(), window.end());
    logits_.resize(window.size() * static_cast<size_t>(vocab_));
    SF_RETURN_IF_ERROR(model_->Logits(tokens, static_cast<int64_t>(prefix_.size()), absl::MakeSpan(logits_)));
    return absl::Span<const float>(logits_);
  }

 private:
  Teacher(std::unique_ptr<TorchModel> model, Window prefix, int64_t vocab)
      : model_(std::move(model)), prefix_(std::move(prefix)), vocab_(vocab) {}

  std::unique_ptr<TorchModel> model_;
  Window prefix_;
  int64_t vocab_;
  std::vector<float> logits_;  // [rows of the window, vocab]
};

class Learner {
 public:
  Learner(const CheckpointReader& reader, const NativeReader& native, const RefineOptions& options)
      : graph_(reader.graph()), native_(native), options_(options) {}

  absl::StatusOr<Refined> Run(const CheckpointReader& reader, const CheckpointReader& reference) {
    TorchOptions how = {.num_threads = options_.num_threads,
                        .bf16 = true,
                        .device = options_.device,
                        .progress = options_.progress};
    SF_ASSIGN_OR_RETURN(model_, TorchModel::Load(reader, how));
    SF_RETURN_IF_ERROR(ChooseParameters());
    SF_ASSIGN_OR_RETURN(const NativePrefix prefix, native_.ReadPrefix());
    how.bf16 = false;
    SF_ASSIGN_OR_RETURN(Teacher teacher, Teacher::Make(reference, prefix.ids, how));
    SF_RETURN_IF_ERROR(Measure(teacher, 0, 0));
    out_.before = out_.after = out_.curve.front().held_out;
    if (!std::isfinite(out_.before)) {
      return absl::InvalidArgumentError("refine: the model's divergence on the held-out text is not finite");
    }
    SF_RETURN_IF_ERROR(model_->Remember());
    SF_RETURN_IF_ERROR(Descend(teacher));
    SF_RETURN_IF_ERROR(model_->Recall());
    if (out_.best_step > 0) SF_RETURN_IF_ERROR(ReadParameters());
    if (out_.best_step == 0) {  // everything stays bit for bit
      out_.scales.clear();
      out_.biases.clear();
      out_.gains.clear();
    }
    return std::move(out_);
  }

 private:
  // Everything but embedding and head, whose 8-bit rows cost next to nothing already.
  absl::Status ChooseParameters() {
    for (size_t i = 0; i < graph_.nodes.size(); ++i) {
      const Node& node = graph_.nodes[i];
      const int index = static_cast<int>(i);
      if (node.op == Op::kNorm || node.op == Op::kHeadNorm) {
        SF_RETURN_IF_ERROR(Learn(index, TorchParameter::kGain, node.k, 1, out_.gains));
      }
      const QuantizedLinearSpec* const stored = native_.FindLinear(node.module);
      const bool inside = node.op == Op::kLinear && node.layer >= 0 && stored != nullptr;
      if (!inside || stored->format.is_float()) continue;
      SF_RETURN_IF_ERROR(
          Learn(index, TorchParameter::kScales, stored->n * stored->num_groups(), 1, out_.scales));
      if (!stored->has_bias) continue;
      SF_ASSIGN_OR_RETURN(const std::vector<float> bias,
                          model_->Read(index, TorchParameter::kBias, stored->n));
      double square = 0;
      for (const float b : bias) square += double{b} * b;
      const double size = std::sqrt(square / static_cast<double>(bias.size()));
      SF_RETURN_IF_ERROR(Learn(index, TorchParameter::kBias, stored->n,
                               size > 0 ? static_cast<float>(size) : 1.0f, out_.biases));
    }
    if (!out_.scales.empty()) return absl::OkStatus();
    return absl::InvalidArgumentError(
        "refine: no linear of the layers is quantized; there is nothing to learn");
  }

  absl::Status Learn(int node, TorchParameter parameter, int64_t size, float unit,
                     std::map<int, std::vector<float>>& into) {
    SF_RETURN_IF_ERROR(model_->Learn(node, parameter, unit));
    into[node].resize(static_cast<size_t>(size));
    out_.num_parameters += size;
    return absl::OkStatus();
  }

  absl::Status Measure(Teacher& teacher, int64_t step, double learnt) {
    double sum = 0;
    for (const Window& window : options_.held_out) {
      SF_ASSIGN_OR_RETURN(const auto target, teacher.Logits(window));
      SF_ASSIGN_OR_RETURN(const double mean, model_->Divergence(window, 0, target));
      sum += mean;
    }
    out_.curve.push_back(
        {.step = step, .learnt = learnt, .held_out = sum / static_cast<double>(options_.held_out.size())});
    return absl::OkStatus();
  }

  // A short way up, then half a cosine down to nothing.
  double Rate(int64_t step, int64_t steps) const {
    const double done = static_cast<double>(step) / static_cast<double>(steps);
    const double warm = std::min(1.0, static_cast<double>(step + 1) / 8);
    return options_.rate * warm * 0.5 * (1 + std::cos(kPi * done));
  }

  absl::Status Descend(Teacher& teacher) {
    const int64_t steps = static_cast<int64_t>(options_.windows.size());
    const int64_t every = std::max<int64_t>(1, (steps + kPoints - 1) / kPoints);
    double sum = 0;
    int64_t count = 0;
    for (int64_t step = 0; step < steps; ++step) {
      if (!Report(options_.progress, "learning", step, steps)) return absl::CancelledError("refine: stopped");
      const Window& window = options_.windows[static_cast<size_t>(step)];
      SF_ASSIGN_OR_RETURN(const auto target, teacher.Logits(window));
      SF_ASSIGN_OR_RETURN(const double mean, model_->Accumulate(window, 0, target, 1));
      SF_ASSIGN_OR_RETURN(const bool finite, model_->AdamStep(Rate(step, steps)));
      if (!finite || !std::isfinite(mean)) {
        return absl::InternalError(
            absl::StrCat("refine: step ", step + 1, ": gradients are not finite; try a smaller --rate"));
      }
      sum += mean;
      ++count;
      if ((step + 1) % every != 0 && step + 1 != steps) continue;
      SF_RETURN_IF_ERROR(Measure(teacher, step + 1, sum / static_cast<double>(count)));
      sum = count = 0;
      if (!(out_.curve.back().held_out < out_.after)) continue;  // not a number is no gain
      out_.after = out_.curve.back().held_out;
      out_.best_step = step + 1;
      SF_RETURN_IF_ERROR(model_->Remember());
    }
    return absl::OkStatus();
  }

  absl::Status ReadParameters() {
    const auto read = [this](TorchParameter parameter,
                             std::map<int, std::vector<float>>& values) -> absl::Status {
      for (auto& [node, list] : values) {
        SF_ASSIGN_OR_RETURN(list, model_->Read(node, parameter, static_cast<int64_t>(list.size())));
      }
      return absl::OkStatus();
    };
    SF_RETURN_IF_ERROR(read(TorchParameter::kScales, out_.scales));
    SF_RETURN_IF_ERROR(read(TorchParameter::kBias, out_.biases));
    SF_RETURN_IF_ERROR(read(TorchParameter::kGain, out_.gains));
    for (auto& [node, gain] : out_.gains) {
      for (float& g : gain) g -= graph_.config.norm_gain_offset;
    }
    return absl::OkStatus();
  }

  const ModelGraph& graph_;
  const NativeReader& native_;
  const RefineOptions& options_;
  std::unique_ptr<TorchModel> model_;
  Refined out_;
};

}  // namespace

absl::StatusOr<Refined> Refine(const CheckpointReader& quantized, const CheckpointReader& reference,
                               const RefineOptions& options) {
  if (quantized.kind() != CheckpointKind::kNative) {
    return absl::InvalidArgumentError(
        absl::StrCat(quantized.path(), ": is not quantized; give what quantize wrote"));
  }
  if (reference.kind() == CheckpointKind::kNative) {
    return absl::InvalidArgumentError(
        absl::StrCat(reference.path(), ": is quantized; give the float model as the reference"));
  }
  if (options.windows.empty() || options.held_out.empty()) {
    return absl::InvalidArgumentError("refine: windows to learn from and windows held out are needed");
  }
  const ModelConfig &a = quantized.graph().config, &b = reference.graph().config;
  if (a.vocab != b.vocab || a.num_layers != b.num_layers || a.hidden != b.hidden) {
    return absl::InvalidArgumentError(absl::StrCat(quantized.path(), ": ", a.num_layers, " layers of width ",
                                                   a.hidden, " and ", a.vocab, " tokens; the reference has ",
                                                   b.num_layers, ", ", b.hidden, " and ", b.vocab,
                                                   "; give the float model it came from"));
  }
  SF_ASSIGN_OR_RETURN(const auto native, NativeReader::Open(quantized.path()));
  return Learner(quantized, *native, options).Run(quantized, reference);
}

}  // namespace spikefold
