// What a block of ggml's integer types consists of: scales and codes. Decoding is in gguf_blocks; this is for
// those who choose scales and codes themselves.
//
//   value = step(j) * code + offset(j),   j: the sub-block of the value
//
//   type        sub-blocks  codes        step(j)          offset(j)
//   Q8_0        1 of 32     -127..127    d                0
//   Q4_0, Q5_0  1 of 32     -8.., -16..  d                0
//   Q4_1, Q5_1  1 of 32     0..15, 31    d                m
//   Q4_K, Q5_K  8 of 32     0..15, 31    d * scale[j]     -m * minimum[j]   scale, minimum: 0..63
//   Q6_K        16 of 16    -32..31      d * scale[j]     0                 scale: -128..127
#pragma once

#include <cstdint>

#include "formats/gguf_blocks.h"

namespace spikefold {

struct GgmlScaleLayout {
  GgmlType type;
  int block, sub;  // values of a block, of a sub-block
  int lo, hi;      // codes
  bool offsets;
  int scale_lo, scale_hi;  // of the integer scales; 1, 1 where d alone is the step
  int num_subs() const { return block / sub; }
  bool integer_scales() const { return scale_hi > 1; }
};
// nullptr for types that are not in the table above.
const GgmlScaleLayout* FindGgmlScaleLayout(GgmlType type);

// d and m are values that float16 holds.
struct GgmlBlockScales {
  static constexpr int kMaxSubs = 16;
  float d = 0, m = 0;
  int8_t scale[kMaxSubs] = {};
  uint8_t minimum[kMaxSubs] = {};

  // As ggml's decoders multiply.
  float step(const GgmlScaleLayout& layout, int sub) const {
    return layout.integer_scales() ? d * static_cast<float>(scale[sub]) : d;
  }
  float offset(const GgmlScaleLayout& layout, int sub) const {
    if (!layout.offsets) return 0;
    return layout.integer_scales() ? -(m * static_cast<float>(minimum[sub])) : m;
  }
};

// The bytes of one block; `codes` [layout.block] within lo..hi.
void PackGgmlBlock(const GgmlScaleLayout& layout, const GgmlBlockScales& scales, const int8_t* codes,
                   char* out);

}  // namespace spikefold
