// Charts of data that is extreme: everything stays inside its plot.
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <regex>

#include "apps/report/figures.h"
#include "apps/report/scatter.h"
#include "tests/apps/report_kit.h"

namespace spikefold::testing {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Where the marks of a drawing lie, its legend's (below the plot) left out.
std::vector<Point> Marks(const std::string& svg, double plot_bottom) {
  static const std::regex kMark("<g class=\"mark [^\"]*\" transform=\"translate\\(([^,]+),([^)]+)\\)\">");
  std::vector<Point> out;
  for (std::sregex_iterator it(svg.begin(), svg.end(), kMark), end; it != end; ++it) {
    const Point p = {std::stod((*it)[1]), std::stod((*it)[2])};
    if (p.y <= plot_bottom) out.push_back(p);
  }
  return out;
}

// The plot area of a scatter chart, as DrawFrame() has it.
const Frame& PlotFrame() {
  static const Frame frame = [] {
    Svg svg(300, "");
    return DrawFrame(svg, {}, {}, {}, 300);
  }();
  return frame;
}

void CheckInside(const ScatterChart& chart) {
  const Box& area = PlotFrame().area;
  const std::string svg = DrawScatter(chart);
  const std::vector<Point> marks = Marks(svg, area.y + area.height + 10);
  REQUIRE(marks.size() == chart.points.size());
  for (const Point& p : marks) {
    CAPTURE(p.x, p.y);
    CHECK(area.Contains({p.x - 5, p.y - 5, 10, 10}));
  }
  CHECK(svg.find("nan") == std::string::npos);
  CHECK(svg.find("inf") == std::string::npos);
}

ScatterPoint At(double x, double y) {
  return {.label = "label", .tip = "", .x = x, .y = y, .y_low = y, .y_high = y};
}

}  // namespace

TEST_CASE("The legend names each form of activations that occurs") {
  const ReportInput input{.evals = {MakeEval(), MakeEval({.name = "w4a4", .act = "u4r"})}};
  const std::string svg = KldOverBits(Analyze(input)).svg;
  CHECK(svg.find("activations INT8 per token<") != std::string::npos);
  CHECK(svg.find("activations INT4 per token, asymmetric<") != std::string::npos);
}

TEST_CASE("Points stay inside the plot whatever their values") {
  CheckInside({.points = {At(8, 0.02)}});
  CheckInside({.points = {At(8, 0)}});
  CheckInside({.points = {At(8, kInfinity)}});
  CheckInside({.points = {At(4, 0), At(8, -1), At(8, kInfinity), At(9, std::nan("")), At(16, 1e-300),
                          At(16, 1e300)}});
  CheckInside({.points = {At(8, 0.02), At(8, 0.02)}});
  CheckInside({.points = {At(1e12, 0.02), At(0, 0.5)}});
  ScatterChart many;
  for (int i = 0; i < 40; ++i) many.points.push_back(At(4 + i % 7, std::pow(10, -i % 5)));
  many.floor = 1e-5;
  CheckInside(many);
}

TEST_CASE("A value beyond the axis is an arrow, one inside its own shape") {
  const auto arrows = [](double y) {
    const std::string svg = DrawScatter({.points = {At(8, y), At(8, 0.1)}});
    return std::make_pair(svg.find("M0-7 5") != std::string::npos, svg.find("M0 7 5") != std::string::npos);
  };
  CHECK(arrows(kInfinity) == std::make_pair(true, false));
  CHECK(arrows(0) == std::make_pair(false, true));
  CHECK(arrows(0.2) == std::make_pair(false, false));
}

TEST_CASE("Labels neither overlap nor leave the plot nor cover a point") {
  const Box area = {48, 24, 350, 230};
  std::vector<Point> points;
  points.reserve(40);
  for (int i = 0; i < 40; ++i) points.push_back({100.0 + (i * 37) % 150, 100.0 + (i * 53) % 60});
  LabelPlacer placer(area, points);
  std::vector<Box> placed;
  for (const Point& p : points) {
    const LabelPlacer::Place place = placer.Find(p, 18);
    if (place.found) placed.push_back(place.box);
  }
  CHECK(placed.size() > 20);
  for (size_t i = 0; i < placed.size(); ++i) {
    CHECK(area.Contains(placed[i]));
    for (size_t j = 0; j < i; ++j) CHECK_FALSE(placed[i].Overlaps(placed[j]));
    for (const Point& p : points) CHECK_FALSE(placed[i].Overlaps({p.x - 4, p.y - 4, 8, 8}));
  }
  CHECK_FALSE(LabelPlacer(area, {{60, 40}}).Find({60, 40}, 1000).found);
}

TEST_CASE("Axes put their ends on their pixels and name round values between them") {
  Axis log = LogAxis({0.003, 40, 0, kInfinity, std::nan("")});
  log.from = 200;
  log.to = 0;
  CHECK(log.low <= 0.003);
  CHECK(log.low >= 0.001);
  CHECK(log.high >= 40);
  CHECK(log.high <= 100);
  CHECK(log.At(log.low) == Approx(200));
  CHECK(log.At(log.high) == Approx(0).margin(1e-9));
  CHECK(log.At(0) == 200);
  CHECK(log.At(kInfinity) == 0);
  CHECK(log.At(std::nan("")) == 0);
  std::vector<std::string> labels;
  for (const Axis::Tick& tick : log.Ticks()) labels.push_back(tick.label);
  CHECK(labels == std::vector<std::string>{"0.01", "0.1", "1", "10"});
  labels.clear();
  for (const Axis::Tick& tick : LinearAxis({4, 9}).Ticks()) labels.push_back(tick.label);
  CHECK(labels == std::vector<std::string>{"4", "5", "6", "7", "8", "9"});
  for (const Axis& axis : {LinearAxis({}), LinearAxis({3, 3}), LinearAxis({1e14, 1e14 + 1e-2}), LogAxis({}),
                           LogAxis({7, 7}), LinearAxis({kInfinity})}) {
    CHECK(axis.high > axis.low);
    CHECK_FALSE(axis.Ticks().empty());
  }
}

TEST_CASE("The finding beneath a chart names the Pareto set and who is dominated by whom") {
  const ReportInput input{.evals = {MakeEval({.name = "good", .kld = 0.01}),
                                    MakeEval({.name = "bad", .kld = 0.1}),
                                    MakeEval({.name = "lost", .kld = kInfinity})}};
  const Figure figure = KldOverBits(Analyze(input));
  CHECK(figure.finding ==
        "Pareto set: good. Dominated: bad (by good), lost (by good). Arrows stand for values beyond the axis "
        "(zero, or "
        "not finite).");
}

TEST_CASE("A scan's charts name the layers where the spike is written and removed") {
  const ReportScan scan = MakeScan(4, 2);
  const auto life = SpikeLife(scan.map, false);
  REQUIRE(life.has_value());
  CHECK(life->svg.find(">up 1<") != std::string::npos);
  CHECK(life->svg.find(">down 3<") != std::string::npos);
  CHECK(life->finding ==
        "The largest |h| is 800, on channel 7 after layer -1, 1,600 times the median. Spikes: written "
        "at layer 1, removed at layer 3.");
  CHECK_FALSE(SpikeLife(scan.map, true).has_value());
  const auto sinks = Sinks(scan.map, false);
  REQUIRE(sinks.has_value());
  CHECK(sinks->svg.find("<title>head 0, layer 1: 0.0206</title>") != std::string::npos);
  const std::vector<Figure> ranges = SiteRanges(scan);
  REQUIRE(ranges.size() == 4);
  CHECK(ranges[3].title == "Range of down_in (input of down)");
}

}  // namespace spikefold::testing
