#include "apps/spikefold/comparison.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "apps/spikefold/console.h"
#include "formats/base/file.h"
#include "formats/base/status.h"
#include "formats/families/family.h"
#include "quant/treatments.h"

namespace spikefold {
namespace {

constexpr uint64_t kMaxMapBytes = uint64_t{64} << 20;
constexpr const char* kAdvisedSchemes[] = {"w8a8-static", "w8a8", "w4a16", "w4a4"};

// What quantize does by itself, as options.
std::string Words(const Treatments& t) {
  std::string words = absl::StrCat("--outliers ", t.fold && t.keep_columns > 0 ? "fold+keep"
                                                  : t.fold                     ? "fold"
                                                  : t.keep_columns > 0         ? "keep"
                                                                               : "none");
  return absl::StrCat(words, " --rotate ", RotationWords(t.rotate), t.shift ? " --shift mean" : "");
}

absl::StatusOr<std::vector<SchemeAdvice>> Advise(const OutlierMap& map,
                                                 const std::vector<FoldLegality>& folds) {
  CalibStats stats;  // of the statistics a choice of treatments asks for the prefix alone
  stats.prefix.tokens = map.prefix;
  std::vector<SchemeAdvice> out;
  for (const char* name : kAdvisedSchemes) {
    SF_ASSIGN_OR_RETURN(const Scheme* scheme, FindScheme(name));
    const Recipe recipe{.scheme = name};
    SF_ASSIGN_OR_RETURN(Treatments t, ChooseTreatments(recipe, *scheme, &map, &stats));
    for (const FoldLegality& fold : folds) {
      if (fold.fold == "R1" && !fold.legal() && t.rotate.r1) {
        t.rotate.r1 = false;
        WithoutResidualRotation(recipe, *scheme, map.hidden, t);
      }
    }
    out.push_back({.scheme = name, .options = Words(t), .reason = t.reason});
  }
  return out;
}

Json StageJson(const SpikeStage& stage) {
  Json channels = Json::MakeArray();
  for (const SpikeChannel& c : stage.channels) channels.Append(c.channel);
  Json out = Json::MakeObject()
                 .Set("step_up", stage.step_up)
                 .Set("step_down", stage.step_down)
                 .Set("plateau", stage.plateau)
                 .Set("channels", std::move(channels))
                 .Set("first_position_share", stage.first_position_share)
                 .Set("per_window", stage.per_window)
                 .Set("near_constancy", stage.near_constancy);
  if (stage.vocabulary_share >= 0) out.Set("vocabulary_share", stage.vocabulary_share);
  return out;
}

Json ScanJson(const ComparedScan& scan) {
  const ModelConfig& c = scan.graph.config;
  const OutlierMap& map = scan.map;
  Json stages = Json::MakeArray(), folds = Json::MakeArray(), advice = Json::MakeArray();
  for (const SpikeStage& stage : map.stages) stages.Append(StageJson(stage));
  for (const FoldLegality& fold : scan.folds) {
    folds.Append(Json::MakeObject()
                     .Set("fold", fold.fold)
                     .Set("legal", fold.legal())
                     .Set("except", fold.legal() ? fold.exception : "")
                     .Set("reason", fold.reason));
  }
  for (const SchemeAdvice& a : scan.advice) {
    advice.Append(
        Json::MakeObject().Set("scheme", a.scheme).Set("options", a.options).Set("reason", a.reason));
  }
  const SinkMap& sinks = scan.sinks();
  Json out = Json::MakeObject()
                 .Set("scan", scan.name)
                 .Set("architecture", c.architecture)
                 .Set("num_layers", c.num_layers)
                 .Set("hidden", c.hidden)
                 .Set("sandwich_norm", c.sandwich_norm)
                 .Set("qk_norm", c.qk_norm)
                 .Set("bos", scan.bos())
                 .Set("treatment_needed", map.treatment_needed)
                 .Set("verdict", map.verdict)
                 .Set("stages", std::move(stages))
                 .Set("super_weights", static_cast<int64_t>(map.super_weights.size()))
                 .Set("sink_ratio", sinks.ratio)
                 .Set("sink_value_norm", MedianOf(sinks.value_norm_ratio))
                 .Set("sink_key_norm", MedianOf(sinks.key_norm_ratio));
  if (!sinks.value_variation.empty()) {
    out.Set("sink_value_variation", MedianOf(sinks.value_variation))
        .Set("other_value_variation", MedianOf(sinks.other_value_variation));
  }
  if (map.probes.made) {
    out.Set("sink_ratio_random", map.probes.sink_ratio_random)
        .Set("sink_ratio_repeated", map.probes.sink_ratio_repeated);
  }
  if (const LayerLife* tail = HeaviestTail(scan.life())) {
    out.Set("kurtosis", tail->kurtosis).Set("kurtosis_layer", tail->layer);
  }
  if (const SiteReport* site = WidestSite(map, false)) {
    out.Set("widest_site", scan.graph.sites[static_cast<size_t>(site->site)].name)
        .Set("widest_site_score", site->score);
  }
  return out.Set("folds", std::move(folds)).Set("advice", std::move(advice));
}

}  // namespace

bool ComparedScan::bos() const {
  const Json* bos = map.provenance.Find("bos");
  return bos != nullptr && bos->is_string() && bos->string_value() == "window";
}

absl::StatusOr<ComparedScan> LoadForComparison(const std::string& directory) {
  const std::string path = JoinPath(directory, "outliers.json");
  SF_ASSIGN_OR_RETURN(const std::string text, ReadFileToString(path, kMaxMapBytes));
  SF_ASSIGN_OR_RETURN(const Json json, ParseJson(text, path));
  const Json* config_json = json.is_object() ? json.Find("config") : nullptr;
  if (config_json == nullptr) {
    return absl::UnimplementedError(
        absl::StrCat(Printable(path, 1024),
                     ": does not say what the model is, as scans of older versions do not; scan again"));
  }
  ComparedScan scan{.name = directory};
  SF_ASSIGN_OR_RETURN(const ModelConfig config, ConfigFromJson(*config_json));
  SF_ASSIGN_OR_RETURN(scan.graph, BuildGraph(config));
  SF_ASSIGN_OR_RETURN(scan.map, OutlierMapFromJson(json, scan.graph, path));
  SF_ASSIGN_OR_RETURN(scan.folds, FoldLegalities(scan.graph));
  SF_ASSIGN_OR_RETURN(scan.advice, Advise(scan.map, scan.folds));
  return scan;
}

double MedianOf(std::vector<double> values) {
  if (values.empty()) return 0;
  const auto middle = values.begin() + static_cast<int64_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

const LayerLife* HeaviestTail(const std::vector<LayerLife>& life) {
  const auto heaviest =
      std::max_element(life.begin(), life.end(),
                       [](const LayerLife& a, const LayerLife& b) { return a.kurtosis < b.kurtosis; });
  return heaviest == life.end() ? nullptr : &*heaviest;
}

const SiteReport* WidestSite(const OutlierMap& map, bool behind_prefix) {
  const auto score = behind_prefix ? &SiteReport::score_prefix : &SiteReport::score;
  const auto widest =
      std::max_element(map.sites.begin(), map.sites.end(),
                       [&](const SiteReport& a, const SiteReport& b) { return a.*score < b.*score; });
  return widest == map.sites.end() ? nullptr : &*widest;
}

Json ComparisonToJson(const std::vector<ComparedScan>& scans) {
  Json list = Json::MakeArray();
  for (const ComparedScan& scan : scans) list.Append(ScanJson(scan));
  return NewDocument("compare").Set("scans", std::move(list));
}

}  // namespace spikefold
