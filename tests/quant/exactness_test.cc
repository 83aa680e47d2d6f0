// The proof that folds are exact, on small models.
#include "quant/folds/exactness.h"

#include "tests/kernels/runtime/runtime_kit.h"
#include "tests/quant/quant_kit.h"

namespace spikefold::testing {
namespace {

std::vector<FoldProof> Prove(const CheckpointReader& reader) {
  const auto proofs = ProveFolds(reader, {SomeTokens(9, 64, 1), SomeTokens(12, 64, 2)}, {.pool = &Pool()});
  INFO(proofs.status());
  REQUIRE(proofs.ok());
  REQUIRE(proofs->front().control);
  return *proofs;
}

const FoldProof& Find(const std::vector<FoldProof>& proofs, const std::string& fold) {
  const auto at =
      std::find_if(proofs.begin(), proofs.end(), [&](const FoldProof& p) { return p.fold == fold; });
  INFO(fold);
  REQUIRE(at != proofs.end());
  return *at;
}

}  // namespace

TEST_CASE("Every fold of a plain model proves exact, and moves the numbers") {
  const TinyModel tiny =
      MakeTinyModel({.hidden = 64, .intermediate = 96, .num_layers = 2, .vocab = 64, .random_gains = true});
  const auto proofs = Prove(*tiny.checkpoint);
  CHECK(proofs.size() == 14);
  for (const FoldProof& p : proofs) {
    CAPTURE(p.fold, p.float64.logit, p.float32.logit, p.float32.divergence, p.refused);
    CHECK(p.refused.empty());
    CHECK(p.excepted.empty());
    CHECK(IsExact(p, proofs.front()));
    CHECK((p.float32.logit > 0) == (p.fold != "rescale"));  // a power of two keeps every digit
    CHECK((p.float64.logit > 0) == (p.fold != "rescale" && p.fold != "R3"));  // R3 is in no weight
    CHECK(p.float64.logit < 1e-6);
  }
}

TEST_CASE("What a sandwich norm forbids is refused with its place, the rest is exact") {
  const TinyModel tiny = MakeTinyModel({.hidden = 64,
                                        .intermediate = 96,
                                        .num_layers = 2,
                                        .vocab = 64,
                                        .tied = true,
                                        .qk_norm = true,
                                        .sandwich = true});
  const auto proofs = Prove(*tiny.checkpoint);
  CHECK(Find(proofs, "R1").refused.find("R1: model.layers.0.") == 0);
  CHECK_FALSE(IsExact(Find(proofs, "R1"), proofs.front()));
  CHECK(Find(proofs, "norm_gain").excepted ==
        "norm_gain: model.norm: the head shares the embedding's weight");
  CHECK(Find(proofs, "R1+R2+smooth+R3+R4+shift").excepted.find("R1: ") == 0);
  for (const FoldProof& p : proofs) CHECK(IsExact(p, proofs.front()) == (p.fold != "R1"));
}

TEST_CASE("A fold that moves more than rounding does is not exact") {
  const auto proof = [](double float64, double float32, double divergence = 0) {
    return FoldProof{.float64 = {float64, divergence}, .float32 = {float32, divergence}};
  };
  const FoldProof control = proof(5e-6, 5e-6), quiet = proof(1e-9, 1e-9);
  CHECK(IsExact(proof(1e-5, 2e-5), control));
  CHECK_FALSE(IsExact(proof(1.1e-5, 2e-5), control));  // in float64 no noise excuses it
  CHECK_FALSE(IsExact(proof(1e-5, 2.1e-5), control));
  CHECK(IsExact(proof(1e-5, 1e-5), quiet));
  CHECK_FALSE(IsExact(proof(0, 1.1e-5), quiet));
  CHECK_FALSE(IsExact(proof(1e-6, 1e-6, 2e-6), control));
  const TinyModel tiny = MakeTinyModel({.hidden = 64, .intermediate = 96, .num_layers = 1, .vocab = 64});
  CHECK(absl::IsInvalidArgument(ProveFolds(*tiny.checkpoint, {}, {.pool = &Pool()}).status()));
  CHECK(absl::IsInvalidArgument(ProveFolds(*tiny.checkpoint, {{64}}, {.pool = &Pool()}).status()));
}

}  // namespace spikefold::testing
