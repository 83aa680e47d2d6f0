// One segment of a matrix (256 rows, formats/quantized/trellis.h) while it becomes trellis codes. Columns are
// rounded one after the other, as GPTQ does, but a column is rounded as a whole: the path whose levels lie
// nearest to what its rows want.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "formats/quantized/trellis.h"
#include "kernels/trellis_s8_f32/trellis_s8_f32.h"
#include "quant/rounding/hessian_factor.h"
#include "quant/rounding/round_weights.h"

namespace spikefold {

class TrellisPanel {
 public:
  static constexpr int64_t kRows = kTrellisSegment;
  // Panels of a matrix of n rows, and about the bytes of one: four float32 and a code a weight, and the costs
  // of a column's paths.
  static int64_t CountOf(int64_t n) { return (n + kRows - 1) / kRows; }
  static int64_t BytesOf(int bits, int64_t k) { return kRows * (17 * k + (4 * kTrellisStates >> bits)); }

  // References outlive the panel. No kept columns, no super weights.
  TrellisPanel(const RoundingInput& input, const HessianFactor& factor, const WeightGrid& grid,
               ThreadPool& pool);

  void Load(int64_t first_row);  // and chooses scales
  absl::Status RoundAll();       // GPTQ
  absl::Status Measure();        // errors and powers below
  void Store(RoundedWeights& out) const;

  int64_t num_rows() const { return num_rows_; }
  double error(int64_t row) const { return error_[static_cast<size_t>(row)]; }  // dw H dw^T
  double power(int64_t row) const { return power_[static_cast<size_t>(row)]; }  // w H w^T

 private:
  // 32 rows side by side, column after column: the matmul's packed operand.
  struct Strip {
    std::vector<float> w, error, product;  // [k, 32]
    std::vector<float> ordered;            // [m, 32] errors in order of rounding
    std::vector<float> block;              // [32, 32] feedback to the columns being rounded
  };

  absl::Status RoundBlock(int64_t first, int64_t count);
  // `target_` -> codes and errors of a column.
  absl::Status Encode(int64_t column);
  absl::Status TimesHessian(const std::vector<float>& x, std::vector<float>& y);  // [k, 32] each

  const RoundingInput& input_;
  const HessianFactor& factor_;
  const WeightGrid& grid_;
  ThreadPool& pool_;
  const int64_t k_;
  int64_t first_row_ = 0, num_rows_ = 0, num_strips_ = 0;
  std::vector<Strip> strips_;
  std::vector<uint8_t> codes_;         // [k, kRows]
  std::vector<float> levels_;          // [kTrellisStates]
  std::vector<float> scale_, target_;  // [kRows]
  std::vector<uint16_t> states_;       // [kRows]
  std::vector<double> error_, power_;  // [kRows]
  kernels::trellis_s8_f32::Scratch scratch_;
};

}  // namespace spikefold
