// Codes of 2 to 6 bits in I32 words: a sequence is one little-endian stream of bits, element i in bits
// b*i .. b*i + b - 1, each code stored as code + 2^(b-1). For 2 and 4 bits this is what compressed-tensors
// packs; an element of 3, 5 or 6 bits may straddle two words.
#pragma once

#include <cstdint>

#include "absl/status/status.h"

namespace spikefold {

int64_t StreamWords(int bits, int64_t count);  // I32 words of `count` codes

// `count` codes `stride` apart -> words `word_stride` apart. Whole elements of padding hold code 0, what is
// left of the last word zero bits.
void PackStream(int bits, const int8_t* codes, int64_t count, int64_t stride, int32_t* words,
                int64_t word_stride);
// The reverse. The index of the first padding element that is not as above, or -1.
int64_t UnpackStream(int bits, const int32_t* words, int64_t word_stride, int64_t count, int64_t stride,
                     int8_t* codes);

}  // namespace spikefold
