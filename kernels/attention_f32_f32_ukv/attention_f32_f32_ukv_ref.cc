#include <cmath>
#include <limits>
#include <vector>

#include "formats/base/dtype.h"
#include "formats/base/status.h"
#include "kernels/attention_f32_f32_ukv/attention_f32_f32_ukv_isa.h"

namespace spikefold::kernels::attention_f32_f32_ukv {
namespace {

// The key and value at `position` as the query at `query_position` reads them.
struct Row {
  std::vector<float> k, v;
};
void ReadRow(const Params& p, int64_t kv_head, int64_t position, int64_t query_position, Row& out) {
  const int64_t page = position < p.num_pinned ? -1 : (position - p.num_pinned) / kPageTokens;
  if (page >= 0 && query_position >= CodedFrom(p, page)) {
    KeyRotation rotation;
    if (p.page_base != nullptr) rotation = {p.page_base[page], p.page_offset};
    ReadPageRow(p.format, kv_head, position - PageBegin(p, page), p.pages[page], rotation, p.channels,
                out.k.data(), out.v.data());
    return;
  }
  const int64_t row = page < 0 ? position : position - PageBegin(p, p.first_row_page);
  const int64_t at = (row * p.num_kv_heads + kv_head) * p.head_dim;
  for (int64_t i = 0; i < p.head_dim; ++i) {
    const size_t to = static_cast<size_t>(i);
    out.k[to] = F16ToFloat((page < 0 ? p.pinned_k : p.rows_k)[at + i]);
    out.v[to] = F16ToFloat((page < 0 ? p.pinned_v : p.rows_v)[at + i]);
  }
}

// The query as the pinned keys see it: turned back by as many positions as rows have left.
std::vector<double> PinnedQuery(const Params& p, int64_t m, const float* q) {
  std::vector<double> out(q, q + p.head_dim);
  if (p.evict == 0) return out;
  const int64_t half = p.head_dim / 2;
  const float *cos = p.pinned_turn + m * 2 * half, *sin = cos + half;
  for (int64_t i = 0; i < half; ++i) {
    const double a = q[i], b = q[i + half];
    out[static_cast<size_t>(i)] = a * cos[i] + b * sin[i];
    out[static_cast<size_t>(i + half)] = b * cos[i] - a * sin[i];
  }
  return out;
}

}  // namespace

void RowsPlain(const Params& p, int64_t head, int64_t m_begin, int64_t m_end) {
  const int64_t d = p.head_dim, kv_head = head / (p.num_heads / p.num_kv_heads);
  Row row = {std::vector<float>(static_cast<size_t>(d)), std::vector<float>(static_cast<size_t>(d))};
  std::vector<double> sum(static_cast<size_t>(d));
  for (int64_t m = m_begin; m < m_end; ++m) {
    const int64_t position = p.first + m;
    const float* q = p.q + (m * p.num_heads + head) * d;
    const std::vector<double> pinned_query = PinnedQuery(p, m, q), query(q, q + d);
    const Sight sight = SightOf(p, position);
    double max = -std::numeric_limits<double>::infinity(), total = 0;
    std::fill(sum.begin(), sum.end(), 0.0);
    const auto add = [&](int64_t j, const std::vector<double>& with) {
      ReadRow(p, kv_head, j, position, row);
      double score = 0;
      for (size_t i = 0; i < sum.size(); ++i) score += with[i] * row.k[i];
      score *= p.scale;
      const double keep = score > max ? std::exp(max - score) : 1.0,
                   weight = std::exp(score - std::max(max, score));
      max = std::max(max, score);
      total = total * keep + weight;
      for (size_t i = 0; i < sum.size(); ++i) sum[i] = sum[i] * keep + weight * row.v[i];
    };
    for (int64_t j = sight.pinned_begin; j < sight.pinned_end; ++j) add(j, pinned_query);
    for (int64_t j = sight.begin; j <= position; ++j) add(j, query);
    float* o = p.o + (m * p.num_heads + head) * d;
    for (int64_t i = 0; i < d; ++i) o[i] = static_cast<float>(sum[static_cast<size_t>(i)] / total);
  }
}

absl::Status Reference(const Params& p) {
  SF_RETURN_IF_ERROR(Supports(p));
  for (int64_t head = 0; head < p.num_heads; ++head) RowsPlain(p, head, 0, p.m);
  return absl::OkStatus();
}

}  // namespace spikefold::kernels::attention_f32_f32_ukv
