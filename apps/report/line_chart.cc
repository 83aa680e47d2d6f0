#include "apps/report/line_chart.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "apps/report/text.h"

namespace spikefold {
namespace {

void DrawCurve(Svg& svg, const Frame& frame, const Curve& curve) {
  const std::string css = absl::StrCat("line c", curve.colour, curve.dashed ? " dashed" : "");
  std::vector<Point> run;
  for (const Point& p : curve.points) {
    if (!std::isfinite(p.y)) {
      svg.Polyline(run, css);
      run.clear();
      continue;
    }
    run.push_back({frame.x.At(p.x), frame.y.At(p.y)});
    if (!curve.dots) continue;
    svg.Mark(run.back(), Marker::kCircle, absl::StrCat("dot c", curve.colour, " full"),
             absl::StrCat(curve.name, ": ", Significant(p.y)));
  }
  svg.Polyline(run, css);
}

// Events are numbered from left to right on alternating heights, so that close ones stay readable.
void DrawEvents(Svg& svg, const Frame& frame, const std::vector<LineChart::Event>& events) {
  const Box& area = frame.area;
  std::vector<Box> taken;
  for (const LineChart::Event& event : events) {
    const double x = frame.x.At(event.x), width = TextWidth(event.text);
    svg.Line({x, area.y}, {x, area.y + area.height}, "event");
    const double left = x + 3 + width > area.x + area.width ? x - 3 - width : x + 3;
    Box box = {left, area.y + 2, width, 14};
    while (std::any_of(taken.begin(), taken.end(), [&](const Box& b) { return b.Overlaps(box); })) {
      box.y += 15;
    }
    if (box.y + box.height > area.y + area.height) continue;
    svg.Text({box.x, box.y + 11}, Anchor::kStart, event.text, "note");
    taken.push_back(box);
  }
}

}  // namespace

std::string DrawLines(const LineChart& chart) {
  std::vector<LegendItem> legend;
  std::vector<double> xs, ys;
  for (const Curve& curve : chart.curves) {
    const std::string css = absl::StrCat("line c", curve.colour, curve.dashed ? " dashed" : "");
    if (chart.curves.size() > 1) legend.push_back({.text = curve.name, .css = css, .line = true});
    for (const Point& p : curve.points) {
      xs.push_back(p.x);
      ys.push_back(p.y);
    }
  }
  Svg svg(chart.height + LegendHeight(legend), chart.title);
  Axis x = LinearAxis(xs);
  if (!xs.empty())
    x = {.low = *std::min_element(xs.begin(), xs.end()), .high = *std::max_element(xs.begin(), xs.end())};
  if (!(x.high > x.low)) x.high = x.low + 1;
  const Frame frame = DrawFrame(svg, x, LogAxis(ys), {chart.x_name, chart.y_name}, chart.height);
  DrawEvents(svg, frame, chart.events);
  for (const Curve& curve : chart.curves) DrawCurve(svg, frame, curve);
  DrawLegend(svg, chart.height, legend);
  return svg.Finish();
}

}  // namespace spikefold
