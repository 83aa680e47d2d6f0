#include "quant/dynamic_sites.h"

#include <catch2/catch.hpp>
#include <set>

#include "formats/base/file.h"
#include "quant/calibrated_ranges.h"
#include "quant/prepare.h"
#include "tests/quant/quant_kit.h"
#include "tests/testing/status_matchers.h"

namespace spikefold::testing {
namespace {

constexpr char kSlow[] = "model.layers.1.mlp.up_proj";

PrepareInput InputOf(const Scanned& s) {
  PrepareInput in{.reader = s.tiny.checkpoint.get(), .map = &s.scan.map, .stats = &s.scan.stats};
  in.scan_sha256 = "scan";
  in.pool = &TestPool();
  return in;
}

Recipe Static(int dynamic_sites) {
  Recipe recipe;
  recipe.scheme = "w8a8-static";
  recipe.outliers = OutlierMode::kNone;
  recipe.dynamic_sites = dynamic_sites;
  return recipe;
}

// Modules whose activations are coded token by token.
std::set<std::string> PerToken(const Plan& plan) {
  std::set<std::string> modules;
  for (const TensorDecision& d : plan.linears) {
    if (SpecOf(d).act == ActivationFormat{.bits = 8, .scales = ActivationFormat::Scales::kToken}) {
      modules.insert(d.module);
    }
  }
  return modules;
}

}  // namespace

TEST_CASE("The sites that a static scale measurably hurts most get scales a token, and no other") {
  const Scanned s = ScanTiny(PlainModel());
  const auto all_static = Prepare(Static(0), InputOf(s));
  REQUIRE(all_static.ok());
  Plan plan = all_static->plan;
  CHECK(PerToken(plan).empty());
  // One site's scale is made far too coarse, so that it must come first.
  const ModelGraph& graph = s.tiny.checkpoint->graph();
  const int slow = graph.SiteOf(graph.FindModule(kSlow));
  for (const int linear : graph.sites[static_cast<size_t>(slow)].linears) {
    for (TensorDecision& d : plan.linears) {
      if (d.module == graph.nodes[static_cast<size_t>(linear)].module) d.activation_scale *= 1000;
    }
  }
  DynamicSitesInput in{.reader = s.tiny.checkpoint.get(),
                       .map = &s.scan.map,
                       .stats = &s.scan.stats,
                       .plan = &plan,
                       .pool = &TestPool()};
  const TempDirectory directory;
  in.cache_directory = directory / "";
  const auto damage = MeasureSiteDamage(in, 1);
  REQUIRE(damage.ok());
  CHECK(damage->size() == graph.sites.size() - 1);  // all but the head's
  for (const SiteDamage& d : *damage) {
    CAPTURE(graph.sites[static_cast<size_t>(d.site)].name, d.fixed, d.per_token);
    CHECK(d.fixed >= 0);
    if (d.site == slow) {
      CHECK(d.per_token < 0.1 * d.fixed);
    } else {
      CHECK(d.gain() < (*damage)[static_cast<size_t>(slow)].gain());
    }
  }
  const auto chosen = ChooseDynamicSites(Static(1), in);
  REQUIRE(chosen.ok());
  REQUIRE(chosen->size() == 1);
  CHECK((*chosen)[0].site == slow);

  // The second time it is read: without text nothing could be measured.
  CalibStats no_text = s.scan.stats;
  no_text.windows.clear();
  in.stats = &no_text;
  const auto again = MeasureSiteDamage(in, 1);
  REQUIRE(again.ok());
  CHECK((*again)[0].fixed == (*damage)[0].fixed);
  in.arithmetic = "plain";  // is no answer for other arithmetic
  CHECK_THAT(MeasureSiteDamage(in, 1).status(), Fails(absl::StatusCode::kInvalidArgument, "scan first"));
  in.arithmetic.clear();
  plan.linears.back().activation_scale *= 2;
  CHECK_THAT(MeasureSiteDamage(in, 1).status(), Fails(absl::StatusCode::kInvalidArgument, "scan first"));
}

TEST_CASE("A site's static scale is that of its linears, whichever of them are kept") {
  const Scanned s = ScanTiny(PlainModel());
  const ModelGraph& graph = s.tiny.checkpoint->graph();
  const auto plan_of = [&](std::vector<std::string> keep) {
    Recipe recipe = Static(0);
    recipe.keep = std::move(keep);
    const auto prepared = Prepare(recipe, InputOf(s));
    REQUIRE(prepared.ok());
    return prepared->plan;
  };
  const Plan all = plan_of({}), but_q = plan_of({"*.q_proj"});
  const auto damage = [&](const Plan& plan) {
    const auto measured = MeasureSiteDamage({.reader = s.tiny.checkpoint.get(),
                                             .map = &s.scan.map,
                                             .stats = &s.scan.stats,
                                             .plan = &plan,
                                             .pool = &TestPool()},
                                            1);
    REQUIRE(measured.ok());
    std::vector<double> fixed;
    for (const SiteDamage& d : *measured) fixed.push_back(d.fixed);
    return fixed;
  };
  CHECK(damage(but_q) == damage(all));
  const StatsArm& arm = s.scan.stats.arms.front();
  CHECK(CalibratedRanges(but_q, graph, arm).Dump() == CalibratedRanges(all, graph, arm).Dump());
}

TEST_CASE(
    "As many sites as are asked for are dynamic in the plan; with all of them it is the scheme a token") {
  const Scanned s = ScanTiny(SpikedModel());
  for (const DynamicBy by : {DynamicBy::kDamage, DynamicBy::kScore, DynamicBy::kRandom}) {
    Recipe recipe = Static(2);
    recipe.dynamic_by = by;
    const auto two = Prepare(recipe, InputOf(s));
    REQUIRE(two.ok());
    std::set<int> sites;
    for (const std::string& module : PerToken(two->plan)) {
      sites.insert(s.tiny.checkpoint->graph().SiteOf(s.tiny.checkpoint->graph().FindModule(module)));
      CHECK(two->plan.Find(module)->reason.find("a scale a token") != std::string::npos);
    }
    CHECK(sites.size() == 2);
    const auto read = PlanFromJson(PlanToJson(two->plan), "plan");
    REQUIRE(read.ok());
    CHECK(PerToken(*read) == PerToken(two->plan));
    CHECK(read->recipe.dynamic_sites == 2);
    CHECK(read->recipe.dynamic_by == by);
  }
  const int num_sites = static_cast<int>(s.tiny.checkpoint->graph().sites.size()) - 1;  // all but the head's
  const auto all = Prepare(Static(num_sites), InputOf(s));
  REQUIRE(all.ok());
  Recipe token = Static(0);
  token.scheme = "w8a8";
  const auto w8a8 = Prepare(token, InputOf(s));
  REQUIRE(w8a8.ok());
  for (const TensorDecision& d : w8a8->plan.linears) {
    const QuantizedLinearSpec spec = SpecOf(*all->plan.Find(d.module));
    CHECK(spec.act == SpecOf(d).act);
    CHECK(spec.format == SpecOf(d).format);
  }
}

TEST_CASE("Dynamic sites are refused where nothing, or less than that many, is static") {
  const Scanned s = ScanTiny(PlainModel());
  const int num_sites = static_cast<int>(s.tiny.checkpoint->graph().sites.size()) - 1;  // all but the head's
  for (const DynamicBy by : {DynamicBy::kDamage, DynamicBy::kScore, DynamicBy::kRandom}) {
    Recipe many = Static(num_sites + 1);
    many.dynamic_by = by;
    CHECK_THAT(Prepare(many, InputOf(s)).status(),
               Fails(absl::StatusCode::kInvalidArgument,
                     absl::StrCat("dynamic_sites=", num_sites + 1, ": only ", num_sites,
                                  " inputs have a static scale; use at most ", num_sites)));
  }
  Recipe recipe = Static(2);
  recipe.scheme = "w8a8";
  CHECK_THAT(Prepare(recipe, InputOf(s)).status(),
             Fails(absl::StatusCode::kInvalidArgument,
                   "dynamic_sites=2: scheme \"w8a8\" has no static scales; use w8a8-static"));
  CHECK_THAT(MakePlan(Static(2), s.input()).status(),
             Fails(absl::StatusCode::kInvalidArgument, "needs a scan and the model"));
  CHECK_THAT(Prepare(Static(-1), InputOf(s)).status(),
             Fails(absl::StatusCode::kInvalidArgument, "must not be negative"));
}

}  // namespace spikefold::testing
