// Speed of a model: prefill and decode in tokens a second, defined as llama-bench's pp and tg, but that a
// step of decode ends with the likeliest next tokens (ForwardGreedy) and not with logits in host memory.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "formats/base/progress.h"
#include "kernels/runtime/model.h"
#include "kernels/runtime/profile.h"

namespace spikefold {

struct BenchOptions {
  int64_t prompt = 512;  // tokens prefilled into an empty cache; logits of the last only. 0: not measured
  int64_t decode = 128;  // tokens decoded one by one from an empty cache. 0: not measured
  int64_t batch = 1;     // sequences that are decoded side by side, each of `decode` tokens
  int64_t repetitions = 5;
  bool kernels = false;  // what each kind of kernel takes, too
  uint64_t seed = 1;     // of the random tokens
  Progress progress;     // called between repetitions, never inside a timed one
};
struct Rate {
  double mean = 0, stddev = 0, best = 0;  // tokens a second, of all sequences
  std::vector<double> seconds;            // of each repetition
};
struct BenchResult {
  Rate prefill, decode;
  // What bounds decode: bytes of weights that a step reads, for all sequences once, and bytes a second that
  // the backend's memory gives, measured in the same run (0: not known).
  uint64_t step_bytes = 0;
  double read_rate = 0;
  // BenchOptions::kernels: of a step in the middle of what is decoded, and of the prompt's first block.
  std::optional<WalkProfile> decode_kernels, prefill_kernels;
  std::string no_kernels;  // why one is missing; empty: none is
  // An interruption or a fault while kernels were timed: the rates before it stand.
  absl::Status fault;
};
// One warm-up of each kind first. InvalidArgument: negative counts, no repetition. DataLoss: logits
// that are not finite. Cancelled by `progress`.
absl::StatusOr<BenchResult> Bench(const RuntimeModel& model, const BenchOptions& options);

}  // namespace spikefold
