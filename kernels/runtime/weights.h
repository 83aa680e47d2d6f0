// LinearWeights: one linear layer, packed for its kernel. ActivationForm: the form in which a linear wants
// its input.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "formats/quantized/quant_format.h"
#include "formats/tensor.h"
#include "kernels/runtime/row_rotation.h"

namespace spikefold {

// All linears of a site share one form: the activation is quantized once.
struct ActivationForm {
  ActivationFormat format;             // float, or how rows become codes
  float static_scale = 0;              // static: x is about static_scale * (code - static_zero)
  int32_t static_zero = 0;             // 0 if symmetric
  std::vector<int32_t> kept;           // columns carried in bf16, ascending; code 0
  std::vector<int32_t> super_columns;  // columns whose bf16 value is carried as well, for super weights
  float spike_threshold = 0;           // > 0: rows above it are computed in float
  int64_t max_spike_rows = 4;          // per 512 rows
  bool simulate = false;               // values rounded to codes and back, carried as float
  // Applied to the float rows first: columns, scales and taps are those of the rotated rows. May be null.
  std::shared_ptr<const RowRotation> rotation;
  // [k] taken off the rotated rows; everything else, taps included, sees what is left. May be null.
  std::shared_ptr<const std::vector<float>> shift;
};

// 8-bit codes whose zero points the kernels see: they lie outside int8 once taken off.
inline bool HasWideZeros(const ActivationFormat& f) { return f.bits == 8 && !f.symmetric; }

// A quantized weight before it is packed: w = scale * (code - zero).
struct CodeMatrix {
  int64_t n = 0, k = 0;
  WeightFormat format;
  int64_t group = 0;               // divides k; 0: one scale a channel
  absl::Span<const int8_t> codes;  // [n, k]
  absl::Span<const float> scales;  // [n, k/group] or [n]
  absl::Span<const int8_t> zeros;  // as scales; empty: symmetric
};

// A device backend's copy of a linear's weights.
struct DeviceWeights {
  virtual ~DeviceWeights() = default;
  uint64_t bytes = 0;
};

struct LinearWeights {
  enum class Kind {
    kF32,
    kS8c,     // symmetric 8-bit codes, one scale a channel
    kGroups,  // any other codes: packed with their scales and zero points
  } kind = Kind::kF32;
  int64_t n = 0, k = 0;
  int64_t group = 0;                      // kGroups: of the packed weight, which may be finer than stored
  Tensor packed;                          // kernel-private layout, made by the kernel's Pack
  std::shared_ptr<DeviceWeights> device;  // instead of `packed`, where a backend has memory of its own
  // [n] (kS8c), or (kGroups, with codes as input) the scales that the groups' are whole multiples of; empty:
  // they are none.
  std::vector<float> scale;
  // What the zero points of 8-bit activations multiply; empty unless the form has them.
  std::vector<int32_t> code_sum;               // [n] sums of a row's codes (kS8c)
  std::vector<float> row_sum;                  // [n] sums of a row's weights (kGroups)
  std::vector<float> bias;                     // [n] or empty
  std::vector<uint16_t> kept_weight;           // [n, r] bf16; columns are the site's ActivationForm::kept
  std::vector<uint32_t> kept_packed;           // kept_weight in the kernels' order, made by Ops::Prepare
  std::vector<int32_t> super_slot, super_row;  // index into ActivationForm::super_columns; output row
  std::vector<float> super_value;
  // Left in high precision on a quantized site: reads the float rows, under simulation too.
  bool float_input = false;

  uint64_t MemoryBytes() const {
    return static_cast<uint64_t>(packed.num_bytes()) + (device != nullptr ? device->bytes : 0) +
           sizeof(float) * (scale.size() + bias.size() + super_value.size()) +
           sizeof(uint16_t) * kept_weight.size() + sizeof(int32_t) * (super_slot.size() + super_row.size());
  }
};

}  // namespace spikefold
