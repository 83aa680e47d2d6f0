#include "calib/score_rows.h"

#include <cmath>
#include <limits>

namespace spikefold {
namespace {

constexpr double kLlamaCppFloor = -16.0;

struct Top {
  float value = 0;
  int64_t index = 0;
  bool finite = true;
};
Top FindTop(const float* x, int64_t vocab) {
  Top top{.value = x[0]};
  float zero = 0;  // 0 * x stays 0 unless x is NaN or infinite
  for (int64_t v = 0; v < vocab; ++v) {
    zero += 0.0f * x[v];
    if (x[v] > top.value) top = {.value = x[v], .index = v};
  }
  top.finite = zero == 0.0f;
  return top;
}

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
  const Top top = FindTop(p, vocab);
  if (!top.finite) return NonFinite();
  double sum = 0;
  for (int64_t v = 0; v < vocab; ++v) sum += static_cast<double>(std::exp(p[v] - top.value));
  RowScore score;
  score.nll = std::log(sum) + static_cast<double>(top.value) - static_cast<double>(p[target]);
  score.nll_reference = score.nll;
  return score;
}

RowScore ScoreRow(const float* p, const float* q, int64_t vocab, int32_t target) {
  const Top top_p = FindTop(p, vocab), top_q = FindTop(q, vocab);
  if (!top_p.finite || !top_q.finite) return NonFinite();
  // With e = exp(p - max p): KLD = sum e (p - q) / sum e + lse_q - lse_p, all differences in float64.
  double sum_p = 0, sum_q = 0, cross = 0, tail = 0, tail_cross = 0;
  const double shift = static_cast<double>(top_p.value) - static_cast<double>(top_q.value);
  for (int64_t v = 0; v < vocab; ++v) {
    const double e = static_cast<double>(std::exp(p[v] - top_p.value));
    const double difference = static_cast<double>(p[v]) - static_cast<double>(q[v]) - shift;
    sum_p += e;
    sum_q += static_cast<double>(std::exp(q[v] - top_q.value));
    cross += e * difference;
  }
  const double log_p = std::log(sum_p), log_q = std::log(sum_q);
  const double floor = kLlamaCppFloor + log_p + static_cast<double>(top_p.value);
  for (int64_t v = 0; v < vocab; ++v) {
    if (static_cast<double>(p[v]) > floor) continue;
    const double e = static_cast<double>(std::exp(p[v] - top_p.value));
    tail += e;
    tail_cross += e * (static_cast<double>(p[v]) - static_cast<double>(q[v]) - shift);
  }
  RowScore score;
  score.nll_reference = log_p + static_cast<double>(top_p.value) - static_cast<double>(p[target]);
  score.nll = log_q + static_cast<double>(top_q.value) - static_cast<double>(q[target]);
  score.kld = cross / sum_p + log_q - log_p;
  score.kld_llamacpp = score.kld - (tail_cross / sum_p + (log_q - log_p) * tail / sum_p);
  score.same_top = top_p.index == top_q.index;
  return score;
}

}  // namespace spikefold
