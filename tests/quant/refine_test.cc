// Learning on a checkpoint whose scales are known to be wrong. Needs the LibTorch plugin; skipped without.
#include "quant/refine/refine.h"

#include "formats/quantized/native.h"
#include "kernels/runtime/torch/torch_plugin.h"
#include "quant/apply.h"
#include "quant/refine/learn_rotations.h"
#include "tests/quant/quant_kit.h"

namespace spikefold::testing {
namespace {

std::vector<std::vector<int32_t>> SomeWindows(int count, uint32_t seed) {
  std::vector<std::vector<int32_t>> windows(static_cast<size_t>(count));
  for (auto& window : windows) {
    for (int i = 0; i < 24; ++i) {
      seed = seed * 1664525u + 1013904223u;
      window.push_back(static_cast<int32_t>(seed >> 8) % 131);
    }
  }
  return windows;
}

std::vector<int8_t> Codes(const std::string& path, const std::string& module) {
  return NativeReader::Open(path).value()->ReadLinear(module)->codes;
}
std::vector<float> Scales(const std::string& path, const std::string& module) {
  return NativeReader::Open(path).value()->ReadLinear(module)->scales;
}

// PlainModel() in 4 bits, with the scales of one linear too large by three fifths.
struct Spoiled {
  TempDirectory directory;
  Scanned s = ScanTiny(PlainModel());
  std::string good = directory / "good", path = directory / "spoiled";
  std::string module = "model.layers.1.mlp.down_proj";

  explicit Spoiled(const std::string& scheme) {
    Recipe recipe;
    recipe.scheme = scheme;
    recipe.outliers = OutlierMode::kNone;
    recipe.group_size = 32;
    const auto plan = MakePlan(recipe, s.input());
    INFO(plan.status());
    REQUIRE(plan.ok());
    REQUIRE(
        ApplyPlan(*plan, *s.tiny.checkpoint, {.pool = &TestPool(), .stats = &s.scan.stats, .output = good})
            .ok());
    const auto reader = *CheckpointReader::Open(good);
    const int node = reader->graph().FindModule(module);
    Refined change;
    std::vector<float>& scales = change.scales[node];
    for (const float scale : Scales(good, module)) scales.push_back(1.6f * scale);
    REQUIRE(WriteRefined(*reader, change, {}, {.path = path}).ok());
  }
};

TEST_CASE("Other scales are written beside the same codes, in the same bytes", "[refine]") {
  const Spoiled spoiled("w4a16");
  CHECK(Codes(spoiled.path, spoiled.module) == Codes(spoiled.good, spoiled.module));
  const std::vector<float> was = Scales(spoiled.good, spoiled.module),
                           is = Scales(spoiled.path, spoiled.module);
  REQUIRE(is.size() == was.size());
  for (size_t i = 0; i < is.size(); ++i) CHECK(is[i] == Approx(1.6f * was[i]).epsilon(0.005));  // bf16
  const auto other = "model.layers.0.mlp.down_proj";
  CHECK(Scales(spoiled.path, other) == Scales(spoiled.good, other));
  const auto a = *NativeReader::Open(spoiled.good), b = *NativeReader::Open(spoiled.path);
  CHECK(a->info().file_bytes == b->info().file_bytes);
  // Codes of another plan's twin may not be taken from here.
  CHECK_FALSE(a->info().plan_sha256.empty());
  CHECK(b->info().plan_sha256.empty());
  CHECK(NativeVerify(spoiled.path).ok());
}

TEST_CASE("Gradients find scales that were spoiled, on text that no gradient saw", "[refine]") {
  if (const auto plugin = LoadTorchPlugin(); !plugin.ok()) {
    WARN("skipped: " << plugin.status().message());
    return;
  }
  for (const char* scheme : {"w4a16", "w4a4"}) {
    CAPTURE(scheme);
    const Spoiled spoiled(scheme);
    const auto reader = *CheckpointReader::Open(spoiled.path);
    const LearningOptions options = {
        .windows = SomeWindows(60, 1), .held_out = SomeWindows(6, 2), .rate = 0.01};
    const auto refined = Refine(*reader, *spoiled.s.tiny.checkpoint, options);
    INFO(refined.status());
    REQUIRE(refined.ok());
    CHECK(refined->after < 0.9 * refined->before);
    CHECK(refined->best_step > 0);
    const std::string path = spoiled.directory / "refined";
    REQUIRE(WriteRefined(*reader, *refined, {}, {.path = path}).ok());
    const auto mean_ratio = [&](const std::string& where) {
      const std::vector<float> good = Scales(spoiled.good, spoiled.module),
                               now = Scales(where, spoiled.module);
      double sum = 0;
      for (size_t i = 0; i < now.size(); ++i) sum += now[i] / good[i] / static_cast<double>(now.size());
      return sum;
    };
    CHECK(mean_ratio(spoiled.path) == Approx(1.6).epsilon(0.01));
    CHECK(mean_ratio(path) < 1.5);
    CHECK(mean_ratio(path) > 1);
    // What was written is what was measured.
    const auto again = Refine(**CheckpointReader::Open(path), *spoiled.s.tiny.checkpoint,
                              {.windows = SomeWindows(1, 3), .held_out = options.held_out, .rate = 1e-9});
    REQUIRE(again.ok());
    CHECK(again->before == Approx(refined->after).epsilon(0.05));
  }
}

// A model whose residual has one wide axis, turned so that the Hadamard matrix that is drawn for R1 turns it
// back onto a single channel: the worst start there is.
struct Concentrated {
  static constexpr int64_t kWidth = 64, kChannel = 3;
  TinyModel tiny = MakeTinyModel(PlainModel());
  std::vector<double> back;  // the transpose of the drawn R1

  Concentrated() {
    TinyModel wide = MakeTinyModel(PlainModel());
    auto embedding = wide.checkpoint->tensor("model.embed_tokens.weight").as<float>();
    for (size_t i = kChannel; i < embedding.size(); i += kWidth) embedding[i] *= 12;
    LearnedRotations r = DrawnRotations(wide.checkpoint->graph(), true, false, 1);
    const std::vector<double>& drawn = *r.residual;
    for (size_t i = 0; i < drawn.size(); ++i) back.push_back(drawn[i % kWidth * kWidth + i / kWidth]);
    r.residual = std::make_shared<const std::vector<double>>(back);
    r.model_fingerprint = *wide.checkpoint->Fingerprint();
    FoldOptions options{.rotate_residual = true};
    options.learned = std::make_shared<const LearnedRotations>(r);
    const auto folded = *FoldCheckpoint(*wide.checkpoint, options);
    for (const StoredTensor& t : folded->tensors())
      tiny.checkpoint->tensor(t.name) = *folded->ReadF32(t.name);
  }
  // The largest share that a channel has of the wide axis behind a rotation.
  double Peak(const DenseMatrix& r) const {
    double peak = 0;
    for (size_t c = 0; c < kWidth; ++c) {
      double sum = 0;
      for (size_t i = 0; i < kWidth; ++i) sum += back[kChannel * kWidth + i] * (*r)[i * kWidth + c];
      peak = std::max(peak, std::abs(sum));
    }
    return peak;
  }
};

Recipe RotatedRecipe(const std::string& scheme, const std::string& rotate) {
  Recipe recipe;
  recipe.scheme = scheme;
  recipe.rotate = *ParseRotations(rotate);
  recipe.outliers = OutlierMode::kNone;
  recipe.rounding = Rounding::kNearest;
  recipe.shift = Shift::kNone;
  recipe.weight_scales = ScaleMethod::kAbsMax;
  recipe.weight_scales_set = true;
  return recipe;
}

TEST_CASE("Learning turns a planted axis away from the single channel that it lay on", "[refine]") {
  if (const auto plugin = LoadTorchPlugin(); !plugin.ok()) {
    WARN("skipped: " << plugin.status().message());
    return;
  }
  const Concentrated model;
  const CheckpointReader& base = *model.tiny.checkpoint;
  const Recipe recipe = RotatedRecipe("w4a4", "offline");
  const auto prepared = Prepare(recipe, {.reader = &base, .pool = &TestPool()});
  INFO(prepared.status());
  REQUIRE(prepared.ok());
  const LearningOptions options = {
      .windows = SomeWindows(60, 1), .held_out = SomeWindows(6, 2), .rate = 0.05};
  const auto learnt = LearnRotations(base, *prepared, nullptr, options);
  INFO(learnt.status());
  REQUIRE(learnt.ok());
  const LearnedRotations drawn = DrawnRotations(base.graph(), true, true, 1);
  CHECK(model.Peak(drawn.residual) == Approx(1));
  CAPTURE(learnt->before, learnt->after, model.Peak(learnt->rotations.residual));
  CHECK(learnt->best_step > 0);
  CHECK(learnt->after < 0.7 * learnt->before);
  CHECK(model.Peak(learnt->rotations.residual) < 0.4);
  // What was measured is what a model gives that is folded with them and rounded: learning starts there.
  const auto file = std::make_shared<const LearnedRotations>(learnt->rotations);
  Recipe again = recipe;
  again.rotations_sha256 = file->sha256;
  const auto folded = Prepare(again, {.reader = &base, .rotations = file, .pool = &TestPool()});
  REQUIRE(folded.ok());
  TorchForms forms;
  for (const Site& site : base.graph().sites) {
    const std::string& module = base.graph().nodes[static_cast<size_t>(site.linears[0])].module;
    forms.sites.push_back({.act = SpecOf(*prepared->plan.Find(module)).act});
  }
  const auto student = *TorchModel::Load(*folded->folded, {.forms = &forms});
  const auto teacher = *TorchModel::Load(base, {});
  double sum = 0;
  std::vector<float> target(24 * 131);
  for (const auto& window : options.held_out) {
    REQUIRE(teacher->Logits(window, 0, absl::MakeSpan(target)).ok());
    sum += *student->Divergence(window, 0, target) / 6;
  }
  CHECK(sum == Approx(learnt->after).epsilon(0.05));  // values on an edge between codes tip
  // The same text, the same rotations.
  CHECK(LearnRotations(base, *prepared, nullptr, options)->rotations.sha256 == file->sha256);
}

TEST_CASE("Rotations that cannot be learnt are refused with the reason", "[refine]") {
  const TinyModel tiny = MakeTinyModel(PlainModel());
  const LearningOptions options = {.windows = SomeWindows(1, 1), .held_out = SomeWindows(1, 2)};
  const auto message = [&](const Recipe& recipe) {
    const auto prepared = Prepare(recipe, {.reader = tiny.checkpoint.get(), .pool = &TestPool()});
    INFO(prepared.status());
    REQUIRE(prepared.ok());
    return std::string(LearnRotations(*tiny.checkpoint, *prepared, nullptr, options).status().message());
  };
  CHECK(message(RotatedRecipe("w4a4", "none")) ==
        "learn-rotations: neither R1 nor R2 is asked for and legal; there is nothing to learn");
  CHECK(message(RotatedRecipe("w4a4", "R4")) ==
        "learn-rotations: neither R1 nor R2 is asked for and legal; there is nothing to learn");
  CHECK(message(RotatedRecipe("w8a16", "offline")) ==
        "learn-rotations: scheme \"w8a16\" rounds nothing that R1 or R2 turn; give one with INT8 or INT4 "
        "activations");
}

TEST_CASE("Refining refuses what cannot be refined", "[refine]") {
  const Spoiled spoiled("w4a16");
  const auto message = [&](const CheckpointReader& reader, const LearningOptions& options) {
    return std::string(Refine(reader, *spoiled.s.tiny.checkpoint, options).status().message());
  };
  const auto reader = *CheckpointReader::Open(spoiled.path);
  CHECK(message(*spoiled.s.tiny.checkpoint, {}) == "memory: is not quantized; give what quantize wrote");
  CHECK(message(*reader, {.windows = SomeWindows(1, 1)}) ==
        "refine: windows to learn from and windows held out are needed");
  const LearningOptions options = {.windows = SomeWindows(1, 1), .held_out = SomeWindows(1, 2)};
  CHECK(Refine(*reader, *reader, options).status().message() ==
        spoiled.path + ": is quantized; give the float model as the reference");
}

}  // namespace
}  // namespace spikefold::testing
