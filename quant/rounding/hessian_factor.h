// The Hessian of a site, made ready for rounding: ordered, damped, factored. Its linears share it.
//
// The loss of an error e = w - q of one output row is e H e^T. With H + damping = U D U^T, U unit upper
// triangular in the order of rounding,
//   e H e^T = sum_j D_j (e_j + sum_{i<j} e_i U_ij)^2
// so each column is best rounded at w_j + sum_{i<j} e_i U_ij. This is GPTQ (2210.17323): its Cholesky factor
// of H^-1 is D^-1/2 U^-1, and both make the same codes (2307.13304 proves it); but one factorisation of H
// does, no inverse.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "formats/base/thread_pool.h"
#include "formats/tensor.h"
#include "kernels/runtime/site_rounder.h"

namespace spikefold {

struct FactorOptions {
  absl::Span<const int32_t> kept;  // columns that are not rounded, ascending
  bool act_order = true;           // columns by descending H_jj instead of as they come
  double damping = 0.01;           // times the mean of the diagonal
};

struct HessianFactor {
  int64_t k = 0;                // columns of W
  std::vector<int32_t> order;   // [m] columns in order of rounding; kept ones are missing
  Tensor h;                     // F32 [k, k], as the columns come, without damping; none: is_diagonal()
  Tensor feedback;              // F32 [m, m]: [j, i] = U_ij for i < j, else 0
  std::vector<float> pivot;     // [m] D_j
  std::vector<float> diagonal;  // [k] H_jj
  double damping = 0;           // what was added to every H_jj
  double damping_share = 0;  // the same over the mean of the diagonal: more than asked for if H was singular
  int64_t num_dead = 0;      // columns whose input was always zero: they are rounded to nearest, alone
  // Holds H and the feedback in place of the tensors, which are empty then, as is `pivot`: rows are rounded
  // there. Grids alone take such a factor.
  SiteRounder* device = nullptr;
  // Columns that know nothing of each other: `diagonal` says all, and there is no feedback. Trellis panels
  // alone take such a factor.
  bool is_diagonal() const { return h.shape().empty() && device == nullptr; }
};
// `h` [k, k]: sum_t x_t x_t^T, symmetric. The damping grows tenfold until H is positive definite.
// InvalidArgument: sizes that do not fit, values that are not finite, no calibration rows at all (H = 0);
// Internal: not positive definite at a damping of 1.
absl::StatusOr<HessianFactor> FactorHessian(absl::Span<const double> h, int64_t k,
                                            const FactorOptions& options, ThreadPool& pool);
// The same of the H of [k, k] that `device` holds, which outlives the factor. Also: a device's errors;
// ResourceExhausted: it has no room for the factor.
absl::StatusOr<HessianFactor> FactorHessian(SiteRounder& device, int64_t k, const FactorOptions& options);

}  // namespace spikefold
