#include "quant/rounding/row_scales.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/numeric.h"
#include "kernels/runtime/two_level.h"
#include "quant/rounding/cholesky.h"

namespace spikefold {
namespace {

// Scales of a row that are tried: steps of an eighth of an octave about the least one with which no group
// has to clip more than it would by itself.
constexpr int kFirstStep = -8, kLastStep = 8;
constexpr int kFitPasses = 4;

size_t Size(int64_t n) { return static_cast<size_t>(n); }

struct RowOfGroups {
  const float* row;
  const float* importance;  // may be null
  int64_t width;
  std::vector<GroupScale> wanted;
};

// Factors for the row's scale `unit` into `out`; returns the sum of errors, or what exceeds `limit`.
double ErrorOfUnit(const RowOfGroups& r, float unit, const WeightGrid& grid, double limit, GroupScale* out) {
  const bool may_clip = grid.scales == ScaleMethod::kMse;
  double sum = 0;
  for (size_t g = 0; g < r.wanted.size() && !(sum > limit); ++g) {
    const GroupScale& wanted = r.wanted[g];
    const int most = MaxFactor(wanted.zero, grid);
    const float quotient = wanted.scale / unit;
    const int above = std::clamp(static_cast<int>(std::ceil(std::min(quotient, 1e3f))), 1, most);
    const int64_t at = static_cast<int64_t>(g) * r.width;
    const float* h = r.importance == nullptr ? nullptr : r.importance + at;
    double best = -1;
    for (int factor = above; factor >= std::max(1, may_clip ? above - 1 : above); --factor) {
      const GroupScale s{.scale = static_cast<float>(factor) * unit, .zero = wanted.zero};
      const double error = GroupError(r.row + at, h, r.width, s, grid);
      if (best >= 0 && error >= best) continue;
      best = error;
      out[g] = s;
    }
    sum += best;
  }
  return sum;
}

float ChooseMultiples(const RowOfGroups& r, const WeightGrid& grid, GroupScale* out) {
  double least = 0;
  for (const GroupScale& s : r.wanted) {
    least = std::max(least, static_cast<double>(s.scale) / static_cast<double>(MaxFactor(s.zero, grid)));
  }
  std::vector<GroupScale> tried(r.wanted.size());
  double best = HUGE_VAL;
  float last = 0, chosen = 1;
  for (int step = grid.scales == ScaleMethod::kMse ? kFirstStep : 0; step <= kLastStep; ++step) {
    const float unit = grid.StoredUnit(least * std::exp2(step / 8.0));
    if (unit == last) continue;
    const bool first = last == 0;
    last = unit;
    const double error = ErrorOfUnit(r, unit, grid, best, tried.data());
    if (!first && !(error < best)) continue;  // sums of huge weights' squares may overflow
    best = error;
    chosen = unit;
    std::copy(tried.begin(), tried.end(), out);
  }
  return chosen;
}

void FitFree(const ScaleFit& fit, const WeightGrid& grid) {
  const int64_t groups = fit.groups;
  std::vector<double> spoilt(fit.a, fit.a + groups * groups), change(Size(groups));
  double trace = 0;
  for (int64_t g = 0; g < groups; ++g) trace += fit.a[g * (groups + 1)];
  if (trace <= 0) return;                 // a row of zeros
  for (int64_t g = 0; g < groups; ++g) {  // groups of zeros
    spoilt[Size(g * (groups + 1))] += 1e-7 * trace / static_cast<double>(groups);
  }
  if (!SolveSmall(spoilt.data(), fit.b, groups, change.data())) return;
  std::vector<float> stored(Size(groups));
  double gain = 0;
  for (int64_t g = 0; g < groups; ++g) {
    const double scale = static_cast<double>(fit.scale[g]), fitted = scale + change[Size(g)];
    const bool sane = fitted > 0.5 * scale && fitted < 2.0 * scale;
    stored[Size(g)] = sane ? grid.Stored(fitted) : fit.scale[g];
    change[Size(g)] = static_cast<double>(stored[Size(g)]) - scale;
    gain += 2 * fit.b[g] * change[Size(g)];
  }
  for (int64_t g = 0; g < groups; ++g) {
    for (int64_t i = 0; i < groups; ++i) gain -= change[Size(g)] * fit.a[g * groups + i] * change[Size(i)];
  }
  if (gain > 0) std::copy(stored.begin(), stored.end(), fit.scale);
}

float FitMultiples(const ScaleFit& fit, float first_unit, const WeightGrid& grid) {
  const int64_t groups = fit.groups;
  std::vector<double> factor(Size(groups));
  double unit = static_cast<double>(first_unit);
  for (int64_t g = 0; g < groups; ++g) factor[Size(g)] = static_cast<double>(fit.scale[g]) / unit;
  const auto move = [&](int64_t g, double change) {  // of a scale
    for (int64_t i = 0; i < groups; ++i) fit.b[i] -= fit.a[i * groups + g] * change;
  };
  for (int pass = 0; pass < kFitPasses; ++pass) {
    bool moved = false;
    double slope = 0, curvature = 0;
    for (int64_t g = 0; g < groups; ++g) {
      slope += factor[Size(g)] * fit.b[g];
      for (int64_t i = 0; i < groups; ++i) {
        curvature += factor[Size(g)] * fit.a[g * groups + i] * factor[Size(i)];
      }
    }
    if (!(curvature > 0)) break;  // a row of zeros
    const double wish = unit + slope / curvature;
    const double change = static_cast<double>(grid.StoredUnit(wish)) - unit;
    if (wish > 0.5 * unit && wish < 2 * unit && 2 * slope * change > curvature * change * change) {
      for (int64_t g = 0; g < groups; ++g) move(g, factor[Size(g)] * change);
      unit += change;
      moved = true;
    }
    for (int64_t g = 0; g < groups; ++g) {
      const double own = fit.a[g * groups + g];
      if (!(own > 0)) continue;
      const double to = std::clamp(factor[Size(g)] + std::nearbyint(fit.b[g] / (own * unit)), 1.0,
                                   static_cast<double>(MaxFactor(fit.zero[g], grid)));
      const double by = (to - factor[Size(g)]) * unit;
      if (!(2 * fit.b[g] * by > own * by * by)) continue;
      move(g, by);
      factor[Size(g)] = to;
      moved = true;
    }
    if (!moved) break;
  }
  for (int64_t g = 0; g < groups; ++g) fit.scale[g] = static_cast<float>(factor[Size(g)] * unit);
  return static_cast<float>(unit);
}

}  // namespace

int MaxFactor(float zero, const WeightGrid& grid) {
  const int z = static_cast<int>(zero);
  return std::min(kMaxGroupFactor, kernels::kS8Max / std::max(grid.hi() - z, z - grid.lo()));
}

float ChooseRowScales(const float* row, const float* importance, int64_t k, const WeightGrid& grid,
                      GroupScale* out) {
  const int64_t groups = grid.num_groups(k), width = grid.group_width(k);
  WeightGrid alone = grid;
  if (grid.multiples) alone.scale_dtype = DType::kF32;
  RowOfGroups r{.row = row, .importance = importance, .width = width, .wanted = {}};
  double largest = 0;
  for (int64_t g = 0; g < groups; ++g) {
    const float* h = importance == nullptr ? nullptr : importance + g * width;
    const float* w = row + g * width;
    const bool empty = std::all_of(w, w + width, [](float v) { return v == 0; });
    out[g] = ChooseScale(w, h, width, alone);
    r.wanted.push_back(out[g]);
    if (empty && grid.multiples) r.wanted.back().scale = 0;  // any multiple does
    largest = std::max(largest, static_cast<double>(r.wanted.back().scale));
  }
  return grid.multiples && largest > 0 ? ChooseMultiples(r, grid, out) : 1;
}

void FitScales(const ScaleFit& fit, float& unit, const WeightGrid& grid) {
  if (grid.multiples) {
    unit = FitMultiples(fit, unit, grid);
  } else {
    FitFree(fit, grid);
  }
}

}  // namespace spikefold
