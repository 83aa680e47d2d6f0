#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "apps/report/line_chart.h"
#include "apps/report/text.h"

namespace spikefold {
namespace {

constexpr int kShades = 10;                 // classes h0 ... h9
constexpr size_t kMaxCellsWithTips = 2000;  // a tip costs 60 bytes
constexpr size_t kMaxRowCharacters = 16;    // so that the cells keep most of the width
constexpr double kLegendHeight = 40;

int Shade(const HeatMap& map, double value) {
  double share = map.log ? std::log(std::max(value, 1e-300) / map.low) / std::log(map.high / map.low)
                         : (value - map.low) / (map.high - map.low);
  share = std::min(std::max(share, 0.0), 1.0);
  return std::min(static_cast<int>(share * kShades), kShades - 1);
}

double LowerEnd(const HeatMap& map, int shade) {
  const double share = static_cast<double>(shade) / kShades;
  return map.log ? map.low * std::pow(map.high / map.low, share) : map.low + share * (map.high - map.low);
}

Box CellBox(const HeatMap& map, const Box& area, size_t row, size_t column) {
  const double width = area.width / static_cast<double>(map.columns.size());
  const double height = area.height / static_cast<double>(map.rows.size());
  return {area.x + width * static_cast<double>(column), area.y + height * static_cast<double>(row), width,
          height};
}

std::string ShadeClass(const HeatMap& map, double value) {
  return std::isnan(value) ? "none" : absl::StrCat("h", Shade(map, value));
}

void DrawCells(Svg& svg, const HeatMap& map, const Box& area) {
  for (size_t r = 0; r < map.rows.size(); ++r) {
    for (size_t c = 0; c < map.columns.size(); ++c) {
      const double value = map.values[r * map.columns.size() + c];
      const std::string tip =
          absl::StrCat(map.row_name, " ", map.rows[r], ", ", map.column_name, " ", map.columns[c], ": ",
                       std::isnan(value) ? "not measured" : Significant(value));
      svg.Rect(CellBox(map, area, r, c), ShadeClass(map, value), tip);
    }
  }
}

// Without tips: equal neighbours in a row become one rectangle.
void DrawRuns(Svg& svg, const HeatMap& map, const Box& area) {
  for (size_t r = 0; r < map.rows.size(); ++r) {
    for (size_t c = 0; c < map.columns.size();) {
      const std::string shade = ShadeClass(map, map.values[r * map.columns.size() + c]);
      size_t end = c + 1;
      while (end < map.columns.size() && ShadeClass(map, map.values[r * map.columns.size() + end]) == shade)
        ++end;
      Box box = CellBox(map, area, r, c);
      box.width *= static_cast<double>(end - c);
      svg.Rect(box, shade);
      c = end;
    }
  }
}

void DrawLabels(Svg& svg, const HeatMap& map, const Box& area) {
  const double width = area.width / static_cast<double>(map.columns.size());
  const double height = area.height / static_cast<double>(map.rows.size());
  const size_t row_step = static_cast<size_t>(std::ceil(13 / height));
  for (size_t r = 0; r < map.rows.size(); r += row_step) {
    svg.Text({area.x - 4, area.y + height * (static_cast<double>(r) + 0.5) + 4}, Anchor::kEnd, map.rows[r],
             "tick");
  }
  size_t column_step = static_cast<size_t>(std::ceil(24 / width));
  if (column_step > 2) column_step = (column_step + 4) / 5 * 5;
  for (size_t c = 0; c < map.columns.size(); c += column_step) {
    svg.Text({area.x + width * (static_cast<double>(c) + 0.5), area.y + area.height + 15}, Anchor::kMiddle,
             map.columns[c], "tick");
  }
  svg.Text({4, 14}, Anchor::kStart, map.row_name, "name");
  svg.Text({area.x + area.width, area.y + area.height + 31}, Anchor::kEnd, map.column_name, "name");
}

void DrawShades(Svg& svg, const HeatMap& map, double left, double top) {
  const double width = 24;
  for (int s = 0; s < kShades; ++s) {
    svg.Rect({left + width * s, top, width, 10}, absl::StrCat("h", s),
             absl::StrCat("from ", Significant(LowerEnd(map, s), 2)));
  }
  svg.Text({left, top + 23}, Anchor::kStart, Significant(map.low, 2), "tick");
  svg.Text({left + width * kShades, top + 23}, Anchor::kEnd, Significant(map.high, 2), "tick");
  svg.Text({left + width * kShades + 8, top + 10}, Anchor::kStart, map.unit, "tick");
}

}  // namespace

std::string DrawHeatMap(const HeatMap& whole) {
  HeatMap map = whole;
  for (std::string& row : map.rows) row = Shortened(row, kMaxRowCharacters);
  double label = 0;
  for (const std::string& row : map.rows) label = std::max(label, TextWidth(row));
  const double row_height = std::clamp(240.0 / static_cast<double>(map.rows.size()), 5.0, 22.0);
  const Box area = {label + 14, 22, kSvgWidth - label - 14 - 8,
                    row_height * static_cast<double>(map.rows.size())};
  const double bottom = area.y + area.height + 40;
  Svg svg(bottom + kLegendHeight, map.title);
  if (!map.values.empty() && map.values.size() == map.rows.size() * map.columns.size()) {
    map.values.size() <= kMaxCellsWithTips ? DrawCells(svg, map, area) : DrawRuns(svg, map, area);
    DrawLabels(svg, map, area);
  }
  DrawShades(svg, map, area.x, bottom);
  return svg.Finish();
}

}  // namespace spikefold
