// How few_rows_wgmma.cuh shares out a product.
#pragma once

namespace spikefold::kernels::cuda::few {

inline constexpr int kMaxRows = 64;  // of x
inline constexpr int kMaxSplits = 6;

struct Plan {
  // Warpgroups of a block, 64 channels each: 1 or 2, or 4 of 4-bit codes. 0: all of the plan is chosen by
  // shape.
  int groups = 0;
  // Blocks that share out K, a cluster: 1, 2, 3, 4 or 6, and at most as many as K has steps of 128 bytes.
  int splits = 1;
  int stages = 4;  // of the ring; 0, where a kernel says so: as many as there is room for
  int rows = 0;    // of a block, where a kernel has a choice; 0: chosen by shape
};

}  // namespace spikefold::kernels::cuda::few
