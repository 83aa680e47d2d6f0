#include "quant/rounding/block_panel.h"

#include <algorithm>

#include "formats/base/status.h"
#include "kernels/matmul_f32_f32_f32/matmul_f32_f32_f32.h"
#include "quant/rounding/cholesky.h"

namespace spikefold {
namespace {

namespace f32 = kernels::matmul_f32_f32_f32;

size_t Size(int64_t n) { return static_cast<size_t>(n); }

}  // namespace

BlockPanel::BlockPanel(const RoundingInput& input, const HessianFactor& factor, const WeightGrid& grid,
                       ThreadPool& pool)
    : RowPanel(input, factor, grid, pool),
      layout_(*grid.blocks),
      blocks_(input.k / layout_.block),
      scales_(Size(blocks_ * kRows)) {}

void BlockPanel::ChooseScales(int64_t lane, const std::vector<float>& row) {
  for (int64_t b = 0; b < blocks_; ++b) {
    const int64_t first = b * layout_.block;
    scales(lane, b) = ChooseBlockScales(layout_, row.data() + first, factor_.diagonal.data() + first);
  }
  Apply(lane);
}

void BlockPanel::Apply(int64_t lane) {
  const float* row = input_.w.data() + (first_row_ + lane) * k_;
  for (int64_t g = 0; g < groups_; ++g) {
    const int sub = static_cast<int>(g % layout_.num_subs());
    const GgmlBlockScales& s = scales(lane, g / layout_.num_subs());
    At(scale_, g)[lane] = s.step(layout_, sub);
    const float offset = s.offset(layout_, sub);
    for (int64_t c = g * width_; c < (g + 1) * width_; ++c) At(w_, c)[lane] = row[c] - offset;
  }
}

void BlockPanel::FillBasis() {
  basis_[0].assign(Size(k_ * kRows), 0);
  if (layout_.offsets) basis_[1].assign(Size(k_ * kRows), 0);
  for (int64_t c = 0; c < k_; ++c) {
    const int64_t sub = c / width_ % layout_.num_subs(), block = c / layout_.block;
    for (int64_t lane = 0; lane < num_rows_; ++lane) {
      GgmlBlockScales unit = scales(lane, block);
      unit.d = unit.m = 1;
      At(basis_[0], c)[lane] = unit.step(layout_, static_cast<int>(sub)) * At(code_, c)[lane];
      if (layout_.offsets) At(basis_[1], c)[lane] = unit.offset(layout_, static_cast<int>(sub));
    }
  }
}

// A row of A: parameters are d of all blocks, then m of all blocks; a [parameters, kRows].
absl::Status BlockPanel::Curvatures(int64_t parameter, double* a) {
  const int64_t block = parameter % blocks_, first = block * layout_.block;
  const std::vector<float>& basis = basis_[parameter / blocks_];
  SF_RETURN_IF_ERROR(f32::Run({.m = k_,
                               .n = kRows,
                               .k = layout_.block,
                               .x = factor_.h.as<float>().data() + first,
                               .x_stride = k_,
                               .w = At(basis, first),
                               .y = product_.data(),
                               .y_stride = kRows},
                              pool_));
  for (int64_t kind = 0; kind * blocks_ < num_parameters(); ++kind) {
    for (int64_t c = 0; c < k_; ++c) {
      const float *other = At(basis_[kind], c), *own = At(basis, c), *y = At(product_, c);
      const double ridge = c / layout_.block == block ? factor_.damping : 0.0;
      double* sum = a + (kind * blocks_ + c / layout_.block) * kRows;
      for (int64_t lane = 0; lane < kRows; ++lane) {
        sum[lane] += static_cast<double>(other[lane]) *
                     (static_cast<double>(y[lane]) + ridge * static_cast<double>(own[lane]));
      }
    }
  }
  return absl::OkStatus();
}

absl::Status BlockPanel::RefitScales() {
  const int64_t p = num_parameters();
  FillBasis();
  std::vector<double> a(Size(p * p * kRows)), b(Size(p * kRows));
  Errors(scratch_);
  SF_RETURN_IF_ERROR(TimesHessian());
  for (int64_t kind = 0; kind * blocks_ < p; ++kind) {
    for (int64_t c = 0; c < k_; ++c) {
      const float *basis = At(basis_[kind], c), *gradient = At(product_, c), *e = At(scratch_, c);
      double* sum = b.data() + (kind * blocks_ + c / layout_.block) * kRows;
      for (int64_t lane = 0; lane < kRows; ++lane) {
        sum[lane] += static_cast<double>(basis[lane]) *
                     (static_cast<double>(gradient[lane]) + factor_.damping * static_cast<double>(e[lane]));
      }
    }
  }
  for (int64_t i = 0; i < p; ++i) SF_RETURN_IF_ERROR(Curvatures(i, a.data() + i * p * kRows));
  std::vector<double> matrix(Size(p * p)), slope(Size(p));
  for (int64_t lane = 0; lane < num_rows_; ++lane) {
    for (int64_t i = 0; i < p * p; ++i) matrix[Size(i)] = a[Size(i * kRows + lane)];
    for (int64_t i = 0; i < p; ++i) slope[Size(i)] = b[Size(i * kRows + lane)];
    Fit(lane, matrix, slope);
  }
  return absl::OkStatus();
}

// As FitScales(): what float16 holds next to the best values, if that is better.
void BlockPanel::Fit(int64_t lane, const std::vector<double>& a, const std::vector<double>& b) {
  const int64_t p = num_parameters();
  std::vector<double> spoilt = a, change(Size(p));
  double trace = 0;
  for (int64_t i = 0; i < p; ++i) trace += a[Size(i * (p + 1))];
  if (trace <= 0) return;
  for (int64_t i = 0; i < p; ++i) spoilt[Size(i * (p + 1))] += 1e-7 * trace / static_cast<double>(p);
  if (!SolveSmall(spoilt.data(), b.data(), p, change.data())) return;
  std::vector<float> stored(Size(p));
  double gain = 0;
  for (int64_t i = 0; i < p; ++i) {
    const GgmlBlockScales& s = scales(lane, i % blocks_);
    const bool is_d = i < blocks_;
    const double old = static_cast<double>(is_d ? s.d : s.m), fitted = old + change[Size(i)];
    const bool free = !is_d && !layout_.integer_scales();  // an offset of its own may change its sign
    const bool sane = free ? std::abs(fitted) < 65504 : fitted / old > 0.5 && fitted / old < 2;
    const float half = F16ToFloat(FloatToF16(static_cast<float>(fitted)));
    stored[Size(i)] = sane && (free || half != 0) ? half : static_cast<float>(old);
    change[Size(i)] = static_cast<double>(stored[Size(i)]) - old;
    gain += 2 * b[Size(i)] * change[Size(i)];
  }
  for (int64_t i = 0; i < p; ++i) {
    for (int64_t j = 0; j < p; ++j) gain -= change[Size(i)] * a[Size(i * p + j)] * change[Size(j)];
  }
  if (!(gain > 0)) return;
  for (int64_t i = 0; i < p; ++i) {
    GgmlBlockScales& s = scales(lane, i % blocks_);
    (i < blocks_ ? s.d : s.m) = stored[Size(i)];
  }
  Apply(lane);
}

void BlockPanel::Store(RoundedWeights& out) const {
  const int64_t bytes = FindGgmlType(static_cast<uint32_t>(layout_.type))->block_bytes;
  int8_t codes[256];
  for (int64_t lane = 0; lane < num_rows_; ++lane) {
    for (int64_t b = 0; b < blocks_; ++b) {
      const int64_t first = b * layout_.block;
      for (int64_t c = 0; c < layout_.block; ++c) {
        codes[c] = static_cast<int8_t>(At(code_, first + c)[lane]);
      }
      PackGgmlBlock(layout_, scales_[Size(lane * blocks_ + b)], codes,
                    out.blocks.data() + ((first_row_ + lane) * blocks_ + b) * bytes);
    }
  }
}

}  // namespace spikefold
