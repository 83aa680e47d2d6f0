#include "apps/spikefold/compare_command.h"

#include <algorithm>
#include <functional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "apps/spikefold/comparison.h"
#include "apps/spikefold/text.h"
#include "apps/spikefold/text_table.h"
#include "formats/base/status.h"

namespace spikefold {
namespace {

constexpr size_t kWidth = 100, kMostChannels = 4;
using Scans = std::vector<ComparedScan>;

// A table with a column a scan; a row that no scan has anything for is left out.
class Columns {
 public:
  explicit Columns(const Scans& scans) : scans_(scans), table_(std::string(scans.size() + 1, 'l')) {}
  void Row(const std::string& name, const std::function<std::string(const ComparedScan&)>& text_of) {
    std::vector<std::string> cells = {name};
    for (const ComparedScan& scan : scans_) cells.push_back(text_of(scan));
    const bool empty =
        std::all_of(cells.begin() + 1, cells.end(), [](const std::string& cell) { return cell.empty(); });
    if (!empty) table_.Row(std::move(cells));
  }
  std::string Text() const { return table_.Text(); }

 private:
  const Scans& scans_;
  TextTable table_;
};

void ModelRows(Columns& rows) {
  rows.Row("", [](const ComparedScan& s) { return Printable(s.name, 40); });
  rows.Row("model", [](const ComparedScan& s) {
    const ModelConfig& c = s.graph.config;
    return absl::StrCat(c.family, ", ", c.num_layers, " layers of ", c.hidden);
  });
  rows.Row("norms", [](const ComparedScan& s) {
    const ModelConfig& c = s.graph.config;
    return absl::StrCat(c.sandwich_norm ? "sandwich" : "before each branch", c.qk_norm ? ", QK-norm" : "");
  });
  rows.Row("windows",
           [](const ComparedScan& s) -> std::string { return s.bos() ? "behind BOS" : "without BOS"; });
  rows.Row("treatment", [](const ComparedScan& s) -> std::string {
    return s.map.treatment_needed ? "needed" : "not needed";
  });
}

std::string ChannelsText(const SpikeStage& stage) {
  std::vector<std::string> parts;
  for (size_t c = 0; c < std::min(stage.channels.size(), kMostChannels); ++c) {
    parts.push_back(absl::StrCat(stage.channels[c].channel));
  }
  if (stage.channels.size() > kMostChannels) {
    parts.push_back(absl::StrCat(stage.channels.size() - kMostChannels, " more"));
  }
  return absl::StrJoin(parts, ", ");
}

void StageRows(size_t index, Columns& rows) {
  const auto row = [&](const char* name,
                       const std::function<std::string(const ComparedScan&, const SpikeStage&)>& f) {
    rows.Row(name, [&](const ComparedScan& s) {
      return index < s.map.stages.size() ? f(s, s.map.stages[index]) : std::string();
    });
  };
  row("written, removed", [](const ComparedScan& s, const SpikeStage& stage) {
    const bool stays = stage.step_down >= s.map.num_layers;
    return absl::StrCat("layer ", stage.step_up, ", ",
                        stays ? "never" : absl::StrCat("layer ", stage.step_down));
  });
  row("height",
      [](const ComparedScan&, const SpikeStage& stage) { return absl::StrFormat("%.4g", stage.plateau); });
  row("channels", [](const ComparedScan&, const SpikeStage& stage) { return ChannelsText(stage); });
  row("first token spikes", [](const ComparedScan&, const SpikeStage& stage) {
    return absl::StrCat("in ", PercentText(stage.first_position_share), " of windows");
  });
  row("later tokens", [](const ComparedScan&, const SpikeStage& stage) {
    return absl::StrFormat("%.2g a window", stage.per_window);
  });
  row("of the vocabulary", [](const ComparedScan&, const SpikeStage& stage) {
    return stage.vocabulary_share < 0
               ? std::string()
               : absl::StrFormat("%.2f %% spikes when first", 100 * stage.vocabulary_share);
  });
  row("spike rows alike", [](const ComparedScan&, const SpikeStage& stage) {
    return absl::StrFormat("cosine %.4f", stage.near_constancy);
  });
}

void SinkRows(Columns& rows) {
  rows.Row("heads on it", [](const ComparedScan& s) { return PercentText(s.sinks().ratio); });
  rows.Row("  in random tokens", [](const ComparedScan& s) {
    return s.map.probes.made ? PercentText(s.map.probes.sink_ratio_random) : std::string();
  });
  rows.Row("  in one token repeated", [](const ComparedScan& s) {
    return s.map.probes.made ? PercentText(s.map.probes.sink_ratio_repeated) : std::string();
  });
  rows.Row("|value| there", [](const ComparedScan& s) {
    return absl::StrFormat("x %.2f", MedianOf(s.sinks().value_norm_ratio));
  });
  rows.Row("|key| there", [](const ComparedScan& s) {
    return absl::StrFormat("x %.2f", MedianOf(s.sinks().key_norm_ratio));
  });
  rows.Row("value varies by", [](const ComparedScan& s) {
    const SinkMap& sinks = s.sinks();
    return sinks.value_variation.empty()
               ? std::string()
               : absl::StrFormat("%.3f (elsewhere %.3f)", MedianOf(sinks.value_variation),
                                 MedianOf(sinks.other_value_variation));
  });
}

void RangeRows(Columns& rows) {
  rows.Row("residual's peak", [](const ComparedScan& s) {
    double peak = 0;
    for (const LayerLife& life : s.life()) peak = std::max(peak, life.top[0]);
    return absl::StrFormat("%.4g%s", peak, peak > 65504 ? ", beyond float16" : "");
  });
  rows.Row("excess kurtosis", [](const ComparedScan& s) {
    const LayerLife* tail = HeaviestTail(s.life());
    return tail == nullptr ? std::string()
                           : absl::StrFormat("%.4g after layer %d", tail->kurtosis, tail->layer);
  });
  const auto site = [](const ComparedScan& s, bool behind) {
    const SiteReport* widest = WidestSite(s.map, behind);
    if (widest == nullptr || (behind && s.map.prefix.empty())) return std::string();
    return absl::StrFormat("%s, x %.4g", s.graph.sites[static_cast<size_t>(widest->site)].name,
                           behind ? widest->score_prefix : widest->score);
  };
  rows.Row("widest input", [&](const ComparedScan& s) { return site(s, false); });
  rows.Row("  behind the prefix", [&](const ComparedScan& s) { return site(s, true); });
  rows.Row("super weights", [](const ComparedScan& s) { return absl::StrCat(s.map.super_weights.size()); });
}

// The folds, a mark a scan; what stands in the way below.
std::string FoldsText(const Scans& scans) {
  Columns rows(scans);
  std::vector<std::string> reasons;
  const auto note = [&](const std::string& reason) {
    const auto at = std::find(reasons.begin(), reasons.end(), reason);
    const auto index = at - reasons.begin();
    if (at == reasons.end()) reasons.push_back(reason);
    return index + 1;
  };
  for (size_t f = 0; f < scans.front().folds.size(); ++f) {
    const FoldLegality& fold = scans.front().folds[f];
    rows.Row(absl::StrCat(fold.fold, ": ", fold.what), [&](const ComparedScan& s) -> std::string {
      const FoldLegality& own = s.folds[f];
      if (!own.legal()) return absl::StrCat("no (", note(own.reason), ")");
      return own.exception.empty() ? "yes" : absl::StrCat("yes, but (", note(own.exception), ")");
    });
  }
  std::string text = rows.Text();
  for (size_t i = 0; i < reasons.size(); ++i) {
    absl::StrAppend(&text, "  (", i + 1, ") ", Wrap(reasons[i], 6, kWidth), "\n");
  }
  return text;
}

std::string AdviceText(const Scans& scans) {
  Columns rows(scans);
  for (size_t a = 0; a < scans.front().advice.size(); ++a) {
    rows.Row(scans.front().advice[a].scheme, [&](const ComparedScan& s) { return s.advice[a].options; });
  }
  return rows.Text();
}

std::string Text(const Scans& scans, const Console& console) {
  Columns models(scans);
  ModelRows(models);
  std::string text = models.Text();
  const auto section = [&](const std::string& heading, const std::string& table) {
    if (!table.empty()) absl::StrAppend(&text, "\n", console.Bold(heading), "\n", table);
  };
  size_t num_stages = 0;
  for (const ComparedScan& scan : scans) num_stages = std::max(num_stages, scan.map.stages.size());
  for (size_t i = 0; i < num_stages; ++i) {
    Columns stage(scans);
    StageRows(i, stage);
    section(absl::StrCat("Massive activations, stage ", i + 1), stage.Text());
  }
  Columns sinks(scans), ranges(scans);
  SinkRows(sinks);
  RangeRows(ranges);
  section("Attention sink at the first position", sinks.Text());
  section("Ranges", ranges.Text());
  section("Folds that the graph allows", FoldsText(scans));
  section("What quantize does by itself", AdviceText(scans));
  return text;
}

}  // namespace

absl::Status RunCompare(const CompareCommandOptions& options, Context& context) {
  if (options.scans.size() < 2) {
    return absl::InvalidArgumentError(
        absl::StrCat("SCAN: ", options.scans.size(), " given; at least two are compared"));
  }
  Scans scans;
  for (const std::string& directory : options.scans) {
    SF_ASSIGN_OR_RETURN(ComparedScan scan, LoadForComparison(directory));
    scans.push_back(std::move(scan));
  }
  Console& console = context.console;
  if (console.json()) return console.PrintJson(ComparisonToJson(scans));
  console.Print(Text(scans, console));
  return console.Flush();
}

}  // namespace spikefold
