// attention_f32_f32 on a GPU for one new token: rotary embedding of its query and key, its row appended to
// the cache, attention over the cache, all in one launch.
// Method    keys are split over blocks of kSplitKeys at absolute positions, and over the warps of a block;
//           every warp keeps an online softmax of all query heads of its key/value head, so that a row of the
//           cache is read once. The last block of a key/value head merges the splits in order
//           ("Flash-Decoding for long-context inference", T. Dao et al., 2023).
// Position  lies in device memory: a recorded launch serves every token whose position the splits reach.
// Exact     up to float32 rounding; the order of additions is fixed, and is not the one of a prefill.
// Moves     8 * num_kv_heads * head_dim * positions bytes.
// Requires  head_dim <= 256, a multiple of 4; up to 8 query heads a key/value head.
// Targets   sm_80 (launched so that it may overlap its predecessor's end on sm_90).
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/cuda/stream.h"

namespace spikefold::kernels::attention_f32_f32 {

inline constexpr int64_t kSplitKeys = 128;

struct DecodeParams {  // device addresses
  int64_t num_heads = 0, num_kv_heads = 0, head_dim = 0;
  const float* q = nullptr;        // [num_heads, head_dim], not yet rotated if cos is given
  const float* new_k = nullptr;    // [num_kv_heads, head_dim], likewise
  const float* new_v = nullptr;    // [num_kv_heads, head_dim]
  const float* cos = nullptr;      // [positions, head_dim / 2] or null
  const float* sin = nullptr;      // as cos
  const int32_t* first = nullptr;  // the token's position
  float* k = nullptr;              // cache [positions, num_kv_heads, head_dim]: row `first` is written
  float* v = nullptr;              // as k
  float scale = 1;
  int64_t window = 0;            // 0: all
  int64_t splits = 1;            // *first < splits * kSplitKeys
  float* partial = nullptr;      // [num_heads, splits, head_dim + 2], if splits > 1
  unsigned* finished = nullptr;  // [num_kv_heads] zeros, if splits > 1; zeros again afterwards
  float* o = nullptr;            // [num_heads, head_dim]
};
bool CanDecode(int64_t num_heads, int64_t num_kv_heads, int64_t head_dim);
absl::Status RunDecode(const DecodeParams& params, const cuda::Stream& stream);

}  // namespace spikefold::kernels::attention_f32_f32
