#include "apps/spikefold/anatomy_text.h"

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "apps/spikefold/text.h"
#include "apps/spikefold/text_table.h"

namespace spikefold {
namespace {

constexpr size_t kWidth = 100, kMost = 5;

std::string Heading(const char* text, const Console& console) {
  return absl::StrCat("\n", console.Bold(text), "\n");
}

// The first few of a list, and how many more there are.
template <typename T, typename F>
std::string Some(const std::vector<T>& items, const F& text_of) {
  std::vector<std::string> parts;
  for (size_t i = 0; i < std::min(items.size(), kMost); ++i) parts.push_back(text_of(items[i]));
  if (items.size() > kMost) parts.push_back(absl::StrCat(items.size() - kMost, " more"));
  return absl::StrJoin(parts, ", ");
}

const char* Evidence(bool by_weights, bool by_activations) {
  return by_weights && by_activations ? "weights and activations" : by_weights ? "weights" : "activations";
}

std::string UnitsText(const std::vector<UnitRef>& units) {
  if (units.empty()) return "none found";
  return Some(units, [](const UnitRef& unit) {
    return absl::StrFormat("layer %d unit %d (by %s)", unit.layer, unit.unit,
                           Evidence(unit.by_weights, unit.by_activations));
  });
}

std::string TokensText(const SpikeStage& stage) {
  std::string text = absl::StrFormat("the first of a window in %s of windows; elsewhere %.2g a window",
                                     PercentText(stage.first_position_share), stage.per_window);
  if (stage.tokens.empty()) return text;
  absl::StrAppend(&text, ": ", Some(stage.tokens, [](const std::pair<std::string, double>& token) {
    return absl::StrFormat("\"%s\" %.0f %%", Printable(token.first, 24), 100 * token.second);
  }));
  return text;
}

std::string StageText(const SpikeStage& stage, int64_t num_layers, const Console& console) {
  const bool stays = stage.step_down >= num_layers;
  std::string text =
      absl::StrCat(Heading("Massive activations", console), "  written in layer ", stage.step_up,
                   stays ? ", never removed" : absl::StrCat(", removed in layer ", stage.step_down), "; ",
                   absl::StrFormat("%.4g", stage.plateau), " high in between\n");
  TextTable table("ll");
  const auto row = [&](const char* name, const std::string& value) {
    table.Row({name, Wrap(value, 14, kWidth)});
  };
  row("channels", Some(stage.channels, [](const SpikeChannel& c) {
        return absl::StrFormat("%d (%.4g)", c.channel, c.peak);
      }));
  row("tokens", TokensText(stage));
  if (stage.vocabulary_share >= 0) {
    row("vocabulary",
        absl::StrFormat("%.2f %% of tokens spike when they stand first", 100 * stage.vocabulary_share));
  }
  row("alike", absl::StrFormat("cosine %.3f of a spike row to their mean", stage.near_constancy));
  row("writers", UnitsText(stage.writers));
  row("removers", UnitsText(stage.removers));
  return text + table.Text();
}

std::string SuperWeightsText(const OutlierMap& map, const ModelGraph& graph, const Console& console) {
  if (map.super_weights.empty()) return "";
  std::string text = Heading("Super weights", console);
  for (size_t i = 0; i < map.super_weights.size(); ++i) {
    if (i == kMost) {
      absl::StrAppend(&text, "  ", map.super_weights.size() - kMost, " more\n");
      break;
    }
    const SuperWeightRef& w = map.super_weights[i];
    const auto node = std::find_if(graph.nodes.begin(), graph.nodes.end(), [&](const Node& n) {
      return n.layer == w.layer && n.role == Role::kDownProj;
    });
    absl::StrAppendFormat(&text, "  %s[%d, %d] = %.4g, by %s\n",
                          node == graph.nodes.end() ? "down_proj" : node->module, w.row, w.column, w.value,
                          Evidence(w.by_weights, w.by_activations));
  }
  return text;
}

std::string SinksText(const OutlierMap& map, const Console& console) {
  TextTable table("lrrr");
  table.Row({"", "heads on it", "|value| there", "|key| there"});
  const auto row = [&](const char* name, const SinkMap& sinks) {
    if (sinks.num_layers == 0) return;
    const auto median = [](std::vector<double> values) {
      if (values.empty()) return 0.0;
      const auto middle = values.begin() + static_cast<int64_t>(values.size() / 2);
      std::nth_element(values.begin(), middle, values.end());
      return *middle;
    };
    table.Row({name, PercentText(sinks.ratio), absl::StrFormat("x %.2f", median(sinks.value_norm_ratio)),
               absl::StrFormat("x %.2f", median(sinks.key_norm_ratio))});
  };
  row("text as it is", map.sinks_plain);
  row("behind BOS", map.sinks_bos);
  if (map.probes.made) {
    table.Row({"random tokens", PercentText(map.probes.sink_ratio_random)});
    table.Row({"one token repeated", PercentText(map.probes.sink_ratio_repeated)});
  }
  return absl::StrCat(Heading("Attention sink at the first position", console), table.Text());
}

std::string SitesText(const OutlierMap& map, const ModelGraph& graph, const Console& console) {
  std::vector<const SiteReport*> order;
  for (const SiteReport& site : map.sites) order.push_back(&site);
  std::stable_sort(order.begin(), order.end(),
                   [](const SiteReport* a, const SiteReport* b) { return a->score > b->score; });
  order.resize(std::min(order.size(), kMost));
  const bool prefix = !map.prefix.empty();
  TextTable table(prefix ? "lrrrrr" : "lrrr");
  std::vector<std::string> head = {"", "peak row", "of median row", "spike rows a window"};
  if (prefix) head.insert(head.end(), {"behind the prefix", "of median row"});
  table.Row(std::move(head));
  for (const SiteReport* site : order) {
    std::vector<std::string> row = {
        graph.sites[static_cast<size_t>(site->site)].name, absl::StrFormat("%.4g", site->absmax),
        absl::StrFormat("x %.1f", site->score), absl::StrFormat("%.2g", site->upper_per_window)};
    if (prefix) {
      row.push_back(absl::StrFormat("%.4g", site->absmax_prefix));
      row.push_back(absl::StrFormat("x %.1f", site->score_prefix));
    }
    table.Row(std::move(row));
  }
  return absl::StrCat(Heading("Linear inputs with the widest range between rows", console), table.Text());
}

std::string PrefixesText(const OutlierMap& map, const Console& console) {
  if (map.prefixes.empty()) return "";
  TextTable table("llrr");
  table.Row({"", "", "perplexity", "worst input"});
  for (const PrefixCandidate& p : map.prefixes) {
    table.Row({p.chosen ? "->" : "", absl::StrCat("\"", Printable(p.text, 32), "\""),
               absl::StrFormat("x %.4f", p.ppl_ratio), absl::StrFormat("x %.1f", p.score)});
  }
  std::string text = absl::StrCat(Heading("Prefixes tried", console), table.Text());
  for (const PrefixCandidate& p : map.prefixes) {
    if (p.chosen) absl::StrAppend(&text, "  ", Wrap(p.reason, 2, kWidth), "\n");
  }
  if (map.prefix.empty()) {
    absl::StrAppend(&text, "  ", Wrap(map.prefixes.front().reason, 2, kWidth), "\n");
  }
  return text;
}

std::string RemarksText(const char* heading, const std::vector<std::string>& remarks,
                        const Console& console) {
  if (remarks.empty()) return "";
  std::string text = Heading(heading, console);
  for (const std::string& remark : remarks) absl::StrAppend(&text, "  ", Wrap(remark, 2, kWidth), "\n");
  return text;
}

}  // namespace

std::string AnatomyText(const OutlierMap& map, const ModelGraph& graph, const Console& console) {
  std::string text = absl::StrCat(Wrap(map.verdict, 0, kWidth), "\n");
  for (const SpikeStage& stage : map.stages) text += StageText(stage, map.num_layers, console);
  text += SuperWeightsText(map, graph, console);
  text += SinksText(map, console);
  text += SitesText(map, graph, console);
  text += PrefixesText(map, console);
  text += RemarksText("Notes", map.notes, console);
  text += RemarksText("Warnings", map.warnings, console);
  return text;
}

}  // namespace spikefold
