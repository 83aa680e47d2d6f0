#include "formats/base/status.h"
#include "kernels/rope_f32_f32/rope_f32_f32_isa.h"

namespace spikefold::kernels::rope_f32_f32 {

void RowsPlain(const Params& p, int64_t m_begin, int64_t m_end) {
  const int64_t half = p.head_dim / 2;
  for (int64_t m = m_begin; m < m_end; ++m) {
    for (int64_t h = 0; h < p.num_heads; ++h) {
      float* x = p.x + (m * p.num_heads + h) * p.head_dim;
      for (int64_t i = 0; i < half; ++i) {
        const double a = x[i], b = x[i + half], c = p.cos[m * half + i], s = p.sin[m * half + i];
        x[i] = static_cast<float>(a * c - b * s);
        x[i + half] = static_cast<float>(b * c + a * s);
      }
    }
  }
}

absl::Status Reference(const Params& p) {
  SF_RETURN_IF_ERROR(Supports(p));
  RowsPlain(p, 0, p.m);
  return absl::OkStatus();
}

}  // namespace spikefold::kernels::rope_f32_f32
