#include "calib/score_rows.h"

#include <limits>

#include "kernels/kld_f64_f32_f32/kld_f64_f32_f32.h"
#include "kernels/logsumexp_f64_f32/logsumexp_f64_f32.h"

namespace spikefold {
namespace {

namespace divergence = kernels::kld_f64_f32_f32;
namespace log_sum_exp = kernels::logsumexp_f64_f32;

static_assert(divergence::kRareLogP == -16, "kld_llamacpp leaves out what the kernel counts as rare");

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
  const log_sum_exp::RowResult row = log_sum_exp::RunRow(p, vocab);
  if (!row.finite) return NonFinite();
  RowScore score;
  score.nll = row.lse - static_cast<double>(p[target]);
  score.nll_reference = score.nll;
  return score;
}

RowScore ScoreRow(const float* p, const float* q, int64_t vocab, int32_t target) {
  const divergence::RowResult row = divergence::RunRow(p, q, vocab);
  if (!row.finite) return NonFinite();
  RowScore score;
  score.nll_reference = row.lse_p - static_cast<double>(p[target]);
  score.nll = row.lse_q - static_cast<double>(q[target]);
  score.kld = row.kld;
  score.kld_llamacpp = row.kld - row.kld_rare;
  score.same_top = row.top_p == row.top_q;
  return score;
}

}  // namespace spikefold
