#include <cmath>

#include "formats/base/status.h"
#include "kernels/gatedmul_f32_f32/gatedmul_f32_f32_isa.h"

namespace spikefold::kernels::gatedmul_f32_f32 {
namespace {

double Activate(Activation activation, double g) {
  if (activation == Activation::kSilu) return g / (1 + std::exp(-g));
  const double u = 0.79788456080286535588 * (g + 0.044715 * g * g * g);  // sqrt(2/pi)
  return g / (1 + std::exp(-2 * u));  // 1 + tanh(u) without its cancellation
}

}  // namespace

void RangePlain(const Params& p, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    p.y[i] = static_cast<float>(Activate(p.activation, p.gate[i]) * p.up[i]);
  }
}

absl::Status Reference(const Params& p) {
  SF_RETURN_IF_ERROR(Supports(p));
  RangePlain(p, 0, p.count);
  return absl::OkStatus();
}

}  // namespace spikefold::kernels::gatedmul_f32_f32
