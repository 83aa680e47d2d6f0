#include "calib/verdict.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "calib/site_scores.h"

namespace spikefold {
namespace {

constexpr double kFloat16Max = 65504;

std::string StageText(const SpikeStage& stage, int64_t num_layers) {
  std::string text =
      absl::StrFormat("layers %d to %d (about %.3g on channel %d", stage.step_up, stage.step_down - 1,
                      stage.plateau, stage.channels.empty() ? -1 : stage.channels.front().channel);
  if (stage.step_down >= num_layers) absl::StrAppend(&text, ", never removed");
  return absl::StrCat(text, ")");
}

const SiteReport* Worst(const OutlierMap& map, double SiteReport::*score) {
  const auto worst =
      std::max_element(map.sites.begin(), map.sites.end(),
                       [&](const SiteReport& a, const SiteReport& b) { return a.*score < b.*score; });
  return worst == map.sites.end() ? nullptr : &*worst;
}

}  // namespace

std::string Verdict(const OutlierMap& map, const ModelGraph& graph) {
  const SiteReport* worst = Worst(map, &SiteReport::score);
  const std::string site =
      worst == nullptr ? ""
                       : absl::StrFormat("%s peaks at %.3g times an ordinary row",
                                         graph.sites[static_cast<size_t>(worst->site)].name, worst->score);
  if (!map.treatment_needed) {
    return absl::StrCat("No treatment needed: no massive activations, and the worst linear input, ", site,
                        ".");
  }
  std::vector<std::string> stages;
  for (const SpikeStage& stage : map.stages) stages.push_back(StageText(stage, map.num_layers));
  std::string text = stages.empty()
                         ? "No massive activations in the residual, but outlier rows in linear inputs"
                         : absl::StrCat("Massive activations in ", absl::StrJoin(stages, " and "));
  absl::StrAppend(&text, "; the worst linear input, ", site);
  if (worst != nullptr && worst->score < kUpperRow) {
    absl::StrAppend(&text, ", so only the keys and values of spike rows need care");
  }
  absl::StrAppend(&text, ". ");
  if (!map.prefix.empty()) {
    const SiteReport* behind = Worst(map, &SiteReport::score_prefix);
    std::string prefix;
    for (const PrefixCandidate& candidate : map.prefixes) {
      if (candidate.chosen) prefix = Printable(candidate.text);
    }
    absl::StrAppendFormat(&text, "Behind the prefix \"%s\" the worst, %s, is at %.3g.", prefix,
                          graph.sites[static_cast<size_t>(behind->site)].name, behind->score_prefix);
  } else {
    absl::StrAppend(&text, map.prefixes.empty() ? "No prefix was tried." : "No prefix takes them away.");
  }
  return text;
}

void AddArchitectureNotes(const ModelConfig& config, OutlierMap& map) {
  if (config.sandwich_norm) {
    map.notes.push_back(
        "sandwich norm: each branch is normed again before it is added, so the residual grows large by "
        "design; "
        "the residual cannot be rotated");
  }
  if (config.qk_norm) {
    map.notes.push_back(
        "QK-norm: queries and keys are normed per head; scales between q and k go into its gains");
  }
  double largest = 0;
  int layer = -1;
  for (const auto* life : {&map.life_plain, &map.life_bos}) {
    for (const LayerLife& l : *life) {
      if (l.top[0] > largest) {
        largest = l.top[0];
        layer = l.layer;
      }
    }
  }
  if (largest > kFloat16Max) {
    map.notes.push_back(absl::StrFormat(
        "the residual reaches %.3g after layer %d, beyond float16's 65504: keep it in bfloat16 or float32",
        largest, layer));
  }
}

}  // namespace spikefold
