// One layer of a paged key/value cache in device memory, and what is done to it there: new rows are appended
// and full pages coded, in one launch; a page's values become rows again.
//
//   positions   0 .. P-1              P + 64 n .. P + 64 n + 63                     up to the newest
//   stored as   pinned f16 rows       page n in slot n % page_slots, once coded;    f16 rows: position P + i
//                                     until then in the ring of rows                in row i % ring_rows
//
// Exact     the pages' bytes are those of QuantizePageHead (kernels/kv_page.h) on the same rows.
// Requires  head_dim <= 256; ring_rows a multiple of 64 that holds the rows of all pages that are not coded.
// Targets   sm_80: a block a page and head.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/cuda/stream.h"
#include "kernels/kv_page.h"

namespace spikefold::kernels {

struct CudaKvLayer {  // device addresses
  KvFormat format;
  KvPageLayout layout = KvPageLayout(KvFormat());
  int64_t num_pinned = 0;
  uint16_t *pinned_k = nullptr, *pinned_v = nullptr;  // [num_pinned, num_kv_heads, head_dim]
  uint8_t* pages = nullptr;                           // [page_slots, page_bytes]
  int64_t page_slots = 1;
  uint16_t *rows_k = nullptr, *rows_v = nullptr;  // [ring_rows, num_kv_heads, head_dim]
  int64_t ring_rows = kPageTokens;
  int64_t recent = 1;
  ChannelScales channels;
  // With keys coded before rotary embedding, or eviction: [positions, head_dim/2] of position * inv_freq.
  const float *cos = nullptr, *sin = nullptr;
  bool turned = false;  // keys are coded before rotary embedding
  int64_t evict = 0;    // as in attention_f32_f32_ukv
};

// What changes from call to call. Pages before first_row_page are codes for every row.
struct KvPlace {
  int32_t first = 0, first_row_page = 0;
};

struct KvAppendParams {
  int64_t m = 0;
  const float *k = nullptr, *v = nullptr;  // [m, num_kv_heads, head_dim]: positions first .. first + m - 1
  CudaKvLayer layer;
  KvPlace at;
  const KvPlace* device_at = nullptr;     // instead of `at`, for a recorded launch
  unsigned long long* clamped = nullptr;  // added to: keys more than half a step outside a static scale
};
// m <= ring_rows - recent - 64. Codes the pages that the last row reads as codes.
absl::Status AppendRows(const KvAppendParams& params, const cuda::Stream& stream);
// The first `rows` rows of page `page` as f16 rows, from its codes.
absl::Status RestoreRows(const CudaKvLayer& layer, int64_t page, int64_t rows, const cuda::Stream& stream);

}  // namespace spikefold::kernels
