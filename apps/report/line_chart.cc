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

constexpr double kEventLine = 14;

// The first free place for an event's text beside its line, in a strip above the curves.
Point PlaceEvent(const Frame& frame, const std::vector<Box>& taken, double x, double width) {
  for (int row = 0;; ++row) {
    for (const double left : {x + 3, x - 3 - width}) {
      const Box box = {left, frame.area.y + 1 + kEventLine * row, width, kEventLine - 1};
      const bool inside = left >= frame.area.x && left + width <= frame.area.x + frame.area.width;
      const bool free =
          std::none_of(taken.begin(), taken.end(), [&](const Box& b) { return b.Overlaps(box); });
      if (row > 8 || (inside && free)) return {box.x, box.y};
    }
  }
}

void DrawEvents(Svg& svg, const Frame& frame, const std::vector<LineChart::Event>& events) {
  std::vector<Box> taken;
  for (const LineChart::Event& event : events) {
    const double x = frame.x.At(event.x);
    svg.Line({x, frame.area.y}, {x, frame.area.y + frame.area.height}, "event");
    taken.push_back({x - 1, frame.area.y, 2, frame.area.height});
  }
  for (const LineChart::Event& event : events) {
    const double width = TextWidth(event.text);
    const Point at = PlaceEvent(frame, taken, frame.x.At(event.x), width);
    svg.Text({at.x, at.y + 10}, Anchor::kStart, event.text, "note");
    taken.push_back({at.x, at.y, width, kEventLine - 1});
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
  const double headroom = chart.events.empty() ? 0 : 2 * kEventLine;
  const Frame frame = DrawFrame(svg, x, LogAxis(ys), {chart.x_name, chart.y_name, headroom}, chart.height);
  DrawEvents(svg, frame, chart.events);
  for (const Curve& curve : chart.curves) DrawCurve(svg, frame, curve);
  DrawLegend(svg, chart.height, legend);
  return svg.Finish();
}

}  // namespace spikefold
