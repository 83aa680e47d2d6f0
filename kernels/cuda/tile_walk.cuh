// Output tiles of blocks that walk over the products of several linears, and stores at the tiles' edges.
#pragma once

#include <cstdint>

#include "kernels/cuda/simt_matmul.cuh"

namespace spikefold::kernels::cuda {

struct Tile {
  int linear = 0;
  int m0 = 0, n0 = 0;  // its first row, and its first channel of that linear
};
// Tiles of one stripe of W, kTileN channels, follow each other: it stays in L2.
template <int kTileM, int kTileN>
__device__ inline Tile TileAt(const LinearGroup& linears, int tiles_m, int index) {
  int64_t stripe = index / tiles_m;
  const int linear = simt::LinearAt(linears, kTileN, stripe);
  return {.linear = linear, .m0 = index % tiles_m * kTileM, .n0 = static_cast<int>(stripe) * kTileN};
}

// Two neighbouring outputs of which `left` are inside the matrix; in one store where they are aligned.
template <typename T>
__device__ inline void StorePair(T* to, int left, bool aligned, T a, T b) {
  if (aligned && left > 1) {
    struct alignas(2 * sizeof(T)) Pair {
      T a, b;
    };
    *reinterpret_cast<Pair*>(to) = {a, b};
    return;
  }
  if (left > 0) to[0] = a;
  if (left > 1) to[1] = b;
}

}  // namespace spikefold::kernels::cuda
