#include "quant/folds/smooth.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "formats/base/status.h"

namespace spikefold {
namespace {

constexpr float kLeast = 1e-5f;  // of either maximum, as in the paper's code

absl::Status CheckSite(const ModelGraph& graph, const SiteStats& stats, double alpha) {
  if (!(alpha >= 0 && alpha <= 1)) {
    return absl::InvalidArgumentError(absl::StrCat("smooth: alpha=", alpha, "; 0 to 1 are allowed"));
  }
  if (stats.site < 0 || stats.site >= static_cast<int>(graph.sites.size())) {
    return absl::InvalidArgumentError(
        absl::StrCat("smooth: statistics of site ", stats.site, "; the model has ", graph.sites.size()));
  }
  const Site& site = graph.sites[static_cast<size_t>(stats.site)];
  const size_t k = static_cast<size_t>(site.k);
  if (stats.k != site.k || stats.min.size() != k || stats.max.size() != k) {
    return absl::InvalidArgumentError(absl::StrCat("smooth: ", site.name, ": statistics of ",
                                                   stats.max.size(), " channels; the site has ", site.k));
  }
  if (site.layer < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("smooth: ", site.name, ": the head's input takes no scales"));
  }
  if (site.rotation >= 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("smooth: ", site.name, ": statistics of a rotated input; scan the model without R4"));
  }
  return absl::OkStatus();
}

// [k] max over the site's linears and their rows.
absl::StatusOr<std::vector<float>> WeightMax(const CheckpointReader& model, const Site& site) {
  std::vector<float> max(static_cast<size_t>(site.k), 0.0f);
  for (const int linear : site.linears) {
    const Node& node = model.graph().nodes[static_cast<size_t>(linear)];
    SF_ASSIGN_OR_RETURN(const Tensor w, model.ReadF32(node.module + ".weight"));
    const float* row = w.as<float>().data();
    for (int64_t n = 0; n < node.n; ++n, row += node.k) {
      for (int64_t k = 0; k < node.k; ++k) {
        max[static_cast<size_t>(k)] = std::max(max[static_cast<size_t>(k)], std::fabs(row[k]));
      }
    }
  }
  return max;
}

// [num_heads * head_dim] -> [num_kv_heads * head_dim], the largest of each KV head's query heads.
std::vector<float> MaxOverQueryHeads(const ModelConfig& c, const std::vector<float>& values) {
  std::vector<float> max(static_cast<size_t>(c.num_kv_heads * c.head_dim), 0.0f);
  for (int64_t i = 0; i < c.num_heads * c.head_dim; ++i) {
    const int64_t kv = i / c.head_dim / (c.num_heads / c.num_kv_heads);
    float& target = max[static_cast<size_t>(kv * c.head_dim + i % c.head_dim)];
    target = std::max(target, values[static_cast<size_t>(i)]);
  }
  return max;
}

}  // namespace

absl::StatusOr<SiteScales> SmoothSite(const CheckpointReader& model, const SiteStats& stats, double alpha) {
  SF_RETURN_IF_ERROR(CheckSite(model.graph(), stats, alpha));
  const Site& site = model.graph().sites[static_cast<size_t>(stats.site)];
  std::vector<float> inputs;
  for (int64_t k = 0; k < site.k; ++k) inputs.push_back(stats.AbsMax(k));
  SF_ASSIGN_OR_RETURN(std::vector<float> weights, WeightMax(model, site));
  if (site.value == ValueKind::kCtx) {
    inputs = MaxOverQueryHeads(model.graph().config, inputs);
    weights = MaxOverQueryHeads(model.graph().config, weights);
  }
  SiteScales scales = {.layer = site.layer, .value = site.value, .scales = {}};
  for (size_t j = 0; j < inputs.size(); ++j) {
    const double x = std::max(inputs[j], kLeast), w = std::max(weights[j], kLeast);
    scales.scales.push_back(static_cast<float>(std::pow(x, alpha) / std::pow(w, 1 - alpha)));
  }
  return scales;
}

absl::StatusOr<std::vector<SiteScales>> SmoothScales(const CheckpointReader& model, const StatsArm& arm,
                                                     double alpha) {
  std::vector<SiteScales> all;
  for (const SiteStats& stats : arm.sites) {
    const auto& sites = model.graph().sites;
    const bool head = stats.site >= 0 && stats.site < static_cast<int>(sites.size()) &&
                      sites[static_cast<size_t>(stats.site)].layer < 0;
    if (head) continue;
    SF_ASSIGN_OR_RETURN(SiteScales scales, SmoothSite(model, stats, alpha));
    all.push_back(std::move(scales));
  }
  return all;
}

}  // namespace spikefold
