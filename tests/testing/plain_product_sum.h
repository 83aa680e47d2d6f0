// Second moments as a device sums them, by plain loops.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/runtime/code_product_sum.h"

namespace spikefold::testing {

class PlainProductSum : public CodeProductSum {
 public:
  explicit PlainProductSum(int64_t k) : k_(k), sum_(static_cast<size_t>(k * k)) {}
  absl::Status Add(int64_t rows, const int8_t* a, const float* a_scale, const int8_t* b,
                   const float* b_scale) override {
    if (fails) return absl::InternalError("device: gone");
    for (int64_t i = 0; i < k_; ++i) {
      for (int64_t j = 0; j < k_; ++j) {
        int32_t dot = 0;
        for (int64_t t = 0; t < rows; ++t) dot += a[i * rows + t] * b[j * rows + t];
        sum_[static_cast<size_t>(i * k_ + j)] += static_cast<float>(dot) * a_scale[i] * b_scale[j];
      }
    }
    return absl::OkStatus();
  }
  absl::Status Read(int64_t first, int64_t count, float* to) const override {
    if (fails) return absl::InternalError("device: gone");
    std::copy_n(sum_.data() + first * k_, count * k_, to);
    return absl::OkStatus();
  }
  absl::StatusOr<std::unique_ptr<SiteRounder>> NewRounder() override { return nullptr; }
  bool fails = false;

 protected:
  int64_t k() const { return k_; }
  std::vector<float>& sum() { return sum_; }  // [k, k]

 private:
  const int64_t k_;
  std::vector<float> sum_;
};

}  // namespace spikefold::testing
