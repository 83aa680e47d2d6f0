// 12 rows x 32 columns: 24 sums, 2 weights and a broadcast in 32 registers; two fused multiply-adds a
// broadcast.
#include "kernels/matmul_f32_f32_f32/matmul_f32_f32_f32_simd.h"

namespace spikefold::kernels::matmul_f32_f32_f32 {

void TilesAvx512(const Params& p, int64_t m_begin, int64_t m_end, int64_t p_begin, int64_t p_end) {
  using Tiles = Runners<2, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11>;
  RunPanels<12, 2>(p, Tiles::kRunners, m_begin, m_end, p_begin, p_end);
}

}  // namespace spikefold::kernels::matmul_f32_f32_f32
