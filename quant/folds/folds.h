// Exact rewrites of a float model: equal logits, friendlier values. A fold is a file of this folder; the list
// is in folds.cc. FoldCheckpoint() wraps a reader, so that everything downstream (LoadModel, Scan, rounding,
// the quantized writer) sees an ordinary model and nothing holds more than one tensor.
//
//   fold       what moves                                                    legal unless
//   norm_gain  a norm's gain into the linears that read it                   the norm feeds a tied head
//   R1         the residual stream is rotated, all readers and writers too   a branch is normed before its
//   add rescale    the residual stream is divided by a power of two              something reads it without a
//   norm R2         values and context are rotated head by head (v rows, o        something lies between v
//   and o
//              columns)
//   smooth     channel scales: norm->q,k,v, norm->gate,up, up->down, v->o    nothing can absorb 1/s
//   qk_scale   rotary pairs of queries are multiplied, those of keys divided  -
//   R4         down_proj's input is rotated online, its columns with it      -
//   R3         queries and keys are rotated online after RoPE (KV caches)    -
//   shift      a constant is taken off a linear's input online, its product  -
//              goes into the bias
//
// They are applied in this order (gains first, since a rotation needs the norms free of them; scales between
// offline and online rotations). A fold that cannot be proved from the graph is left out and listed in
// refused(). To add one: a function in a file of its own that edits a FoldBuilder, a row in folds.cc, a
// switch below.
//
// G. Xiao et al., "SmoothQuant" (2211.10438); S. Ashkboos et al., "QuaRot" (2404.00456); Z. Liu et al.,
// "SpinQuant" (2405.16406), whose names R1 to R4 these are.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "formats/base/thread_pool.h"
#include "formats/checkpoint.h"
#include "formats/rotation.h"
#include "formats/tensor_memory.h"
#include "quant/folds/learned_rotations.h"

namespace spikefold {

// Channel scales of one site: its linears' columns are multiplied by them, its input is divided.
struct SiteScales {
  int layer = 0;
  ValueKind value = ValueKind::kAttnIn;  // kAttnIn, kCtx, kFfnIn, kDownIn
  // > 0. [site.k]; kCtx: [num_kv_heads * head_dim], one for all query heads of a KV head.
  std::vector<float> scales;
};

// What is taken off a site's (rotated) input, before its linears.
struct SiteShift {
  int layer = 0;
  ValueKind value = ValueKind::kAttnIn;  // kAttnIn, kCtx, kFfnIn, kDownIn
  std::vector<float> values;             // [site.k]; the nearest values of BF16 are used
};

// Scales of a layer's rotary pairs: queries are multiplied by them, keys are divided.
struct QkScales {
  int layer = 0;
  // > 0. [num_kv_heads * head_dim / 2]: pair i of a head is its channels i and i + head_dim / 2. With QK-norm
  // all heads have the same.
  std::vector<float> scales;
};

struct FoldOptions {
  bool norm_gain = false;
  bool rotate_residual = false;         // R1; folds all norm gains and unties the head
  double rescale = 1;                   // the residual stream is divided by this power of two; 1: it is not
  bool rotate_values = false;           // R2
  bool rotate_down = false;             // R4
  std::vector<int> rotate_down_layers;  // R4: ascending; empty: all
  bool rotate_qk = false;               // R3
  std::vector<SiteScales> smooth;       // smooth.h makes them from statistics of the model with R1 and R2
  std::vector<QkScales> qk_scales;      // ascending layers; qk_scales.h makes them
  std::vector<SiteShift> shifts;        // means of the model with all other folds
  // In place of the Hadamard matrices of R1 and R2, all those of the two that are asked for and legal.
  std::shared_ptr<const LearnedRotations> learned;
  uint64_t seed = 1;  // of the rotations' signs
  bool any() const {
    return norm_gain || rotate_residual || rotate_values || rotate_down || rotate_qk || !smooth.empty() ||
           !shifts.empty() || rescale != 1 || !qk_scales.empty() || learned != nullptr;
  }
};

// What float16 activations leave room for: an eighth of 65,504, since text that was not seen may spike
// higher.
inline constexpr double kRescaledPeak = 8192;
// The least power of two that brings the largest |h| seen below it.
double RescaleFor(double peak);

struct RefusedFold {
  std::string fold;    // "R1"
  std::string reason;  // "model.layers.0.post_attention_layernorm: ..."
};

// A model with folds. Its graph() has them too: untied head, rotations, sites that are rotated online.
class FoldedCheckpoint : public CheckpointReader {
 public:
  virtual const CheckpointReader& base() const = 0;
  virtual const std::vector<std::string>& folds() const = 0;    // that were applied, in order
  virtual const std::vector<RefusedFold>& refused() const = 0;  // that were asked for and are not legal
  // Weights that folds rewrote are looked for and kept there from now on; it outlives the reader.
  virtual absl::Status set_memory(TensorMemory* memory) = 0;
  virtual const Json& provenance() const = 0;  // array for the sidecar's "folds"
};

// `base` is a float model. Small tensors (norm gains) are read at once, the others when they are asked for.
// InvalidArgument: a quantized model, scales of the wrong length or not positive and finite, a site twice or
// unknown, layers that do not ascend, learned rotations that are not for this model and these options.
absl::StatusOr<std::unique_ptr<FoldedCheckpoint>> FoldCheckpoint(std::unique_ptr<CheckpointReader> base,
                                                                 const FoldOptions& options,
                                                                 ThreadPool* pool = nullptr);
// The same over a reader that outlives it.
absl::StatusOr<std::unique_ptr<FoldedCheckpoint>> FoldCheckpoint(const CheckpointReader& base,
                                                                 const FoldOptions& options,
                                                                 ThreadPool* pool = nullptr);

}  // namespace spikefold
