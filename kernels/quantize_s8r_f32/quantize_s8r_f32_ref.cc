#include <algorithm>
#include <cmath>
#include <vector>

#include "formats/base/dtype.h"
#include "formats/base/status.h"
#include "kernels/numeric.h"
#include "kernels/quantize_s8r_f32/quantize_s8r_f32.h"

namespace spikefold::kernels::quantize_s8r_f32 {

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
    p.scale[m] = p.static_scale > 0 ? p.static_scale : (spike ? 1.0f : S8Scale(amax));
    const float inv_scale = 1.0f / p.scale[m];
    for (int64_t k = 0; k < p.k; ++k) {
      const bool zero = spike || is_kept[static_cast<size_t>(k)];
      p.q[m * p.k + k] = zero ? int8_t{0} : QuantizeS8(x[k], inv_scale);
      if (p.static_scale > 0 && !zero && std::fabs(rintf(x[k] * inv_scale)) > kS8Max) ++num_saturated;
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
