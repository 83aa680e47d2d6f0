// How a kernel reads a paged cache: the GPU's side of kernels/kv_page.cc.
#pragma once

#include <cuda_fp16.h>

#include "kernels/kv_page_cuda.h"

namespace spikefold::kernels {

__device__ inline float HalfBits(uint16_t bits) { return __half2float(__ushort_as_half(bits)); }

// Pages that a row at `position` reads as codes.
__device__ inline int CodedPages(const CudaKvLayer& c, int position) {
  const int coded = position + 1 - static_cast<int>(c.recent) - static_cast<int>(c.num_pinned);
  return coded > 0 ? coded / static_cast<int>(kPageTokens) : 0;
}
__device__ inline int PageBegin(const CudaKvLayer& c, int page) {
  return static_cast<int>(c.num_pinned) + static_cast<int>(kPageTokens) * page;
}
__device__ inline const uint8_t* PageHead(const CudaKvLayer& c, int page, int kv_head) {
  const unsigned slot = static_cast<unsigned>(page) % static_cast<unsigned>(c.page_slots);
  return c.pages + slot * c.layout.page_bytes + kv_head * c.layout.head_bytes;
}
__device__ inline int64_t RingAt(const CudaKvLayer& c, int position, int kv_head) {
  const int64_t row =
      static_cast<unsigned>(position - static_cast<int>(c.num_pinned)) % static_cast<unsigned>(c.ring_rows);
  return (row * c.format.num_kv_heads + kv_head) * c.format.head_dim;
}

// What a row at `position` sees: pinned rows [pinned_begin, pinned_end), then positions [begin, position].
struct CudaSight {
  int pinned_begin, pinned_end, begin, evicted;
};
__device__ inline CudaSight SightOf(const CudaKvLayer& c, int window, int position) {
  const int pinned = static_cast<int>(c.num_pinned), evict = static_cast<int>(c.evict);
  const int e = evict > 0 ? max(0, position + 1 - pinned - evict) : 0;
  CudaSight s = {0, min(position + 1, pinned), pinned + e, e};
  if (window > 0) {
    s.pinned_begin = max(0, position - e - window + 1);
    s.begin = max(s.begin, position - window + 1);
  }
  return s;
}

// Code i of a run of 64.
__device__ inline int CodeAt(const uint8_t* run, int bits, int i) {
  const int l = i % 16, k = i / 16;
  if (bits == 8) return run[i];
  if (bits == 4) return (reinterpret_cast<const uint16_t*>(run)[l] >> (4 * k)) & 15;
  const int low = (run[l] >> (2 * k)) & 3;
  return bits == 2 ? low : low | (((run[16 + i / 8] >> (i % 8)) & 1) << 2);
}

// Channel `c` of the key in a page's row, as it is stored: not turned.
__device__ inline float StoredKey(const CudaKvLayer& layer, const uint8_t* part, int kv_head, int row,
                                  int c) {
  const KvFormat& f = layer.format;
  const uint8_t* run = part + c * layer.layout.k_run;
  if (f.k_bits == 16) return HalfBits(reinterpret_cast<const uint16_t*>(run)[row]);
  const float code = static_cast<float>(CodeAt(run, f.k_bits, row));
  if (f.key_scale == KeyScale::kChannel) {
    const int64_t at = kv_head * f.head_dim + c;
    return fmaf(code, layer.channels.scale[at], layer.channels.min[at]);
  }
  const auto* scales = reinterpret_cast<const uint16_t*>(part + layer.layout.k_scales);
  const int at = f.key_scale == KeyScale::kToken ? row : c;
  return fmaf(code, HalfBits(scales[at]), HalfBits(scales[layer.layout.num_k_scales + at]));
}
__device__ inline float StoredValue(const CudaKvLayer& layer, const uint8_t* part, int row, int c) {
  const uint8_t* run =
      part + layer.layout.v_codes + (row * layer.layout.v_runs + c / 64) * layer.layout.v_run;
  if (layer.format.v_bits == 16) return HalfBits(reinterpret_cast<const uint16_t*>(run)[c % 64]);
  const auto* scales = reinterpret_cast<const uint16_t*>(part + layer.layout.v_scales);
  return fmaf(static_cast<float>(CodeAt(run, layer.format.v_bits, c % 64)), HalfBits(scales[row]),
              HalfBits(scales[kPageTokens + row]));
}

__device__ inline void Turn(float& a, float& b, float cos, float sin) {
  const float x = a * cos - b * sin, y = b * cos + a * sin;
  a = x;
  b = y;
}
// Channels i and i + head_dim/2 of the key in a page's row, as attention sees them.
__device__ inline float2 TurnedKey(const CudaKvLayer& layer, const uint8_t* part, int page, int kv_head,
                                   int row, int i) {
  const int half = static_cast<int>(layer.format.head_dim) / 2;
  float2 k =
      make_float2(StoredKey(layer, part, kv_head, row, i), StoredKey(layer, part, kv_head, row, i + half));
  if (!layer.turned) return k;
  const int64_t base = int64_t{PageBegin(layer, page)} * half + i;
  Turn(k.x, k.y, layer.cos[row * half + i], layer.sin[row * half + i]);
  Turn(k.x, k.y, layer.cos[base], layer.sin[base]);
  return k;
}

}  // namespace spikefold::kernels
