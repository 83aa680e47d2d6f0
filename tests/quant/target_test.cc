// A model for another engine must use nothing that its export would lose.
#include "quant/target.h"

#include <catch2/catch.hpp>
#include <functional>

#include "quant/treatments.h"
#include "tests/quant/quant_kit.h"
#include "tests/testing/status_matchers.h"

namespace spikefold {
namespace {

using absl::StatusCode;
using testing::Fails;

Recipe For(Target target, const std::string& scheme = "w4a16") {
  Recipe recipe;
  recipe.scheme = scheme;
  recipe.target = target;
  return recipe;
}

TEST_CASE("Wishes that do not survive an export are refused by name", "[target]") {
  const struct {
    Target target;
    const char* scheme;
    std::function<void(Recipe&)> wish;
    const char* message;
  } kCases[] = {
      {Target::kVllm, "w4a16", [](Recipe& r) { r.codes = Codes::kTrellis; },
       "a trellis does not survive there; use --codes grid"},
      {Target::kLlamaCpp, "w8a8", [](Recipe& r) { r.rotate = {.automatic = false, .r1 = true, .r4 = true}; },
       "a rotation while the model runs does not survive there; use --rotate offline"},
      {Target::kAll, "w8a8", [](Recipe& r) { r.outliers = OutlierMode::kFold; }, "a KV prefix"},
      {Target::kVllm, "w8a8", [](Recipe& r) { r.keep_columns = 4; }, "a kept column beside codes"},
      {Target::kVllm, "w8a8", [](Recipe& r) { r.keep_rows = true; }, "float arithmetic for spike rows"},
      {Target::kVllm, "w4a16", [](Recipe& r) { r.keep_super_weights = true; },
       "an exact weight beside codes"},
      {Target::kVllm, "w8a8", [](Recipe& r) { r.shift = Shift::kMean; }, "a shift of inputs"},
      {Target::kVllm, "w4a4", [](Recipe&) {}, "scheme w4a4's activations of 4 bits"},
      {Target::kVllm, "w8a8", [](Recipe& r) { r.zero_points = ZeroPoints::kBoth; },
       "a zero point of activations"},
      {Target::kLlamaCpp, "w8a16", [](Recipe& r) { r.zero_points = ZeroPoints::kWeights; },
       "a zero point of 8-bit codes"},
      {Target::kLlamaCpp, "w4a4", [](Recipe&) {}, "scheme w4a4's activations of 4 bits"},
      {Target::kLlamaCpp, "w4a8", [](Recipe& r) { r.zero_points = ZeroPoints::kActivations; },
       "a zero point of activations"},
      {Target::kVllm, "w4a16", [](Recipe& r) { r.kv.k_bits = r.kv.v_bits = 8; },
       "a form of keys and values does not survive there; leave out --kv"},
      {Target::kLlamaCpp, "w4a16", [](Recipe& r) { r.kv.window = 64; }, "a form of keys and values"},
      {Target::kAll, "w4a16", [](Recipe& r) { r.head_bits_set = true; },
       "a head of 8 bits does not survive there; leave out --head-bits or give 16"},
      {Target::kLlamaCpp, "w4a16", [](Recipe& r) { r.group_size = 48; }, "a group of 48"},
  };
  for (const auto& c : kCases) {
    Recipe recipe = For(c.target, c.scheme);
    c.wish(recipe);
    INFO(c.message);
    CHECK_THAT(RecipeForTarget(recipe).status(), Fails(StatusCode::kInvalidArgument, c.message));
    recipe.target = Target::kNative;
    CHECK(RecipeForTarget(recipe).ok());
  }
  const auto stated = RecipeFromJson(RecipeToJson(For(Target::kVllm)), "recipe");  // head_bits: 8
  REQUIRE(stated.ok());
  CHECK_THAT(RecipeForTarget(*stated).status(), Fails(StatusCode::kInvalidArgument, "head of 8 bits"));
  for (const Target target : {Target::kLlamaCpp, Target::kAll}) {
    CHECK(RecipeForTarget(For(target, "w8a8-static")).ok());
  }
  Recipe groups = For(Target::kVllm);
  groups.group_size = 48;  // compressed-tensors has groups of any size
  CHECK(RecipeForTarget(groups).ok());
}

TEST_CASE("What was left open is decided for the target", "[target]") {
  const auto vllm = RecipeForTarget(For(Target::kVllm)), llamacpp = RecipeForTarget(For(Target::kLlamaCpp));
  REQUIRE(vllm.ok());
  REQUIRE(llamacpp.ok());
  CHECK(vllm->codes == Codes::kGrid);
  CHECK(vllm->head_bits == 16);
  CHECK(llamacpp->head_bits == 8);
  CHECK(llamacpp->codes == Codes::kGrid);
  const auto again = RecipeFromJson(RecipeToJson(*vllm), "recipe");
  REQUIRE(again.ok());
  CHECK(again->target == Target::kVllm);
}

TEST_CASE("Automatic treatments for another engine are offline rotations alone", "[target]") {
  const testing::Scanned scanned =
      testing::ScanTiny({.spike_channels = {70, 301}, .step_up = 1, .step_down = 3});
  Recipe recipe = For(Target::kNative, "w4a4");
  const auto scheme = FindScheme("w8a8-static");
  REQUIRE(scheme.ok());
  recipe.scheme = "w8a8-static";
  const auto native = ChooseTreatments(recipe, **scheme, &scanned.scan.map, &scanned.scan.stats);
  REQUIRE(native.ok());
  REQUIRE(native->rotate.r4);
  for (const Target target : {Target::kVllm, Target::kLlamaCpp, Target::kAll}) {
    recipe.target = target;
    const auto there = ChooseTreatments(recipe, **scheme, &scanned.scan.map, &scanned.scan.stats);
    REQUIRE(there.ok());
    CHECK(there->rotate.r1);
    CHECK(there->rotate.r2);
    CHECK_FALSE(there->rotate.r3);
    CHECK_FALSE(there->rotate.r4);
    CHECK_FALSE(there->fold);
    CHECK_FALSE(there->shift);
    CHECK(there->keep_columns == 0);
  }
}

TEST_CASE("A model that llama.cpp computes otherwise gets no plan for it", "[target]") {
  testing::TinyModelOptions options;
  options.activation = GateActivation::kGeluTanh;
  const testing::TinyModel tiny = testing::MakeTinyModel(options);
  for (const Target target : {Target::kNative, Target::kVllm, Target::kLlamaCpp, Target::kAll}) {
    const Recipe recipe = *RecipeForTarget(For(target, "w8a16"));
    const auto plan = MakePlan(recipe, {.graph = &tiny.checkpoint->graph(), .model_fingerprint = "tiny"});
    if (!LimitsOf(target).blocks_of_32) {
      CHECK(plan.ok());
      continue;
    }
    CHECK_THAT(plan.status(), Fails(StatusCode::kUnimplemented, "gguf: the activation gelu_pytorch_tanh"));
  }
}

TEST_CASE("A plan whose parts do not fit together is refused", "[target]") {
  Plan plan;
  plan.recipe = For(Target::kVllm);
  for (const Role role : {Role::kQProj, Role::kKProj, Role::kVProj, Role::kOProj}) {
    TensorDecision& d = plan.linears.emplace_back();
    d.module = absl::StrCat("layer.", static_cast<int>(role));
    d.role = role;
    d.layer = 2;
    d.n = d.k = 64;
    d.weight_bits = 4;
    d.group_size = 32;
  }
  CHECK(CheckPlanForTarget(plan).ok());
  plan.linears[3].weight_bits = 8;  // o_proj is multiplied alone
  CHECK(CheckPlanForTarget(plan).ok());
  plan.linears[1].weight_bits = 8;
  CHECK_THAT(CheckPlanForTarget(plan),
             Fails(StatusCode::kInvalidArgument, "which the engine multiplies at once"));
  plan.recipe.target = Target::kLlamaCpp;  // a type for each tensor
  CHECK(CheckPlanForTarget(plan).ok());
  plan.linears[0].group_size = 16;
  CHECK_THAT(CheckPlanForTarget(plan), Fails(StatusCode::kInvalidArgument, "in groups of 16"));
  plan.linears[0].group_size = 32;
  plan.linears[2].kept = {5};
  CHECK_THAT(CheckPlanForTarget(plan), Fails(StatusCode::kInvalidArgument, "keeps beside a grid"));
  plan.recipe.target = Target::kNative;
  CHECK(CheckPlanForTarget(plan).ok());
}

}  // namespace
}  // namespace spikefold
