// matmul_f32_s8r_s4g: W4A8. Y[m,n] = x_scale[m] * sum_g w_scale[n,g] * float(sum_{k in g} xq[m,k]*wq[n,k]) +
// tail.
//
// Layout    packed W, made at load time and never written to disk: a 64-byte header, then for each panel of
// 32
//           channels (N padded with code 0 and scale 0), for each group along K, in the order of use:
//             scales [32]              f16 or bf16 if every scale is exactly one, else f32
//             codes  [group/8][32][4]  byte i of block j has the code of k = 8*j + i in its low half and of
//                                      k = 8*j + 4 + i in its high half, each + 8
//           so two masks give two operands of vpdpbusd, the weight as the unsigned side; 8 * sum_{k in g} xq
//           comes off each group's sum.
// Requires  codes in [-8, 7]; K % group == 0, group % 16 == 0 and 16 <= group <= 256; any M, N >= 1.
// Moves     N*K/2 + (2 or 4)*N*K/group + M*K + 4*M*N bytes; bound by memory for M < ~8.
// Exact     group sums are exact int32 on every ISA. The float sum runs over g ascending, one multiply and
// one
//           add each, never fused; then * x_scale, then the tail (outlier_tail.h): y is bitwise the same on
//           every ISA, for any number of threads and whatever rows are computed with it.
// Targets   AVX-512 VNNI (+ BF16 for the tail), AVX2, plain C++.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "formats/base/thread_pool.h"
#include "kernels/outlier_tail.h"

namespace spikefold::kernels::matmul_f32_s8r_s4g {

// How scales lie in a packed weight; values are float32 in the API.
enum class ScaleType : uint32_t { kF32, kF16, kBf16 };
// The narrowest type that holds every scale exactly (kF16 before kBf16 before kF32).
ScaleType NarrowestScaleType(const float* scales, int64_t count);

// kF32 is enough for any weight; NarrowestScaleType() gives what Pack() will really fill.
size_t PackedBytes(int64_t n, int64_t k, int64_t group, ScaleType type = ScaleType::kF32);
void Pack(const int8_t* codes /* [n, k] */, const float* scales /* [n, k/group] */, int64_t n, int64_t k,
          int64_t group, void* packed);
// Dequantized row: codes * scale.
void UnpackRow(const void* packed, int64_t n, int64_t k, int64_t group, int64_t row, float* out /* [k] */);

struct Params {
  int64_t m = 0, n = 0, k = 0, group = 0;
  const int8_t* x = nullptr;       // [m, k]
  const float* x_scale = nullptr;  // [m]; stride 0: [1]
  int64_t x_scale_stride = 1;
  const void* w = nullptr;  // packed, with scales
  OutlierTail tail;
  float* y = nullptr;             // [m, n]
  int32_t* group_sums = nullptr;  // [m, n, k/group] or null: the integer sums, for tests
};
// Unimplemented: a group size outside the list above. InvalidArgument: an empty shape or a missing buffer.
absl::Status Supports(const Params& params);
// Plain loops, int64 and double: the definition. Reads `codes` and `scales`, not params.w.
absl::Status Reference(const Params& params, const int8_t* codes, const float* scales);
absl::Status Run(const Params& params, ThreadPool& pool);

// Where things lie in a packed weight; matmul_f32_f32_s4g reads it too.
struct PackedView {
  PackedView(const void* packed, int64_t k, int64_t group);
  ScaleType type;
  int64_t scale_bytes;  // of the 32 scales of a group
  int64_t group_bytes;  // scales and codes
  int64_t panel_bytes;
  const uint8_t* panels;  // [n/32][k/group] groups
};
// The 32 scales of a group, widened.
void LoadScales(const PackedView& view, const uint8_t* group, float* scales /* [32] */);

}  // namespace spikefold::kernels::matmul_f32_s8r_s4g
