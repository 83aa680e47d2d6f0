#include "calib/super_weights.h"

#include <algorithm>
#include <cmath>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "formats/base/status.h"

namespace spikefold {
namespace {

constexpr double kSpike = 50;          // 2411.07191: both sides of down_proj
constexpr double kMainShare = 0.5;     // of the output that one product must make up
constexpr double kChannelShare = 0.5;  // of the largest output
constexpr size_t kMaxChannels = 3;     // a layer

absl::StatusOr<Tensor> DownProj(const CheckpointReader& reader, int layer) {
  for (const Node& node : reader.graph().nodes) {
    if (node.layer == layer && node.role == Role::kDownProj && node.op == Op::kLinear) {
      return reader.ReadF32(absl::StrCat(node.module, ".weight"));
    }
  }
  return absl::InternalError(absl::StrCat("layer ", layer, " has no down_proj"));
}

// down_proj's output of one row, before any norm of the branch.
std::vector<double> Output(const std::vector<float>& row, const Tensor& down) {
  const float* data = down.as<float>().data();
  std::vector<double> out(static_cast<size_t>(down.dim(0)), 0);
  for (size_t c = 0; c < out.size(); ++c) {
    for (size_t i = 0; i < row.size(); ++i) {
      out[c] += static_cast<double>(row[i]) * static_cast<double>(data[c * row.size() + i]);
    }
  }
  return out;
}

// The channels that the unit's product dominates, largest first.
std::vector<SuperWeightRef> Dominated(const DownProjObserver::Layer& layer, const Tensor& down) {
  const std::vector<double> output = Output(layer.row, down);
  double largest = 0;
  for (const double value : output) largest = std::max(largest, std::fabs(value));
  const double least = std::max(kSpike, kChannelShare * largest);
  std::vector<SuperWeightRef> out;
  for (size_t c = 0; c < output.size(); ++c) {
    const float weight = down.as<float>()[c * layer.row.size() + static_cast<size_t>(layer.unit)];
    const double product = static_cast<double>(layer.input) * static_cast<double>(weight);
    if (std::fabs(output[c]) < least || product / output[c] < kMainShare) continue;
    out.push_back(
        {.row = static_cast<int64_t>(c), .column = layer.unit, .value = weight, .by_activations = true});
  }
  std::stable_sort(out.begin(), out.end(), [&](const SuperWeightRef& a, const SuperWeightRef& b) {
    return std::fabs(output[static_cast<size_t>(a.row)]) > std::fabs(output[static_cast<size_t>(b.row)]);
  });
  if (out.size() > kMaxChannels) out.resize(kMaxChannels);
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
  const float* end = rows.data + rows.num_rows * rows.width;
  const float* largest =
      std::max_element(rows.data, end, [](float a, float b) { return std::fabs(a) < std::fabs(b); });
  if (std::fabs(*largest) <= std::fabs(layer.input)) return;
  const int64_t at = largest - rows.data;
  layer.input = *largest;
  layer.unit = at % rows.width;
  const float* row = rows.data + at / rows.width * rows.width;
  layer.row.assign(row, row + rows.width);
}

absl::StatusOr<std::vector<SuperWeightRef>> FindSuperWeights(const CheckpointReader& reader,
                                                             const WeightCensus& weights,
                                                             const DownProjObserver& seen) {
  const ModelConfig& config = reader.graph().config;
  std::vector<SuperWeightRef> found;
  for (int l = 0; l < config.num_layers; ++l) {
    const DownProjObserver::Layer& layer = seen.layers()[static_cast<size_t>(l)];
    if (std::fabs(static_cast<double>(layer.input)) > kSpike) {
      SF_ASSIGN_OR_RETURN(const Tensor down, DownProj(reader, l));
      for (SuperWeightRef& ref : Dominated(layer, down)) {
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
