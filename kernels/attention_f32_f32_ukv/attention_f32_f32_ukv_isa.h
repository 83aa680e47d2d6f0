// Between the dispatcher, the reference and the targets. A block of keys is 64 pinned rows (the last one
// fewer) or a page. Four blocks of a kind are a span (kernels/attention_tasks.h): first those of pinned rows,
// then those of pages that some row of the call sees.
#pragma once

#include <cstdint>

#include "kernels/attention_f32_f32_ukv/attention_f32_f32_ukv.h"
#include "kernels/attention_tasks.h"

namespace spikefold::kernels::attention_f32_f32_ukv {

// What a query at one position sees of the cache.
struct Sight {
  int64_t pinned_begin, pinned_end;  // of the pinned rows
  int64_t begin;                     // first position behind them
};
inline Sight SightOf(const Params& p, int64_t position) {
  const int64_t evicted = p.evict > 0 ? position + 1 - p.num_pinned - p.evict : 0;
  const int64_t e = evicted > 0 ? evicted : 0;
  Sight s = {0, position + 1 < p.num_pinned ? position + 1 : p.num_pinned, p.num_pinned + e};
  if (p.window > 0) {
    if (position - e - p.window + 1 > 0) s.pinned_begin = position - e - p.window + 1;
    if (position - p.window + 1 > s.begin) s.begin = position - p.window + 1;
  }
  return s;
}
inline int64_t PageBegin(const Params& p, int64_t page) { return p.num_pinned + kPageTokens * page; }
// The first position whose query reads the page as codes.
inline int64_t CodedFrom(const Params& p, int64_t page) {
  return page < p.first_row_page ? 0 : PageBegin(p, page + 1) - 1 + p.recent;
}

struct Spans {
  int64_t num_pinned = 0, num_spans = 0;  // num_spans: of both kinds
  int64_t first_page_span = 0;            // spans of pages before it are not seen
};
inline Spans SpansOf(const Params& p) {
  constexpr int64_t kSpan = kSpanBlocks * kKeyBlock;
  const Sight sight = SightOf(p, p.first);
  const int64_t last = p.first + p.m - 1, pinned_end = last + 1 < p.num_pinned ? last + 1 : p.num_pinned;
  Spans s;
  if (sight.pinned_begin < pinned_end) s.num_pinned = (pinned_end + kSpan - 1) / kSpan;
  s.num_spans = s.num_pinned;
  if (last < p.num_pinned) return s;
  s.first_page_span = (sight.begin - p.num_pinned) / kSpan;
  s.num_spans += (last - p.num_pinned) / kSpan + 1 - s.first_page_span;
  return s;
}
// Channels of a decoded value row: whole runs.
inline int64_t ValueStride(const Params& p) { return (p.head_dim + 63) / 64 * 64; }
// Scales and minima of 64 positions or of all channels, and a vector to write beyond them.
inline int64_t ScaleFloats(const Params& p) { return 2 * ValueStride(p) + 16; }
// What a task needs beside its states: three forms of its queries, scores, keys, values, scales.
inline int64_t ScratchFloats(const Params& p) {
  return kTaskRows * (3 * p.head_dim + kKeyBlock) + kKeyBlock * (p.head_dim + ValueStride(p)) +
         ScaleFloats(p) + 2 * StateFloats(p.head_dim, kTaskRows);
}

extern const AttentionTarget<Params> kAvx2, kAvx512;

// Rows [m_begin, m_end) of one head in float64.
void RowsPlain(const Params& params, int64_t head, int64_t m_begin, int64_t m_end);

}  // namespace spikefold::kernels::attention_f32_f32_ukv
