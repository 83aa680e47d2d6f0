// Schemes: how weights and activations are stored and multiplied. A scheme is a row of a table, found by
// name.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "formats/quantized/quant_format.h"

namespace spikefold {

enum class Granularity {  // scales of a [6, 128] matrix:
  kNone,                  // -       16 bit, no scale
  kPerTensor,             // [1]     activations: one static scale
  kPerChannel,            // [6]     weights: one an output row
  kPerToken,              // [6]     activations: one a row, measured while running
  kPerGroup,              // [6, 4]  32 columns share one; activations: measured while running
};

struct Scheme {
  const char* name;
  int weight_bits;                // 2, 3, 4, 8
  Granularity weight_scales;      // kPerChannel, kPerGroup
  int activation_bits;            // 4, 8, 16
  Granularity activation_scales;  // kPerToken, kPerGroup, kPerTensor, kNone
  const char* summary;
  // Codes around 0; a recipe may ask for zero points on either side.
  bool weights_symmetric = true, activations_symmetric = true;
  int activation_group = 0;  // kPerGroup: columns that share a scale, 32, 64 or 128
};

absl::Span<const Scheme> Schemes();
// InvalidArgument naming the known schemes, with a did-you-mean.
absl::StatusOr<const Scheme*> FindScheme(absl::string_view name);

// How the two sides of a scheme are stored and multiplied, with or without zero points.
WeightFormat WeightFormatOf(const Scheme& scheme, bool symmetric = true);
ActivationFormat ActivationFormatOf(const Scheme& scheme, bool symmetric = true);
// Whether a kernel multiplies the pair with integer arithmetic (float activations: from the stored codes).
// Every integer weight goes with every activation. InvalidArgument: a format that does not exist, or float
// weights on integer activations.
absl::Status CheckFormats(const WeightFormat& weights, const ActivationFormat& activations);

// The first usual group size (64, then 128, 32, 96, 192, 48, 16) that divides every width but those that none
// divides; 0 if there are no others.
int DefaultGroupSize(absl::Span<const int64_t> widths);
// InvalidArgument "model.layers.3.mlp.down_proj: K=1536 is not a multiple of group_size=100; use 32, 64, 96
// or 128".
absl::Status CheckGroupSize(absl::string_view module, int64_t k, int group_size);

}  // namespace spikefold
