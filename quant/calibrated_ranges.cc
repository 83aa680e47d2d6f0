#include "quant/calibrated_ranges.h"

#include <algorithm>

namespace spikefold {
namespace {

// Of the columns that are quantized, as the histograms have it; rows that are computed in float left out.
double ShareBeyond(const SiteStats& stats, const TensorDecision& d) {
  const ActivationFormat format = SpecOf(d).act;
  const int reach = std::max(format.hi() - d.activation_zero, d.activation_zero - format.lo());
  const float limit = d.activation_scale * (static_cast<float>(reach) + 0.5f);
  double beyond = 0, all = 0;
  for (int64_t c = 0; c < stats.k; ++c) {
    if (std::binary_search(d.kept.begin(), d.kept.end(), static_cast<int32_t>(c))) continue;
    for (int b = 0; b < kMagnitudeBins; ++b) {
      const double count = stats.histogram[static_cast<size_t>(c * kMagnitudeBins + b)];
      const float v = MagnitudeBinCenter(b);
      if (d.spike_threshold > 0 && v > d.spike_threshold) continue;
      all += count;
      if (v > limit) beyond += count;
    }
  }
  return all > 0 ? beyond / all : 0;
}

}  // namespace

Json CalibratedRanges(const Plan& plan, const ModelGraph& graph, const StatsArm& arm) {
  Json list = Json::MakeArray();
  for (const Site& site : graph.sites) {
    const TensorDecision* d = plan.FindStatic(graph, site);
    if (d == nullptr || static_cast<size_t>(site.id) >= arm.sites.size()) continue;
    const SiteStats& stats = arm.sites[static_cast<size_t>(site.id)];
    if (stats.k != site.k) continue;
    list.Append(Json::MakeObject()
                    .Set("site", site.name)
                    .Set("beyond", ShareBeyond(stats, *d))
                    .Set("column_peaks", PeakBinsText(stats)));
  }
  return list.array().empty() ? Json() : list;
}

}  // namespace spikefold
