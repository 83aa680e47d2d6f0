#include "quant/rounding/block_scales.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace spikefold {
namespace {

constexpr int kMaxSub = 32;
constexpr float kTiny = 0x1p-14f;  // the smallest normal float16

float Half(float value) { return F16ToFloat(FloatToF16(value)); }
// The nearest d of either sign that float16 holds; a step of 0 would divide by it.
float HalfStep(float d) {
  const float size = std::clamp(std::fabs(Half(d)), 0x1p-24f, 65504.0f);
  return d < 0 ? -size : size;
}

// A sub-block on its way: values and what their errors cost.
struct Values {
  const float* w;
  const float* h;
  int count;
  float lo, hi;  // codes
};

struct Line {
  float step = kTiny, offset = 0;
  double error = std::numeric_limits<double>::infinity();
};

double ErrorOf(const Values& v, float step, float offset) {
  float sum[4] = {};
  for (int i = 0; i < v.count; i += 4) {
    for (int j = 0; j < 4; ++j) {
      const float target = v.w[i + j] - offset;
      const float e = target - step * GridPoint(target, step, v.lo, v.hi);
      sum[j] += v.h[i + j] * e * e;
    }
  }
  return static_cast<double>(sum[0] + sum[1]) + static_cast<double>(sum[2] + sum[3]);
}

// The line through the codes that `from` gives: least squares of w = step * code + offset. False: no line.
bool Refit(const Values& v, const Line& from, bool with_offset, float max_offset, Line& out) {
  double h = 0, hc = 0, hcc = 0, hw = 0, hwc = 0;
  for (int i = 0; i < v.count; ++i) {
    const double weight = static_cast<double>(v.h[i]), w = static_cast<double>(v.w[i]);
    const double c = static_cast<double>(GridPoint(v.w[i] - from.offset, from.step, v.lo, v.hi));
    h += weight;
    hc += weight * c;
    hcc += weight * c * c;
    hw += weight * w;
    hwc += weight * w * c;
  }
  const double det = h * hcc - hc * hc;
  if (with_offset && det > 1e-9 * h * hcc) {
    out.step = static_cast<float>((h * hwc - hc * hw) / det);
    out.offset = static_cast<float>((hw * hcc - hwc * hc) / det);
    if (out.offset <= max_offset) return out.step != 0;
  }
  if (hcc <= 0) return false;
  out.offset = 0;
  out.step = static_cast<float>(hwc / hcc);
  return out.step != 0;
}

void Try(const Values& v, Line line, bool with_offset, float max_offset, Line& best) {
  Line refit;
  if (Refit(v, line, with_offset, max_offset, refit)) {
    refit.error = ErrorOf(v, refit.step, refit.offset);
    if (refit.error < best.error) best = refit;
  }
  line.error = ErrorOf(v, line.step, line.offset);
  if (line.error < best.error) best = line;
}

// Codes reach further on one side: the value of largest magnitude may fall on either end.
Line FitCentered(const Values& v) {
  float extreme = 0;
  for (int i = 0; i < v.count; ++i) {
    if (std::fabs(v.w[i]) > std::fabs(extreme)) extreme = v.w[i];
  }
  Line best;
  if (extreme == 0) return best;
  const bool fine = v.hi > 64;  // clipping 8 bits never pays
  const int steps = fine ? 6 : 16;
  for (int i = 0; i < steps; ++i) {
    const float share =
        fine ? 0.985f + 0.005f * static_cast<float>(i) : 0.88f + 0.04f * static_cast<float>(i);
    Try(v, {.step = extreme / (v.lo * share)}, false, 0, best);
    Try(v, {.step = extreme / (v.hi * share)}, false, 0, best);
  }
  return best;
}

// Offsets up to max_offset: 0 where the format subtracts them.
Line FitAffine(const Values& v, float max_offset) {
  const auto [least, most] = std::minmax_element(v.w, v.w + v.count);
  const float low = std::min(*least, max_offset), high = *most;
  Line best;
  if (high <= low) {
    best.offset = low;
    best.error = ErrorOf(v, best.step, best.offset);
    return best;
  }
  // Weights of fewer levels than the format has, which another file left: their own grid, without loss.
  for (int levels = static_cast<int>(v.hi) / 4; levels < static_cast<int>(v.hi); ++levels) {
    Try(v, {.step = (high - low) / static_cast<float>(levels), .offset = low}, true, max_offset, best);
  }
  for (int i = 0; i < 7; ++i) {
    for (int j = 0; j < 7; ++j) {
      const float cut = 0.06f * (high - low);
      const float from = std::min(low + cut * static_cast<float>(i - 1), max_offset);
      const float to = high - cut * static_cast<float>(j - 1);
      if (to > from) Try(v, {.step = (to - from) / v.hi, .offset = from}, true, max_offset, best);
    }
  }
  return best;
}

struct Block {
  const GgmlScaleLayout& layout;
  const float* w;
  const float* h;
  Values sub(int j) const {
    return {w + j * layout.sub, h + j * layout.sub, layout.sub, static_cast<float>(layout.lo),
            static_cast<float>(layout.hi)};
  }
  double Error(const GgmlBlockScales& s, int j) const {
    return ErrorOf(sub(j), s.step(layout, j), s.offset(layout, j));
  }
};

// The integer scale and minimum of a sub-block nearest to its line, or next to them if that is better.
double FitSub(const Block& block, int j, const Line& line, GgmlBlockScales& s) {
  const GgmlScaleLayout& l = block.layout;
  const int scale = static_cast<int>(std::lround(line.step / s.d));
  const int minimum = l.offsets && s.m != 0 ? static_cast<int>(std::lround(-line.offset / s.m)) : 0;
  double best = std::numeric_limits<double>::infinity();
  int best_scale = 1, best_minimum = 0;
  for (int a = scale - 1; a <= scale + 1; ++a) {
    for (int b = minimum - 1; b <= minimum + 1; ++b) {
      const int tried = std::clamp(a, l.scale_lo, l.scale_hi);
      if (tried == 0 || (!l.offsets && b != minimum)) continue;
      s.scale[j] = static_cast<int8_t>(tried);
      s.minimum[j] = static_cast<uint8_t>(std::clamp(b, 0, 63));
      const double error = block.Error(s, j);
      if (error >= best) continue;
      best = error;
      best_scale = s.scale[j];
      best_minimum = s.minimum[j];
    }
  }
  s.scale[j] = static_cast<int8_t>(best_scale);
  s.minimum[j] = static_cast<uint8_t>(best_minimum);
  return best;
}

GgmlBlockScales FitSuper(const Block& block) {
  const GgmlScaleLayout& l = block.layout;
  Line lines[GgmlBlockScales::kMaxSubs];
  float extreme = 0, lowest = 0;
  for (int j = 0; j < l.num_subs(); ++j) {
    lines[j] = l.offsets ? FitAffine(block.sub(j), 0) : FitCentered(block.sub(j));
    if (std::fabs(lines[j].step) > std::fabs(extreme)) extreme = lines[j].step;
    lowest = std::min(lowest, lines[j].offset);
  }
  const float end = static_cast<float>(l.offsets ? l.scale_hi : l.scale_lo);
  GgmlBlockScales best;
  double best_error = std::numeric_limits<double>::infinity();
  for (int i = -1; i < 4; ++i) {  // a longer or shorter unit moves all integer scales between their points
    GgmlBlockScales s;
    s.d = HalfStep(extreme / end * (1.0f + 0.015f * static_cast<float>(i)));
    s.m = Half(-lowest / 63.0f);
    double error = 0;
    for (int j = 0; j < l.num_subs(); ++j) error += FitSub(block, j, lines[j], s);
    if (error >= best_error) continue;
    best_error = error;
    best = s;
  }
  return best;
}

}  // namespace

WeightGrid BlockGrid(const GgmlScaleLayout& layout) {
  WeightGrid grid;
  grid.bits = 0;
  while (1 << grid.bits < layout.hi - layout.lo) ++grid.bits;
  grid.group = layout.sub;
  grid.scale_dtype = DType::kF16;
  grid.blocks = &layout;
  return grid;
}

GgmlBlockScales ChooseBlockScales(const GgmlScaleLayout& layout, const float* w, const float* importance) {
  float equal[256];
  float total = 0;
  for (int i = 0; importance != nullptr && i < layout.block; ++i) total += importance[i];
  if (!(total > 0)) {
    std::fill_n(equal, layout.block, 1.0f);
    importance = equal;
  }
  const Block block{layout, w, importance};
  if (layout.integer_scales()) return FitSuper(block);
  const Line line = layout.offsets ? FitAffine(block.sub(0), std::numeric_limits<float>::infinity())
                                   : FitCentered(block.sub(0));
  GgmlBlockScales s;
  s.d = HalfStep(line.step);
  s.m = std::clamp(Half(line.offset), -65504.0f, 65504.0f);
  return s;
}

std::string EncodeBlocks(const GgmlScaleLayout& layout, absl::Span<const float> w, int64_t k,
                         absl::Span<const float> importance, ThreadPool& pool) {
  const int64_t blocks = static_cast<int64_t>(w.size()) / layout.block, row = k / layout.block;
  const int64_t bytes = FindGgmlType(static_cast<uint32_t>(layout.type))->block_bytes;
  std::string out(static_cast<size_t>(blocks * bytes), '\0');
  pool.ParallelFor(blocks, row, [&](int64_t begin, int64_t end) {
    int8_t codes[256];
    for (int64_t b = begin; b < end; ++b) {
      const float* values = w.data() + b * layout.block;
      const float* h = importance.empty() ? nullptr : importance.data() + b % row * layout.block;
      const GgmlBlockScales s = ChooseBlockScales(layout, values, h);
      for (int i = 0; i < layout.block; ++i) {
        const int j = i / layout.sub;
        codes[i] =
            static_cast<int8_t>(GridPoint(values[i] - s.offset(layout, j), s.step(layout, j),
                                          static_cast<float>(layout.lo), static_cast<float>(layout.hi)));
      }
      PackGgmlBlock(layout, s, codes, out.data() + b * bytes);
    }
  });
  return out;
}

}  // namespace spikefold
