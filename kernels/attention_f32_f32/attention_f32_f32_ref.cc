#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "formats/base/status.h"
#include "kernels/attention_f32_f32/attention_f32_f32_isa.h"

namespace spikefold::kernels::attention_f32_f32 {

void RowsPlain(const Params& p, int64_t head, int64_t m_begin, int64_t m_end) {
  const int64_t d = p.head_dim, kv_head = head / (p.num_heads / p.num_kv_heads);
  const auto row = [&](const float* cache, int64_t j) { return cache + (j * p.num_kv_heads + kv_head) * d; };
  std::vector<double> weight(static_cast<size_t>(p.first + m_end)), sum(static_cast<size_t>(d));
  for (int64_t m = m_begin; m < m_end; ++m) {
    const float* q = p.q + (m * p.num_heads + head) * d;
    const int64_t end = p.first + m + 1, begin = FirstSeen(p, m);
    const int64_t num_pinned = p.pin_sinks ? std::min(p.num_sinks, begin) : 0;
    const auto seen = [&](int64_t j) { return j < num_pinned || j >= begin; };
    double max = -std::numeric_limits<double>::infinity(), total = 0;
    for (int64_t j = 0; j < end; ++j) {
      if (!seen(j)) continue;
      double dot = 0;
      for (int64_t i = 0; i < d; ++i) dot += double{q[i]} * row(p.k, j)[i];
      weight[static_cast<size_t>(j)] = dot * p.scale;
      max = std::max(max, dot * p.scale);
    }
    std::fill(sum.begin(), sum.end(), 0.0);
    for (int64_t j = 0; j < end; ++j) {
      if (!seen(j)) continue;
      double& w = weight[static_cast<size_t>(j)];
      w = std::exp(w - max);
      total += w;
      for (int64_t i = 0; i < d; ++i) sum[static_cast<size_t>(i)] += w * row(p.v, j)[i];
    }
    float* o = p.o + (m * p.num_heads + head) * d;
    for (int64_t i = 0; i < d; ++i) o[i] = static_cast<float>(sum[static_cast<size_t>(i)] / total);
    if (p.lse != nullptr) p.lse[m * p.num_heads + head] = static_cast<float>(max + std::log(total));
    if (p.column_mass == nullptr) continue;
    double* mass = p.column_mass + head * (p.first + p.m);
    for (int64_t j = 0; j < end; ++j) {
      if (seen(j)) mass[j] += weight[static_cast<size_t>(j)] / total;
    }
  }
}

absl::Status Reference(const Params& p) {
  SF_RETURN_IF_ERROR(Supports(p));
  for (int64_t head = 0; head < p.num_heads; ++head) RowsPlain(p, head, 0, p.m);
  return absl::OkStatus();
}

}  // namespace spikefold::kernels::attention_f32_f32
