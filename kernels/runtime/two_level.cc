#include "kernels/runtime/two_level.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

namespace spikefold {
namespace {

// scales / c as whole numbers from 1 to kMaxGroupFactor, if they are.
bool FactorsOf(absl::Span<const float> scales, float c, uint8_t* factor) {
  for (size_t g = 0; g < scales.size(); ++g) {
    const float f = std::nearbyint(scales[g] / c);
    if (!(f >= 1 && f <= kMaxGroupFactor) || f * c != scales[g]) return false;
    factor[g] = static_cast<uint8_t>(f);
  }
  return true;
}

}  // namespace

std::optional<TwoLevel> FindTwoLevel(const CodeMatrix& w) {
  constexpr int kMaxCode = 127;
  if (w.group == 0 || w.format.bits > 4) return std::nullopt;
  const int64_t groups = w.k / w.group;
  TwoLevel out;
  out.factor.resize(static_cast<size_t>(w.n * groups));
  for (int64_t n = 0; n < w.n; ++n) {
    const absl::Span<const float> scales =
        w.scales.subspan(static_cast<size_t>(n * groups), static_cast<size_t>(groups));
    const float least = *std::min_element(scales.begin(), scales.end());
    uint8_t* const factor = out.factor.data() + n * groups;
    float c = 0;
    for (int j = 1; j <= kMaxGroupFactor && c == 0; ++j) {
      const float candidate = least / static_cast<float>(j);
      if (FactorsOf(scales, candidate, factor)) c = candidate;
    }
    if (!(c > 0)) return std::nullopt;
    out.scale.push_back(c);
    for (int64_t k = 0; k < w.k; ++k) {
      const int64_t g = k / w.group;
      const int zero = w.zeros.empty() ? 0 : w.zeros[static_cast<size_t>(n * groups + g)];
      if (std::abs(factor[g] * (w.codes[static_cast<size_t>(n * w.k + k)] - zero)) > kMaxCode)
        return std::nullopt;
    }
  }
  return out;
}

std::optional<TwoLevel> TwoLevelsFor(const CodeMatrix& w, const ActivationFormat& act) {
  constexpr int64_t kMaxK = 131072;  // that many products of up to 127^2 fit in int32
  constexpr float kLeastScale = 0x1p-120f;
  if (act.is_float() || act.group > 0 || HasWideZeros(act) || w.k >= kMaxK) return std::nullopt;
  std::optional<TwoLevel> levels = FindTwoLevel(w);
  if (!levels || *std::min_element(levels->scale.begin(), levels->scale.end()) < kLeastScale) {
    return std::nullopt;
  }
  return levels;
}

}  // namespace spikefold
