// Text generation: greedy, temperature and top-k sampling with a seeded generator.
#pragma once

#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/runtime/model.h"

namespace spikefold {

struct SamplingOptions {
  float temperature = 0;  // 0: greedy
  int64_t top_k = 0;      // 0: all
  uint64_t seed = 1;
};

// Draws token ids from logits. Equal seeds and logits give equal ids on every machine.
class Sampler {
 public:
  explicit Sampler(const SamplingOptions& options);
  // Ties go to the smaller id. `logits` must not be empty. DataLoss: one of them is not finite.
  absl::StatusOr<int32_t> Sample(absl::Span<const float> logits);

 private:
  double Uniform();  // [0, 1)

  SamplingOptions options_;
  uint64_t state_;
  std::vector<std::pair<float, int32_t>> candidates_;
  std::vector<double> weights_;
};

struct GenerateOptions {
  int64_t max_tokens = 128;
  SamplingOptions sampling;
  std::vector<int64_t> stop_ids;                // generation ends before one of them
  std::function<bool(int32_t token)> on_token;  // may be empty; false stops
};
// Continues `prompt` (not empty) behind the model's prefix, if it has one, and returns the new tokens.
// InvalidArgument: empty prompt, ids outside the vocabulary, negative temperature or top_k. DataLoss: logits
// that are not finite.
absl::StatusOr<std::vector<int32_t>> Generate(const RuntimeModel& model, absl::Span<const int32_t> prompt,
                                              const GenerateOptions& options);

}  // namespace spikefold
