#include "quant/rounding/weight_grid.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "formats/base/status.h"
#include "formats/quantized/trellis.h"
#include "quant/scheme.h"

namespace spikefold {
namespace {

// Factors of the clip search: 1, 0.97, ... 0.40 (2210.17323's grid search, coarser).
constexpr int kClipSteps = 21;
constexpr double kClipStep = 0.03;
constexpr int64_t kLanes = 16;
constexpr int64_t kRowGrain = 16;

struct Range {
  float low = 0, high = 0;  // always holds 0
};

Range RangeOf(const float* w, int64_t count, bool symmetric) {
  Range r;
  for (int64_t i = 0; i < count; ++i) {
    r.low = std::min(r.low, w[i]);
    r.high = std::max(r.high, w[i]);
  }
  if (symmetric) {
    r.high = std::max(r.high, -r.low);
    r.low = -r.high;
  }
  return r;
}

// The range times `rho` on the grid. Symmetric: the largest magnitude falls on the last positive code.
GroupScale Fit(const Range& range, double rho, const WeightGrid& grid) {
  const double lo = grid.lo(), hi = grid.hi();
  if (grid.symmetric) return {.scale = grid.Stored(rho * static_cast<double>(range.high) / hi)};
  const double width = static_cast<double>(range.high) - static_cast<double>(range.low);
  GroupScale s{.scale = grid.Stored(rho * width / (hi - lo))};
  const double zero = lo - rho * static_cast<double>(range.low) / static_cast<double>(s.scale);
  s.zero = static_cast<float>(std::clamp(std::nearbyint(zero), lo, hi));
  return s;
}

template <typename Weight>
double SumOfErrors(const float* w, int64_t count, float scale, float lo, float hi, const Weight& weight) {
  float lanes[kLanes] = {};  // fixed order of addition, and wide enough for the vector units
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int64_t j = 0; j < kLanes; ++j) {
      const float e = w[i + j] - scale * GridPoint(w[i + j], scale, lo, hi);
      lanes[j] += weight(i + j) * e * e;
    }
  }
  double error = 0;
  for (; i < count; ++i) {
    const float e = w[i] - scale * GridPoint(w[i], scale, lo, hi);
    error += static_cast<double>(weight(i) * e * e);
  }
  for (const float lane : lanes) error += static_cast<double>(lane);
  return error;
}

}  // namespace

float WeightGrid::Stored(double scale) const {
  const float s = static_cast<float>(scale);
  switch (scale_dtype) {
    case DType::kBF16:
      return std::max(Bf16ToFloat(FloatToBf16(s)), 0x1p-126f);
    case DType::kF16:
      return std::clamp(F16ToFloat(FloatToF16(std::min(s, 65504.0f))), 0x1p-24f, 65504.0f);
    default:
      return std::max(s, 0x1p-126f);  // smallest normal
  }
}

float WeightGrid::StoredUnit(double scale) const {
  constexpr int kFactorBits = 4;  // 16 itself is a power of two
  const bool half = scale_dtype == DType::kF16;
  const int significant = (half ? 11 : scale_dtype == DType::kBF16 ? 8 : 24) - kFactorBits;
  const int least_exponent = half ? -24 : -126;
  int exponent = 0;
  std::frexp(scale, &exponent);  // scale is 0.5 to 1 times 2^exponent
  const double unit = std::ldexp(1.0, std::max(exponent - significant, least_exponent));
  const double most = half ? 4064 : 0x1p123;  // an end of the type over 16
  return static_cast<float>(std::min(std::max(std::nearbyint(scale / unit), 1.0) * unit, most));
}

absl::Status CheckGrid(absl::string_view module, int64_t k, const WeightGrid& grid) {
  if (grid.blocks != nullptr) {
    if (k > 0 && k % grid.blocks->block == 0) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat(module, ": rows of ", k, " are no whole blocks of ", grid.blocks->block, " (",
                     GgmlTypeName(static_cast<uint32_t>(grid.blocks->type)), ")"));
  }
  if (grid.bits < 2 || grid.bits > 8) {
    return absl::InvalidArgumentError(absl::StrCat(module, ": ", grid.bits, "-bit weights; use 2 to 8 bits"));
  }
  if (grid.trellis && (grid.bits > kTrellisMaxBits || grid.group != 0 || !grid.symmetric)) {
    return absl::InvalidArgumentError(absl::StrCat(module, ": trellis codes have ", kTrellisMinBits, " to ",
                                                   kTrellisMaxBits, " bits and one scale a channel, not ",
                                                   grid.bits, " bits in groups of ", grid.group,
                                                   " or zero points"));
  }
  if (grid.scale_dtype != DType::kF32 && grid.scale_dtype != DType::kBF16 &&
      grid.scale_dtype != DType::kF16) {
    return absl::InvalidArgumentError(
        absl::StrCat(module, ": scales of ", DTypeName(grid.scale_dtype), "; use F32, BF16 or F16"));
  }
  if (grid.multiples && (grid.bits > 4 || grid.group == 0)) {
    return absl::InvalidArgumentError(absl::StrCat(
        module, ": scales that are multiples go with groups of at most 4 bits, not ", grid.bits));
  }
  if (grid.group == 0) return absl::OkStatus();
  return CheckGroupSize(module, k, static_cast<int>(std::clamp<int64_t>(grid.group, -1, 1 << 20)));
}

double GroupError(const float* w, const float* importance, int64_t count, GroupScale s,
                  const WeightGrid& grid) {
  const float lo = static_cast<float>(grid.lo()) - s.zero, hi = static_cast<float>(grid.hi()) - s.zero;
  if (importance == nullptr) {
    return SumOfErrors(w, count, s.scale, lo, hi, [](int64_t) { return 1.0f; });
  }
  return SumOfErrors(w, count, s.scale, lo, hi, [importance](int64_t i) { return importance[i]; });
}

GroupScale ChooseScale(const float* w, const float* importance, int64_t count, const WeightGrid& grid) {
  const Range range = RangeOf(w, count, grid.symmetric);
  if (range.low == 0 && range.high == 0) return {};
  GroupScale best = Fit(range, 1.0, grid);
  if (grid.scales != ScaleMethod::kMse) return best;
  double best_error = GroupError(w, importance, count, best, grid);
  for (int step = 1; step < kClipSteps; ++step) {
    const GroupScale s = Fit(range, 1.0 - kClipStep * step, grid);
    const double error = GroupError(w, importance, count, s, grid);
    if (error < best_error) {
      best_error = error;
      best = s;
    }
  }
  return best;
}

void Dequantize(const GridWeights& weights, int64_t n, int64_t k, ThreadPool& pool, float* out) {
  if (!weights.blocks.empty()) {
    const GgmlTypeInfo& info = *FindGgmlType(static_cast<uint32_t>(weights.block_type));
    info.decode(reinterpret_cast<const uint8_t*>(weights.blocks.data()), n * k / info.block_elements, out);
    return;
  }
  const int64_t groups = static_cast<int64_t>(weights.scales.size()) / n, width = k / groups;
  std::vector<int8_t> levels;
  if (weights.trellis_bits > 0) {
    levels.resize(weights.codes.size());
    DecodeTrellis(weights.trellis_bits, weights.codes.data(), n, k, levels.data());
  }
  const int8_t* codes = weights.trellis_bits > 0 ? levels.data() : weights.codes.data();
  pool.ParallelFor(n, kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t g = begin * groups; g < end * groups; ++g) {
      const size_t group = static_cast<size_t>(g);
      const float scale = weights.scales[group];
      const int zero = weights.zeros.empty() ? 0 : weights.zeros[group];
      for (int64_t i = g * width; i < (g + 1) * width; ++i) {
        out[i] = scale * static_cast<float>(codes[i] - zero);
      }
    }
  });
}

std::vector<float> Dequantize(const GridWeights& weights, int64_t n, int64_t k, ThreadPool& pool) {
  std::vector<float> out(static_cast<size_t>(n * k));
  Dequantize(weights, n, k, pool, out.data());
  return out;
}

}  // namespace spikefold
