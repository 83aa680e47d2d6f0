#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "apps/report/decisions.h"
#include "apps/report/figures.h"
#include "apps/report/line_chart.h"
#include "apps/report/text.h"

namespace spikefold {
namespace {

constexpr double kSink =
    0.3;  // mean attention on position 0 from which a head counts as one that rests there

const LayerLife* Largest(const std::vector<LayerLife>& life) {
  const auto largest = std::max_element(
      life.begin(), life.end(), [](const LayerLife& a, const LayerLife& b) { return a.top[0] < b.top[0]; });
  return largest == life.end() ? nullptr : &*largest;
}

std::string LifeFinding(const OutlierMap& map, const std::vector<LayerLife>& life) {
  const LayerLife* largest = Largest(life);
  std::string text = absl::StrCat("The largest |h| is ", Significant(largest->top[0]), ", on channel ",
                                  largest->top_channel[0], " after layer ", largest->layer);
  if (largest->median > 0) {
    absl::StrAppend(&text, ", ", Significant(largest->top[0] / largest->median, 2), " times the median");
  }
  std::vector<std::string> stages;
  for (const SpikeStage& stage : map.stages) {
    stages.push_back(
        stage.step_down >= map.num_layers
            ? absl::StrCat("written at layer ", stage.step_up, " and never removed")
            : absl::StrCat("written at layer ", stage.step_up, ", removed at layer ", stage.step_down));
  }
  return absl::StrCat(text, stages.empty() ? ". No spike is written and carried." : ". Spikes: ",
                      absl::StrJoin(stages, "; "), stages.empty() ? "" : ".");
}

// "layers.11.down_in" -> 11; a site outside the blocks -> -1
int SiteLayer(const std::string& name) {
  const size_t dot = name.find('.');
  return dot == std::string::npos ? -1 : std::atoi(name.c_str() + dot + 1);
}

const char* KindWords(const std::string& kind) {
  if (kind == "attn_in") return "input of q, k, v";
  if (kind == "ctx") return "input of o";
  if (kind == "ffn_in") return "input of gate, up";
  if (kind == "down_in") return "input of down";
  return "";
}

Figure RangesOfKind(const ReportScan& scan, const std::string& kind,
                    const std::vector<const SiteReport*>& sites) {
  const bool prefix = !scan.map.prefix.empty();
  Curve plain{.name = "largest |x|", .colour = 1},
      behind{.name = "largest |x| behind the prefix", .colour = 0},
      typical{.name = "median row peak", .colour = 5, .dashed = true};
  const SiteReport* worst = sites.front();
  for (const SiteReport* site : sites) {
    const double layer = SiteLayer(SiteName(scan, *site));
    plain.points.push_back({layer, site->absmax});
    behind.points.push_back({layer, site->absmax_prefix});
    typical.points.push_back({layer, site->median_peak});
    if (site->score > worst->score) worst = site;
  }
  LineChart chart{
      .title = absl::StrCat("Range of ", kind), .x_name = "layer", .y_name = "|x|", .height = 220};
  if (*KindWords(kind) != 0) absl::StrAppend(&chart.title, " (", KindWords(kind), ")");
  chart.curves.push_back(std::move(plain));
  if (prefix) chart.curves.push_back(std::move(behind));
  chart.curves.push_back(std::move(typical));
  std::string finding = absl::StrCat("Worst: ", SiteName(scan, *worst), ", whose largest row stands ",
                                     Significant(worst->score), " times above an ordinary row");
  if (prefix) absl::StrAppend(&finding, ", ", Significant(worst->score_prefix), " times behind the prefix");
  return {chart.title, DrawLines(chart), finding + "."};
}

}  // namespace

std::optional<Figure> SpikeLife(const OutlierMap& map, bool bos) {
  const std::vector<LayerLife>& life = bos ? map.life_bos : map.life_plain;
  if (life.empty()) return std::nullopt;
  LineChart chart{.title = absl::StrCat("Life of the spike", bos ? ", windows that begin with BOS" : ""),
                  .x_name = "after layer (-1: embedding)",
                  .y_name = "|h| of the residual"};
  static constexpr const char* kNames[] = {"largest", "second", "third"};
  static constexpr int kColours[] = {1, 3, 2};
  for (int i = 0; i < 3; ++i) {
    Curve curve{.name = kNames[i], .colour = kColours[i]};
    for (const LayerLife& l : life) curve.points.push_back({static_cast<double>(l.layer), l.top[i]});
    chart.curves.push_back(std::move(curve));
  }
  Curve median{.name = "median", .colour = 5, .dashed = true};
  for (const LayerLife& l : life) median.points.push_back({static_cast<double>(l.layer), l.median});
  chart.curves.push_back(std::move(median));
  for (const SpikeStage& stage : map.stages) {
    chart.events.push_back({static_cast<double>(stage.step_up), absl::StrCat("up ", stage.step_up)});
    if (stage.step_down >= map.num_layers) continue;
    chart.events.push_back({static_cast<double>(stage.step_down), absl::StrCat("down ", stage.step_down)});
  }
  std::string finding = LifeFinding(map, life);
  return Figure{chart.title, DrawLines(chart), std::move(finding)};
}

std::optional<Figure> Sinks(const OutlierMap& map, bool bos) {
  const SinkMap& sinks = bos ? map.sinks_bos : map.sinks_plain;
  constexpr size_t kMaxCells = 1 << 16;
  const size_t cells = static_cast<size_t>(sinks.num_layers * sinks.num_heads);
  if (sinks.mass.size() != cells || cells == 0 || cells > kMaxCells) return std::nullopt;
  HeatMap heat{.title = absl::StrCat("Attention on position 0", bos ? ", windows that begin with BOS" : ""),
               .row_name = "head",
               .column_name = "layer"};
  for (int64_t h = 0; h < sinks.num_heads; ++h) heat.rows.push_back(absl::StrCat(h));
  for (int64_t l = 0; l < sinks.num_layers; ++l) heat.columns.push_back(absl::StrCat(l));
  for (int64_t h = 0; h < sinks.num_heads; ++h) {
    for (int64_t l = 0; l < sinks.num_layers; ++l) {
      heat.values.push_back(sinks.mass[static_cast<size_t>(l * sinks.num_heads + h)]);
    }
  }
  heat.unit = "mean share, T = 64";
  std::string finding = absl::StrCat("In ", Percent(sinks.ratio, 0), " of the (layer, head) pairs more than ",
                                     kSink, " of the attention rests on position 0.");
  std::vector<double> values = sinks.value_norm_ratio;
  if (!values.empty()) {
    std::sort(values.begin(), values.end());
    absl::StrAppend(&finding, " Its value vectors are ", Significant(values[values.size() / 2], 2),
                    " times as long as those of other positions (median over layers).");
  }
  return Figure{heat.title, DrawHeatMap(heat), std::move(finding)};
}

std::vector<Figure> SiteRanges(const ReportScan& scan) {
  std::vector<std::string> order;
  std::map<std::string, std::vector<const SiteReport*>> kinds;
  for (const SiteReport& site : scan.map.sites) {
    const std::string name = SiteName(scan, site);
    if (SiteLayer(name) < 0) continue;  // the head's input is one number, and stands in the table
    if (kinds[SiteKind(name)].empty()) order.push_back(SiteKind(name));
    kinds[SiteKind(name)].push_back(&site);
  }
  constexpr size_t kMaxKinds = 8;
  std::vector<Figure> out;
  for (size_t i = 0; i < std::min(order.size(), kMaxKinds); ++i) {
    out.push_back(RangesOfKind(scan, order[i], kinds.at(order[i])));
  }
  return out;
}

}  // namespace spikefold
