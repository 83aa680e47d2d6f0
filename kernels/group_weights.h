// Weights of 2, 3, 4 or 8 bits with a scale for each group of K, and a zero point or none:
//   w[n,k] = scale[n,g] * (code[n,k] - zero[n,g])
// A group may be a whole row (one scale a channel).
//
// Packed for matmul_*_sxg at load time and never written to disk: a 64-byte header, then panels of 32
// channels (N padded). A panel has its groups in the order of use, then its zero points:
//   scales [32]     f16 or bf16 if every scale is exactly one, else f32
//   codes           code + 2^(bits-1), 16 k at a time; byte i of a channel's four:
//     8 bits  [4][32][4]  quad q: k = 4q + i
//     4 bits  [2][32][4]  block j: k = 8j + i in the low half, k = 8j + 4 + i in the high half
//     2 bits  [32][4]     bits 0-1: k = i, 4-5: k = 4 + i, 2-3: k = 8 + i, 6-7: k = 12 + i
//     3 bits  [32][4]     the low two bits of each code so, then
//             [16][4]     bit 2 of channel c's code at k = i, 4 + i, 8 + i, 12 + i in bits 2, 6, 1, 5, of
//                         channel c + 16's in bits 0, 4, 3, 7
//   zeros [k/group][32]   u8 zero + 2^(bits-1), if any; all groups of the panel together, so that codes stay
//                         on cache lines
// so a mask, or a shift and a mask, give the unsigned operand of vpdpbusd, and two or three instructions turn
// codes of 2 or 3 bits into the 4-bit layout: memory traffic is that of the bits, arithmetic that of 4 bits.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "kernels/outlier_tail.h"

namespace spikefold::kernels {

// How scales lie in a packed weight; values are float32 in the API.
enum class ScaleType : uint32_t { kF32, kF16, kBf16 };
// The narrowest type that holds every scale exactly (kF16 before kBf16 before kF32).
ScaleType NarrowestScaleType(const float* scales, int64_t count);

inline constexpr int64_t kUnit = 16;            // k that are packed together
inline constexpr int64_t kMaxGroup = 65536;     // sums of products up to 128 * 255 fit in int32
inline constexpr int64_t kMaxShortGroup = 256;  // sums of so many activation codes fit in 16 bits

struct GroupLayout {
  int64_t n = 0, k = 0, group = 0;  // group divides k
  int bits = 4;                     // 2, 3, 4 or 8
  bool zeros = false;
  ScaleType scales = ScaleType::kF32;
};
// Unimplemented: bits or a group that cannot be packed. A group of a row has any length up to kMaxGroup,
// others are multiples of 16 from 16 to 256. InvalidArgument: an empty shape, a group that does not divide K.
absl::Status CheckGroupLayout(absl::string_view kernel, const GroupLayout& layout);
size_t GroupPackedBytes(const GroupLayout& layout);

struct GroupWeights {
  int64_t n = 0, k = 0, group = 0;
  int bits = 4;
  const int8_t* codes = nullptr;  // [n, k] in [-2^(bits-1), 2^(bits-1) - 1]
  const float* scales = nullptr;  // [n, k/group]
  const int8_t* zeros = nullptr;  // [n, k/group] in the codes' range; null: all 0
};
GroupLayout LayoutOf(const GroupWeights& w);
void PackGroups(const GroupWeights& w, void* packed /* GroupPackedBytes(LayoutOf(w)) */);
// Dequantized row.
void UnpackGroupRow(const void* packed, int64_t k, int64_t group, int64_t row, float* out /* [k] */);

// Where things lie in a packed weight.
struct GroupView {
  GroupView(const void* packed, int64_t k, int64_t group);
  ScaleType type;
  int bits;
  bool has_zeros;
  int64_t num_groups;
  int64_t units;        // of a group
  int64_t unit_bytes;   // codes of 16 k
  int64_t scale_bytes;  // of the 32 scales of a group
  int64_t group_bytes;  // scales and codes
  int64_t zeros_at;     // from the panel's begin; [num_groups][32]
  int64_t panel_bytes;
  const uint8_t* panels;

  // Of one group, widened: scales [32], and code - zero [units * 16][32]; padding is 0.
  void LoadScales(int64_t panel, int64_t g, float* scales) const;
  void LoadCodes(int64_t panel, int64_t g, int16_t* codes) const;
};

}  // namespace spikefold::kernels
