// A row panel on the grids of ggml's blocks: offsets beside the steps, steps that are products.
#pragma once

#include <vector>

#include "quant/rounding/block_scales.h"
#include "quant/rounding/row_panel.h"

namespace spikefold {

class BlockPanel : public RowPanel {
 public:
  // grid.blocks is set. No kept columns, no super weights.
  BlockPanel(const RoundingInput& input, const HessianFactor& factor, const WeightGrid& grid,
             ThreadPool& pool);

  // Fits d and m of all blocks of a row together, the integer scales staying as they are.
  absl::Status RefitScales() override;
  void Store(RoundedWeights& out) const;

 private:
  void ChooseScales(int64_t lane, const std::vector<float>& row) override;
  // What scales of one lane mean for steps, and for the targets, from which offsets are taken off.
  void Apply(int64_t lane);
  GgmlBlockScales& scales(int64_t lane, int64_t block) {
    return scales_[static_cast<size_t>(lane * blocks_ + block)];
  }
  int64_t num_parameters() const { return blocks_ * (layout_.offsets ? 2 : 1); }
  void FillBasis();
  absl::Status Curvatures(int64_t parameter, double* a);
  void Fit(int64_t lane, const std::vector<double>& a, const std::vector<double>& b);

  const GgmlScaleLayout& layout_;
  const int64_t blocks_;
  std::vector<GgmlBlockScales> scales_;  // [kRows, blocks]
  std::vector<float> basis_[2];          // [k, kRows] what d and m are multiplied with
};

}  // namespace spikefold
