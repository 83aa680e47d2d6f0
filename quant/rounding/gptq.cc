#include "quant/rounding/gptq.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "formats/base/status.h"
#include "quant/rounding/block_panel.h"
#include "quant/rounding/row_panel.h"
#include "quant/rounding/trellis_panel.h"

namespace spikefold {
namespace {

absl::Status CheckInput(const RoundingInput& in, const HessianFactor& factor, const WeightGrid& grid) {
  SF_RETURN_IF_ERROR(CheckGrid("gptq", in.k, grid));
  if (in.n < 1 || static_cast<int64_t>(in.w.size()) != in.n * in.k || factor.k != in.k) {
    return absl::InvalidArgumentError(absl::StrCat("gptq: ", in.w.size(), " weights for N=", in.n,
                                                   " K=", in.k, " and a Hessian of ", factor.k,
                                                   " columns; they must agree"));
  }
  if ((grid.trellis || grid.blocks != nullptr) && !(in.kept.empty() && in.supers.empty())) {
    return absl::InvalidArgumentError(absl::StrCat("gptq: trellis codes or blocks of ggml with ",
                                                   in.kept.size(), " kept columns and ", in.supers.size(),
                                                   " super weights; they take none"));
  }
  if (factor.order.size() + in.kept.size() == static_cast<size_t>(in.k)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("gptq: the Hessian was factored with ",
                                                 static_cast<size_t>(in.k) - factor.order.size(),
                                                 " kept columns, not ", in.kept.size()));
}

absl::Status RoundPanel(const GptqOptions& options, RowPanel& panel) {
  SF_RETURN_IF_ERROR(panel.RoundAll());
  if (options.descent_passes > 0) SF_RETURN_IF_ERROR(panel.Descend(options.descent_passes));
  for (int i = 0; i < options.scale_refits; ++i) {
    SF_RETURN_IF_ERROR(panel.RefitScales());
    SF_RETURN_IF_ERROR(panel.Descend(options.descent_passes));
  }
  return panel.Measure();
}

absl::Status RoundPanel(const GptqOptions&, TrellisPanel& panel) {
  SF_RETURN_IF_ERROR(panel.RoundAll());
  return panel.Measure();
}

// All rows, panel by panel: panels are independent.
template <typename Panel>
absl::Status RoundPanels(const RoundingInput& input, const HessianFactor& factor, const WeightGrid& grid,
                         const GptqOptions& options, ThreadPool& pool, RoundedWeights& out) {
  const int64_t panels = (input.n + Panel::kRows - 1) / Panel::kRows;
  std::vector<double> error(static_cast<size_t>(input.n)), power(error);
  std::vector<absl::Status> status(static_cast<size_t>(panels));
  pool.ParallelFor(panels, 1, [&](int64_t begin, int64_t end) {
    Panel panel(input, factor, grid, pool);
    for (int64_t p = begin; p < end; ++p) {
      panel.Load(p * Panel::kRows);
      status[static_cast<size_t>(p)] = RoundPanel(options, panel);
      panel.Store(out);
      for (int64_t i = 0; i < panel.num_rows(); ++i) {
        error[static_cast<size_t>(p * Panel::kRows + i)] = panel.error(i);
        power[static_cast<size_t>(p * Panel::kRows + i)] = panel.power(i);
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
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<RoundedWeights> Gptq(const RoundingInput& input, const HessianFactor& factor,
                                    const WeightGrid& grid, const GptqOptions& options, ThreadPool& pool) {
  SF_RETURN_IF_ERROR(CheckInput(input, factor, grid));
  RoundedWeights out;
  if (grid.blocks != nullptr) {
    out.block_type = grid.blocks->type;
    const GgmlTypeInfo& info = *FindGgmlType(static_cast<uint32_t>(out.block_type));
    out.blocks.resize(static_cast<size_t>(input.n * input.k / info.block_elements * info.block_bytes));
    SF_RETURN_IF_ERROR(RoundPanels<BlockPanel>(input, factor, grid, options, pool, out));
    return out;
  }
  out.codes.resize(static_cast<size_t>(input.n * input.k));
  out.scales.resize(static_cast<size_t>(input.n * grid.num_groups(input.k)));
  if (!grid.symmetric) out.zeros.resize(out.scales.size());
  if (grid.trellis) {
    out.trellis_bits = grid.bits;
    SF_RETURN_IF_ERROR(RoundPanels<TrellisPanel>(input, factor, grid, options, pool, out));
  } else {
    SF_RETURN_IF_ERROR(RoundPanels<RowPanel>(input, factor, grid, options, pool, out));
  }
  return out;
}

}  // namespace spikefold
