// Curves over layers or positions.
#pragma once

#include <string>
#include <vector>

#include "apps/report/svg.h"

namespace spikefold {

struct Curve {
  std::string name;
  int colour = 0;
  bool dashed = false, dots = false;
  std::vector<Point> points;  // values; what is not finite breaks the curve
};
struct LineChart {
  std::string title, x_name, y_name;
  std::vector<Curve> curves;
  struct Event {  // a vertical line
    double x = 0;
    std::string text;
  };
  std::vector<Event> events;
  double height = 260;
};
std::string DrawLines(const LineChart& chart);  // logarithmic y

// Values of a matrix as shades: rows from top to bottom.
struct HeatMap {
  std::string title, row_name, column_name;
  std::vector<std::string> rows, columns;
  std::vector<double> values;  // [rows, columns]; not a number: no value
  double low = 0, high = 1;    // of the shades
  bool log = false;
  std::string unit;  // of the legend
};
std::string DrawHeatMap(const HeatMap& map);

}  // namespace spikefold
