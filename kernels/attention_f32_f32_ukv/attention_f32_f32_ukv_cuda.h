// attention_f32_f32_ukv on a GPU, over a layer's cache in device memory (kernels/kv_page_cuda.h).
//
// RunCuda    any rows, head_dim and form of the cache. A block takes 32 query rows (of the heads that share a
//            key/value head) through tiles of 32 keys, decoded to float in shared memory; a page that some
//            rows read as codes and others as rows is taken twice. Few rows: the tiles are split over blocks.
// RunDecode  one row of each of `sequences` caches, keys and values of 4, 8 or 16 bits, head_dim 64 or 128,
//            no static scales, no eviction: pages on the tensor cores (.._decode_sm80.cu).
// Both       keep one online softmax over pinned rows, pages and recent rows; splits are merged by their
//            maxima and sums in a fixed order by the last block: repeats give the same bits.
// Exact      RunCuda: float32, in an order of additions that depends on the splits. RunDecode: queries and
//            weights in two f16 halves each, 2^-22 of every product; keys that are turned are f16 after each
//            turn, 2^-10 of |q_i k_i|.
// Moves      RunDecode: head_bytes a page and head.
// Targets    sm_80.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/cuda/stream.h"
#include "kernels/kv_page_cuda.h"

namespace spikefold::kernels::attention_f32_f32_ukv {

struct CudaParams {  // device addresses
  int64_t m = 0, num_heads = 0;
  const float* q = nullptr;  // [m, num_heads, head_dim]
  CudaKvLayer layer;         // holds the rows' own keys and values already
  KvPlace at;
  const KvPlace* device_at = nullptr;  // instead of `at`
  float scale = 1;
  int64_t window = 0;  // 0: no sliding window
  int64_t splits = 1;
  float* partial = nullptr;      // [PartialFloats], if splits > 1
  unsigned* finished = nullptr;  // [NumCounters] zeros, if splits > 1; zeros again afterwards
  float* o = nullptr;            // [m, num_heads, head_dim]

  // RunDecode: caches that lie so far apart. q and o are [sequences, num_heads, head_dim].
  int64_t sequences = 1;
  int64_t page_stride = 0, row_stride = 0, pinned_stride = 0;  // bytes, elements, elements
};
constexpr int64_t PartialFloats(int64_t rows, int64_t num_heads, int64_t head_dim, int64_t splits) {
  return rows * num_heads * splits * (head_dim + 2);
}
constexpr int64_t NumCounters(int64_t rows, int64_t num_heads) { return rows * num_heads; }

absl::Status RunCuda(const CudaParams& params, const cuda::Stream& stream);
bool CanDecode(const CudaParams& params);
absl::Status RunDecode(const CudaParams& params, const cuda::Stream& stream);
// A split each for about `target` blocks, as far as there are keys.
int64_t SplitsFor(const CudaParams& params, int64_t positions, int64_t target);

}  // namespace spikefold::kernels::attention_f32_f32_ukv
