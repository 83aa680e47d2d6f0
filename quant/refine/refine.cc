#include "quant/refine/refine.h"

#include <cmath>
#include <memory>

#include "absl/strings/str_cat.h"
#include "formats/base/status.h"
#include "formats/quantized/native.h"
#include "kernels/runtime/torch/torch_model.h"

namespace spikefold {
namespace {

class Learner {
 public:
  Learner(const CheckpointReader& reader, const NativeReader& native, const LearningOptions& options)
      : graph_(reader.graph()), native_(native), options_(options) {}

  absl::StatusOr<Refined> Run(const CheckpointReader& reader, const CheckpointReader& reference) {
    TorchOptions how{.num_threads = options_.num_threads, .bf16 = true, .device = options_.device};
    how.progress = options_.progress;
    SF_ASSIGN_OR_RETURN(model_, TorchModel::Load(reader, how));
    SF_RETURN_IF_ERROR(ChooseParameters());
    SF_ASSIGN_OR_RETURN(const NativePrefix prefix, native_.ReadPrefix());
    const auto step = [this](double rate) { return model_->AdamStep(rate); };
    SF_ASSIGN_OR_RETURN(static_cast<Learning&>(out_), Descend({.what = "refine",
                                                               .model = model_.get(),
                                                               .reference = &reference,
                                                               .prefix = prefix.ids,
                                                               .step = step},
                                                              options_));
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
  const LearningOptions& options_;
  std::unique_ptr<TorchModel> model_;
  Refined out_;
};

}  // namespace

absl::StatusOr<Refined> Refine(const CheckpointReader& quantized, const CheckpointReader& reference,
                               const LearningOptions& options) {
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
