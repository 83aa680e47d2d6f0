// Outer products of INT8 codes, added up in a device's memory: what calibration sums over its text.
#pragma once

#include <cstdint>

#include "absl/status/status.h"

namespace spikefold {

class CodeProductSum {
 public:
  virtual ~CodeProductSum() = default;
  // sum[i, j] += float(sum_t a[i, t] * b[j, t]) * a_scale[i] * b_scale[j], multiplied in this order and each
  // time rounded to float32. a, b [k, rows] row-major, from -127 to 127; scales [k]. a may be b.
  virtual absl::Status Add(int64_t rows, const int8_t* a, const float* a_scale, const int8_t* b,
                           const float* b_scale) = 0;
  // Rows [first, first + count) of sum [k, k].
  virtual absl::Status Read(int64_t first, int64_t count, float* to) const = 0;
};

}  // namespace spikefold
