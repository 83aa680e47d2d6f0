#include "apps/report/figures.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <limits>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "apps/report/decisions.h"
#include "apps/report/line_chart.h"
#include "apps/report/scatter.h"
#include "apps/report/text.h"

namespace spikefold {
namespace {

constexpr size_t kMaxNamedPoints = 10;  // more are numbered
constexpr size_t kMaxLabelCharacters = 26;
constexpr size_t kMaxCurves = 6;
constexpr std::array<Marker, 3> kMarkers = {Marker::kCircle, Marker::kTriangle, Marker::kSquare};
constexpr char kBeyondWords[] = "Arrows stand for values beyond the axis (zero, or not finite).";

std::string Label(const Configuration& c, size_t count) {
  return count > kMaxNamedPoints ? absl::StrCat(c.number) : Shortened(c.name, kMaxLabelCharacters);
}

std::string Tip(const Configuration& c) {
  const EvalResult& r = c.eval->result;
  return absl::StrCat(c.number, ". ", c.name, ": KLD ", PlusMinus(r.kld_mean, r.kld_se), ", perplexity × ",
                      PlusMinus(r.ppl_ratio, r.ppl_ratio_se), ", ", Significant(c.eval->bits_linear),
                      " bits a decoder weight, ", Significant(c.eval->bits_total), " in all",
                      c.pareto ? ", Pareto" : "");
}

// Shape and colour: float, scales found at run time, static ones.
size_t SeriesOf(const ActivationFormat& format) { return format.is_float() ? 0 : format.is_static() ? 2 : 1; }

// Activations that occur, and what full and hollow mean.
std::vector<LegendItem> ScatterLegend(const Findings& findings) {
  std::vector<LegendItem> items;
  for (size_t series = 0; series < kMarkers.size(); ++series) {
    std::set<std::string> formats;
    for (const Configuration& c : findings.configurations) {
      if (SeriesOf(c.activations) == series) formats.insert(FormatText(c.activations));
    }
    for (const std::string& format : formats) {
      items.push_back({.text = absl::StrCat("activations ", format),
                       .css = absl::StrCat("c", series, " full"),
                       .marker = kMarkers[series]});
    }
  }
  items.push_back({.text = "Pareto set", .css = "c5 full"});
  items.push_back({.text = "dominated", .css = "c5 hollow"});
  const bool others = std::any_of(findings.configurations.begin(), findings.configurations.end(),
                                  [](const Configuration& c) { return !c.comparable(); });
  if (others) items.push_back({.text = "not comparable", .css = "c5 apart"});
  return items;
}

struct Measure {
  std::function<double(const Configuration&)> x, y, error;
};
ScatterChart Scatter(const Findings& findings, const Measure& measure) {
  ScatterChart chart;
  for (const Configuration& c : findings.configurations) {
    const double y = measure.y(c), error = measure.error(c);
    ScatterPoint p{.label = Label(c, findings.configurations.size()), .tip = Tip(c)};
    p.x = measure.x(c);
    p.y = y;
    p.y_low = p.y_high = y;
    if (std::isfinite(y) && std::isfinite(error)) {
      p.y_low = y - error;
      p.y_high = y + error;
    }
    p.marker = kMarkers[SeriesOf(c.activations)];
    p.colour = static_cast<int>(SeriesOf(c.activations));
    p.fill = !c.comparable() ? "apart" : c.pareto ? "full" : "hollow";
    chart.points.push_back(std::move(p));
  }
  chart.legend = ScatterLegend(findings);
  return chart;
}

std::string ParetoWords(const Findings& findings) {
  // Many configurations go by their numbers, here as in the drawing.
  const bool numbers = findings.configurations.size() > kMaxNamedPoints;
  const auto called = [&](const Configuration& c) { return numbers ? absl::StrCat(c.number) : c.name; };
  std::vector<std::string> pareto, dominated;
  for (const Configuration& c : findings.configurations) {
    if (c.pareto) pareto.push_back(called(c));
    if (c.dominated_by == 0) continue;
    dominated.push_back(absl::StrCat(called(c), " (by ", called(findings.at(c.dominated_by)), ")"));
  }
  std::string text = pareto.empty() ? "No configuration is in the Pareto set."
                                    : absl::StrCat("Pareto set: ", absl::StrJoin(pareto, ", "), ".");
  if (!dominated.empty()) absl::StrAppend(&text, " Dominated: ", absl::StrJoin(dominated, ", "), ".");
  if (numbers) text += " Numbers are those of the table.";
  return text;
}

bool AnyBeyond(const ScatterChart& chart) {
  return std::any_of(chart.points.begin(), chart.points.end(),
                     [](const ScatterPoint& p) { return !(p.y > 0) || !std::isfinite(p.y); });
}

Figure Finish(const ScatterChart& chart, std::string finding) {
  if (AnyBeyond(chart)) absl::StrAppend(&finding, " ", kBeyondWords);
  return {chart.title, DrawScatter(chart), std::move(finding)};
}

Figure KldOver(const Findings& findings, const char* title, const char* x_name,
               const std::function<double(const Configuration&)>& bits) {
  ScatterChart chart =
      Scatter(findings, {bits, [](const Configuration& c) { return c.eval->result.kld_mean; },
                         [](const Configuration& c) { return c.eval->result.kld_se; }});
  chart.title = title;
  chart.x_name = x_name;
  chart.y_name = "mean KLD to the float model, nats (± SE)";
  chart.floor = findings.noise_floor;
  chart.floor_name = "noise floor of 16-bit arithmetic";
  return Finish(chart, ParetoWords(findings));
}

}  // namespace

Figure KldOverBits(const Findings& findings) {
  return KldOver(findings, "KLD over bits of the decoder", "stored bits a decoder weight",
                 [](const Configuration& c) { return c.eval->bits_linear; });
}
Figure KldOverTotalBits(const Findings& findings) {
  return KldOver(findings, "KLD over bits of all weights",
                 "stored bits a weight, embedding and head included",
                 [](const Configuration& c) { return c.eval->bits_total; });
}

Figure RatioOverBits(const Findings& findings) {
  ScatterChart chart =
      Scatter(findings, {[](const Configuration& c) { return c.eval->bits_linear; },
                         [](const Configuration& c) { return 100 * (c.eval->result.ppl_ratio - 1); },
                         [](const Configuration& c) { return 100 * c.eval->result.ppl_ratio_se; }});
  chart.title = "Perplexity over bits of the decoder";
  chart.x_name = "stored bits a decoder weight";
  chart.y_name = "perplexity above the float model, % (paired, ± SE)";
  const Configuration* worst = nullptr;
  for (const Configuration& c : findings.configurations) {
    if (!c.comparable()) continue;
    const double ratio = c.eval->result.ppl_ratio;
    if (worst == nullptr || !(ratio <= worst->eval->result.ppl_ratio)) worst = &c;
  }
  std::string finding =
      "Paired with the reference on the same tokens, so the error bars are those of the ratio.";
  if (worst != nullptr && findings.configurations.size() > 1) {
    absl::StrAppend(&finding, " Largest: ", worst->name, ", × ",
                    PlusMinus(worst->eval->result.ppl_ratio, worst->eval->result.ppl_ratio_se), ".");
  }
  return Finish(chart, finding);
}

Figure KldByPosition(const Findings& findings) {
  // Pareto members first: with many configurations the others are left out.
  std::vector<const Configuration*> shown;
  for (const bool pareto : {true, false}) {
    for (const Configuration& c : findings.configurations) {
      const bool fits = c.pareto == pareto && c.comparable() && c.grade != Grade::kReference;
      if (fits && shown.size() < kMaxCurves && !c.eval->result.kld_by_position.empty()) shown.push_back(&c);
    }
  }
  LineChart chart{.title = "KLD by position in the window",
                  .x_name = "position in the scored part of a window, tokens",
                  .y_name = "mean KLD, nats"};
  std::vector<std::string> words;
  for (const Configuration* c : shown) {
    const std::vector<double>& kld = c->eval->result.kld_by_position;
    const EvalResult& r = c->eval->result;
    const double tokens =
        r.num_windows > 0 ? static_cast<double>(r.num_scored) / static_cast<double>(r.num_windows) : 1;
    const double bucket = tokens / static_cast<double>(kld.size());
    Curve curve{
        .name = Shortened(c->name, 30), .colour = static_cast<int>(chart.curves.size()), .dots = true};
    curve.dashed = chart.curves.size() % 2 == 1;
    for (size_t i = 0; i < kld.size(); ++i) {
      curve.points.push_back({bucket * (static_cast<double>(i) + 0.5), kld[i]});
    }
    chart.curves.push_back(std::move(curve));
    if (kld.size() > 1 && kld.front() > 0) {
      words.push_back(absl::StrCat(c->name, " × ", Significant(kld.back() / kld.front(), 2)));
    }
  }
  std::string finding = words.empty()
                            ? "No KLD by position was measured."
                            : absl::StrCat("From the first to the last eighth of a window the KLD changes: ",
                                           absl::StrJoin(words, ", "), ".");
  if (shown.size() < findings.configurations.size() && !shown.empty()) {
    absl::StrAppend(&finding, " Shown are ", shown.size(), " of ", findings.configurations.size(),
                    ", members of the Pareto set first.");
  }
  return {chart.title, DrawLines(chart), finding};
}

std::optional<Figure> RoundingErrors(const Configuration& configuration) {
  const std::vector<LinearDecision>& linears = configuration.eval->linears;
  int layers = 0;
  std::vector<std::string> roles;
  double low = std::numeric_limits<double>::infinity(), high = 0;
  for (const LinearDecision& d : linears) {
    if (d.layer < 0) continue;
    layers = std::max(layers, d.layer + 1);
    if (std::find(roles.begin(), roles.end(), d.role) == roles.end()) roles.push_back(d.role);
    if (!(d.weight_error > 0)) continue;
    low = std::min(low, d.weight_error);
    high = std::max(high, d.weight_error);
  }
  if (!(high > 0) || layers > 1024) return std::nullopt;
  HeatMap map{.title = absl::StrCat("Rounding errors of ", configuration.name),
              .row_name = "role",
              .column_name = "layer",
              .rows = roles};
  for (int l = 0; l < layers; ++l) map.columns.push_back(absl::StrCat(l));
  map.values.assign(roles.size() * map.columns.size(), std::nan(""));
  for (const LinearDecision& d : linears) {
    if (d.layer < 0 || d.weight_error < 0) continue;
    const auto role = std::find(roles.begin(), roles.end(), d.role) - roles.begin();
    map.values[static_cast<size_t>(role) * map.columns.size() + static_cast<size_t>(d.layer)] =
        d.weight_error;
  }
  map.log = true;
  map.low = low;
  map.high = high > low ? high : 2 * low;
  map.unit = "relative error";
  const LinearDecision* worst = WorstTensors(linears, 1).front();
  return Figure{map.title, DrawHeatMap(map),
                absl::StrCat("Rounding the weights alone changes the output of ", worst->module,
                             " most: ", Percent(worst->weight_error, 2), " of its size (root mean square).")};
}

}  // namespace spikefold
