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
#include "formats/base/progress.h"
#include "formats/checkpoint.h"

namespace spikefold {

struct RefineOptions {
  std::vector<std::vector<int32_t>> windows;   // one step of Adam each, in this order
  std::vector<std::vector<int32_t>> held_out;  // decide which step is kept; no gradient sees them
  double rate = 1e-3;                          // the largest relative change of a step, nearly
  int num_threads = 1;
  std::string device = "cpu";
  Progress progress;
};

struct RefinePoint {
  int64_t step = 0;
  double learnt = 0;    // mean divergence of the windows since the last point, each before its step
  double held_out = 0;  // mean divergence of those held out
};
struct Refined {
  std::vector<RefinePoint> curve;  // the first is step 0
  int64_t best_step =
      0;  // that of the parameters below; 0: nothing was better than what was there, and they are empty
  double before = 0, after = 0;  // held-out divergence, in nats a token
  int64_t num_parameters = 0;
  std::map<int, std::vector<float>> scales, biases, gains;  // by node; gains as stored, without the offset
};

// `quantized` is a native checkpoint, `reference` the float model it came from (not folded). Both run behind
// the checkpoint's prefix, in LibTorch. InvalidArgument: no windows, another model, nothing to learn;
// Unimplemented: no plugin; Internal: gradients that are not finite; Cancelled.
absl::StatusOr<Refined> Refine(const CheckpointReader& quantized, const CheckpointReader& reference,
                               const RefineOptions& options);

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
