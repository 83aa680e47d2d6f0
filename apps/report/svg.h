// Inline SVG: shapes, axes and their ticks, placed in a box of fixed width. Colours and fonts are classes of
// the page's style sheet, so that one drawing serves light and dark.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace spikefold {

inline constexpr double kSvgWidth = 410;  // small enough for a telephone to show its 12-pixel text
inline constexpr double kSvgTextSize = 12;
inline constexpr int kNumColours = 6;  // classes c0 ... c5

struct Point {
  double x = 0, y = 0;
};
struct Box {
  double x = 0, y = 0, width = 0, height = 0;
  bool Overlaps(const Box& other) const;
  bool Contains(const Box& other) const;
};
// An estimate on the wide side: the font is the reader's.
double TextWidth(absl::string_view utf8);

enum class Anchor { kStart, kMiddle, kEnd };
enum class Marker { kCircle, kTriangle, kSquare, kDiamond, kUp, kDown };  // the last two: beyond an axis

class Svg {
 public:
  // `label` is what a screen reader says. Not escaped yet, as all texts given to this class.
  Svg(double height, absl::string_view label);
  void Line(Point a, Point b, absl::string_view css);
  void Rect(const Box& box, absl::string_view css, absl::string_view tip = "");
  void Text(Point at, Anchor anchor, absl::string_view text, absl::string_view css = "");
  void Polyline(const std::vector<Point>& points, absl::string_view css);
  // A shape of radius 5 with a tooltip. `css`: "c0 full" or "c0 hollow".
  void Mark(Point at, Marker marker, absl::string_view css, absl::string_view tip);
  std::string Finish();

 private:
  std::string out_;
};

// A value's way to a pixel. Values outside (0 and less on a logarithmic axis, infinite ones) land on the
// nearer end, not a number on the high one.
struct Axis {
  bool log = false;
  double low = 0, high = 1;  // values
  double from = 0, to = 1;   // pixels of low and high
  double At(double value) const;
  int Beyond(double value) const;  // -1, 0, 1
  struct Tick {
    double value;
    std::string label;
  };
  std::vector<Tick> Ticks() const;
};
// Axes around the values that they can show; never empty.
Axis LinearAxis(const std::vector<double>& values);
Axis LogAxis(const std::vector<double>& values);  // at most 12 decades: the smallest values end on the edge

// Plot area with grid, ticks and axis titles. The value axes get their pixels here.
struct Frame {
  Box area;
  Axis x, y;
};
struct FrameText {
  std::string x, y;     // axis titles with units
  double headroom = 0;  // pixels above the highest value
};
Frame DrawFrame(Svg& svg, Axis x, Axis y, const FrameText& text, double height);

struct LegendItem {
  std::string text, css;
  bool line = false;
  Marker marker = Marker::kCircle;
};
// Height that the items take in lines of 18 pixels.
double LegendHeight(const std::vector<LegendItem>& items);
void DrawLegend(Svg& svg, double top, const std::vector<LegendItem>& items);

}  // namespace spikefold
