#include "quant/apply.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <map>

#include "calib/evaluate.h"
#include "formats/base/dtype.h"
#include "formats/base/file.h"
#include "formats/quantized/native.h"
#include "kernels/runtime/two_level.h"
#include "quant/scheme.h"
#include "tests/quant/quant_kit.h"
#include "tests/testing/status_matchers.h"

namespace spikefold::testing {
namespace {

// Plans, quantizes and opens again.
std::unique_ptr<CheckpointReader> Quantized(const Scanned& s, const Recipe& recipe, const std::string& path,
                                            Plan* plan_out = nullptr) {
  const auto plan = MakePlan(recipe, s.input());
  CAPTURE(plan.status().ToString());
  REQUIRE(plan.ok());
  if (plan_out != nullptr) *plan_out = *plan;
  const absl::Status status =
      ApplyPlan(*plan, *s.tiny.checkpoint, {.pool = &TestPool(), .stats = &s.scan.stats, .output = path});
  CAPTURE(status.ToString());
  REQUIRE(status.ok());
  CHECK(NativeVerify(path).ok());
  auto reader = CheckpointReader::Open(path);
  CAPTURE(reader.status().ToString());
  REQUIRE(reader.ok());
  return *std::move(reader);
}

TokenStream Text(int64_t count, int64_t vocab) {
  TokenStream text;
  text.ids = *WordTokenizer(vocab).Encode(RandomWords(count, vocab, 9));
  return text;
}

EvalResult Measure(const CheckpointReader& quantized, const Scanned& s, bool simulate = false) {
  const auto model = LoadModel(quantized, {.pool = &TestPool(), .simulate = simulate});
  CAPTURE(model.status().ToString());
  REQUIRE(model.ok());
  const int64_t vocab = s.tiny.checkpoint->graph().config.vocab;
  const auto r = Evaluate(**model, *s.model, WordTokenizer(vocab), Text(512, vocab), {.context = 64});
  REQUIRE(r.ok());
  return *r;
}

}  // namespace

TEST_CASE("A plan whose linears round one input in two ways is refused") {
  const Scanned s = ScanTiny(PlainModel());
  const TempDirectory directory;
  const auto plan = MakePlan({.scheme = "w8a8-static"}, s.input());
  REQUIRE(plan.ok());
  const auto refused = [&](const std::function<void(TensorDecision&)>& change, const char* what) {
    Plan changed = *plan;
    change(changed.linears[1]);
    CHECK_THAT(ApplyPlan(changed, *s.tiny.checkpoint,
                         {.pool = &TestPool(), .stats = &s.scan.stats, .output = directory / "q"}),
               Fails(absl::StatusCode::kInvalidArgument,
                     absl::StrCat("k_proj: ", what, " differs from model.layers.0.self_attn.q_proj")));
  };
  refused([](TensorDecision& d) { d.activation_scale *= 2; }, "input_scale");
  refused([](TensorDecision& d) { d.activation_static = false; }, "activation format");
  refused([](TensorDecision& d) { d.kept = {1}; }, "kept_columns");
  CHECK(!PathExists(directory / "q"));
}

TEST_CASE("A quantized model runs on the integer kernels as simulated, close to the float model") {
  const Scanned s = ScanTiny(PlainModel());
  const TempDirectory directory;
  std::map<std::string, double> kld;
  for (const Scheme& scheme : Schemes()) {
    CAPTURE(scheme.name);
    const auto reader = Quantized(s, {.scheme = scheme.name}, directory / scheme.name);
    const EvalResult real = Measure(*reader, s), simulated = Measure(*reader, s, true);
    CHECK(real.kld_mean == Approx(simulated.kld_mean).epsilon(0.02).margin(1e-7));
    kld[scheme.name] = real.kld_mean;
  }
  // Divergence grows with the square of the steps: 17 times as wide at 4 bits as at 8, 2 times a bit below.
  CHECK(kld["w8a16"] > 1e-6);
  CHECK(kld["w8a16"] < kld["w8a8"]);
  CHECK(kld["w8a8"] < kld["w8a8-static"]);
  CHECK(kld["w8a8-static"] < 0.15 * kld["w4a16"]);
  CHECK(kld["w4a16"] < 0.05);
  CHECK(kld["w4a8"] == Approx(kld["w4a16"]).epsilon(0.1));
  CHECK(kld["w4a8-static"] == Approx(kld["w4a16"]).epsilon(0.1));
  CHECK(kld["w3a16"] > 2.5 * kld["w4a16"]);
  CHECK(kld["w3a16"] < 7 * kld["w4a16"]);
  CHECK(kld["w2a16"] > 2.5 * kld["w3a16"]);
  CHECK(kld["w4a4-group"] > 1.3 * kld["w4a8"]);
  CHECK(kld["w4a4-group"] < kld["w4a4-static"]);
  CHECK(kld["w4a4"] < kld["w4a4-static"]);
}

TEST_CASE(
    "Grids of few bits beside INT8 rows are written as INT8 matrices in groups, unless scales are floats") {
  const Scanned s = ScanTiny(PlainModel());
  const TempDirectory directory;
  const auto two_level = [&](const Recipe& recipe, const std::string& path) {
    Quantized(s, recipe, path);
    const auto native = NativeReader::Open(path);
    REQUIRE(native.ok());
    int found = 0, grouped = 0;
    for (const QuantizedLinearSpec& spec : (*native)->info().linears) {
      if (!spec.format.grouped) continue;
      const auto q = (*native)->ReadLinear(spec.module);
      REQUIRE(q.ok());
      ++grouped;
      if (FindTwoLevel({.n = q->n,
                        .k = q->k,
                        .format = q->format,
                        .group = q->group,
                        .codes = q->codes,
                        .scales = q->scales,
                        .zeros = q->zeros})) {
        ++found;
      }
    }
    CHECK(grouped > 0);
    return std::make_pair(found, grouped);
  };
  for (const Rounding rounding : {Rounding::kNearest, Rounding::kGptq}) {
    for (const char* scheme : {"w4a8", "w4a8-static"}) {
      Recipe recipe{.scheme = scheme, .rounding = rounding, .group_size = 16};
      const std::string path = absl::StrCat(directory / scheme, "-", RoundingName(rounding));
      const auto [found, grouped] = two_level(recipe, path);
      CHECK(found == grouped);
      recipe.group_scales = GroupScales::kFloat;
      CHECK(two_level(recipe, path + "-float").first == 0);
    }
  }
}

TEST_CASE("A plan that no file can hold is refused before the work, by a forecast too") {
  const Scanned s = ScanTiny(PlainModel());
  auto plan = MakePlan({.scheme = "w4a16"}, s.input());
  REQUIRE(plan.ok());
  plan->linears[1].group_size = 48;
  const TempDirectory directory;
  const ApplyOptions options = {.pool = &TestPool(), .stats = &s.scan.stats, .output = directory / "q"};
  const Fails refused(absl::StatusCode::kInvalidArgument, "K=64 is not a multiple of group_size=48");
  CHECK_THAT(ForecastApply(*plan, *s.tiny.checkpoint, options).status(), refused);
  CHECK_THAT(ApplyPlan(*plan, *s.tiny.checkpoint, options), refused);
}

TEST_CASE("Zero points on both sides run as simulated, and beat codes around 0") {
  const Scanned s = ScanTiny(PlainModel());
  const TempDirectory directory;
  for (const char* scheme : {"w4a8", "w4a4-group", "w4a4-static", "w2a16"}) {
    CAPTURE(scheme);
    std::map<ZeroPoints, double> kld;
    for (const ZeroPoints zeros : {ZeroPoints::kNone, ZeroPoints::kBoth}) {
      const std::string path = directory / absl::StrCat(scheme, ZeroPointsName(zeros));
      const auto reader = Quantized(s, {.scheme = scheme, .zero_points = zeros}, path);
      const EvalResult real = Measure(*reader, s), simulated = Measure(*reader, s, true);
      CHECK(real.kld_mean == Approx(simulated.kld_mean).epsilon(0.02));
      kld[zeros] = real.kld_mean;
    }
    CHECK(kld[ZeroPoints::kBoth] < 0.98 * kld[ZeroPoints::kNone]);
  }
}

TEST_CASE("Bits in the plan are those of the file") {
  Scanned s = ScanTiny(SpikedModel());
  GivePrefix(s, {7});
  const TempDirectory directory;
  Plan plan;
  const auto reader = Quantized(s,
                                {.scheme = "w4a8",
                                 .outliers = OutlierMode::kFoldKeep,
                                 .keep_columns = 3,
                                 .keep_super_weights = true,
                                 .keep = {"*layers.4*down_proj"}},
                                directory / "q", &plan);
  const auto native = NativeReader::Open(directory / "q");
  REQUIRE(native.ok());
  const NativeInfo& info = (*native)->info();
  CHECK(info.bits_linears == Approx(plan.totals.bits_linear()).epsilon(1e-12));
  CHECK(info.bits_all == Approx(plan.totals.bits_total()).epsilon(1e-12));
  CHECK(static_cast<int64_t>(info.file_bytes) - plan.totals.total_bytes < 64 * 1024);  // the header
  CHECK(static_cast<int64_t>(info.file_bytes) > plan.totals.total_bytes);
  CHECK(info.prefix.num_tokens == 1);
  CHECK(info.prefix.changes_function);
  CHECK(info.scheme == "w4a8");
}

TEST_CASE("Kept columns are the float model's to bf16, the rest is close, reasons and errors are recorded") {
  const Scanned s = ScanTiny(SpikedModel());
  const TempDirectory directory;
  Plan plan;
  Quantized(s, {.scheme = "w4a16", .keep_columns = 6}, directory / "q", &plan);
  const auto native = NativeReader::Open(directory / "q");
  REQUIRE(native.ok());
  for (const TensorDecision& d : plan.linears) {
    const auto q = (*native)->ReadLinear(d.module);
    REQUIRE(q.ok());
    const Tensor stored = Dequantize(*q);
    const auto w = s.tiny.checkpoint->ReadF32(d.module + ".weight");
    REQUIRE(w.ok());
    double error = 0, power = 0;
    for (int64_t row = 0; row < d.n; ++row) {
      for (int64_t c = 0; c < d.k; ++c) {
        const size_t i = static_cast<size_t>(row * d.k + c);
        const float v = w->as<float>()[i], u = stored.as<float>()[i];
        if (std::binary_search(d.kept.begin(), d.kept.end(), static_cast<int32_t>(c))) {
          CHECK(u == Bf16ToFloat(FloatToBf16(v)));
        }
        error += static_cast<double>((v - u) * (v - u));
        power += static_cast<double>(v * v);
      }
    }
    CHECK(std::sqrt(error / power) < 0.25);
    CHECK(q->weight_error > 0);
    CHECK(q->weight_error < 0.25);
    CHECK(q->reason == d.reason);
  }
}

TEST_CASE("Folding the planted spike makes static scales hold") {
  // Position 0 carries the spike; behind the prefix of that token no row of the text does.
  const Scanned s = ScanTiny(SpikedModel());
  const TempDirectory directory;
  const auto none =
      Quantized(s, {.scheme = "w8a8-static", .outliers = OutlierMode::kNone}, directory / "none");
  const auto keep =
      Quantized(s, {.scheme = "w8a8-static", .outliers = OutlierMode::kKeep}, directory / "keep");
  const double untreated = Measure(*none, s).kld_mean, kept = Measure(*keep, s).kld_mean;
  CHECK(kept < 0.2 * untreated);
}

TEST_CASE("Equal inputs give equal bytes, whatever the threads") {
  const Scanned s = ScanTiny(PlainModel());
  const TempDirectory directory;
  const auto plan = MakePlan({.scheme = "w4a8"}, s.input());
  REQUIRE(plan.ok());
  ThreadPool one(1);
  REQUIRE(
      ApplyPlan(*plan, *s.tiny.checkpoint, {.pool = &one, .stats = &s.scan.stats, .output = directory / "a"})
          .ok());
  REQUIRE(ApplyPlan(*plan, *s.tiny.checkpoint,
                    {.pool = &TestPool(), .stats = &s.scan.stats, .output = directory / "b"})
              .ok());
  for (const char* file : {"model.safetensors", "spikefold.json", "config.json", "manifest.json"}) {
    CAPTURE(file);
    const auto a = ReadFileToString(directory / "a/" + file, 1 << 24),
               b = ReadFileToString(directory / "b/" + file, 1 << 24);
    REQUIRE((a.ok() && b.ok()));
    CHECK(*a == *b);
  }
}

TEST_CASE("Nothing appears under the output's name unless all was written") {
  const Scanned s = ScanTiny(PlainModel());
  const TempDirectory directory;
  const auto plan = MakePlan({.scheme = "w8a8"}, s.input());
  REQUIRE(plan.ok());
  const auto stop = [](absl::string_view, int64_t done, int64_t) { return done < 9; };
  ApplyOptions options{
      .pool = &TestPool(), .stats = &s.scan.stats, .output = directory / "q", .progress = stop};
  CHECK(ApplyPlan(*plan, *s.tiny.checkpoint, options).code() == absl::StatusCode::kCancelled);
  CHECK(ListDirectory(directory.path())->empty());

  s.tiny.checkpoint->tensor("model.layers.1.mlp.up_proj.weight").as<float>()[5] = std::nanf("");
  options.progress = {};
  CHECK_FALSE(ApplyPlan(*plan, *s.tiny.checkpoint, options).ok());
  CHECK(ListDirectory(directory.path())->empty());
}

TEST_CASE("A plan of another model and a lost scan are refused") {
  Scanned s = ScanTiny(PlainModel());
  GivePrefix(s, {1});
  const TempDirectory directory;
  const auto made = MakePlan({.scheme = "w8a8", .outliers = OutlierMode::kFold}, s.input());
  REQUIRE(made.ok());
  const ApplyOptions options{.pool = &TestPool(), .stats = &s.scan.stats, .output = directory / "q"};
  const auto apply = [&](const Plan& plan, const ApplyOptions& o) {
    return ApplyPlan(plan, *s.tiny.checkpoint, o);
  };
  ApplyOptions without = options;
  without.stats = nullptr;
  CHECK_THAT(apply(*made, without),
             Fails(absl::StatusCode::kInvalidArgument, "give the scan it was made from"));
  Plan plan = *made;
  plan.model_fingerprint = "abc";
  CHECK_THAT(apply(plan, options), Fails(absl::StatusCode::kInvalidArgument, "the plan is for model abc"));
  plan = *made;
  plan.linears.pop_back();
  CHECK_THAT(apply(plan, options),
             Fails(absl::StatusCode::kInvalidArgument, "no decision for model.layers.2.mlp.down_proj"));
  plan = *made;
  plan.linears[0].k = 32;
  CHECK_THAT(apply(plan, options), Fails(absl::StatusCode::kInvalidArgument, "is no linear of this model"));
}

namespace {

// Everything but the manifest, which holds the command.
void CheckSameFiles(const std::string& a, const std::string& b) {
  for (const char* name : {"/model.safetensors", "/spikefold.json"}) {
    CAPTURE(name);
    CHECK(*ReadFileToString(a + name, 1 << 28) == *ReadFileToString(b + name, 1 << 28));
  }
}

// Plans and applies with the codes of `from`.
Plan ApplyFrom(const Scanned& s, const Recipe& recipe, const EarlierCheckpoint& from, const std::string& path,
               bool* copied) {
  const auto plan = MakePlan(recipe, s.input());
  REQUIRE(plan.ok());
  *copied = false;
  const absl::Status status = ApplyPlan(*plan, *s.tiny.checkpoint,
                                        {.pool = &TestPool(),
                                         .stats = &s.scan.stats,
                                         .output = path,
                                         .codes_from = from,
                                         .progress = [&](absl::string_view what, int64_t, int64_t) {
                                           *copied = *copied || what == "copying codes";
                                           return true;
                                         }});
  CAPTURE(status.ToString());
  REQUIRE(status.ok());
  return *plan;
}

}  // namespace

TEST_CASE(
    "Codes taken from an earlier checkpoint give the bytes of rounding anew, and only where plans agree") {
  Scanned s = ScanTiny(SpikedModel());
  GivePrefix(s, {7});
  const TempDirectory directory;
  const auto recipe = [](const char* scheme, int columns, bool prefix = true) {
    return Recipe{.scheme = scheme,
                  .rounding = Rounding::kGptq,
                  .outliers = prefix ? OutlierMode::kFoldKeep : OutlierMode::kKeep,
                  .keep_columns = columns,
                  .keep_super_weights = true};
  };
  Plan earlier;
  Quantized(s, recipe("w4a16", 3), directory / "earlier", &earlier);
  const auto native = NativeReader::Open(directory / "earlier");
  REQUIRE(native.ok());
  const EarlierCheckpoint from{.plan = &earlier, .native = native->get()};
  Recipe zeros = recipe("w4a8", 3);  // of activations as well
  zeros.zero_points = ZeroPoints::kBoth;
  bool copied = false;
  const auto check = [&](const char* name, const Recipe& wanted, bool expected) {
    CAPTURE(name);
    const std::string anew = directory / name, path = anew + "-from";
    Quantized(s, wanted, anew);
    const Plan plan = ApplyFrom(s, wanted, from, path, &copied);
    CHECK(copied == expected);
    CHECK(SharesRounding(earlier, plan) == expected);
    CheckSameFiles(anew, path);
  };
  Recipe floats = recipe("w4a8", 3);  // scales as w4a16 has them
  floats.group_scales = GroupScales::kFloat;
  check("w4a8", floats, true);
  check("multiples", recipe("w4a8", 3), false);
  check("zeros", zeros, true);
  check("columns", recipe("w4a8", 4), false);
  check("plain", recipe("w4a8", 3, false), false);
  check("w3a16", recipe("w3a16", 3), false);

  // A checkpoint of another plan than the one that is said.
  Plan other = earlier;
  other.recipe.seed = 99;
  ApplyFrom(s, floats, {.plan = &other, .native = native->get()}, directory / "lie", &copied);
  CHECK_FALSE(copied);
  CheckSameFiles(directory / "w4a8", directory / "lie");
}

}  // namespace spikefold::testing
