#include "absl/strings/str_cat.h"
#include "calib/census.h"
#include "formats/base/status.h"

namespace spikefold {
namespace {

// Reads members of one object; the first error sticks, so that a struct reads as a list of its fields.
class Fields {
 public:
  Fields(const Json& json, absl::string_view where) : json_(json), where_(where) {
    if (!json.is_object()) status_ = absl::DataLossError(absl::StrCat(where_, ": not an object; scan again"));
  }
  const absl::Status& status() const { return status_; }
  void Fail(absl::string_view what) {
    if (status_.ok()) status_ = absl::DataLossError(absl::StrCat(where_, ": ", what, "; scan again"));
  }

  void Read(const char* key, int64_t& out) { Take(json_.GetInt(key, where_), out); }
  void Read(const char* key, int& out) {
    int64_t wide = 0;
    Read(key, wide);
    if (wide < INT32_MIN || wide > INT32_MAX) return Fail(absl::StrCat("\"", key, "\" is out of range"));
    out = static_cast<int>(wide);
  }
  void Read(const char* key, double& out) { Take(json_.GetDouble(key, where_), out); }
  void Read(const char* key, float& out) {
    double wide = 0;
    Read(key, wide);
    out = static_cast<float>(wide);
  }
  void Read(const char* key, bool& out) { Take(json_.GetBool(key, where_), out); }
  void Read(const char* key, std::string& out) { Take(json_.GetString(key, where_), out); }

  // Calls element(json) for each element of a list.
  template <typename F>
  void Each(const char* key, const F& element) {
    const Json* list = status_.ok() ? json_.Find(key) : nullptr;
    if (list == nullptr || !list->is_array())
      return Fail(absl::StrCat("\"", key, "\" is missing or no list"));
    for (const Json& value : list->array()) element(value);
  }
  // A list of objects, each read by `read(Fields&, T&)`.
  template <typename T, typename F>
  void Objects(const char* key, std::vector<T>& out, const F& read) {
    Each(key, [&](const Json& value) {
      Fields fields(value, where_);
      out.emplace_back();
      read(fields, out.back());
      if (status_.ok()) status_ = fields.status();
    });
  }
  void Numbers(const char* key, std::vector<double>& out) {
    Each(key, [&](const Json& value) { out.push_back(Number(value, key)); });
  }
  void Integers(const char* key, std::vector<int32_t>& out) {
    Each(key, [&](const Json& value) {
      const bool fits = value.is_int() && value.int_value() >= 0 && value.int_value() <= INT32_MAX;
      if (!fits) return Fail(absl::StrCat("\"", key, "\" holds something that is no token id"));
      out.push_back(static_cast<int32_t>(value.int_value()));
    });
  }
  void Texts(const char* key, std::vector<std::string>& out) {
    Each(key, [&](const Json& value) {
      if (!value.is_string()) return Fail(absl::StrCat("\"", key, "\" holds something that is no text"));
      out.push_back(value.string_value());
    });
  }
  template <typename T>
  void Three(const char* key, T (&out)[3]) {
    std::vector<double> values;
    Numbers(key, values);
    if (values.size() != 3) return Fail(absl::StrCat("\"", key, "\" does not hold three numbers"));
    for (size_t i = 0; i < 3; ++i) out[i] = static_cast<T>(values[i]);
  }
  double Number(const Json& value, const char* key) {
    if (value.is_number()) return value.number_value();
    Fail(absl::StrCat("\"", key, "\" holds something that is no number"));
    return 0;
  }
  const Json* Find(const char* key) const { return json_.Find(key); }

 private:
  template <typename T, typename U>
  void Take(absl::StatusOr<T> value, U& out) {
    if (!status_.ok()) return;
    if (!value.ok()) {
      status_ = value.status();
    } else {
      out = *std::move(value);
    }
  }
  const Json& json_;
  std::string where_;
  absl::Status status_;
};

void ReadUnit(Fields& f, UnitRef& unit) {
  f.Read("layer", unit.layer);
  f.Read("unit", unit.unit);
  f.Read("strength", unit.strength);
  f.Read("channel", unit.channel);
  f.Read("by_weights", unit.by_weights);
  f.Read("by_activations", unit.by_activations);
}

void ReadStage(Fields& f, SpikeStage& stage) {
  f.Read("step_up", stage.step_up);
  f.Read("step_down", stage.step_down);
  f.Read("plateau", stage.plateau);
  f.Objects("channels", stage.channels, [](Fields& c, SpikeChannel& channel) {
    c.Read("channel", channel.channel);
    c.Read("peak", channel.peak);
    c.Read("leader", channel.leader);
  });
  f.Read("first_position_share", stage.first_position_share);
  f.Objects("tokens", stage.tokens, [](Fields& t, std::pair<std::string, double>& token) {
    t.Read("text", token.first);
    t.Read("share", token.second);
  });
  f.Read("per_window", stage.per_window);
  f.Read("near_constancy", stage.near_constancy);
  if (f.Find("vocabulary_share") != nullptr) f.Read("vocabulary_share", stage.vocabulary_share);
  f.Objects("writers", stage.writers, ReadUnit);
  f.Objects("removers", stage.removers, ReadUnit);
}

void ReadSuperWeight(Fields& f, SuperWeightRef& w) {
  f.Read("layer", w.layer);
  f.Read("row", w.row);
  f.Read("column", w.column);
  f.Read("value", w.value);
  f.Read("by_weights", w.by_weights);
  f.Read("by_activations", w.by_activations);
}

void ReadLife(Fields& f, LayerLife& life) {
  f.Read("layer", life.layer);
  f.Three("top", life.top);
  f.Three("top_channel", life.top_channel);
  f.Three("top_position", life.top_position);
  f.Read("median", life.median);
  f.Read("kurtosis", life.kurtosis);
}

void ReadPrefix(Fields& f, PrefixCandidate& prefix) {
  f.Integers("tokens", prefix.tokens);
  f.Read("text", prefix.text);
  f.Read("ppl_ratio", prefix.ppl_ratio);
  f.Read("score", prefix.score);
  f.Read("chosen", prefix.chosen);
  f.Read("reason", prefix.reason);
}

absl::Status ReadSinks(Fields& map, const char* key, absl::string_view where, SinkMap& sinks) {
  const Json* json = map.Find(key);
  if (json == nullptr)
    return absl::DataLossError(absl::StrCat(where, ": \"", key, "\" is missing; scan again"));
  Fields f(*json, where);
  f.Read("ratio", sinks.ratio);
  f.Each("mass", [&](const Json& row) {
    if (!row.is_array()) return f.Fail("\"mass\" is not a list of lists");
    if (sinks.num_layers == 0) sinks.num_heads = static_cast<int64_t>(row.array().size());
    if (static_cast<int64_t>(row.array().size()) != sinks.num_heads)
      return f.Fail("\"mass\" has uneven rows");
    ++sinks.num_layers;
    for (const Json& value : row.array()) sinks.mass.push_back(f.Number(value, "mass"));
  });
  f.Numbers("value_norm_ratio", sinks.value_norm_ratio);
  f.Numbers("key_norm_ratio", sinks.key_norm_ratio);
  if (f.Find("value_variation") != nullptr) {
    f.Numbers("value_variation", sinks.value_variation);
    f.Numbers("other_value_variation", sinks.other_value_variation);
  }
  return f.status();
}

void ReadSites(Fields& f, const ModelGraph& graph, OutlierMap& map) {
  f.Objects("sites", map.sites, [&](Fields& s, SiteReport& report) {
    std::string name;
    s.Read("site", name);
    report.site = -1;
    for (const Site& site : graph.sites) {
      if (site.name == name) report.site = site.id;
    }
    if (report.site < 0) s.Fail(absl::StrCat("site \"", name, "\" is not one of the model's"));
    s.Read("score", report.score);
    s.Read("absmax", report.absmax);
    s.Read("median_peak", report.median_peak);
    s.Read("upper_per_window", report.upper_per_window);
    s.Read("lower_per_window", report.lower_per_window);
    s.Read("absmax_prefix", report.absmax_prefix);
    s.Read("score_prefix", report.score_prefix);
  });
}

absl::Status CheckShape(const OutlierMap& map, const ModelGraph& graph, absl::string_view where) {
  if (map.num_layers == graph.config.num_layers && map.hidden == graph.config.hidden) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      where, ": made from a model of ", map.num_layers, " layers of ", map.hidden, " channels; this one has ",
      graph.config.num_layers, " of ", graph.config.hidden, "; scan this model"));
}

// That what is used as an index of layers, rows and channels is one.
absl::Status CheckPlaces(const OutlierMap& map, const ModelConfig& c, absl::string_view where) {
  const auto corrupt = [&](const auto&... what) {
    return absl::DataLossError(absl::StrCat(where, ": ", what..., "; scan again"));
  };
  const auto within = [](int64_t index, int64_t count) { return index >= 0 && index < count; };
  for (const SpikeStage& s : map.stages) {
    if (s.step_up < 0 || s.step_up > s.step_down || s.step_down > c.num_layers) {
      return corrupt("a stage from layer ", s.step_up, " to ", s.step_down, "; the model has ", c.num_layers);
    }
    if (static_cast<int64_t>(s.channels.size()) >= c.hidden) {
      return corrupt("a stage of ", s.channels.size(), " channels; the model has ", c.hidden);
    }
    for (const SpikeChannel& channel : s.channels) {
      if (within(channel.channel, c.hidden)) continue;
      return corrupt("a stage with channel ", channel.channel, "; the model has ", c.hidden);
    }
  }
  for (const SuperWeightRef& w : map.super_weights) {
    if (within(w.layer, c.num_layers) && within(w.row, c.hidden) && within(w.column, c.intermediate))
      continue;
    return corrupt("a super weight of layer ", w.layer, " at row ", w.row, ", column ", w.column,
                   "; the model has ", c.num_layers, " layers of [", c.hidden, ", ", c.intermediate, "]");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<OutlierMap> OutlierMapFromJson(const Json& json, const ModelGraph& graph,
                                              absl::string_view where) {
  OutlierMap map;
  Fields f(json, where);
  f.Read("format_version", map.format_version);
  SF_RETURN_IF_ERROR(f.status());
  if (map.format_version != 1) {
    return absl::UnimplementedError(
        absl::StrCat(where, ": format version ", map.format_version, "; this Spikefold reads 1; scan again"));
  }
  f.Read("num_layers", map.num_layers);
  f.Read("hidden", map.hidden);
  SF_RETURN_IF_ERROR(f.status());
  SF_RETURN_IF_ERROR(CheckShape(map, graph, where));
  f.Read("treatment_needed", map.treatment_needed);
  f.Read("verdict", map.verdict);
  f.Objects("stages", map.stages, ReadStage);
  f.Objects("super_weights", map.super_weights, ReadSuperWeight);
  f.Integers("prefix", map.prefix);
  f.Objects("prefixes", map.prefixes, ReadPrefix);
  f.Texts("notes", map.notes);
  f.Texts("warnings", map.warnings);
  ReadSites(f, graph, map);
  f.Objects("life_plain", map.life_plain, ReadLife);
  f.Objects("life_bos", map.life_bos, ReadLife);
  SF_RETURN_IF_ERROR(f.status());
  SF_RETURN_IF_ERROR(CheckPlaces(map, graph.config, where));
  SF_RETURN_IF_ERROR(ReadSinks(f, "sinks_plain", where, map.sinks_plain));
  SF_RETURN_IF_ERROR(ReadSinks(f, "sinks_bos", where, map.sinks_bos));
  if (const Json* probes = json.Find("probes"); probes != nullptr && !probes->is_null()) {
    Fields of_probes(*probes, where);
    map.probes.made = true;
    of_probes.Read("vocabulary_tokens", map.probes.vocabulary_tokens);
    of_probes.Read("sink_ratio_random", map.probes.sink_ratio_random);
    of_probes.Read("sink_ratio_repeated", map.probes.sink_ratio_repeated);
    SF_RETURN_IF_ERROR(of_probes.status());
  }
  if (const Json* provenance = json.Find("provenance")) map.provenance = *provenance;
  return map;
}

}  // namespace spikefold
