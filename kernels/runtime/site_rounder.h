// GPTQ of the linears of one site in a device's memory: what quant/rounding/row_panel.h does to panels of
// rows on the host. Behind the factor, float64 in another order of additions, all is the same to the bit
// where the host has fused multiply-adds; so codes are, unless a last bit of the factor turns one.
#pragma once

#include <cstdint>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace spikefold {

// From all: a device's errors; ResourceExhausted: it has no room, and whatever was done is lost.
class SiteRounder {
 public:
  virtual ~SiteRounder() = default;

  // The diagonal of H [k].
  virtual absl::Status ReadDiagonal(float* to) = 0;
  // H + damping = U D U^T over the columns of `order`, as hessian_factor.h has it; columns whose H_jj is 0
  // stand alone with the weight `dead`. False: not positive definite. ResourceExhausted: no room.
  virtual absl::StatusOr<bool> Factor(absl::Span<const int32_t> order, double damping, double dead) = 0;

  // Rows of one linear. Everything is read before Load() returns.
  struct Rows {
    int64_t n = 0, width = 0;                  // columns that share a scale
    const float* w = nullptr;                  // [n, k]
    const float* scale = nullptr;              // [n, k / width]
    const float *lo = nullptr, *hi = nullptr;  // [n, k / width] bounds of code - zero
    absl::Span<const int32_t> kept;            // columns that Factor()'s order has not
    // Super weights: row r's columns are super_column[super_begin[r]] on. Empty: none.
    absl::Span<const int32_t> super_begin, super_column;  // [n + 1]
  };
  // How many rows of groups of `width` columns there is room for at once, at most n.
  virtual absl::StatusOr<int64_t> RowsAtOnce(int64_t n, int64_t width) = 0;
  // In this order: Load, Round, then any of Descend and FitScales, Store.
  virtual absl::Status Load(const Rows& rows) = 0;
  virtual absl::Status Round() = 0;                  // GPTQ
  virtual absl::Status Descend(int max_passes) = 0;  // row_descent.h
  // The loss of a row is quadratic in its scales (row_scales.h: ScaleFit): gives `fit` rows [first, first +
  // count) with their A [count, groups, groups] and b [count, groups], which it may spoil, all rows in turn.
  // Then the scales become what `scale` [n, groups] holds.
  using Fit = absl::FunctionRef<void(int64_t first, int64_t count, double* a, double* b)>;
  virtual absl::Status FitScales(Fit fit, const float* scale) = 0;
  // zero [n, groups], codes [n, k]; error [n]: dw H dw^T; power [n]: w H w^T.
  virtual absl::Status Store(const float* zero, int8_t* codes, double* error, double* power) = 0;
};

}  // namespace spikefold
