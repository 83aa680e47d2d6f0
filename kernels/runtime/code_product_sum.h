// Outer products of INT8 codes, added up in a device's memory: what calibration sums over its text.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/runtime/site_rounder.h"

namespace spikefold {

inline constexpr int64_t kCodeProductRows = 512;  // that whoever sums adds at once, at the most

class CodeProductSum {
 public:
  virtual ~CodeProductSum() = default;
  // sum[i, j] += float(sum_t a[i, t] * b[j, t]) * a_scale[i] * b_scale[j], multiplied in this order and each
  // time rounded to float32. a, b [k, rows] row-major, from -127 to 127; scales [k]. a may be b.
  virtual absl::Status Add(int64_t rows, const int8_t* a, const float* a_scale, const int8_t* b,
                           const float* b_scale) = 0;
  // Rows [first, first + count) of sum [k, k].
  virtual absl::Status Read(int64_t first, int64_t count, float* to) const = 0;
  // Rounds linears by the sum, which was of a and a, outlives the rounder and is not added to any more. Null:
  // this device cannot, whoever rounds does so on the host.
  virtual absl::StatusOr<std::unique_ptr<SiteRounder>> NewRounder() = 0;
};

}  // namespace spikefold
