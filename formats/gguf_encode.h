// Values into ggml's blocks: float weights rounded to the nearest code as ggml's reference quantizers do, and
// codes that exist already taken over without a second rounding.
#pragma once

#include <cstdint>

#include "absl/types/span.h"
#include "formats/gguf_blocks.h"

namespace spikefold {

// Whether EncodeGguf() writes this type: F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0.
bool CanEncode(GgmlType type);

// Rounds values.size() float32 values, whole blocks, into `out`. Q4_0 and Q5_0: d = (value of largest
// magnitude) / -8 or -16; Q4_1 and Q5_1: d = (max - min) / 15 or 31; Q8_0: d = absmax / 127; codes are chosen
// for the unrounded d, as ggml does. A d or value above the range of float16 becomes infinite: the caller
// compares. Other types than CanEncode()'s abort.
void EncodeGguf(GgmlType type, absl::Span<const float> values, char* out);

// One block of 32 weights scale * (codes[i] - zero) as Q8_0 (codes - zero in -127..127), Q4_0 (-8..7) or Q4_1
// (codes in -8..7, any zero of that range). The scale, and Q4_1's minimum, are rounded to float16; nothing
// else.
void EncodeCodeBlock(GgmlType type, float scale, const int8_t* codes, int zero, char* out);

}  // namespace spikefold
