#include "quant/planner.h"

#include <catch2/catch.hpp>

#include "absl/strings/match.h"
#include "quant/recipe_checks.h"
#include "quant/scheme.h"
#include "quant/treatments.h"
#include "tests/quant/quant_kit.h"
#include "tests/testing/status_matchers.h"

namespace spikefold::testing {
namespace {

absl::Status PlanStatus(const Recipe& recipe, const PlannerInput& input) {
  return MakePlan(recipe, input).status();
}

}  // namespace

TEST_CASE("Every linear has one decision with a reason, in execution order, and linears of a site agree") {
  const Scanned s = ScanTiny(SpikedModel());
  const ModelGraph& graph = s.tiny.checkpoint->graph();
  for (const Scheme& scheme : Schemes()) {
    CAPTURE(scheme.name);
    const auto plan = MakePlan({.scheme = scheme.name, .keep_columns = 4}, s.input());
    REQUIRE(plan.ok());
    size_t at = 0;
    for (const Node& node : graph.nodes) {
      if (node.op != Op::kLinear || node.layer < 0) continue;
      REQUIRE(at < plan->linears.size());
      const TensorDecision& d = plan->linears[at++];
      CHECK(d.module == node.module);
      CHECK_FALSE(d.reason.empty());
      CHECK(d.kept.size() == 4);
      CHECK(d.bytes > d.n * d.k * d.weight_bits / 8);
      CHECK(d.weight_bits == scheme.weight_bits);
      CHECK(d.weight_zeros == (scheme.weight_bits < 8));
      CHECK(d.activation_bits == scheme.activation_bits);
      CHECK((d.activation_group > 0) == (scheme.activation_group > 0));
    }
    CHECK(at == plan->linears.size());
    for (const Site& site : graph.sites) {
      if (site.layer < 0) continue;
      const TensorDecision& first = *plan->Find(graph.nodes[static_cast<size_t>(site.linears[0])].module);
      for (const int l : site.linears) {
        const TensorDecision& other = *plan->Find(graph.nodes[static_cast<size_t>(l)].module);
        CHECK(other.kept == first.kept);
        CHECK(other.activation_scale == first.activation_scale);
      }
    }
    CHECK(plan->linears[0].activation_static == absl::EndsWith(scheme.name, "-static"));
    CHECK_FALSE(plan->outlier_reason.empty());
  }
}

TEST_CASE("Zero points go where they are asked for, and static ones follow the range that was seen") {
  Scanned s = ScanTiny(PlainModel());
  for (SiteStats& site : s.scan.stats.arms[0].sites) {
    for (float& v : site.max) v = 2.54f;
    for (float& v : site.min) v = -1.27f;
  }
  const auto plan_of = [&](const char* scheme, ZeroPoints zeros) {
    const auto plan = MakePlan({.scheme = scheme,
                                .outliers = OutlierMode::kNone,  // scales: absmax
                                .zero_points = zeros},
                               s.input());
    REQUIRE(plan.ok());
    const auto again = PlanFromJson(PlanToJson(*plan), "plan");
    REQUIRE(again.ok());
    return again->linears[0];
  };
  const TensorDecision none = plan_of("w4a4-static", ZeroPoints::kNone);
  CHECK_FALSE(none.weight_zeros);
  CHECK_FALSE(none.activation_zeros);
  CHECK(none.activation_scale == Approx(2.54f / 7));
  CHECK(none.activation_zero == 0);
  const TensorDecision both = plan_of("w4a4-static", ZeroPoints::kBoth);
  CHECK(both.weight_zeros);
  CHECK(both.activation_zeros);
  CHECK(both.activation_scale == Approx(3.81f / 15));  // codes -8 .. 7
  CHECK(both.activation_zero == -3);                   // -8 + 1.27 / 0.254
  const TensorDecision eight = plan_of("w4a8-static", ZeroPoints::kActivations);
  CHECK_FALSE(eight.weight_zeros);
  CHECK(eight.activation_scale == Approx(3.81f / 254));
  CHECK(eight.activation_zero == -42);
  CHECK_FALSE(plan_of("w4a16", ZeroPoints::kActivations).activation_zeros);
  CHECK(SpecOf(plan_of("w4a4-group", ZeroPoints::kBoth)).act ==
        ActivationFormat{
            .bits = 4, .scales = ActivationFormat::Scales::kGroup, .group = 64, .symmetric = false});
}

TEST_CASE(
    "Scales are multiples beside INT8 rows of one scale and no zero point, or where they are asked for") {
  const Scanned s = ScanTiny(PlainModel());
  const auto multiples = [&](const Recipe& recipe) {
    const auto plan = MakePlan(recipe, s.input());
    CAPTURE(plan.status().ToString());
    REQUIRE(plan.ok());
    const auto again = PlanFromJson(PlanToJson(*plan), "plan");
    REQUIRE(again.ok());
    CHECK(again->linears[0].scale_multiples == plan->linears[0].scale_multiples);
    return again->linears[0].scale_multiples;
  };
  CHECK(multiples({.scheme = "w4a8"}));
  CHECK(multiples({.scheme = "w4a8-static"}));
  CHECK_FALSE(multiples({.scheme = "w4a8", .group_scales = GroupScales::kFloat}));
  CHECK_FALSE(multiples({.scheme = "w4a8", .zero_points = ZeroPoints::kBoth}));
  CHECK_FALSE(multiples({.scheme = "w4a8", .target = Target::kLlamaCpp}));
  CHECK_FALSE(multiples({.scheme = "w4a8", .codes = Codes::kTrellis}));
  for (const char* scheme : {"w8a8", "w4a16", "w4a4", "w4a4-group"})
    CHECK_FALSE(multiples({.scheme = scheme}));
  CHECK(multiples({.scheme = "w2a16", .group_scales = GroupScales::kMultiples}));
  CHECK_THAT(PlanStatus({.scheme = "w4a8", .codes = Codes::kTrellis, .group_scales = GroupScales::kMultiples},
                        s.input()),
             Fails(absl::StatusCode::kInvalidArgument, "with a choice of group scales"));
}

TEST_CASE("A model without outliers needs no treatment") {
  const Scanned s = ScanTiny(PlainModel());
  CHECK_FALSE(s.scan.map.treatment_needed);
  const auto plan = MakePlan({.scheme = "w8a8"}, s.input());
  REQUIRE(plan.ok());
  CHECK(plan->prefix.empty());
  CHECK(plan->outlier_reason == "no outliers: no treatment needed");
  for (const TensorDecision& d : plan->linears) CHECK(d.kept.empty());
}

TEST_CASE("A fold uses the statistics behind the prefix and says whether it changes the function") {
  Scanned s = ScanTiny(SpikedModel());
  CHECK_THAT(PlanStatus({.scheme = "w8a8", .outliers = OutlierMode::kFold}, s.input()),
             Fails(absl::StatusCode::kInvalidArgument, "no prefix that takes spikes away; use"));
  GivePrefix(s, {7});
  for (SiteStats& site : s.scan.stats.arms[1].sites) {
    for (float& v : site.max) v = 2.54f;
    for (float& v : site.min) v = -1.0f;
  }
  const auto plan = MakePlan({.scheme = "w8a8-static",
                              .outliers = OutlierMode::kFold,
                              .activation_scales = ScaleMethod::kAbsMax,
                              .activation_scales_set = true},
                             s.input());
  REQUIRE(plan.ok());
  CHECK(plan->prefix == std::vector<int32_t>{7});
  CHECK(plan->prefix_changes_function);
  for (const TensorDecision& d : plan->linears) CHECK(d.activation_scale == Approx(0.02f));
  // The control: untreated, with the largest value of the plain statistics.
  const auto none = MakePlan({.scheme = "w8a8-static", .outliers = OutlierMode::kNone}, s.input());
  REQUIRE(none.ok());
  CHECK(none->prefix.empty());
  CHECK(none->Find("model.layers.1.mlp.down_proj")->activation_scale > 1.0f);
}

TEST_CASE("GPTQ rounds where there is text, but not in the controls of 8 bits") {
  Scanned s = ScanTiny(PlainModel());
  const auto rounding = [&](const Recipe& recipe) {
    const auto plan = MakePlan(recipe, s.input());
    REQUIRE(plan.ok());
    return plan->linears.front().rounding;
  };
  CHECK(rounding({.scheme = "w8a8"}) == Rounding::kGptq);
  CHECK(rounding({.scheme = "w8a8", .outliers = OutlierMode::kNone}) == Rounding::kNearest);
  CHECK(rounding({.scheme = "w4a16", .outliers = OutlierMode::kNone, .group_size = 32}) == Rounding::kGptq);
  CHECK(rounding({.scheme = "w8a8", .rounding = Rounding::kNearest}) == Rounding::kNearest);
  s.scan.stats.windows.clear();
  CHECK(rounding({.scheme = "w8a8"}) == Rounding::kNearest);
}

TEST_CASE("16-bit exceptions: by pattern, by score; super weights; spike rows") {
  Scanned s = ScanTiny(SpikedModel());
  // A token that spikes at this site of the step up.
  const auto keep = MakePlan({.scheme = "w4a8", .keep_modules = 1, .keep = {"*.layers.0.*gate*"}}, s.input());
  REQUIRE(keep.ok());
  int kept = 0;
  for (const TensorDecision& d : keep->linears) {
    if (d.weight_bits == 16) ++kept;
  }
  CHECK(keep->Find("model.layers.0.mlp.gate_proj")->weight_bits == 16);
  CHECK(keep->Find("model.layers.0.mlp.up_proj")->weight_bits == 4);
  CHECK(kept >= 2);  // and those of the site of highest score
  const auto super = MakePlan({.scheme = "w8a8", .keep_rows = true, .keep_super_weights = true}, s.input());
  REQUIRE(super.ok());
  const TensorDecision& down = *super->Find("model.layers.1.mlp.down_proj");
  REQUIRE_FALSE(down.supers.empty());
  CHECK(down.supers[0].row == s.tiny.planted.channels[0]);
  CHECK(down.supers[0].column == s.tiny.planted.writer_unit);
  CHECK(down.spike_threshold > 0);
}

TEST_CASE("Impossible wishes are refused with the remedy") {
  const Scanned s = ScanTiny(PlainModel());
  const PlannerInput unscanned{.graph = &s.tiny.checkpoint->graph(), .model_fingerprint = s.fingerprint};
  PlannerInput other = s.input();
  other.model_fingerprint = "abc";
  struct Row {
    Recipe recipe;
    PlannerInput input;
    const char* text;
  };
  const Row rows[] = {
      {{.scheme = "w8a8_static"}, s.input(), "did you mean \"w8a8-static\"?"},
      {{.scheme = "w8a8-static"}, unscanned, "needs a scan"},
      {{.scheme = "w8a8", .keep_columns = 8}, unscanned, "needs a scan"},
      {{.scheme = "w8a8"}, other, "this is model abc; scan this model"},
      {{.scheme = "w4a16", .group_size = 48},
       s.input(),
       "model.layers.0.self_attn.q_proj: K=64 is not a multiple of group_size=48; use 16, 32, 64"},
      {{.scheme = "w4a16", .group_size = 7}, s.input(), "is not a multiple of 16 from 16 to 256"},
      {{.scheme = "w8a8", .group_size = 32}, s.input(), "one scale an output channel"},
      {{.scheme = "w8a8", .keep = {"*.attention.*"}}, s.input(), "matches no linear"},
      {{.scheme = "w8a16", .keep_rows = true}, s.input(), "every row in float already"},
      {{.scheme = "w8a8", .head_bits = 4}, s.input(), "head_bits=4; use 8 or 16"},
  };
  for (const Row& row : rows) {
    CAPTURE(row.text);
    CHECK_THAT(PlanStatus(row.recipe, row.input), Fails(absl::StatusCode::kInvalidArgument, row.text));
  }
}

TEST_CASE("Linears whose rows no group divides take INT8 a channel, and say so") {
  TinyModelOptions options = PlainModel();
  options.intermediate = 200;
  const Scanned s = ScanTiny(options);
  for (const int wished : {0, 32}) {
    CAPTURE(wished);
    const Recipe recipe = {.scheme = "w4a4-group", .outliers = OutlierMode::kNone, .group_size = wished};
    const auto plan = MakePlan(recipe, s.input());
    CAPTURE(plan.status().ToString());
    REQUIRE(plan.ok());
    for (const TensorDecision& d : plan->linears) {
      const bool odd = d.role == Role::kDownProj;
      CAPTURE(d.module, d.reason);
      CHECK(d.weight_bits == (odd ? 8 : 4));
      CHECK(d.group_size == (odd ? 0 : wished > 0 ? wished : 64));
      CHECK(d.weight_zeros == !odd);
      CHECK(d.activation_group == (odd ? 0 : 64));
      CHECK(absl::StrContains(d.reason, "rows of 200 have no groups of weights") == odd);
      CHECK(absl::StrContains(d.reason, "rows of 200 have no groups of activations") == odd);
      CHECK(absl::StrContains(d.reason, "4-bit weights") == !odd);
    }
  }
  options.hidden = 72;
  options.head_dim = 72 / options.num_heads;
  const Scanned none = ScanTiny(options);
  const auto trellis = MakePlan({.scheme = "w4a16", .outliers = OutlierMode::kNone}, none.input());
  REQUIRE(trellis.ok());
  for (const TensorDecision& d : trellis->linears) CHECK((d.trellis && d.weight_bits == 4));
  const Recipe grid = {.scheme = "w4a16", .outliers = OutlierMode::kNone, .codes = Codes::kGrid};
  CHECK_THAT(PlanStatus(grid, none.input()),
             Fails(absl::StatusCode::kInvalidArgument, "rows of 72 weights, and all others"));
  const Recipe kept = {.scheme = "w4a16",
                       .outliers = OutlierMode::kNone,
                       .group_size = 48,
                       .keep = {"*.self_attn.*", "*.mlp.*"}};
  CHECK(PlanStatus(kept, s.input()).ok());  // 48 does not divide 64, but nothing has groups
}

TEST_CASE("Wishes that only say how another is met need that other") {
  const auto refused = [](const Recipe& recipe, const char* text) {
    const auto scheme = FindScheme(recipe.scheme);
    REQUIRE(scheme.ok());
    CHECK_THAT(CheckCompanions(recipe, **scheme), Fails(absl::StatusCode::kInvalidArgument, text));
  };
  refused({.scheme = "w4a16", .random_bits = true}, "random_bits: goes with a budget");
  refused({.scheme = "w8a8", .outliers = OutlierMode::kFold, .random_columns = true},
          "goes with kept columns");
  refused({.scheme = "w8a8-static", .dynamic_by = DynamicBy::kScore}, "goes with dynamic_sites");
  refused({.scheme = "w8a8", .smooth_search = true}, "is for weights alone");
  CHECK(CheckCompanions({.scheme = "w4a16", .bits = 4, .random_bits = true}, **FindScheme("w4a16")).ok());
  CHECK(CheckCompanions({.scheme = "w8a8", .outliers = OutlierMode::kKeep, .random_columns = true},
                        **FindScheme("w8a8"))
            .ok());
}

TEST_CASE("plan.json reads back equal, a tensor a line, and is refused when it is not a plan") {
  Scanned s = ScanTiny(SpikedModel());
  GivePrefix(s, {7, 3});
  const auto plan = MakePlan({.scheme = "w8a8-static",
                              .outliers = OutlierMode::kFoldKeep,
                              .keep_columns = 5,
                              .keep_rows = true,
                              .keep_super_weights = true,
                              .keep = {"*layers.2*o_proj"}},
                             s.input());
  REQUIRE(plan.ok());
  const std::string text = PlanToJson(*plan);
  const auto again = PlanFromJson(text, "plan.json");
  CAPTURE(again.status().ToString());
  REQUIRE(again.ok());
  CHECK(PlanToJson(*again) == text);
  size_t lines = 0;
  for (size_t at = 0; (at = text.find("\n    {\"module\"", at)) != std::string::npos; ++at) ++lines;
  CHECK(lines == plan->linears.size());

  const auto edited = [&](const std::string& from, const std::string& to) {
    std::string t = text;
    const size_t at = t.find(from);
    REQUIRE(at != std::string::npos);
    return PlanFromJson(t.replace(at, from.size(), to), "plan.json").status();
  };
  CHECK_THAT(edited("\"format_version\": 1", "\"format_version\": 2"),
             Fails(absl::StatusCode::kUnimplemented, "plan.json: format version 2"));
  CHECK_THAT(edited("\"weight_bits\":8", "\"weight_bitz\":8"),
             Fails(absl::StatusCode::kDataLoss, "(did you mean \"weight_bits\"?)"));
  CHECK_THAT(edited("\"activation_scale\":", "\"activation_scale\":-"),
             Fails(absl::StatusCode::kDataLoss, "a positive number is needed"));
  CHECK_THAT(edited("\"role\":\"q_proj\"", "\"role\":\"qq\""),
             Fails(absl::StatusCode::kDataLoss, "role \"qq\" is unknown"));
  CHECK_THAT(edited("\"kept\":[", "\"kept\":[99999,"),
             Fails(absl::StatusCode::kDataLoss, "out of order or outside"));
  CHECK_THAT(PlanFromJson("[]", "plan.json").status(),
             Fails(absl::StatusCode::kDataLoss, "expected an object"));
}

TEST_CASE("Where the residual stream cannot be rotated, integer activations keep a share of its columns") {
  const auto kept = [](const Recipe& recipe, int64_t hidden) {
    Treatments t;
    WithoutResidualRotation(recipe, **FindScheme(recipe.scheme), hidden, t);
    return t.keep_columns;
  };
  for (const char* scheme : {"w8a8", "w8a8-static", "w4a8", "w4a4"}) {
    CHECK(kept({.scheme = scheme}, 640) == 16);
    CHECK(kept({.scheme = scheme}, 2560) == 64);
    CHECK(kept({.scheme = scheme, .target = Target::kVllm}, 640) == 0);
  }
  CHECK(kept({.scheme = "w4a16"}, 640) == 0);
  CHECK(kept({.scheme = "w8a8", .outliers = OutlierMode::kFold}, 640) == 0);
  CHECK(kept({.scheme = "w8a8", .keep_columns = 0}, 640) == 0);
}

}  // namespace spikefold::testing
