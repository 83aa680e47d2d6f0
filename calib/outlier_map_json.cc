#include "calib/census.h"
#include "formats/families/family.h"

namespace spikefold {
namespace {

template <typename T, typename F>
Json List(const std::vector<T>& values, const F& to_json) {
  Json out = Json::MakeArray();
  for (const T& value : values) out.Append(to_json(value));
  return out;
}
template <typename T>
Json Scalars(const std::vector<T>& values) {
  return List(values, [](const T& v) { return Json(v); });
}
Json Tokens(const std::vector<int32_t>& tokens) {
  return List(tokens, [](int32_t token) { return Json(static_cast<int64_t>(token)); });
}
template <typename T>
Json Three(const T (&values)[3]) {
  return Json(Json::Array{Json(values[0]), Json(values[1]), Json(values[2])});
}

Json UnitToJson(const UnitRef& unit) {
  return Json::MakeObject()
      .Set("layer", unit.layer)
      .Set("unit", unit.unit)
      .Set("strength", unit.strength)
      .Set("channel", unit.channel)
      .Set("by_weights", unit.by_weights)
      .Set("by_activations", unit.by_activations);
}

Json StageToJson(const SpikeStage& stage) {
  const auto channel = [](const SpikeChannel& c) {
    return Json::MakeObject().Set("channel", c.channel).Set("peak", c.peak).Set("leader", c.leader);
  };
  const auto token = [](const std::pair<std::string, double>& t) {
    return Json::MakeObject().Set("text", t.first).Set("share", t.second);
  };
  Json out = Json::MakeObject()
                 .Set("step_up", stage.step_up)
                 .Set("step_down", stage.step_down)
                 .Set("plateau", stage.plateau)
                 .Set("channels", List(stage.channels, channel))
                 .Set("first_position_share", stage.first_position_share)
                 .Set("tokens", List(stage.tokens, token))
                 .Set("per_window", stage.per_window)
                 .Set("near_constancy", stage.near_constancy)
                 .Set("writers", List(stage.writers, UnitToJson))
                 .Set("removers", List(stage.removers, UnitToJson));
  if (stage.vocabulary_share >= 0) out.Set("vocabulary_share", stage.vocabulary_share);
  return out;
}

Json SuperWeightToJson(const SuperWeightRef& w) {
  return Json::MakeObject()
      .Set("layer", w.layer)
      .Set("row", w.row)
      .Set("column", w.column)
      .Set("value", static_cast<double>(w.value))
      .Set("by_weights", w.by_weights)
      .Set("by_activations", w.by_activations);
}

Json LifeToJson(const LayerLife& life) {
  return Json::MakeObject()
      .Set("layer", life.layer)
      .Set("top", Three(life.top))
      .Set("top_channel", Three(life.top_channel))
      .Set("top_position", Three(life.top_position))
      .Set("median", life.median)
      .Set("kurtosis", life.kurtosis);
}

Json SinksToJson(const SinkMap& sinks) {
  Json mass = Json::MakeArray();  // a row a layer
  for (int64_t l = 0; l < sinks.num_layers; ++l) {
    const auto begin = sinks.mass.begin() + l * sinks.num_heads;
    mass.Append(Scalars(std::vector<double>(begin, begin + sinks.num_heads)));
  }
  return Json::MakeObject()
      .Set("ratio", sinks.ratio)
      .Set("mass", std::move(mass))
      .Set("value_norm_ratio", Scalars(sinks.value_norm_ratio))
      .Set("key_norm_ratio", Scalars(sinks.key_norm_ratio))
      .Set("value_variation", Scalars(sinks.value_variation))
      .Set("other_value_variation", Scalars(sinks.other_value_variation));
}

Json ProbesToJson(const AnatomyProbes& probes) {
  if (!probes.made) return Json();
  return Json::MakeObject()
      .Set("vocabulary_tokens", probes.vocabulary_tokens)
      .Set("sink_ratio_random", probes.sink_ratio_random)
      .Set("sink_ratio_repeated", probes.sink_ratio_repeated);
}

Json PrefixToJson(const PrefixCandidate& prefix) {
  return Json::MakeObject()
      .Set("tokens", Tokens(prefix.tokens))
      .Set("text", prefix.text)
      .Set("ppl_ratio", prefix.ppl_ratio)
      .Set("score", prefix.score)
      .Set("chosen", prefix.chosen)
      .Set("reason", prefix.reason);
}

}  // namespace

Json OutlierMapToJson(const OutlierMap& map, const ModelGraph& graph) {
  const auto site = [&](const SiteReport& report) {
    return Json::MakeObject()
        .Set("site", graph.sites[static_cast<size_t>(report.site)].name)
        .Set("score", report.score)
        .Set("absmax", report.absmax)
        .Set("median_peak", report.median_peak)
        .Set("upper_per_window", report.upper_per_window)
        .Set("lower_per_window", report.lower_per_window)
        .Set("absmax_prefix", report.absmax_prefix)
        .Set("score_prefix", report.score_prefix);
  };
  return Json::MakeObject()
      .Set("format_version", map.format_version)
      .Set("provenance", map.provenance)
      .Set("config", ConfigToJson(graph.config))  // so that a scan can be understood without its model
      .Set("num_layers", map.num_layers)
      .Set("hidden", map.hidden)
      .Set("treatment_needed", map.treatment_needed)
      .Set("verdict", map.verdict)
      .Set("stages", List(map.stages, StageToJson))
      .Set("super_weights", List(map.super_weights, SuperWeightToJson))
      .Set("prefix", Tokens(map.prefix))
      .Set("prefixes", List(map.prefixes, PrefixToJson))
      .Set("notes", Scalars(map.notes))
      .Set("warnings", Scalars(map.warnings))
      .Set("sites", List(map.sites, site))
      .Set("life_plain", List(map.life_plain, LifeToJson))
      .Set("life_bos", List(map.life_bos, LifeToJson))
      .Set("sinks_plain", SinksToJson(map.sinks_plain))
      .Set("sinks_bos", SinksToJson(map.sinks_bos))
      .Set("probes", ProbesToJson(map.probes));
}

}  // namespace spikefold
