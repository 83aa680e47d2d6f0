// 32 rows of a weight matrix while they are being rounded. Their values lie side by side, column after
// column: rows are the lanes of vector loops, and a matrix of errors is a packed operand of the float matmul.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "quant/rounding/hessian_factor.h"
#include "quant/rounding/round_weights.h"

namespace spikefold {

// BlockPanel chooses and fits other scales.
class RowPanel {
 public:
  static constexpr int64_t kRows = 32;

  // References outlive the panel.
  RowPanel(const RoundingInput& input, const HessianFactor& factor, const WeightGrid& grid, ThreadPool& pool);
  virtual ~RowPanel() = default;

  void Load(int64_t first_row);  // and chooses scales
  absl::Status RoundAll();       // GPTQ
  absl::Status Descend(int max_passes);
  virtual absl::Status RefitScales();
  absl::Status Measure();  // errors and powers below
  void Store(RoundedWeights& out) const;

  int64_t num_rows() const { return num_rows_; }
  double error(int64_t row) const { return error_[row]; }  // dw H dw^T
  double power(int64_t row) const { return power_[row]; }  // w H w^T, kept columns and super weights included

 protected:
  // Scales and zeros of one lane, for its weights without kept columns and super weights.
  virtual void ChooseScales(int64_t lane, const std::vector<float>& row /* [k] */);
  float* At(std::vector<float>& panel, int64_t column) const { return panel.data() + column * kRows; }
  const float* At(const std::vector<float>& panel, int64_t column) const {
    return panel.data() + column * kRows;
  }
  absl::Status RoundBlock(int64_t first, int64_t count);
  void RoundColumn(int64_t step, float* target);
  absl::Status ScaleSlopes(double* b);
  absl::Status ScaleCurvatures(int64_t group, double* a);
  void FitLane(int64_t lane, const std::vector<double>& a, std::vector<double>& b);
  void Errors(std::vector<float>& out) const;  // [k, kRows]
  absl::Status TimesHessian();                 // product_ = H * scratch_
  absl::Status Quadratic(double* out);         // x H x^T of the rows in scratch_

  const RoundingInput& input_;
  const HessianFactor& factor_;
  const WeightGrid& grid_;
  ThreadPool& pool_;
  const int64_t k_, width_, groups_;
  int64_t first_row_ = 0, num_rows_ = 0;
  std::vector<float> w_;                        // [k, kRows] weights; 0 in kept columns and at super weights
  std::vector<float> e_;                        // [m, kRows] weight - what it became, in order of rounding
  std::vector<float> code_;                     // [k, kRows] code - zero
  std::vector<float> scale_, zero_;             // [groups, kRows]
  std::vector<std::pair<int32_t, int>> fixed_;  // (column, lane) of the panel's super weights
  std::vector<float> target_;                   // [block, kRows] feedback, then what is rounded
  std::vector<float> scratch_, product_;        // [k, kRows]
  float unit_[kRows] = {};                      // whose multiples the scales are (grid.multiples)
  double error_[kRows] = {}, power_[kRows] = {};
};

}  // namespace spikefold
