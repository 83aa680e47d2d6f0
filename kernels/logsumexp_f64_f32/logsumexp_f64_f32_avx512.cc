#include "kernels/logsumexp_f64_f32/logsumexp_f64_f32_simd.h"

namespace spikefold::kernels::logsumexp_f64_f32 {

RowResult RowAvx512(const float* x, int64_t n) { return RunOneRow(x, n); }

}  // namespace spikefold::kernels::logsumexp_f64_f32
