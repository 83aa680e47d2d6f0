#include "kernels/convert_f16_f32/convert_f16_f32.h"

#include "formats/base/dtype.h"
#include "kernels/convert_f16_f32/convert_f16_f32_isa.h"
#include "kernels/cpu/cpu_features.h"

namespace spikefold::kernels::convert_f16_f32 {

void NarrowPlain(const float* x, int64_t count, uint16_t* f16) {
  for (int64_t i = 0; i < count; ++i) {
    const float above = x[i] < -kMaxF16 ? -kMaxF16 : x[i];
    f16[i] = FloatToF16(above > kMaxF16 ? kMaxF16 : above);
  }
}
void WidenPlain(const uint16_t* f16, int64_t count, float* x) {
  for (int64_t i = 0; i < count; ++i) x[i] = F16ToFloat(f16[i]);
}

void Narrow(const float* x, int64_t count, uint16_t* f16) {
  const int64_t done = ActiveIsa() >= Isa::kAvx2 ? NarrowAvx2(x, count, f16) : 0;
  NarrowPlain(x + done, count - done, f16 + done);
}
void Widen(const uint16_t* f16, int64_t count, float* x) {
  const int64_t done = ActiveIsa() >= Isa::kAvx2 ? WidenAvx2(f16, count, x) : 0;
  WidenPlain(f16 + done, count - done, x + done);
}

}  // namespace spikefold::kernels::convert_f16_f32
