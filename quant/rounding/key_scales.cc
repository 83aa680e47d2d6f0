#include "quant/rounding/key_scales.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "formats/base/status.h"

namespace spikefold {
namespace {

// A channel as points and their shares: each stretch between two quantiles is cut into kParts.
constexpr int kParts = 4;
struct Points {
  std::vector<double> value, share;
};

Points PointsOf(const std::vector<float>& quantiles, size_t channel, size_t width) {
  Points points;
  for (int i = 0; i + 1 < kKeyQuantiles; ++i) {
    const double low = quantiles[static_cast<size_t>(i) * width + channel];
    const double high = quantiles[static_cast<size_t>(i + 1) * width + channel];
    const double share = (KeyQuantileShare(i + 1) - KeyQuantileShare(i)) / kParts;
    for (int part = 0; part < kParts; ++part) {
      points.value.push_back(low + (high - low) * (part + 0.5) / kParts);
      points.share.push_back(share);
    }
  }
  return points;
}

// Mean fourth power of the error on a grid from `low` to `high`.
double Error(const Points& points, double low, double high, double top) {
  const double scale = (high - low) / top;
  double sum = 0;
  for (size_t i = 0; i < points.value.size(); ++i) {
    const double code = std::clamp(std::nearbyint((points.value[i] - low) / scale), 0.0, top);
    const double error = low + code * scale - points.value[i];
    sum += points.share[i] * (error * error) * (error * error);
  }
  return sum;
}

struct Range {
  double low, high;
};

// Draws the ends in by tenths of the range, then refines by twentieths and fortieths, to where the error is
// least. Squares instead of fourth powers clip what is attended to most (SmolLM2, keys alone at 4, 3 and 2
// bits, KLD .027, .086, .309; fourth powers .021, .073, .282; sixth .023, .075, .360; the whole range far
// more below 4 bits).
Range NarrowRange(const Points& points, const Range& whole, double top) {
  const double tenth = (whole.high - whole.low) / 10;
  Range best = whole;
  double least = Error(points, whole.low, whole.high, top);
  const auto consider = [&](const Range& range) {
    if (range.high - range.low < tenth / 2) return;
    const double error = Error(points, range.low, range.high, top);
    if (error >= least) return;
    least = error;
    best = range;
  };
  for (int a = 0; a < 8; ++a) {
    for (int b = 0; a + b < 9; ++b) consider({whole.low + a * tenth, whole.high - b * tenth});
  }
  for (const double step : {tenth / 2, tenth / 4}) {
    const Range center = best;
    for (int a = -1; a <= 1; ++a) {
      for (int b = -1; b <= 1; ++b) consider({center.low + a * step, center.high + b * step});
    }
  }
  return best;
}

}  // namespace

absl::StatusOr<std::shared_ptr<const KvChannels>> ChooseKeyScales(absl::Span<const KeyStats> keys,
                                                                  const ModelConfig& config, int bits) {
  if (bits != 8 && bits != 4 && bits != 3 && bits != 2) {
    return absl::InvalidArgumentError(absl::StrCat("key scales for ", bits, " bits; use 8, 4, 3 or 2"));
  }
  const size_t width = static_cast<size_t>(config.num_kv_heads * config.head_dim);
  const double top = (1 << bits) - 1;
  auto channels = std::make_shared<KvChannels>();
  channels->scale.assign(static_cast<size_t>(config.num_layers), {});
  channels->min = channels->scale;
  for (const KeyStats& layer : keys) {
    const size_t l = static_cast<size_t>(layer.layer);
    if (l >= channels->scale.size() || layer.quantiles.size() != kKeyQuantiles * width) {
      return absl::InvalidArgumentError(
          absl::StrCat("scan: keys of layer ", layer.layer, " are another model's; scan this one"));
    }
    for (size_t c = 0; c < width; ++c) {
      Range range = {layer.quantiles[c], layer.quantiles[(kKeyQuantiles - 1) * width + c]};
      if (bits < 8 && range.high > range.low)
        range = NarrowRange(PointsOf(layer.quantiles, c, width), range, top);
      // A channel that never changes still needs a grid.
      const double scale = std::max((range.high - range.low) / top, 1e-6);
      channels->scale[l].push_back(static_cast<float>(scale));
      channels->min[l].push_back(static_cast<float>(range.low));
    }
  }
  for (size_t l = 0; l < channels->scale.size(); ++l) {
    if (!channels->scale[l].empty()) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("scan: no keys of layer ", l, "; scan again with this version"));
  }
  return std::shared_ptr<const KvChannels>(std::move(channels));
}

}  // namespace spikefold
