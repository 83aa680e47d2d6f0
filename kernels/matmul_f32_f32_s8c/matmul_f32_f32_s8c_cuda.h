// matmul_f32_f32_s8c on a GPU: float rows times 8-bit codes, one scale a channel, with kept columns, bias and
// super weights; of all rows, or of the spike rows that the quantizer listed. W row-major with the row bytes
// of matmul_f32_s8r_s8c, which reads the same codes. RunRow(), RunDigits() and RunWide() take the codes and
// scales of matmul_f32_f32_sxg too (Linear::group set).
// Method    up to 4 rows: integers on the tensor cores, x in three digits (kernels/cuda/digit_rows.cuh);
//           more, and lists of rows: the CUDA cores.
//           RunRow: one row in three digits, codes from memory to registers (matmul_f32_f32_s8c_row_sm80.cu).
//           RunDigits: x in three digits a row, which the kernels of INT8 activations multiply
//           (matmul_f32_f32_s8c_digits_sm80.cu).
//           RunWide: weights and x become f16 (kernels/cuda/wide_rows.cuh).
// Exact     float32 sums of x * code, scaled once. In digits x is exact to 2^-22 of the largest of 64
//           columns, in RunRow of 16 and in RunDigits of a row (or to 2^-127), x of kept columns included.
//           RunWide: x and weights to 2^-11, or 2^-39 of the largest of a row of x or of a channel, and so is
//           x of kept columns, which the others round to bf16.
// Targets   sm_80; RunWide sm_90a.
#pragma once

#include <cstddef>

#include "absl/status/status.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/simt_matmul.h"
#include "kernels/cuda/stream.h"

namespace spikefold::kernels::matmul_f32_f32_s8c {

absl::Status RunCuda(const cuda::SimtParams& params, const cuda::Stream& stream);

// One row, K a multiple of 16; the codes and scales of matmul_f32_f32_sxg too. TakesRow(): K is long enough
// for it to be worth while, and x has room.
bool TakesRow(const cuda::SimtParams& params);
absl::Status RunRow(const cuda::SimtParams& params, const cuda::Stream& stream);

// Without a list of rows, K a multiple of 16. `scratch`: so many bytes of device memory, 256-byte aligned.
size_t DigitScratchBytes(const cuda::SimtParams& params);
absl::Status RunDigits(const cuda::SimtParams& params, void* scratch, const cuda::DeviceInfo& device,
                       const cuda::Stream& stream);
size_t WideScratchBytes(const cuda::SimtParams& params);
absl::Status RunWide(const cuda::SimtParams& params, void* scratch, const cuda::DeviceInfo& device,
                     const cuda::Stream& stream);

// What is faster on an H200 at Llama-3-8B's shapes; the exact path where the others cannot be. Sums of groups
// are added one by one in digits.
enum class Path { kDirect, kRow, kDigits, kWide };
inline constexpr int64_t kDirectRows = 4, kDigitRows = 256, kGroupDigitRows = 96;
inline Path PathOf(const cuda::SimtParams& p, const cuda::DeviceInfo& device) {
  if (p.rows != nullptr || p.k % 16 != 0 || p.m == 0 || p.linears.count == 0) return Path::kDirect;
  if (TakesRow(p)) return Path::kRow;
  const bool groups = p.linears.linear[0].group > 0;
  if (!groups && p.m <= kDirectRows) return Path::kDirect;
  const int64_t digit_rows = groups ? kGroupDigitRows : kDigitRows;
  return p.m > digit_rows && device.sm == 90 ? Path::kWide : Path::kDigits;
}
inline size_t ScratchBytes(Path path, const cuda::SimtParams& p) {
  return path == Path::kWide ? WideScratchBytes(p) : path == Path::kDigits ? DigitScratchBytes(p) : 0;
}

}  // namespace spikefold::kernels::matmul_f32_f32_s8c
