#include "kernels/kld_f64_f32_f32/kld_f64_f32_f32_simd.h"

namespace spikefold::kernels::kld_f64_f32_f32 {

RowResult RowAvx512(const float* p, const float* q, int64_t n) { return RunOneRow(p, q, n); }

}  // namespace spikefold::kernels::kld_f64_f32_f32
