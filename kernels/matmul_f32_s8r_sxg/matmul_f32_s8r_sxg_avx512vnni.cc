#include "kernels/matmul_f32_s8r_sxg/matmul_f32_s8r_sxg_avx512.h"

namespace spikefold::kernels::matmul_f32_s8r_sxg {

void TilesAvx512Vnni(const Call& call, int64_t m_begin, int64_t m_end, int64_t p_begin, int64_t p_end) {
  Tiles(call, m_begin, m_end, p_begin, p_end);
}

}  // namespace spikefold::kernels::matmul_f32_s8r_sxg
