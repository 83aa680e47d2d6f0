#include "quant/folds/smooth_search.h"

#include <catch2/catch.hpp>

#include "quant/prepare.h"
#include "quant/rounding/round_weights.h"
#include "tests/quant/quant_kit.h"
#include "tests/testing/status_matchers.h"

namespace spikefold::testing {
namespace {

PrepareInput InputOf(const Scanned& s) {
  PrepareInput in{.reader = s.tiny.checkpoint.get(), .map = &s.scan.map, .stats = &s.scan.stats};
  in.scan_sha256 = "scan";
  in.pool = &TestPool();
  return in;
}

// Squared error of the outputs of a linear whose columns are scaled, rounded to the nearest and scaled back.
double OutputError(const Tensor& w, const std::vector<float>& x, const std::vector<float>& scales) {
  const int64_t n = w.shape()[0], k = w.shape()[1], rows = static_cast<int64_t>(x.size()) / k;
  std::vector<float> scaled, importance(static_cast<size_t>(k), 0.0f);
  for (int64_t i = 0; i < n * k; ++i) {
    scaled.push_back(w.as<float>()[static_cast<size_t>(i)] * scales[static_cast<size_t>(i % k)]);
  }
  for (size_t i = 0; i < x.size(); ++i) {
    const float v = x[i] / scales[i % static_cast<size_t>(k)];
    importance[i % static_cast<size_t>(k)] += v * v;
  }
  const WeightGrid grid{.bits = 4, .symmetric = true, .group = DefaultGroupSize({k})};
  const std::vector<float> back = Dequantize(
      RoundToNearest({.w = scaled, .n = n, .k = k}, grid, importance, TestPool()), n, k, TestPool());
  double error = 0;
  for (int64_t t = 0; t < rows; ++t) {
    for (int64_t i = 0; i < n; ++i) {
      double sum = 0;
      for (int64_t j = 0; j < k; ++j) {
        const size_t at = static_cast<size_t>(i * k + j);
        const double rounded = double{back[at]} / double{scales[static_cast<size_t>(j)]};
        sum += double{x[static_cast<size_t>(t * k + j)]} * (double{w.as<float>()[at]} - rounded);
      }
      error += sum * sum;
    }
  }
  return error;
}

}  // namespace

TEST_CASE("Searched channel scales are no worse than none by the estimate, at every site") {
  const Scanned s = ScanTiny(SpikedModel());
  int better = 0;
  for (const SiteStats& site : s.scan.stats.arms[0].sites) {
    if (s.tiny.checkpoint->graph().sites[static_cast<size_t>(site.site)].layer < 0) continue;
    const auto found =
        SearchSiteScales(*s.tiny.checkpoint, site, {.scheme = *FindScheme("w4a16"), .pool = &TestPool()});
    REQUIRE(found.ok());
    CHECK(found->after <= found->before);
    if (found->after < found->before) ++better;
  }
  CHECK(better > 2);
}

TEST_CASE("For weights alone the search follows the mean magnitude of the inputs") {
  Scanned s = ScanTiny(PlainModel());
  // One channel carries nearly everything, so that its weights must be rounded best: a large scale.
  SiteStats site = s.scan.stats.arms[0].sites[0];
  constexpr int64_t kLoud = 5;
  for (int64_t c = 0; c < site.k; ++c) {
    const float size = c == kLoud ? 16.0f : 0.25f;
    site.sum_sq[static_cast<size_t>(c)] = size * size * static_cast<double>(site.rows);
    std::fill_n(site.histogram.begin() + c * kMagnitudeBins, kMagnitudeBins, 0u);
    site.histogram[static_cast<size_t>(c * kMagnitudeBins + MagnitudeBin(size))] =
        static_cast<uint32_t>(site.rows);
  }
  const auto found =
      SearchSiteScales(*s.tiny.checkpoint, site, {.scheme = *FindScheme("w4a16"), .pool = &TestPool()});
  REQUIRE(found.ok());
  CHECK(found->after < 0.8 * found->before);
  const std::vector<float>& scales = found->scales.scales;
  CHECK(scales[kLoud] == *std::max_element(scales.begin(), scales.end()));
  CHECK(scales[kLoud] > 1.5f * scales[0]);

  // On rows of that kind the outputs are indeed nearer.
  std::vector<float> x;
  uint32_t state = 3;
  for (int64_t i = 0; i < 50 * site.k; ++i) {
    state = state * 1664525u + 1013904223u;
    x.push_back((i % site.k == kLoud ? 16.0f : 0.25f) * (state >> 31 ? 1.0f : -1.0f));
  }
  const auto w = s.tiny.checkpoint->ReadF32("model.layers.0.self_attn.q_proj.weight");
  REQUIRE(w.ok());
  const std::vector<float> ones(scales.size(), 1.0f);
  CHECK(OutputError(*w, x, scales) < 0.8 * OutputError(*w, x, ones));
}

TEST_CASE("Rows that no group divides are priced as the INT8 they become, whatever group is asked for") {
  TinyModelOptions options = PlainModel();
  options.intermediate = 200;
  const Scanned s = ScanTiny(options);
  const auto error = [&](int64_t k, int group) {
    const auto& sites = s.scan.stats.arms[0].sites;
    const auto site =
        std::find_if(sites.begin(), sites.end(), [&](const SiteStats& one) { return one.k == k; });
    REQUIRE(site != sites.end());
    const auto found =
        SearchSiteScales(*s.tiny.checkpoint, *site,
                         {.scheme = FindScheme("w4a16").value(), .group_size = group, .pool = &TestPool()});
    REQUIRE(found.ok());
    return found->before;
  };
  CHECK(error(200, 32) == error(200, 0));
  CHECK(error(64, 32) != error(64, 0));  // where groups fit they are asked for
}

TEST_CASE("With quantized activations, and beside a number, a search is refused") {
  const Scanned s = ScanTiny(PlainModel());
  CHECK_THAT(SearchSiteScales(*s.tiny.checkpoint, s.scan.stats.arms[0].sites[0],
                              {.scheme = *FindScheme("w8a8"), .pool = &TestPool()})
                 .status(),
             Fails(absl::StatusCode::kInvalidArgument,
                   "is for weights alone, scheme \"w8a8\" has activations of 8 bits"));
  Recipe both;
  both.scheme = "w4a16";
  both.smooth = 0.5;
  both.smooth_search = true;
  CHECK_THAT(Prepare(both, InputOf(s)).status(), Fails(absl::StatusCode::kInvalidArgument, "choose one"));
}

}  // namespace spikefold::testing
