#include "kernels/matmul_f32_f32_s8c/matmul_f32_f32_s8c_bytes.h"

namespace spikefold::kernels::matmul_f32_f32_s8c {

void TilesAvx512Vnni(const Call& c, int64_t m_begin, int64_t m_end, int64_t p_begin, int64_t p_end) {
  Tiles(c, m_begin, m_end, p_begin, p_end);
}

}  // namespace spikefold::kernels::matmul_f32_f32_s8c
