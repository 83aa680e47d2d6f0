#include "calib/super_weights.h"

#include <algorithm>
#include <cmath>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "formats/base/status.h"

namespace spikefold {
namespace {

constexpr float kSpike = 50;          // 2411.07191: both sides of down_proj
constexpr double kMainShare = 0.5;    // of the output that one product must make up
constexpr float kChannelShare = 0.5;  // of the largest output
constexpr size_t kMaxChannels = 3;    // a layer

absl::StatusOr<Tensor> DownProj(const CheckpointReader& reader, int layer) {
  for (const Node& node : reader.graph().nodes) {
    if (node.layer == layer && node.role == Role::kDownProj && node.op == Op::kLinear) {
      return reader.ReadF32(absl::StrCat(node.module, ".weight"));
    }
  }
  return absl::InternalError(absl::StrCat("layer ", layer, " has no down_proj"));
}

// The channels of the row that the unit's product dominates, largest first.
std::vector<SuperWeightRef> Dominated(const DownProjObserver::Layer& layer, const Tensor& down, bool normed) {
  std::vector<SuperWeightRef> out;
  const float* data = down.as<float>().data();
  const int64_t f = down.dim(1);
  std::vector<size_t> channels;
  float largest = 0;
  for (const float value : layer.output) largest = std::max(largest, std::fabs(value));
  const float least = std::max(kSpike, kChannelShare * largest);
  for (size_t c = 0; c < layer.output.size(); ++c) {
    const double product = static_cast<double>(layer.input) *
                           static_cast<double>(data[static_cast<int64_t>(c) * f + layer.unit]);
    const double value = static_cast<double>(layer.output[c]);
    // Behind a norm of its own the branch's scale says nothing about the product.
    const bool main = normed || product / value >= kMainShare;
    if (std::fabs(layer.output[c]) > least && main) channels.push_back(c);
  }
  std::sort(channels.begin(), channels.end(),
            [&](size_t a, size_t b) { return std::fabs(layer.output[a]) > std::fabs(layer.output[b]); });
  channels.resize(std::min(channels.size(), normed ? size_t{1} : kMaxChannels));
  for (const size_t c : channels) {
    out.push_back({.row = static_cast<int64_t>(c),
                   .column = layer.unit,
                   .value = data[static_cast<int64_t>(c) * f + layer.unit],
                   .by_activations = true});
  }
  return out;
}

}  // namespace

absl::StatusOr<std::vector<float>> DownProjRow(const CheckpointReader& reader, int layer, int64_t row) {
  SF_ASSIGN_OR_RETURN(const Tensor down, DownProj(reader, layer));
  const auto data =
      down.as<float>().subspan(static_cast<size_t>(row * down.dim(1)), static_cast<size_t>(down.dim(1)));
  return std::vector<float>(data.begin(), data.end());
}

void DownProjObserver::OnRows(const TapRows& rows) {
  Layer& layer = layers_[static_cast<size_t>(rows.layer)];
  if (rows.value == ValueKind::kFfnOut) {
    if (layer.row < 0) return;
    const float* row = rows.data + layer.row * rows.width;
    layer.output.assign(row, row + rows.width);
    return;
  }
  layer.row = -1;  // of this window, if it holds the largest so far
  for (int64_t i = 0; i < rows.num_rows * rows.width; ++i) {
    if (std::fabs(rows.data[i]) > std::fabs(layer.input)) {
      layer.input = rows.data[i];
      layer.unit = i % rows.width;
      layer.row = i / rows.width;
    }
  }
}

absl::StatusOr<std::vector<SuperWeightRef>> FindSuperWeights(const CheckpointReader& reader,
                                                             const WeightCensus& weights,
                                                             const DownProjObserver& seen) {
  const ModelConfig& config = reader.graph().config;
  std::vector<SuperWeightRef> found;
  for (int l = 0; l < config.num_layers; ++l) {
    const DownProjObserver::Layer& layer = seen.layers()[static_cast<size_t>(l)];
    if (std::fabs(layer.input) > kSpike) {
      SF_ASSIGN_OR_RETURN(const Tensor down, DownProj(reader, l));
      for (SuperWeightRef& ref : Dominated(layer, down, config.sandwich_norm)) {
        ref.layer = l;
        found.push_back(ref);
      }
    }
    const auto& units = weights.units[static_cast<size_t>(l)];
    for (size_t i = 0; i < units.size(); ++i) {
      const int64_t unit = static_cast<int64_t>(i);
      if (weights.Relative(l, unit) < kFlagRelative) continue;
      const auto same = std::find_if(found.begin(), found.end(), [&](const SuperWeightRef& ref) {
        return ref.layer == l && ref.row == units[i].channel && ref.column == unit;
      });
      if (same != found.end()) {
        same->by_weights = true;
        continue;
      }
      found.push_back(
          {.layer = l, .row = units[i].channel, .column = unit, .value = units[i].value, .by_weights = true});
    }
  }
  std::sort(found.begin(), found.end(), [](const SuperWeightRef& a, const SuperWeightRef& b) {
    return std::tie(a.layer, a.row, a.column) < std::tie(b.layer, b.row, b.column);
  });
  return found;
}

}  // namespace spikefold
