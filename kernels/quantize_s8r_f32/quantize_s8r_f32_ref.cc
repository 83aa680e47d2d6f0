#include <algorithm>
#include <cmath>
#include <vector>

#include "formats/base/dtype.h"
#include "formats/base/status.h"
#include "kernels/numeric.h"
#include "kernels/quantize_s8r_f32/quantize_s8r_f32.h"

namespace spikefold::kernels::quantize_s8r_f32 {

namespace {

AsymmetricScale ScaleOf(const Params& p, const float* x, int64_t begin, int64_t width,
                        const std::vector<char>& is_kept) {
  if (p.static_scale > 0) return {p.static_scale, p.static_zero};
  float low = 0, high = 0;
  for (int64_t k = begin; k < begin + width; ++k) {
    if (is_kept[static_cast<size_t>(k)]) continue;
    low = std::min(low, x[k]);
    high = std::max(high, x[k]);
  }
  const int lo = ActivationMin(p.bits, p.symmetric), hi = ActivationMax(p.bits);
  if (p.symmetric) return {SymmetricScale(std::max(-low, high), hi), 0};
  return AsymmetricScaleOf(low, high, lo, hi);
}

}  // namespace

absl::Status Reference(const Params& p) {
  SF_RETURN_IF_ERROR(Supports(p));
  std::vector<char> is_kept(static_cast<size_t>(p.k), 0);
  for (int64_t c = 0; c < p.num_kept; ++c) is_kept[static_cast<size_t>(p.kept[c])] = 1;
  int64_t num_spikes = 0, num_missed = 0, num_saturated = 0;
  for (int64_t m = 0; m < p.m; ++m) {
    const float* x = p.x + m * p.k;
    float amax = 0;
    for (int64_t k = 0; k < p.k; ++k) {
      if (!is_kept[static_cast<size_t>(k)]) amax = std::max(amax, std::fabs(x[k]));
    }
    bool spike = p.spike_threshold > 0 && amax > p.spike_threshold;
    if (spike && num_spikes == p.max_spike_rows) {
      ++num_missed;
      spike = false;
    } else if (spike) {
      p.spike_rows[num_spikes++] = static_cast<int32_t>(m);
    }
    const int64_t width = p.group > 0 ? p.group : p.k;
    for (int64_t begin = 0; begin < p.k; begin += width) {
      const AsymmetricScale scale = spike ? AsymmetricScale{1.0f, 0} : ScaleOf(p, x, begin, width, is_kept);
      p.scale[m * (p.k / width) + begin / width] = p.static_scale > 0 ? p.static_scale : scale.scale;
      if (p.zero != nullptr) p.zero[m] = scale.zero;
      const float inv_scale = 1.0f / (p.static_scale > 0 ? p.static_scale : scale.scale);
      const int lo = ActivationMin(p.bits, p.symmetric) - scale.zero, hi = ActivationMax(p.bits) - scale.zero;
      for (int64_t k = begin; k < begin + width; ++k) {
        const bool kept = is_kept[static_cast<size_t>(k)] != 0;
        const float value = kept || spike ? 0.0f : x[k] * inv_scale;
        const int stored_zero = p.bits == 8 ? scale.zero : 0;
        p.q[m * p.k + k] = static_cast<int8_t>(RoundClamp(value, lo, hi) + stored_zero);
        num_saturated += p.static_scale > 0 && RoundClamp(value, -1000, 1000) != RoundClamp(value, lo, hi);
      }
    }
    for (int64_t c = 0; c < p.num_kept; ++c) {
      p.kept_x[m * p.num_kept + c] = spike ? 0.0f : Bf16ToFloat(FloatToBf16(x[p.kept[c]]));
    }
    for (int64_t s = 0; s < p.num_super; ++s) {
      p.super_x[m * p.num_super + s] = spike ? 0.0f : Bf16ToFloat(FloatToBf16(x[p.super[s]]));
    }
  }
  if (p.num_spike_rows != nullptr) *p.num_spike_rows = num_spikes;
  if (p.num_missed != nullptr) *p.num_missed += num_missed;
  if (p.num_saturated != nullptr) *p.num_saturated += num_saturated;
  return absl::OkStatus();
}

}  // namespace spikefold::kernels::quantize_s8r_f32
