#include <map>

#include "absl/strings/str_cat.h"
#include "formats/export/directory_export.h"

// Names and values: compressed_tensors.quantization (QuantizationConfig, QuantizationScheme,
// QuantizationArgs). Schemes and arguments forbid unknown keys.

namespace spikefold {
namespace {

Json WeightArgs(const QuantizedLinearSpec& s) {
  Json args = Json::MakeObject();
  args.Set("num_bits", s.format.bits).Set("type", "int").Set("symmetric", s.format.symmetric);
  args.Set("strategy", s.format.grouped ? "group" : "channel");
  if (s.format.grouped) args.Set("group_size", s.group);
  args.Set("dynamic", false);
  return args;
}

Json ActivationArgs(const ActivationFormat& act) {
  if (act.is_float()) return Json();
  Json args = Json::MakeObject();
  args.Set("num_bits", act.bits).Set("type", "int").Set("symmetric", act.symmetric);
  const bool group = act.scales == ActivationFormat::Scales::kGroup;
  args.Set("strategy", act.is_static() ? "tensor" : group ? "group" : "token");
  if (group) args.Set("group_size", act.group);
  args.Set("dynamic", !act.is_static());
  return args;
}

struct Group {
  Json scheme;
  std::string format;
  Json::Array modules;
};

}  // namespace

Json CompressedTensorsConfig(const std::vector<ExportWeight>& weights,
                             const std::vector<DirectoryDecision>& decisions) {
  std::map<std::string, Group> groups;  // by what the scheme says
  Json ignore = Json::MakeArray();
  for (size_t i = 0; i < weights.size(); ++i) {
    const std::string& module = weights[i].node.module;
    if (!decisions[i].codes) {
      if (weights[i].is_linear()) ignore.Append(module);
      continue;
    }
    Json scheme = Json::MakeObject();
    scheme.Set("weights", WeightArgs(decisions[i].spec));
    scheme.Set("input_activations", ActivationArgs(decisions[i].spec.act)).Set("output_activations", Json());
    const std::string format = decisions[i].packed ? "pack-quantized" : "int-quantized";
    Group& group = groups[absl::StrCat(format, scheme.Dump())];
    group.scheme = std::move(scheme);
    group.format = format;
    group.modules.emplace_back(module);
  }
  if (groups.empty()) return Json();
  if (weights.back().node.role != Role::kHead) ignore.Append("lm_head");  // tied
  bool one_format = true;
  for (const auto& [key, group] : groups)
    one_format = one_format && group.format == groups.begin()->second.format;
  Json config_groups = Json::MakeObject();
  for (auto& [key, group] : groups) {
    Json entry = Json::MakeObject();
    entry.Set("targets", groups.size() == 1 ? Json(Json::Array{"Linear"}) : Json(group.modules));
    for (const auto& [name, value] : group.scheme.object()) entry.Set(name, value);
    if (!one_format) entry.Set("format", group.format);
    config_groups.Set(absl::StrCat("group_", config_groups.object().size()), std::move(entry));
  }
  Json config = Json::MakeObject();
  config.Set("quant_method", "compressed-tensors");
  config.Set("format", one_format ? groups.begin()->second.format : std::string("mixed-precision"));
  config.Set("quantization_status", "compressed")
      .Set("kv_cache_scheme", Json())
      .Set("ignore", std::move(ignore));
  config.Set("config_groups", std::move(config_groups));
  return config;
}

}  // namespace spikefold
