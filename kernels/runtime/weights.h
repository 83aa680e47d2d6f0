// LinearWeights: one linear layer, packed for its kernel. ActivationForm: the form in which a linear wants
// its input.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "formats/tensor.h"
#include "kernels/runtime/row_rotation.h"

namespace spikefold {

// All linears of a site share one form: the activation is quantized once.
struct ActivationForm {
  enum class Kind { kFloat, kS8Token, kS8Static } kind = Kind::kFloat;
  float static_scale = 0;              // kS8Static: x is about code * static_scale
  std::vector<int32_t> kept;           // columns carried in bf16, ascending; code 0
  std::vector<int32_t> super_columns;  // columns whose bf16 value is carried as well, for super weights
  float spike_threshold = 0;           // > 0: rows above it are computed in float
  int64_t max_spike_rows = 4;          // per 512 rows
  bool simulate = false;               // values rounded to codes and back, carried as float
  // Applied to the float rows first: columns, scales and taps are those of the rotated rows. May be null.
  std::shared_ptr<const RowRotation> rotation;
};

struct LinearWeights {
  enum class Kind { kF32, kS8c, kS4g } kind = Kind::kF32;
  int64_t n = 0, k = 0, group = 0;
  Tensor packed;                               // kernel-private layout, made by the kernel's Pack
  std::vector<float> scale;                    // [n] (kS8c)
  std::vector<float> bias;                     // [n] or empty
  std::vector<uint16_t> kept_weight;           // [n, r] bf16; columns are the site's ActivationForm::kept
  std::vector<uint32_t> kept_packed;           // kept_weight in the kernels' order, made by Ops::Prepare
  std::vector<int32_t> super_slot, super_row;  // index into ActivationForm::super_columns; output row
  std::vector<float> super_value;
  // Left in high precision on a quantized site: reads the float rows, under simulation too.
  bool float_input = false;
};

}  // namespace spikefold
