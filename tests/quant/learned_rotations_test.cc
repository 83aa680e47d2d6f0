// Learned rotations in the place of Hadamard matrices: what folds make of them, their file, and the way of
// their hash into plans. How they are learnt: refine_test.cc.
#include "quant/folds/learned_rotations.h"

#include <cmath>

#include "formats/base/hash.h"
#include "formats/safetensors.h"
#include "quant/apply.h"
#include "quant/prepare.h"
#include "tests/kernels/runtime/runtime_kit.h"
#include "tests/quant/quant_kit.h"
#include "tests/testing/status_matchers.h"

namespace spikefold::testing {
namespace {

using absl::StatusCode;

// Products of two random Hadamard rotations, another one in each layer.
LearnedRotations Some(const CheckpointReader& base, bool r1 = true, bool r2 = true) {
  const ModelGraph& graph = base.graph();
  LearnedRotations r = DrawnRotations(graph, r1, r2, 3);
  if (r1) r.residual = Turned(r.residual, *DrawnRotations(graph, true, false, 4).residual, r.hidden);
  uint64_t seed = 10;
  for (DenseMatrix& value : r.values) {
    value = Turned(value, *DrawnRotations(graph, false, true, ++seed).values[0], r.head_dim);
  }
  r.model_fingerprint = *base.Fingerprint();
  SealRotations(r);
  return r;
}

FoldOptions With(LearnedRotations r) {
  FoldOptions o;
  o.rotate_residual = r.residual != nullptr;
  o.rotate_values = !r.values.empty();
  o.learned = std::make_shared<const LearnedRotations>(std::move(r));
  return o;
}

TinyModel Biased() {
  TinyModelOptions o = PlainModel();
  o.o_bias = o.mlp_bias = true;
  return MakeTinyModel(o);
}

double Difference(const Tensor& a, const Tensor& b) { return RelativeError(a.as<float>(), b.as<float>()); }

}  // namespace

TEST_CASE("Learned rotations change no logit, and each tensor that they turn matters") {
  const TinyModel tiny = Biased();
  const std::vector<int32_t> tokens = SomeTokens(30, 131);
  const std::vector<float> want = RunLogits(*Load(*tiny.checkpoint), tokens);
  const auto folded = *FoldCheckpoint(*tiny.checkpoint, With(Some(*tiny.checkpoint)), &Pool());
  CHECK(RelativeError(RunLogits(*Load(*folded), tokens), want) < 1e-5);
  CHECK(folded->graph().rotations.empty());  // nothing is left to do while it runs
  // A copy in memory, into which one tensor at a time comes back as it was.
  TinyModel copy = Biased();
  int turned = 0;
  for (const StoredTensor& t : folded->tensors()) copy.checkpoint->tensor(t.name) = *folded->ReadF32(t.name);
  for (const StoredTensor& t : folded->tensors()) {
    const Tensor before = *tiny.checkpoint->ReadF32(t.name), after = *folded->ReadF32(t.name);
    if (before.as<float>() == after.as<float>()) continue;
    INFO("without " << t.name);
    ++turned;
    copy.checkpoint->tensor(t.name) = before.Clone();
    CHECK(RelativeError(RunLogits(*Load(*copy.checkpoint), tokens), want) > 1e-3);
    copy.checkpoint->tensor(t.name) = after.Clone();
  }
  CHECK(turned == 2 + 7 + 3 * (7 + 3));  // embedding and head; gains; linears and biases of v, o, down
}

TEST_CASE("The dense form of a drawn rotation makes the weights that the rotation itself makes") {
  const TinyModel tiny = Biased();
  LearnedRotations drawn = DrawnRotations(tiny.checkpoint->graph(), true, true, 1);
  drawn.model_fingerprint = *tiny.checkpoint->Fingerprint();
  const auto dense = *FoldCheckpoint(*tiny.checkpoint, With(drawn), &Pool());
  const auto hadamard =
      *FoldCheckpoint(*tiny.checkpoint, {.rotate_residual = true, .rotate_values = true}, &Pool());
  for (const StoredTensor& t : dense->tensors()) {
    INFO(t.name);
    CHECK(Difference(*dense->ReadF32(t.name), *hadamard->ReadF32(t.name)) < 1e-6);
  }
  // Without threads, too, to the bit.
  const auto alone = *FoldCheckpoint(*tiny.checkpoint, With(drawn));
  for (const StoredTensor& t : dense->tensors()) {
    CHECK(alone->ReadF32(t.name)->as<float>() == dense->ReadF32(t.name)->as<float>());
  }
}

TEST_CASE("Where the residual may not be rotated the values may still be, by learned matrices") {
  const auto base = *CheckpointReader::Open(std::string(SPIKEFOLD_TEST_DATA) + "/tiny/gemma3");
  const std::vector<int32_t> tokens = SomeTokens(20, 60);
  const auto folded = *FoldCheckpoint(*base, With(Some(*base, false, true)), &Pool());
  CHECK(RelativeError(RunLogits(*Load(*folded), tokens), RunLogits(*Load(*base), tokens)) < 1e-5);
  CHECK(folded->folds() == std::vector<std::string>{"R2"});
  CHECK_THAT(FoldCheckpoint(*base, With(Some(*base, true, true))).status(),
             Fails(StatusCode::kInvalidArgument,
                   "the learned rotations are R1 and R2; what is asked for and legal here is R2; rotate as "
                   "they were learnt, or learn others (model.layers.0."));
}

TEST_CASE("Rotations of another model, of other sizes or not orthogonal are refused with what was found") {
  const TinyModel tiny = Biased();
  const LearnedRotations good = Some(*tiny.checkpoint);
  const auto message = [&](const LearnedRotations& r) {
    return FoldCheckpoint(*tiny.checkpoint, With(r)).status();
  };
  REQUIRE(message(good).ok());
  LearnedRotations other = good;
  other.model_fingerprint = "other";
  CHECK_THAT(message(other), Fails(StatusCode::kInvalidArgument, "are of model other, this is model "));
  other = good;
  other.values.pop_back();
  CHECK_THAT(message(other), Fails(StatusCode::kInvalidArgument, "R2: is of 2 layers; this model has 3"));
  other = good;
  other.hidden = 32;
  other.residual = std::make_shared<const std::vector<double>>(32 * 32);
  CHECK_THAT(message(other), Fails(StatusCode::kInvalidArgument, "R1: is of width 32; this model needs 64"));
  for (const double change : {1e-9, double{NAN}}) {
    other = good;
    std::vector<double> values = *good.values[1];
    values[5] += change;
    other.values[1] = std::make_shared<const std::vector<double>>(values);
    CHECK_THAT(message(other), Fails(StatusCode::kInvalidArgument,
                                     "learned rotation layers.1.R2: is not orthogonal, M M^T is "));
  }
  FoldOptions one = With(good);
  one.rotate_values = false;
  CHECK_THAT(FoldCheckpoint(*tiny.checkpoint, one).status(),
             Fails(StatusCode::kInvalidArgument, "are R1 and R2; what is asked for and legal here is R1;"));
}

TEST_CASE("A matrix that is nearly orthogonal is brought back to the nearest one that is") {
  const TinyModel tiny = Biased();
  const DenseMatrix m = DrawnRotations(tiny.checkpoint->graph(), true, false, 1).residual;
  std::vector<double> q = *DrawnRotations(tiny.checkpoint->graph(), true, false, 2).residual;
  for (size_t i = 0; i < q.size(); ++i) q[i] += 1e-4 * std::sin(static_cast<double>(i));
  const DenseMatrix turned = Turned(m, q, 64);
  CHECK(OrthogonalityError(q, 64) > 1e-5);
  CHECK(OrthogonalityError(*turned, 64) < 1e-13);
}

TEST_CASE("Rotations come back from their file, and a damaged file is refused") {
  const TinyModel tiny = Biased();
  const TempDirectory directory;
  const std::string path = directory / "rotations.spike", other = directory / "other.spike";
  LearnedRotations r = Some(*tiny.checkpoint);
  r.record = Json::MakeObject().Set("scheme", "w4a4");
  REQUIRE(SaveRotations(r, path).ok());
  const auto back = LoadRotations(path);
  INFO(back.status());
  REQUIRE(back.ok());
  CHECK(*back->residual == *r.residual);
  REQUIRE(back->values.size() == 3);
  for (size_t l = 0; l < 3; ++l) CHECK(*back->values[l] == *r.values[l]);
  CHECK(back->sha256 == r.sha256);
  CHECK(back->model_fingerprint == r.model_fingerprint);
  CHECK(back->record.Dump() == R"({"scheme":"w4a4"})");
  const std::string bytes = *ReadFileToString(path, 1 << 24);
  const auto status = [&](const std::string& changed) {
    REQUIRE(WriteFileAtomically(other, changed).ok());
    return LoadRotations(other).status();
  };
  std::string flipped = bytes;
  flipped[bytes.size() - 100] = static_cast<char>(flipped[bytes.size() - 100] ^ 1);
  CHECK_THAT(status(flipped), Fails(StatusCode::kDataLoss, "its matrices are not those it was written with"));
  CHECK_THAT(status(bytes.substr(0, bytes.size() - 8)), Fails(StatusCode::kDataLoss, other));
  const auto replaced = [&](const std::string& from, const std::string& to) {
    std::string changed = bytes;
    REQUIRE(changed.find(from) != std::string::npos);
    return changed.replace(changed.find(from), from.size(), to);
  };
  CHECK_THAT(status(replaced("spikefold-rotations", "spikefold-ratations")),
             Fails(StatusCode::kDataLoss, "holds no rotations; give what learn-rotations wrote"));
  CHECK_THAT(status(replaced("format_version\\\":1", "format_version\\\":2")),
             Fails(StatusCode::kUnimplemented, "format version 2; this Spikefold reads 1"));
  CHECK_THAT(status(replaced("value_layers\\\":3", "value_layers\\\":2")),
             Fails(StatusCode::kDataLoss, "holds 4 matrices where it speaks of 3"));
  CHECK_THAT(LoadRotations(directory / "none").status(), Fails(StatusCode::kNotFound, "none"));
}

TEST_CASE("A plan names the rotations that it was made with, and takes no others") {
  const Scanned s = ScanTiny(PlainModel());
  const TempDirectory directory;
  const auto learned = std::make_shared<const LearnedRotations>(Some(*s.tiny.checkpoint));
  Recipe recipe;
  recipe.scheme = "w4a8";
  recipe.outliers = OutlierMode::kNone;
  recipe.rotate = *ParseRotations("offline");
  recipe.rotations_sha256 = learned->sha256;
  PrepareInput input{.reader = s.tiny.checkpoint.get(), .map = &s.scan.map, .stats = &s.scan.stats};
  input.scan_sha256 = "scan";
  input.pool = &TestPool();
  const auto refused = Prepare(recipe, input).status();
  CHECK_THAT(refused, Fails(StatusCode::kInvalidArgument,
                            "rotations: the recipe asks for learned ones (" + learned->sha256.substr(0, 12) +
                                "...); given are none; give what it was made with by --rotate-from"));
  input.rotations = learned;
  const auto prepared = Prepare(recipe, input);
  INFO(prepared.status());
  REQUIRE(prepared.ok());
  CHECK(prepared->plan.outlier_reason.find("learned rotations (" + learned->sha256.substr(0, 12)) !=
        std::string::npos);
  // By way of its file, twice: the same bytes. Others than Hadamard matrices give.
  const std::string json = PlanToJson(prepared->plan);
  CHECK(json.find("\"rotations_sha256\": \"" + learned->sha256 + "\"") != std::string::npos);
  const auto write = [&](const Prepared& p, const std::string& path) {
    ApplyOptions options{.pool = &TestPool(), .stats = p.stats_or(&s.scan.stats), .output = path};
    options.folds = p.folds();
    const absl::Status status = ApplyPlan(p.plan, p.model(*s.tiny.checkpoint), options);
    INFO(status);
    REQUIRE(status.ok());
    return *Sha256File(path + "/model.safetensors");
  };
  const auto again = PrepareFor(*PlanFromJson(json, "plan"), input);
  INFO(again.status());
  REQUIRE(again.ok());
  const std::string bytes = write(*prepared, directory / "a");
  CHECK(write(*again, directory / "b") == bytes);
  recipe.rotations_sha256.clear();
  input.rotations = nullptr;
  const auto hadamard = Prepare(recipe, input);
  REQUIRE(hadamard.ok());
  CHECK(write(*hadamard, directory / "c") != bytes);
  CHECK(absl::IsInvalidArgument(PrepareFor(prepared->plan, input).status()));
}

}  // namespace spikefold::testing
