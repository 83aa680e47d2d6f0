// Configurations as labelled points: something logarithmic over bits.
#pragma once

#include <string>
#include <vector>

#include "apps/report/svg.h"

namespace spikefold {

struct ScatterPoint {
  std::string label, tip;
  double x = 0, y = 0;
  double y_low = 0, y_high = 0;  // error bar; equal: none
  Marker marker = Marker::kCircle;
  int colour = 0;
  const char* fill = "full";  // "full", "hollow", "apart"
};
struct ScatterChart {
  std::string title, x_name, y_name;
  std::vector<ScatterPoint> points;
  std::vector<LegendItem> legend;
  double floor = 0;  // > 0: a line with floor_name on it
  std::string floor_name;
};
// A point beyond an axis (0, infinite, not a number) becomes an arrow on the edge. A label takes the first
// free place around its point and is left out where there is none; its tip remains.
std::string DrawScatter(const ScatterChart& chart);

// Places text boxes around points so that they neither overlap each other, nor points, nor leave `area`.
class LabelPlacer {
 public:
  LabelPlacer(const Box& area, const std::vector<Point>& points);
  struct Place {
    Box box;
    bool found = false, far = false;  // far: wants a line to its point
    Anchor anchor =
        Anchor::kMiddle;  // the side that faces the point, so that the text's true width matters little
  };
  Place Find(Point point, double width);

 private:
  bool Free(const Box& box) const;
  const Box area_;
  std::vector<Box> taken_;
};

}  // namespace spikefold
