#include "apps/report/scatter.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "absl/strings/str_cat.h"

namespace spikefold {
namespace {

constexpr double kHeight = 300, kLabelHeight = 15, kMarkRadius = 6;

Marker Shown(const Axis& axis, const ScatterPoint& point) {
  const int beyond = axis.Beyond(point.y);
  return beyond < 0 ? Marker::kDown : beyond > 0 ? Marker::kUp : point.marker;
}

Axis ValueAxis(const ScatterChart& chart) {
  std::vector<double> values;
  for (const ScatterPoint& p : chart.points) {
    values.push_back(p.y);
    // An error bar that reaches below zero would stretch the axis for nothing.
    if (p.y_low > 0.1 * p.y) values.push_back(p.y_low);
    values.push_back(p.y_high);
  }
  if (chart.floor > 0) values.push_back(chart.floor);
  return LogAxis(values);
}

void DrawFloor(Svg& svg, const Frame& frame, const ScatterChart& chart) {
  if (!(chart.floor > 0)) return;
  const double at = frame.y.At(chart.floor), right = frame.area.x + frame.area.width;
  svg.Line({frame.area.x, at}, {right, at}, "floor");
  svg.Text({frame.area.x + 4, at - 4}, Anchor::kStart, chart.floor_name, "note");
}

void DrawLabels(Svg& svg, const Frame& frame, const ScatterChart& chart, const std::vector<Point>& at) {
  std::vector<Point> occupied = at;
  if (chart.floor > 0) {  // its text
    for (double x = frame.area.x; x < frame.area.x + 4 + TextWidth(chart.floor_name); x += 10) {
      occupied.push_back({x, frame.y.At(chart.floor) - 8});
    }
  }
  LabelPlacer placer(frame.area, occupied);
  for (size_t i = 0; i < at.size(); ++i) {
    const double width = TextWidth(chart.points[i].label);
    const LabelPlacer::Place place = placer.Find(at[i], width);
    if (!place.found) continue;
    const Point middle = {place.box.x + place.box.width / 2, place.box.y + place.box.height / 2};
    if (place.far) {
      svg.Line(at[i],
               {std::clamp(at[i].x, place.box.x, place.box.x + place.box.width),
                std::clamp(at[i].y, place.box.y, place.box.y + place.box.height)},
               "leader");
    }
    const double x = place.anchor == Anchor::kStart ? place.box.x
                     : place.anchor == Anchor::kEnd ? place.box.x + width
                                                    : middle.x;
    svg.Text({x, place.box.y + 12}, place.anchor, chart.points[i].label, "label");
  }
}

}  // namespace

LabelPlacer::LabelPlacer(const Box& area, const std::vector<Point>& points) : area_(area) {
  for (const Point& p : points) {
    taken_.push_back({p.x - kMarkRadius, p.y - kMarkRadius, 2 * kMarkRadius, 2 * kMarkRadius});
  }
}
bool LabelPlacer::Free(const Box& box) const {
  return area_.Contains(box) &&
         std::none_of(taken_.begin(), taken_.end(), [&](const Box& b) { return b.Overlaps(box); });
}
LabelPlacer::Place LabelPlacer::Find(Point point, double width) {
  static constexpr std::array<Point, 8> kDirections = {
      {{1, 0}, {-1, 0}, {0, -1}, {0, 1}, {0.7, -0.7}, {0.7, 0.7}, {-0.7, -0.7}, {-0.7, 0.7}}};
  for (const double radius : {8.0, 16.0, 28.0, 42.0, 60.0}) {
    for (const Point& d : kDirections) {
      // The side of the box that faces the point lies at `radius`.
      const Point middle = {point.x + d.x * (radius + width / 2),
                            point.y + d.y * (radius + kLabelHeight / 2)};
      const Box box = {middle.x - width / 2, middle.y - kLabelHeight / 2, width, kLabelHeight};
      if (!Free(box)) continue;
      taken_.push_back(box);
      return {box, true, radius > 16, d.x > 0 ? Anchor::kStart : d.x < 0 ? Anchor::kEnd : Anchor::kMiddle};
    }
  }
  return {};
}

std::string DrawScatter(const ScatterChart& chart) {
  Svg svg(kHeight + LegendHeight(chart.legend), chart.title);
  std::vector<double> bits;
  for (const ScatterPoint& p : chart.points) bits.push_back(p.x);
  const Frame frame =
      DrawFrame(svg, LinearAxis(bits), ValueAxis(chart), {chart.x_name, chart.y_name}, kHeight);
  DrawFloor(svg, frame, chart);
  std::vector<Point> at;
  for (const ScatterPoint& p : chart.points) {
    at.push_back({frame.x.At(p.x), frame.y.At(p.y)});
    if (p.y_high > p.y_low) {
      const Point low = {at.back().x, frame.y.At(p.y_low)}, high = {at.back().x, frame.y.At(p.y_high)};
      svg.Line(low, high, absl::StrCat("bar c", p.colour));
    }
  }
  DrawLabels(svg, frame, chart, at);
  for (size_t i = 0; i < at.size(); ++i) {
    const ScatterPoint& p = chart.points[i];
    svg.Mark(at[i], Shown(frame.y, p), absl::StrCat("c", p.colour, " ", p.fill), p.tip);
  }
  DrawLegend(svg, kHeight, chart.legend);
  return svg.Finish();
}

}  // namespace spikefold
