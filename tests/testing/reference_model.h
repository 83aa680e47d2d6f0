// The model in plain loops and float64: the definition that Forward is tested against. Slow; for tiny models.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "formats/checkpoint.h"

namespace spikefold::testing {

struct ReferenceRun {
  std::vector<double> logits;                  // [tokens, vocab]
  std::vector<std::vector<double>> residual;   // [num_layers + 1][tokens * d], the embedding first
  std::vector<std::vector<double>> sink_mass;  // [num_layers][num_heads]: mean attention on position 0
};
ReferenceRun RunReference(const CheckpointReader& checkpoint, absl::Span<const int32_t> tokens);

}  // namespace spikefold::testing
