// attention_f32_f32 on a GPU for one new token of each of some sequences: rotary embedding of its query and
// key, its row appended to the sequence's cache, attention over that cache, all in one launch.
// Method    keys are split over blocks of kSplitKeys at absolute positions, and over the warps of a block;
//           every warp keeps an online softmax of all query heads of its key/value head, so that a row of the
//           cache is read once. The last block of a key/value head merges the splits in order
//           ("Flash-Decoding for long-context inference", T. Dao et al., 2023).
// Recorded  positions and the caches' addresses lie in device memory: one recording serves all sequences of
//           that number whose positions the splits reach.
// Exact     up to float32 rounding; the order of additions is fixed, and is not the one of a prefill. A
//           sequence's result does not depend on the others, but for the splits that the longest needs.
// Moves     8 * num_kv_heads * head_dim * positions bytes a sequence.
// Overlap   positions, caches and earlier rows are read before the kernel before has ended: copies may write
//           them, and steps that have ended, but no kernel of this step.
// Requires  head_dim <= 256, a multiple of 4; up to 8 query heads a key/value head.
// Targets   sm_80 (launched so that it may overlap its predecessor's end on sm_90).
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/cuda/stream.h"

namespace spikefold::kernels::attention_f32_f32 {

inline constexpr int64_t kSplitKeys = 128;

// The rows of one sequence, [layers][positions, num_kv_heads, head_dim].
struct DecodeCache {
  float *k = nullptr, *v = nullptr;
  int64_t layer_floats = 0;  // from layer to layer
};
struct DecodeParams {  // device addresses
  int64_t m = 1;       // sequences
  int64_t num_heads = 0, num_kv_heads = 0, head_dim = 0;
  const float* q = nullptr;             // [m, num_heads, head_dim], not yet rotated if cos is given
  const float* new_k = nullptr;         // [m, num_kv_heads, head_dim], likewise
  const float* new_v = nullptr;         // [m, num_kv_heads, head_dim]
  const float* cos = nullptr;           // [positions, head_dim / 2] or null
  const float* sin = nullptr;           // as cos
  const int32_t* positions = nullptr;   // [m] of the tokens
  const DecodeCache* caches = nullptr;  // [m]: row `positions` of the layer is written
  int64_t layer = 0;
  float scale = 1;
  int64_t window = 0;            // 0: all
  int64_t splits = 1;            // every position < splits * kSplitKeys
  float* partial = nullptr;      // [m, num_heads, splits, head_dim + 2], if splits > 1
  unsigned* finished = nullptr;  // [m, num_kv_heads] zeros, if splits > 1; zeros again afterwards
  float* o = nullptr;            // [m, num_heads, head_dim]
};
bool CanDecode(int64_t num_heads, int64_t num_kv_heads, int64_t head_dim);
absl::Status RunDecode(const DecodeParams& params, const cuda::Stream& stream);

}  // namespace spikefold::kernels::attention_f32_f32
