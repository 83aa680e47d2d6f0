// Schemes: how weights and activations are stored and multiplied. A scheme is a row of a table, found by
// name.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace spikefold {

enum class Granularity {  // scales of a [6, 128] matrix:
  kNone,                  // -       16 bit, no scale
  kPerTensor,             // [1]     activations: one static scale
  kPerChannel,            // [6]     weights: one an output row
  kPerToken,              // [6]     activations: one a row, measured while running
  kPerGroup,              // [6, 4]  weights, with group_size = 32
};

struct Scheme {
  const char* name;
  int weight_bits;                // 4, 8
  Granularity weight_scales;      // kPerChannel, kPerGroup
  int activation_bits;            // 8, 16
  Granularity activation_scales;  // kPerToken, kPerTensor, kNone
  const char* summary;
};

absl::Span<const Scheme> Schemes();
// InvalidArgument naming the known schemes, with a did-you-mean.
absl::StatusOr<const Scheme*> FindScheme(absl::string_view name);

// The largest usual group size (64 first, then 128, 32, 96, 192, 48, 16) that divides every width; 0 if none
// does.
int DefaultGroupSize(absl::Span<const int64_t> widths);
// InvalidArgument "model.layers.3.mlp.down_proj: K=1536 is not a multiple of group_size=100; use 32, 64, 96
// or 128".
absl::Status CheckGroupSize(absl::string_view module, int64_t k, int group_size);

}  // namespace spikefold
