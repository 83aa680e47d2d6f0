#include "quant/rounding/gptq.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "formats/base/status.h"
#include "quant/rounding/row_panel.h"

namespace spikefold {
namespace {

absl::Status CheckInput(const RoundingInput& in, const HessianFactor& factor, const WeightGrid& grid) {
  SF_RETURN_IF_ERROR(CheckGrid("gptq", in.k, grid));
  if (in.n < 1 || static_cast<int64_t>(in.w.size()) != in.n * in.k || factor.k != in.k) {
    return absl::InvalidArgumentError(absl::StrCat("gptq: ", in.w.size(), " weights for N=", in.n,
                                                   " K=", in.k, " and a Hessian of ", factor.k,
                                                   " columns; they must agree"));
  }
  if (factor.order.size() + in.kept.size() == static_cast<size_t>(in.k)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("gptq: the Hessian was factored with ",
                                                 static_cast<size_t>(in.k) - factor.order.size(),
                                                 " kept columns, not ", in.kept.size()));
}

}  // namespace

absl::StatusOr<RoundedWeights> Gptq(const RoundingInput& input, const HessianFactor& factor,
                                    const WeightGrid& grid, const GptqOptions& options, ThreadPool& pool) {
  SF_RETURN_IF_ERROR(CheckInput(input, factor, grid));
  RoundedWeights out;
  out.codes.resize(static_cast<size_t>(input.n * input.k));
  out.scales.resize(static_cast<size_t>(input.n * grid.num_groups(input.k)));
  if (!grid.symmetric) out.zeros.resize(out.scales.size());
  const int64_t panels = (input.n + RowPanel::kRows - 1) / RowPanel::kRows;
  std::vector<double> error(static_cast<size_t>(input.n)), power(error);
  std::vector<absl::Status> status(static_cast<size_t>(panels));
  pool.ParallelFor(panels, 1, [&](int64_t begin, int64_t end) {
    RowPanel panel(input, factor, grid, pool);
    for (int64_t p = begin; p < end; ++p) {
      panel.Load(p * RowPanel::kRows);
      absl::Status& result = status[static_cast<size_t>(p)];
      result = panel.RoundAll();
      if (options.descent_passes > 0) result.Update(panel.Descend(options.descent_passes));
      for (int i = 0; i < options.scale_refits; ++i) {
        result.Update(panel.RefitScales());
        result.Update(panel.Descend(options.descent_passes));
      }
      result.Update(panel.Measure());
      panel.Store(out);
      for (int64_t i = 0; i < panel.num_rows(); ++i) {
        error[static_cast<size_t>(p * RowPanel::kRows + i)] = panel.error(i);
        power[static_cast<size_t>(p * RowPanel::kRows + i)] = panel.power(i);
      }
    }
  });
  for (const absl::Status& s : status) SF_RETURN_IF_ERROR(s);
  double total_error = 0, total_power = 0;
  for (size_t r = 0; r < error.size(); ++r) {
    total_error += std::max(error[r], 0.0);
    total_power += power[r];
  }
  out.relative_error = total_power > 0 ? total_error / total_power : 0;
  return out;
}

}  // namespace spikefold
