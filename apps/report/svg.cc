#include "apps/report/svg.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "apps/report/text.h"
#include "formats/base/utf8.h"

namespace spikefold {
namespace {

constexpr double kMaxDecades = 12;

// Coordinates with one decimal: 0.1 pixel.
std::string Px(double v) {
  std::string text = absl::StrFormat("%.1f", v);
  if (text.size() > 2 && text.compare(text.size() - 2, 2, ".0") == 0) text.resize(text.size() - 2);
  return text == "-0" ? "0" : text;
}

std::string Css(absl::string_view css) { return css.empty() ? "" : absl::StrCat(" class=\"", css, "\""); }

const char* Shape(Marker marker) {
  switch (marker) {
    case Marker::kCircle:
      return "<circle r=\"5\"/>";
    case Marker::kTriangle:
      return "<path d=\"M0-6 5.5 4.5-5.5 4.5z\"/>";
    case Marker::kSquare:
      return "<path d=\"M-4.5-4.5h9v9h-9z\"/>";
    case Marker::kDiamond:
      return "<path d=\"M0-6 6 0 0 6-6 0z\"/>";
    case Marker::kUp:
      return "<path d=\"M0-7 5 0H2V6H-2V0H-5z\"/>";
    case Marker::kDown:
      return "<path d=\"M0 7 5 0H2V-6H-2V0H-5z\"/>";
  }
  return "";
}

std::string TickLabel(double v) {
  const double magnitude = std::fabs(v);
  if (v != 0 && (magnitude < 0.999e-3 || magnitude >= 1e5)) {
    return absl::StrFormat("1e%d", static_cast<int>(std::lround(std::log10(magnitude))));
  }
  return absl::StrFormat("%g", v);
}

// The largest of 1, 2, 5 times a power of ten that is not above v; the smallest not below.
double StepBelow(double v) {
  const double decade = std::pow(10, std::floor(std::log10(v)));
  const double lead = v / decade;
  return decade * (lead >= 5 ? 5 : lead >= 2 ? 2 : 1);
}
double StepAbove(double v) {
  const double below = StepBelow(v);
  if (below >= v * (1 - 1e-9)) return below;
  const double decade = std::pow(10, std::floor(std::log10(v)));
  const double lead = below / decade;
  return decade * (lead < 1.5 ? 2 : lead < 3 ? 5 : 10);
}

std::vector<Axis::Tick> LogTicks(const Axis& axis) {
  std::vector<Axis::Tick> out;
  const double decades = std::log10(axis.high / axis.low);
  const int every = decades > 7 ? 2 : 1;
  const int first = static_cast<int>(std::floor(std::log10(axis.low)));
  const int last = static_cast<int>(std::ceil(std::log10(axis.high)));
  for (int e = first; e <= last; ++e) {
    for (const double lead : {1.0, 2.0, 5.0}) {
      const bool wanted = decades <= 2.5 || (lead == 1 && (e - first) % every == 0);
      const double value = lead * std::pow(10, e);
      const bool inside = value >= axis.low * (1 - 1e-9) && value <= axis.high * (1 + 1e-9);
      // 2e-4 has no short label
      if (wanted && inside) out.push_back({value, lead == 1 || value >= 1e-3 ? TickLabel(value) : ""});
    }
  }
  return out;
}

std::vector<Axis::Tick> LinearTicks(const Axis& axis) {
  std::vector<Axis::Tick> out;
  double step = StepAbove((axis.high - axis.low) / 6);
  for (double v = std::ceil(axis.low / step - 1e-9) * step; v <= axis.high + step * 1e-6; v += step) {
    out.push_back({v, TickLabel(std::fabs(v) < step * 1e-6 ? 0 : v)});
  }
  return out;
}

}  // namespace

bool Box::Overlaps(const Box& other) const {
  return x < other.x + other.width && other.x < x + width && y < other.y + other.height &&
         other.y < y + height;
}
bool Box::Contains(const Box& other) const {
  return other.x >= x && other.y >= y && other.x + other.width <= x + width &&
         other.y + other.height <= y + height;
}

double TextWidth(absl::string_view utf8) {
  double width = 0;
  while (!utf8.empty()) {
    const Utf8Char c = NextUtf8(utf8);
    width += c.code >= 0x1100 ? 1.0 : c.code >= 'A' && c.code <= 'Z' ? 0.72 : 0.6;
    utf8.remove_prefix(c.bytes);
  }
  return width * kSvgTextSize;
}

Svg::Svg(double height, absl::string_view label) {
  out_ = absl::StrCat("<svg viewBox=\"0 0 ", Px(kSvgWidth), " ", Px(height), "\" role=\"img\" aria-label=\"",
                      Html(label), "\">");
}
void Svg::Line(Point a, Point b, absl::string_view css) {
  absl::StrAppend(&out_, "<path d=\"M", Px(a.x), " ", Px(a.y), "L", Px(b.x), " ", Px(b.y), "\"", Css(css),
                  "/>");
}
void Svg::Rect(const Box& box, absl::string_view css, absl::string_view tip) {
  absl::StrAppend(&out_, "<rect x=\"", Px(box.x), "\" y=\"", Px(box.y), "\" width=\"", Px(box.width),
                  "\" height=\"", Px(box.height), "\"", Css(css));
  if (tip.empty()) {
    out_.append("/>");
  } else {
    absl::StrAppend(&out_, "><title>", Html(tip), "</title></rect>");
  }
}
void Svg::Text(Point at, Anchor anchor, absl::string_view text, absl::string_view css) {
  const char* where = anchor == Anchor::kStart ? "" : anchor == Anchor::kMiddle ? " mid" : " end";
  absl::StrAppend(&out_, "<text x=\"", Px(at.x), "\" y=\"", Px(at.y), "\" class=\"", css, where, "\">",
                  Html(text), "</text>");
}
void Svg::Polyline(const std::vector<Point>& points, absl::string_view css) {
  if (points.empty()) return;
  out_.append("<path d=\"M");
  for (const Point& p : points) {
    absl::StrAppend(&out_, &p == &points.front() ? "" : " ", Px(p.x), " ", Px(p.y));
  }
  absl::StrAppend(&out_, "\"", Css(css), "/>");
}
void Svg::Mark(Point at, Marker marker, absl::string_view css, absl::string_view tip) {
  absl::StrAppend(&out_, "<g class=\"mark ", css, "\" transform=\"translate(", Px(at.x), ",", Px(at.y),
                  ")\">");
  if (!tip.empty()) absl::StrAppend(&out_, "<title>", Html(tip), "</title>");
  absl::StrAppend(&out_, Shape(marker), "</g>");
}
std::string Svg::Finish() {
  out_.append("</svg>\n");
  return std::move(out_);
}

double Axis::At(double value) const {
  double share = 1;
  if (Beyond(value) < 0) {
    share = 0;
  } else if (Beyond(value) == 0) {
    share = log ? std::log(value / low) / std::log(high / low) : (value - low) / (high - low);
  }
  return from + share * (to - from);
}
int Axis::Beyond(double value) const {
  if (std::isnan(value)) return 1;
  return value < low ? -1 : value > high ? 1 : 0;
}
std::vector<Axis::Tick> Axis::Ticks() const { return log ? LogTicks(*this) : LinearTicks(*this); }

Axis LinearAxis(const std::vector<double>& values) {
  double low = 0, high = 0;
  bool any = false;
  for (const double v : values) {
    if (!std::isfinite(v) || std::fabs(v) > 1e15) continue;
    low = any ? std::min(low, v) : v;
    high = any ? std::max(high, v) : v;
    any = true;
  }
  if (!any) return {.low = 0, .high = 1};
  const bool apart = high - low > 1e-6 * std::max(std::fabs(low), std::fabs(high));
  const double pad = apart ? 0.06 * (high - low) : std::max(0.5, 0.1 * std::fabs(high));
  return {.low = low - pad, .high = high + pad};
}

Axis LogAxis(const std::vector<double>& values) {
  double low = 0, high = 0;
  for (const double v : values) {
    if (!std::isfinite(v) || v < 1e-200) continue;
    low = low > 0 ? std::min(low, v) : v;
    high = std::max(high, v);
  }
  if (low == 0) return {.log = true, .low = 1e-3, .high = 1};
  high = StepAbove(std::min(high, 1e200) * 1.05);
  low = std::max(StepBelow(low / 1.05), high * std::pow(10, -kMaxDecades));
  if (high / low < 5) low /= 2, high *= 2;
  return {.log = true, .low = low, .high = high};
}

Frame DrawFrame(Svg& svg, Axis x, Axis y, const FrameText& text, double height) {
  Frame frame{.area = {48, 24, kSvgWidth - 48 - 10, height - 24 - 42}, .x = x, .y = y};
  const double left = frame.area.x, right = left + frame.area.width;
  const double top = frame.area.y, bottom = top + frame.area.height;
  // Marks on the ends stay inside.
  frame.x.from = left + 8;
  frame.x.to = right - 8;
  frame.y.from = bottom - 8;
  frame.y.to = top + 8 + text.headroom;
  for (const Axis::Tick& tick : frame.y.Ticks()) {
    const double at = frame.y.At(tick.value);
    svg.Line({left, at}, {right, at}, "grid");
    svg.Text({left - 5, at + 4}, Anchor::kEnd, tick.label, "tick");
  }
  for (const Axis::Tick& tick : frame.x.Ticks()) {
    const double at = frame.x.At(tick.value);
    svg.Line({at, bottom}, {at, bottom + 4}, "axis");
    svg.Text({at, bottom + 17}, Anchor::kMiddle, tick.label, "tick");
  }
  svg.Line({left, bottom}, {right, bottom}, "axis");
  svg.Text({4, 14}, Anchor::kStart, text.y, "name");
  svg.Text({right, bottom + 34}, Anchor::kEnd, text.x, "name");
  return frame;
}

namespace {

constexpr double kLegendLine = 18, kLegendSwatch = 22, kLegendGap = 14;

// Calls at(item, x, line) for each item where it goes; returns the number of lines.
template <typename F>
int FlowLegend(const std::vector<LegendItem>& items, const F& at) {
  double x = 6;
  int line = 0;
  for (const LegendItem& item : items) {
    const double width = kLegendSwatch + TextWidth(item.text);
    if (x > 6 && x + width > kSvgWidth - 4) {
      x = 6;
      ++line;
    }
    at(item, x, line);
    x += width + kLegendGap;
  }
  return items.empty() ? 0 : line + 1;
}

}  // namespace

double LegendHeight(const std::vector<LegendItem>& items) {
  return kLegendLine * FlowLegend(items, [](const LegendItem&, double, int) {});
}
void DrawLegend(Svg& svg, double top, const std::vector<LegendItem>& items) {
  FlowLegend(items, [&](const LegendItem& item, double x, int line) {
    const double y = top + kLegendLine * (line + 0.5);
    if (item.line) {
      svg.Line({x, y}, {x + 16, y}, item.css);
    } else {
      svg.Mark({x + 8, y}, item.marker, item.css, "");
    }
    svg.Text({x + kLegendSwatch, y + 4}, Anchor::kStart, item.text, "");
  });
}

}  // namespace spikefold
