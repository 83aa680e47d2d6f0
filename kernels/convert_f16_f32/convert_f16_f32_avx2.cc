#include "kernels/convert_f16_f32/convert_f16_f32_isa.h"
#include "kernels/cpu/vec.h"

namespace spikefold::kernels::convert_f16_f32 {

int64_t NarrowAvx2(const float* x, int64_t count, uint16_t* f16) {
  const int64_t whole = count / kLanes * kLanes;
  for (int64_t i = 0; i < whole; i += kLanes) {
    // Of a NaN both give the second operand.
    const F32 inside = Min(Set1(kMaxF16), Max(Set1(-kMaxF16), Load(x + i)));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(f16 + i), _mm256_cvtps_ph(inside, _MM_FROUND_TO_NEAREST_INT));
  }
  return whole;
}

int64_t WidenAvx2(const uint16_t* f16, int64_t count, float* x) {
  const int64_t whole = count / kLanes * kLanes;
  for (int64_t i = 0; i < whole; i += kLanes) {
    Store(x + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(f16 + i))));
  }
  return whole;
}

}  // namespace spikefold::kernels::convert_f16_f32
