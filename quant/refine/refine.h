// Learns what costs no bits: the scales of a quantized checkpoint's weights, its biases and the gains of its
// norms are moved, by gradients through LibTorch, so that its logits come nearer to the float model's. Codes
// stay as they are, and so does the file's size. (Training step sizes alone against the model's own outputs:
// M. Chen et al., "EfficientQAT", 2407.11062, second phase; norms and scales with codes fixed: A. Tseng et
// al., "QuIP#", 2402.04396, section 5.)
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "formats/checkpoint.h"
#include "quant/refine/descent.h"

namespace spikefold {

struct Refined : Learning {  // with best_step 0 there are no parameters below
  int64_t num_parameters = 0;
  std::map<int, std::vector<float>> scales, biases, gains;  // by node; gains as stored, without the offset
};

// The rate is the largest relative change of a step, nearly.
// `quantized` is a native checkpoint, `reference` the float model it came from (not folded). Both run behind
// the checkpoint's prefix, in LibTorch. InvalidArgument: no windows, another model, nothing to learn;
// Unimplemented: no plugin; Internal: gradients that are not finite; Cancelled.
absl::StatusOr<Refined> Refine(const CheckpointReader& quantized, const CheckpointReader& reference,
                               const LearningOptions& options);

struct RefineSource {  // of the text, for the record
  std::string text, sha256;
  int64_t tokens = 0;
  double rate = 0;
};
struct RefineOutput {
  std::string path;
  bool overwrite = false;
  std::string command;
};
// The checkpoint again, with other scales, biases and gains. A scale stored in 16 bits is rounded to them.
// Its plan's hash is left out, since its scales are no longer what the plan gives.
absl::Status WriteRefined(const CheckpointReader& quantized, const Refined& refined,
                          const RefineSource& source, const RefineOutput& output);

}  // namespace spikefold
