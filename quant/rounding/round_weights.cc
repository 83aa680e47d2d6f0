#include "quant/rounding/round_weights.h"

#include <algorithm>
#include <cmath>

#include "formats/base/dtype.h"

namespace spikefold {
namespace {

constexpr int64_t kRowGrain = 4;
// Clip search: scales absmax/hi * 1, 0.97, ... 0.40 (2210.17323's grid search, coarser).
constexpr int kClipSteps = 21;
constexpr double kClipStep = 0.03;
constexpr float kSmallestScale = 0x1p-126f;  // smallest normal

// Nearest integer, ties to even, for |x| < 2^22: no call, so that loops vectorise.
inline float Nearest(float x) {
  constexpr float kMagic = 0x1.8p23f;
  return (x + kMagic) - kMagic;
}
inline float CodeOf(float w, float scale, float lo, float hi) {
  return Nearest(std::min(std::max(w / scale, lo), hi));
}

double GroupError(const float* w, const float* h, int64_t count, float scale, float lo, float hi) {
  float lanes[16] = {};  // fixed order of addition, and wide enough for the vector units
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) {
    for (int64_t j = 0; j < 16; ++j) {
      const float e = w[i + j] - scale * CodeOf(w[i + j], scale, lo, hi);
      lanes[j] += h[i + j] * e * e;
    }
  }
  double error = 0;
  for (; i < count; ++i) {
    const float e = w[i] - scale * CodeOf(w[i], scale, lo, hi);
    error += static_cast<double>(h[i] * e * e);
  }
  for (const float lane : lanes) error += static_cast<double>(lane);
  return error;
}

struct Grid {
  float lo, hi;
  bool bf16_scale;
  bool search;
  float Stored(double scale) const {
    float s = static_cast<float>(scale);
    if (bf16_scale) s = Bf16ToFloat(FloatToBf16(s));
    return std::max(s, kSmallestScale);
  }
};

float ChooseScale(const float* w, const float* h, int64_t count, const Grid& grid) {
  float absmax = 0;
  for (int64_t i = 0; i < count; ++i) absmax = std::max(absmax, std::fabs(w[i]));
  if (absmax == 0) return 1.0f;
  const double full = static_cast<double>(absmax) / static_cast<double>(grid.hi);
  float best = grid.Stored(full);
  if (!grid.search) return best;
  double best_error = GroupError(w, h, count, best, grid.lo, grid.hi);
  for (int step = 1; step < kClipSteps; ++step) {
    const float scale = grid.Stored(full * (1.0 - kClipStep * step));
    const double error = GroupError(w, h, count, scale, grid.lo, grid.hi);
    if (error < best_error) {
      best_error = error;
      best = scale;
    }
  }
  return best;
}

}  // namespace

RoundedWeights RoundWeights(absl::Span<const float> w, const TensorDecision& decision,
                            absl::Span<const float> importance, ThreadPool& pool) {
  const int64_t n = decision.n, k = decision.k;
  const int64_t group = decision.weight_bits == 8 ? k : decision.group_size;
  const Grid grid{.lo = decision.weight_bits == 8 ? -127.0f : -8.0f,
                  .hi = decision.weight_bits == 8 ? 127.0f : 7.0f,
                  .bf16_scale = decision.weight_bits != 8,
                  .search = decision.weight_scales == ScaleMethod::kMse};
  const std::vector<float> ones(importance.empty() ? static_cast<size_t>(k) : 0, 1.0f);
  const float* h = importance.empty() ? ones.data() : importance.data();
  RoundedWeights out;
  out.codes.resize(static_cast<size_t>(n * k));
  out.scales.resize(static_cast<size_t>(n * (k / group)));
  std::vector<double> error(static_cast<size_t>(n)), power(static_cast<size_t>(n));
  pool.ParallelFor(n, kRowGrain, [&](int64_t begin, int64_t end) {
    std::vector<float> row(static_cast<size_t>(k));
    for (int64_t r = begin; r < end; ++r) {
      std::copy_n(w.data() + r * k, k, row.data());
      for (int64_t c = 0; c < k; ++c) {
        power[static_cast<size_t>(r)] += static_cast<double>(h[c]) *
                                         static_cast<double>(row[static_cast<size_t>(c)]) *
                                         static_cast<double>(row[static_cast<size_t>(c)]);
      }
      for (const int32_t column : decision.kept) row[static_cast<size_t>(column)] = 0;
      for (const PlannedSuper& s : decision.supers) {
        if (s.row == r) row[static_cast<size_t>(s.column)] = 0;
      }
      for (int64_t at = 0; at < k; at += group) {
        const float* values = row.data() + at;
        const float scale = ChooseScale(values, h + at, group, grid);
        out.scales[static_cast<size_t>(r * (k / group) + at / group)] = scale;
        int8_t* codes = out.codes.data() + r * k + at;
        for (int64_t i = 0; i < group; ++i) {
          codes[i] = static_cast<int8_t>(CodeOf(values[i], scale, grid.lo, grid.hi));
        }
        error[static_cast<size_t>(r)] += GroupError(values, h + at, group, scale, grid.lo, grid.hi);
      }
    }
  });
  double total_error = 0, total_power = 0;
  for (size_t r = 0; r < error.size(); ++r) {
    total_error += error[r];
    total_power += power[r];
  }
  out.relative_error = total_power > 0 ? total_error / total_power : 0;
  return out;
}

}  // namespace spikefold
