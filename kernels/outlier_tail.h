// What every quantized matmul adds after its integer sum: kept columns, bias, super weights.
//
//   Y[m,n] += sum_c xo[m,c] * bf16(wo[n,c])  +  bias[n]  +  sum_s value_s * xs[m,s] (row_s == n)
//
// Kept columns carry code 0 in the integer operands, so both halves simply add.
// Order     as written: kept columns ascending, then the bias, then super weights in list order. A product of
//           two bf16 values is exact in float32, so fused and unfused adds agree and the tail is bitwise the
//           same on every ISA (results below 2^-126 aside: vdpbf16ps flushes them).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace spikefold::kernels {

// By what share of its terms' sizes an output differs at the most where a tensor core adds the kept columns,
// 16 at a time. Hopper's aligns the 16 products and the sum to the largest of them, drops what lies more than
// two bits below that one's last place, and truncates what they add up to (Khattak and Mikaitis 2025,
// arXiv:2512.07004): 17 * 2^-25 + 2^-23. Sixteen additions rounded to nearest, as elsewhere, 16 * 2^-24.
// Together 13.25 * 2^-23, here 16, for 16 columns. What is added behind them on both sides, `num_more` values
// (a bias, super weights of the channel), is rounded on both: 2^-23 each. Their sizes count among the terms'.
inline double TailBound(int64_t num_kept, int64_t num_more = 1) {
  return 0x1p-19 * static_cast<double>((num_kept + 15) / 16) + 0x1p-23 * static_cast<double>(num_more);
}

inline constexpr int64_t kPanel = 32;  // output channels that a packed weight holds side by side

struct OutlierTail {
  int64_t num_kept = 0;              // r
  const float* kept_x = nullptr;     // [m, r] values of the kept columns, already rounded to bf16
  const uint16_t* kept_w = nullptr;  // [n, r] bf16
  // kept_w by PackKeptColumns; null: the kernel packs at every call, which costs more than the sum at m = 1.
  const uint32_t* kept_packed = nullptr;
  int64_t num_super = 0;           // s
  const float* super_x = nullptr;  // [m, super_x_stride]: x at the super columns, rounded to bf16
  int64_t super_x_stride = 0;
  const int32_t* super_slot = nullptr;  // [s] which entry of super_x's row
  const int32_t* super_row = nullptr;   // [s] output channel
  const float* super_value = nullptr;   // [s]
  const float* bias = nullptr;          // [n] or null
};

// Kept columns in the order of use: word [n/kPanel][c/2][n%kPanel] has column c in its high half and c + 1 in
// its low half, because vdpbf16ps adds the high product first. Padding is zero.
size_t PackedKeptWords(int64_t n, int64_t num_kept);
void PackKeptColumns(const uint16_t* kept_w /* [n, r] */, int64_t n, int64_t num_kept, uint32_t* packed);

// InvalidArgument: a count without its buffers.
absl::Status CheckTail(absl::string_view kernel, const OutlierTail& tail);
// The tail in double, for references.
double ReferenceTail(const OutlierTail& tail, int64_t m, int64_t n);

// A tail made ready for one call: x pairs in the same order as the packed weights.
struct TailOperands {
  TailOperands(const OutlierTail& tail, int64_t m, int64_t n);
  int64_t num_pairs = 0;
  std::vector<uint32_t> x;         // [m, num_pairs]
  const uint32_t* w = nullptr;     // [n/kPanel, num_pairs, kPanel]
  std::vector<uint32_t> w_packed;  // storage of w if the caller had none
};

// Adds kept columns and bias to y[0, count), channels n0.. of row m, count <= kPanel, n0 % kPanel == 0.
void AddTail(const OutlierTail& tail, const TailOperands& operands, int64_t m, int64_t n0, int64_t count,
             float* y);
// Adds the super weights of channels [n_begin, n_end) to rows [m_begin, m_end) of y, which has n channels.
void AddSuperWeights(const OutlierTail& tail, int64_t m_begin, int64_t m_end, int64_t n_begin, int64_t n_end,
                     int64_t n, float* y);

}  // namespace spikefold::kernels
