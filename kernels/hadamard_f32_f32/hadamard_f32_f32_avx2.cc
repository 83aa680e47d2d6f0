#include "kernels/hadamard_f32_f32/hadamard_f32_f32_simd.h"

namespace spikefold::kernels::hadamard_f32_f32 {

void RowsAvx2(const Plan& plan, float* x, int64_t num_rows) { TransformRows(plan, x, num_rows); }

}  // namespace spikefold::kernels::hadamard_f32_f32
