#include "quant/kv_choice.h"

#include "formats/base/status.h"
#include "quant/apply.h"
#include "quant/recipe.h"
#include "tests/quant/quant_kit.h"

namespace spikefold {
namespace {

using testing::GivePrefix;
using testing::PlainModel;
using testing::Scanned;
using testing::ScanTiny;
using testing::TempDirectory;
using testing::TestPool;

// The options that a checkpoint written with this recipe gives its model.
absl::StatusOr<KvOptions> Written(const Scanned& s, const Recipe& recipe) {
  SF_ASSIGN_OR_RETURN(const Plan plan, MakePlan(recipe, s.input()));
  const TempDirectory directory;
  SF_RETURN_IF_ERROR(ApplyPlan(plan, *s.tiny.checkpoint,
                               {.pool = &TestPool(), .stats = &s.scan.stats, .output = directory / "q"}));
  SF_ASSIGN_OR_RETURN(const auto quantized, CheckpointReader::Open(directory / "q"));
  SF_ASSIGN_OR_RETURN(const auto model, LoadModel(*quantized, {.pool = &TestPool()}));
  return model->kv();
}

}  // namespace

TEST_CASE("Words of a key/value cache mean bits and scales, and are written as they are read") {
  for (const char* word : {"float", "16", "8", "2", "k4v2", "k8rv4", "k2cv3"}) {
    CAPTURE(word);
    KvChoice choice;
    REQUIRE(ParseKvWord(word, choice).ok());
    CHECK(KvWord(choice) == word);
  }
  KvChoice choice;
  REQUIRE(ParseKvWord("k3cv16", choice).ok());
  CHECK(choice.k_bits == 3);
  CHECK(choice.v_bits == 16);
  CHECK(choice.k_scale == 'c');
  const KvChoice before = choice;
  for (const char* word :
       {"", "5", "k4", "v4", "k4v", "k4xv4", "k4v4 ", "84", "float16", "k4v5", "k16cv4", "k4rpv4"}) {
    CAPTURE(word);
    CHECK(ParseKvWord(word, choice).code() == absl::StatusCode::kInvalidArgument);
    CHECK(choice == before);
  }
}

TEST_CASE("A recipe keeps the wish for a key/value cache") {
  Recipe recipe{.scheme = "w8a8"};
  recipe.kv = {.k_bits = 4, .v_bits = 2, .sinks = 4, .recent = 32, .window = 256};
  const auto back = RecipeFromJson(RecipeToJson(recipe), "recipe");
  REQUIRE(back.ok());
  CHECK(back->kv == recipe.kv);
  const auto bad = RecipeFromJson(*ParseJson(R"({"scheme": "w8a8", "kv": "k4"})", "recipe"), "recipe");
  CHECK(bad.status().code() == absl::StatusCode::kInvalidArgument);
}

TEST_CASE("What no scan can mend about a key/value cache is said without one") {
  const Scanned s = ScanTiny(PlainModel());
  const ModelGraph& graph = s.tiny.checkpoint->graph();
  const auto code = [&](const KvChoice& choice) { return CheckKvChoice(choice, graph).code(); };
  CHECK(code({}) == absl::StatusCode::kOk);
  CHECK(code({.k_bits = 4, .v_bits = 4, .k_scale = 'c', .window = 64}) == absl::StatusCode::kOk);
  CHECK(code({.window = 64}) == absl::StatusCode::kInvalidArgument);  // of float rows
  CHECK(code({.k_bits = 4, .v_bits = 4, .recent = 0}) == absl::StatusCode::kInvalidArgument);
  CHECK(code({.k_bits = 4, .v_bits = 4, .sinks = -1}) == absl::StatusCode::kInvalidArgument);
}

TEST_CASE("A quantized checkpoint's model keeps keys and values as its recipe said") {
  Scanned s = ScanTiny(PlainModel());
  Recipe recipe{.scheme = "w8a16", .outliers = OutlierMode::kNone};
  recipe.kv = {.k_bits = 4, .v_bits = 3, .recent = 8, .window = 128};
  const auto page = Written(s, recipe);
  REQUIRE(page.ok());
  CHECK(page->k_bits == 4);
  CHECK(page->v_bits == 3);
  CHECK(page->k_scale == kernels::KeyScale::kPage);
  CHECK(page->k_before_rope);
  CHECK(page->sinks == 1);
  CHECK(page->recent == 8);
  CHECK(page->evict == 128);
  recipe.kv.k_scale = 'c';
  const auto fixed = Written(s, recipe);
  REQUIRE(fixed.ok());
  REQUIRE(fixed->channels != nullptr);
  CHECK(fixed->channels->scale.size() == 3);
  recipe.rotate = *ParseRotations("R3");
  s.scan.stats.arms[0].keys.clear();  // as a calibration of a model with that rotation finds them
  CHECK(Written(s, recipe).status().code() == absl::StatusCode::kInvalidArgument);
}

TEST_CASE("Behind a prefix the text has no sink of its own") {
  Scanned s = ScanTiny(PlainModel());
  GivePrefix(s, {5, 9});
  Recipe recipe{.scheme = "w8a16", .outliers = OutlierMode::kFold};
  recipe.kv = {.k_bits = 8, .v_bits = 8, .sinks = 4};
  const auto kv = Written(s, recipe);
  REQUIRE(kv.ok());
  CHECK(kv->sinks == 0);
}

}  // namespace spikefold
