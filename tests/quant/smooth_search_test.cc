#include "quant/folds/smooth_search.h"

#include <catch2/catch.hpp>

#include "quant/dynamic_sites.h"
#include "quant/prepare.h"
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

// The divergence that static scales cause, summed over the sites.
double Damage(const Scanned& s, const Recipe& recipe) {
  const auto prepared = Prepare(recipe, InputOf(s));
  REQUIRE(prepared.ok());
  DynamicSitesInput in{.reader = &prepared->model(*s.tiny.checkpoint),
                       .map = &s.scan.map,
                       .stats = prepared->stats_or(&s.scan.stats),
                       .plan = &prepared->plan,
                       .pool = &TestPool()};
  const auto damage = MeasureSiteDamage(in, 1);
  REQUIRE(damage.ok());
  double sum = 0;
  for (const SiteDamage& d : *damage) sum += d.fixed;
  return sum;
}

}  // namespace

TEST_CASE("Searched channel scales are no worse than none by the estimate, and better when measured") {
  const Scanned s = ScanTiny(SpikedModel());
  int better = 0;
  for (const SiteStats& site : s.scan.stats.arms[0].sites) {
    if (s.tiny.checkpoint->graph().sites[static_cast<size_t>(site.site)].layer < 0) continue;
    const auto found = SearchSiteScales(*s.tiny.checkpoint, site,
                                        {.scheme = *FindScheme("w8a8-static"), .pool = &TestPool()});
    REQUIRE(found.ok());
    CHECK(found->after <= found->before);
    if (found->after < 0.5 * found->before) ++better;
  }
  CHECK(better > 2);
  Recipe none;
  none.scheme = "w8a8-static";
  none.outliers = OutlierMode::kNone;
  Recipe searched = none;
  searched.smooth_search = true;
  const double without = Damage(s, none), with = Damage(s, searched);
  CAPTURE(without, with);
  CHECK(with < 0.5 * without);
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
}

TEST_CASE("Where scales are measured while running, and beside a number, a search is refused") {
  const Scanned s = ScanTiny(PlainModel());
  CHECK_THAT(SearchSiteScales(*s.tiny.checkpoint, s.scan.stats.arms[0].sites[0],
                              {.scheme = *FindScheme("w8a8"), .pool = &TestPool()})
                 .status(),
             Fails(absl::StatusCode::kInvalidArgument, "measures its activations' scales while it runs"));
  Recipe both;
  both.scheme = "w8a8-static";
  both.smooth = 0.5;
  both.smooth_search = true;
  CHECK_THAT(Prepare(both, InputOf(s)).status(), Fails(absl::StatusCode::kInvalidArgument, "choose one"));
}

}  // namespace spikefold::testing
