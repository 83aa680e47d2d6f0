// attention_f32_f32_ukv: causal grouped-query attention over a key/value cache of three parts: pinned f16
// rows, pages of codes (kernels/kv_page.h) and recent f16 rows.
//
//   positions   0 .. P-1              P + 64 n .. P + 64 n + 63                   up to the row's own
//   stored as   pinned f16 rows       page n: codes, once it is old enough; until then recent f16 rows
//
// Query row m of head h sits at position i = first + m. It reads page n as codes if P + 64 (n + 1) <= i + 1 -
// recent or n < first_row_page, else as f16 rows: which form it sees depends on its position, not on the
// call. It sees positions j <= i; of a sliding layer (window > 0) those with j > i - window; of an evicting
// cache (evict > 0) the pinned ones and those with j > i - evict. With eviction positions are those inside
// the cache: e = max(0, i + 1 - P - evict) rows have left, so pinned rows stand e positions nearer (their
// keys are turned by `pinned_turn`, and a sliding window counts from i - e). Writes o[m, h, :] = sum_j
// softmax_j(scale * q.k_j) v_j; KV head of query head h: h / (num_heads / num_kv_heads).
//
// Method    online softmax over blocks of 64 keys in spans of 4 blocks, all in float32. A page is decoded to
//           float in cache and used by up to 96 rows. Keys stored before rotary embedding are turned by
//           their place in the page, and the queries by the page's place.
// Requires  num_heads a multiple of num_kv_heads; format.head_dim >= 1, even with a rotation (multiples of 64
//           are fastest); recent >= 1, so that a row sees itself in 16 bits.
// Moves     head_bytes a page and head: for 4 bits and head_dim 128, 0.28 of a byte... bound by memory for
//           M = 1 and many threads, else by decoding.
// Exact     a row's result depends on its query and the cache only: not on M, the other rows or threads. So
//           decoding equals a prefill bit for bit.
// Targets   AVX-512, AVX2, plain C++.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "formats/base/thread_pool.h"
#include "kernels/kv_page.h"

namespace spikefold::kernels::attention_f32_f32_ukv {

struct Params {
  int64_t m = 0, num_heads = 0, num_kv_heads = 0, head_dim = 0;
  const float* q = nullptr;  // [m, num_heads, head_dim]
  int64_t first = 0;         // position of query row 0
  float scale = 1;
  int64_t window = 0;  // 0: no sliding window

  // The cache. f16 rows are [.., num_kv_heads, head_dim].
  KvFormat format;  // its num_kv_heads and head_dim are those above
  int64_t num_pinned = 0;
  const uint16_t *pinned_k = nullptr, *pinned_v = nullptr;  // [num_pinned] rows
  const uint8_t* const* pages = nullptr;                    // [n] those that some row reads as codes
  int64_t first_row_page = 0;  // recent rows begin at the first position of this page
  const uint16_t *rows_k = nullptr, *rows_v = nullptr;  // up to position first + m - 1
  int64_t recent = 1;
  ChannelScales channels;
  const float* const* page_base =
      nullptr;  // [n] KeyRotation::base of each page; null: keys are as attention sees them
  const float* page_offset = nullptr;  // KeyRotation::offset
  int64_t evict = 0;                   // 0: nothing leaves
  const float* pinned_turn = nullptr;  // [m, 2, head_dim/2] cos and sin of e of each row; with evict

  float* o = nullptr;  // [m, num_heads, head_dim]
};
// InvalidArgument: an empty shape, heads that do not divide, unknown bits, a missing buffer.
absl::Status Supports(const Params& params);
// Plain loops in float64 over decoded rows: the definition.
absl::Status Reference(const Params& params);
absl::Status Run(const Params& params, ThreadPool& pool);

}  // namespace spikefold::kernels::attention_f32_f32_ukv
