#include "calib/score_rows.h"

#include <limits>

#include "kernels/logsumexp_f64_f32/logsumexp_f64_f32.h"

namespace spikefold {
namespace {

RowScore NonFinite() {
  constexpr double kInf = std::numeric_limits<double>::infinity();
  return {.nll = kInf,
          .nll_reference = kInf,
          .kld = kInf,
          .kld_llamacpp = kInf,
          .same_top = false,
          .finite = false};
}

}  // namespace

RowScore ScoreRow(const float* p, int64_t vocab, int32_t target) {
  const auto row = kernels::logsumexp_f64_f32::RunRow(p, vocab);
  if (!row.finite) return NonFinite();
  const double nll = row.lse - static_cast<double>(p[target]);
  return {.nll = nll, .nll_reference = nll};
}

RowScore ScoreRow(const float* p, const float* q, int64_t vocab, int32_t target) {
  return ScoreOf({.row = kernels::kld_f64_f32_f32::RunRow(p, q, vocab), .p = p[target], .q = q[target]});
}

RowScore ScoreOf(const kernels::kld_f64_f32_f32::TargetRow& compared) {
  const auto& row = compared.row;
  if (!row.finite) return NonFinite();
  return {.nll = row.lse_q - static_cast<double>(compared.q),
          .nll_reference = row.lse_p - static_cast<double>(compared.p),
          .kld = row.kld,
          .kld_llamacpp = row.kld - row.kld_rare,
          .same_top = row.top_p == row.top_q};
}

}  // namespace spikefold
