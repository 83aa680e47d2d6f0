// 6 rows x 16 columns: 12 sums, 2 weights and a broadcast in 16 registers. Up to 3 rows take the whole panel
// of 32 columns at once, so that weights stream from memory in order.
#include "kernels/matmul_f32_f32_f32/matmul_f32_f32_f32_simd.h"

namespace spikefold::kernels::matmul_f32_f32_f32 {

void TilesAvx2(const Params& p, int64_t m_begin, int64_t m_end, int64_t p_begin, int64_t p_end) {
  if (m_end - m_begin <= 3) {
    RunPanels<3, 4>(p, Runners<4, 0, 1, 2>::kRunners, m_begin, m_end, p_begin, p_end);
  } else {
    RunPanels<6, 2>(p, Runners<2, 0, 1, 2, 3, 4, 5>::kRunners, m_begin, m_end, p_begin, p_end);
  }
}

}  // namespace spikefold::kernels::matmul_f32_f32_f32
