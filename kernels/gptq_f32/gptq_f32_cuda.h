// gptq_f32 on a GPU: what GPTQ does to rows of weights between its matrix products. A row's steps are those
// of quant/rounding/row_panel.h and row_descent.h in their order: of the same factor, the same codes.
// Layout    a row a line; columns as W has them, but for targets, which lie in order of rounding. Scales and
//           bounds are those of group c / width.
// Targets   sm_80.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/cuda/stream.h"

namespace spikefold::kernels::gptq_f32 {

inline constexpr int kBlock = 64;  // columns that are rounded before their errors go to all later ones

// Rows of one linear; device addresses.
struct Rows {
  int64_t n = 0, k = 0, width = 0, groups = 0;
  float* w = nullptr;                        // [n, k]; 0 in kept columns and at super weights (ClearFixed)
  float* code = nullptr;                     // [n, k] code - zero
  float* error = nullptr;                    // [n, k] w - scale * code
  float* product = nullptr;                  // [n, k] what a matrix product left
  const float* scale = nullptr;              // [n, groups]
  const float *lo = nullptr, *hi = nullptr;  // [n, groups] bounds of the codes
  const uint8_t* kept = nullptr;             // [k] 1: a column that is not rounded
  const int32_t* super_begin = nullptr;      // [n + 1] of a row's super weights in super_column; null: none
  const int32_t* super_column = nullptr;
};

// w is 0 in kept columns and at super weights.
absl::Status ClearFixed(const Rows& rows, const cuda::Stream& stream);

// Rounds `count` columns, order[first] on, each at w + target: codes, and what each left, [n, kBlock], zeros
// behind `count`. Their errors have reached each other then, and no others.
struct RoundParams {
  Rows rows;
  int64_t first = 0, count = 0;
  const int32_t* order = nullptr;   // [m]
  const float* feedback = nullptr;  // [m, m], rows feedback_stride apart
  int64_t feedback_stride = 0;
  const float* target = nullptr;  // [n, m], rows target_stride apart
  int64_t target_stride = 0;
  float* left = nullptr;  // [n, kBlock]
};
absl::Status RoundBlock(const RoundParams& params, const cuda::Stream& stream);

absl::Status Errors(const Rows& rows, const cuda::Stream& stream);  // into rows.error

// Coordinate descent (row_descent.h) from the gradient product + damping * error, at most so many passes.
struct DescendParams {
  Rows rows;
  const float* h = nullptr;          // [k, k]
  const float* curvature = nullptr;  // [k] H_jj + damping
  float damping = 0;
  int max_passes = 0;
};
// Columns that fit: a row's gradient lies in shared memory.
int64_t MaxColumns(int64_t max_shared_bytes);
absl::Status Descend(const DescendParams& params, const cuda::Stream& stream);

// to[r, g] = sum over the columns c of group g of
//   code * (product + ridge * other)
// in their order, float64. `other`: errors or codes. `ridge_group` >= 0: in that group alone.
struct GroupSumParams {
  Rows rows;
  int64_t first_row = 0, num_rows = 0;  // product [num_rows, k] and `to` begin there
  const float* product = nullptr;
  const float* other = nullptr;  // [n, k]
  double ridge = 0;
  int64_t ridge_group = -1;
  double* to = nullptr;  // [num_rows, ..], rows to_stride apart; group g at g
  int64_t to_stride = 0;
};
absl::Status GroupSums(const GroupSumParams& params, const cuda::Stream& stream);

// to[r] = sum_c x[r, c] * product[r, c], float64; x [n, k].
absl::Status RowDots(const Rows& rows, const float* x, double* to, const cuda::Stream& stream);

// to[r, c] = code + zero; zero [n, groups].
absl::Status StoreCodes(const Rows& rows, const float* zero, int8_t* to, const cuda::Stream& stream);

// A site's Hessian [k, k]: its lower triangle becomes what the upper one holds.
absl::Status Mirror(float* h, int64_t k, const cuda::Stream& stream);
// a [m, m], rows stride apart: the lower triangle of H in the reversed order of rounding, damped; dead
// columns stand alone with the weight `dead`. diagonal [k]: H_jj.
struct FactorParams {
  int64_t k = 0, m = 0, stride = 0;
  const float* h = nullptr;
  const int32_t* order = nullptr;  // [m]
  double damping = 0, dead = 0;
  double* a = nullptr;
  float* feedback = nullptr;  // [m, m], rows feedback_stride apart, zeros up to there
  int64_t feedback_stride = 0;
};
absl::Status LoadFactor(const FactorParams& params, const cuda::Stream& stream);
// feedback[j, i] = L[m-1-i, m-1-j] / L[m-1-j, m-1-j] for i < j, else 0 (hessian_factor.h).
absl::Status StoreFeedback(const FactorParams& params, const cuda::Stream& stream);
// diagonal[j] = h[j, j]; curvature[j] = h[j, j] + damping. Either may be null.
absl::Status Diagonal(const float* h, int64_t k, float damping, float* diagonal, float* curvature,
                      const cuda::Stream& stream);

}  // namespace spikefold::kernels::gptq_f32
