// A checkpoint as LibTorch runs it: ModelGraph and weights handed to the plugin. An oracle that shares no
// arithmetic with the kernels, and what learns by gradients.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "formats/base/progress.h"
#include "formats/checkpoint.h"
#include "formats/quantized/quant_format.h"
#include "kernels/runtime/kv_cache.h"
#include "kernels/runtime/torch/torch_plugin.h"

namespace spikefold {

// A float model that is run as a quantized one would be, its weights left alone: its linears' inputs are
// rounded, in a basis that gradients may turn, behind a prefix.
struct TorchForms {
  struct Site {
    ActivationFormat act;   // float: as it is
    float input_scale = 0;  // static ones
    int32_t input_zero = 0;
    int turn = -1;  // the turn of its rows before they are rounded; -1: none
  };
  std::vector<Site> sites;     // by ModelGraph::sites
  std::vector<int64_t> turns;  // widths of orthogonal matrices that are learnt, at first the identity
  const KvPrefix* prefix = nullptr;
};

struct TorchOptions {
  int num_threads = 1;
  bool bf16 = false;  // products of linears in bfloat16, for learning; float32 otherwise
  std::string device = "cpu";
  const TorchForms* forms = nullptr;  // of float models; scales of activations then pass gradients
  Progress progress;
};

enum class TorchParameter { kScales = kSfScales, kBias = kSfBias, kGain = kSfGain };

class TorchModel {
 public:
  // Float models and native ones, prefix included. Native ones run with dequantized weights, their
  // activations rounded to codes and back as the sidecar says; keys and values stay float. Unimplemented: no
  // plugin, or no such device.
  static absl::StatusOr<std::unique_ptr<TorchModel>> Load(const CheckpointReader& reader,
                                                          const TorchOptions& options);
  ~TorchModel();
  TorchModel(const TorchModel&) = delete;
  TorchModel& operator=(const TorchModel&) = delete;

  // Windows run behind the checkpoint's prefix; rows from `first_scored` on count. Logits [scored, vocab].
  absl::Status Logits(absl::Span<const int32_t> tokens, int64_t first_scored, absl::Span<float> logits);
  // Mean KL(target || model) in nats, of targets as logits.
  absl::StatusOr<double> Divergence(absl::Span<const int32_t> tokens, int64_t first_scored,
                                    absl::Span<const float> target);

  // A parameter of a node that gradients may change: relative to what it is, or, of biases, in steps of
  // `unit`.
  absl::Status Learn(int node, TorchParameter parameter, float unit = 1);
  // Adds the gradient of the window's divergence over `count`; returns the divergence.
  absl::StatusOr<double> Accumulate(absl::Span<const int32_t> tokens, int64_t first_scored,
                                    absl::Span<const float> target, double count);
  // One step of Adam. False if a gradient was not finite: nothing was changed.
  absl::StatusOr<bool> AdamStep(double rate, double beta1 = 0.9, double beta2 = 0.95);
  absl::Status Remember();
  absl::Status Recall();
  absl::StatusOr<std::vector<float>> Read(int node, TorchParameter parameter, int64_t size);
  // One step of the turns, `rate` in radians (torch_abi.h). False as above.
  absl::StatusOr<bool> CayleyStep(double rate, double beta1 = 0.9, double beta2 = 0.95);
  absl::StatusOr<std::vector<double>> ReadTurn(int turn, int64_t order);  // [order, order]

 private:
  TorchModel(const SfTorchApi* api, SfTorchModel* model, int64_t vocab)
      : api_(api), model_(model), vocab_(vocab) {}
  absl::Status Check(absl::Span<const int32_t> tokens, int64_t first_scored, size_t values) const;

  const SfTorchApi* const api_;
  SfTorchModel* const model_;
  const int64_t vocab_;
};

}  // namespace spikefold
