// What FoldCheckpoint() is asked for and what it reports; scales from statistics; the rewriting itself.
#include <cmath>

#include "formats/base/hadamard.h"
#include "kernels/hadamard_f32_f32/hadamard_f32_f32.h"
#include "kernels/runtime/row_rotation.h"
#include "quant/folds/fold_builder.h"
#include "quant/folds/qk_scales.h"
#include "quant/folds/smooth.h"
#include "tests/kernels/runtime/runtime_kit.h"
#include "tests/testing/status_matchers.h"

namespace spikefold::testing {
namespace {

using absl::StatusCode;

TinyModel Tiny(bool tied = true) {
  return MakeTinyModel({.hidden = 8,
                        .intermediate = 12,
                        .num_layers = 2,
                        .num_heads = 4,
                        .num_kv_heads = 2,
                        .head_dim = 2,
                        .vocab = 11,
                        .tied = tied,
                        .random_gains = true});
}

}  // namespace

TEST_CASE("A folded model has another fingerprint, which names its folds and follows seed and scales") {
  const TinyModel tiny = Tiny();
  const CheckpointReader& base = *tiny.checkpoint;
  const auto print = [&](const FoldOptions& options) {
    return *(*FoldCheckpoint(base, options))->Fingerprint();
  };
  const std::vector<float> ones(8, 1.0f), twos(8, 2.0f);
  const std::vector<std::string> prints = {
      *base.Fingerprint(),
      print({.rotate_values = true}),
      print({.rotate_down = true}),
      print({.rotate_residual = true}),
      print({.rotate_residual = true, .seed = 2}),
      print({.smooth = {{0, ValueKind::kFfnIn, ones}}}),
      print({.smooth = {{0, ValueKind::kFfnIn, twos}}}),
      print({.smooth = {{1, ValueKind::kFfnIn, twos}}}),
      print({.shifts = {{0, ValueKind::kFfnIn, twos}}}),
      print({.shifts = {{1, ValueKind::kFfnIn, twos}}}),
      print({.shifts = {{1, ValueKind::kFfnIn, ones}}}),
      print({.rescale = 2}),
      print({.rescale = 4}),
      print({.qk_scales = {{0, {1, 2}}}}),
      print({.qk_scales = {{0, {2, 1}}}}),
      print({.qk_scales = {{1, {1, 2}}}}),
  };
  for (size_t i = 0; i < prints.size(); ++i) {
    for (size_t j = 0; j < i; ++j) CHECK(prints[i] != prints[j]);
  }
  CHECK(prints[3].substr(64) == "+norm_gain+R1");
  CHECK(print({}) == prints[0]);
  CHECK(print({.rotate_residual = true}) == prints[3]);
}

TEST_CASE("A rotated model with a tied head gets a head of its own, listed with its tensors") {
  const TinyModel tiny = Tiny();
  auto folded = *FoldCheckpoint(*tiny.checkpoint, {.rotate_residual = true});
  CHECK_FALSE(folded->graph().config.tied_embeddings);
  CHECK(tiny.checkpoint->graph().config.tied_embeddings);
  const StoredTensor* head = folded->Find("lm_head.weight");
  REQUIRE(head != nullptr);
  CHECK(head->shape == Shape{11, 8});
  CHECK(head->bytes == 11 * 8 * 4);
  CHECK(folded->tensors().size() == tiny.checkpoint->tensors().size() + 1);
  CHECK(folded->ReadRaw("lm_head.weight")->as<float>() == folded->ReadF32("lm_head.weight")->as<float>());
  CHECK_THAT(folded->ReadF32("lm_hat.weight").status(), Fails(StatusCode::kNotFound, "lm_hat.weight"));
  const Tensor gain = *folded->ReadF32("model.norm.weight");
  for (const float g : gain.as<float>()) CHECK(g == 1);
  REQUIRE(folded->provenance().array().size() == 2);
  CHECK(folded->provenance().array()[1].Dump() ==
        R"({"kind":"rotation","name":"R1","at":"residual","factors":[8],"block":8,"width":8,"seed":1})");
}

TEST_CASE("A reader may own its base, and work without threads") {
  const TinyModel tiny = Tiny();
  const auto borrowed =
      *FoldCheckpoint(*tiny.checkpoint, {.rotate_residual = true, .rotate_values = true}, &Pool());
  const auto owned = *FoldCheckpoint(std::unique_ptr<CheckpointReader>(Tiny().checkpoint.release()),
                                     {.rotate_residual = true, .rotate_values = true});
  for (const StoredTensor& t : borrowed->tensors()) {
    CHECK(owned->ReadF32(t.name)->as<float>() == borrowed->ReadF32(t.name)->as<float>());
  }
}

TEST_CASE("Rewritten weights are remembered for the next reader with the same folds, and for no other") {
  const TinyModel tiny = Tiny();
  const FoldOptions rotated = {.rotate_residual = true, .rotate_values = true};
  const std::string name = "model.layers.0.mlp.up_proj.weight";
  TensorMemory memory(uint64_t{1} << 20);
  const auto read = [&](const FoldOptions& options, TensorMemory* kept, ThreadPool* pool) {
    const auto folded = *FoldCheckpoint(*tiny.checkpoint, options, pool);
    if (kept != nullptr) CHECK(folded->set_memory(kept).ok());
    const Tensor w = *folded->ReadF32(name);
    return std::vector<float>(w.as<float>().begin(), w.as<float>().end());
  };
  const auto alone = read(rotated, nullptr, nullptr);
  CHECK(read(rotated, &memory, nullptr) == alone);
  CHECK(memory.num_found() == 0);
  CHECK(read(rotated, &memory, nullptr) == alone);
  CHECK(read(rotated, &memory, &Pool()) == alone);
  CHECK(memory.num_found() == 2);
  FoldOptions other = rotated;
  other.seed = 2;
  CHECK(read(other, &memory, nullptr) == read(other, nullptr, nullptr));
  CHECK(memory.num_found() == 2);
  CHECK(read(rotated, &memory, nullptr) == alone);  // made again
  CHECK(memory.num_found() == 2);
  TensorMemory small(memory.bytes() - 1);
  for (int i = 0; i < 2; ++i) CHECK(read(rotated, &small, nullptr) == alone);
  CHECK(small.num_found() == 0);
}

TEST_CASE("Impossible options are refused with what was found and what is needed") {
  const TinyModel tiny = Tiny();
  struct Case {
    FoldOptions options;
    const char* message;
  };
  const std::vector<float> eight(8, 1.0f), four(4, 1.0f);
  std::vector<float> zero = eight, infinite = eight;
  zero[3] = 0;
  infinite[2] = INFINITY;
  const Case cases[] = {
      {{.smooth = {{0, ValueKind::kFfnIn, four}}}, "smooth: layers.0.ffn_in: 4 scales; 8 are needed"},
      {{.smooth = {{0, ValueKind::kCtx, eight}}}, "smooth: layers.0.ctx: 8 scales; 4 are needed"},
      {{.smooth = {{0, ValueKind::kFfnIn, zero}}}, "scale 3 is 0; a positive finite number is needed"},
      {{.smooth = {{0, ValueKind::kFfnIn, infinite}}}, "scale 2 is inf"},
      {{.smooth = {{2, ValueKind::kFfnIn, eight}}}, "smooth: layers.2.ffn_in: no such site"},
      {{.smooth = {{-1, ValueKind::kFinal, eight}}}, "no such site"},
      {{.smooth = {{0, ValueKind::kFfnIn, eight}, {0, ValueKind::kFfnIn, eight}}},
       "layers.0.ffn_in is there twice"},
      {{.shifts = {{0, ValueKind::kFfnIn, four}}}, "layers.0.ffn_in: a shift of 4 values; one of 8 finite"},
      {{.shifts = {{0, ValueKind::kFfnIn, infinite}}}, "one of 8 finite values is needed, once"},
      {{.shifts = {{0, ValueKind::kFfnIn, eight}, {0, ValueKind::kFfnIn, eight}}}, "is needed, once"},
      {{.shifts = {{3, ValueKind::kFfnIn, eight}}}, "the model has no input ffn_in in layer 3"},
      {{.rotate_down = true, .rotate_down_layers = {1, 0}}, "rotation \"R4\": its layers do not ascend"},
      {{.rotate_down = true, .rotate_down_layers = {2}},
       "rotation \"R4\" at down_in: layer 2; the model has 2"},
  };
  for (const Case& c : cases) {
    CHECK_THAT(FoldCheckpoint(*tiny.checkpoint, c.options).status(),
               Fails(StatusCode::kInvalidArgument, c.message));
  }
  const auto once = *FoldCheckpoint(*tiny.checkpoint, {.rotate_down = true});
  CHECK_THAT(FoldCheckpoint(*once, {.rotate_values = true}).status(),
             Fails(StatusCode::kInvalidArgument, "is rotated already"));
  const auto shifted = *FoldCheckpoint(*tiny.checkpoint, {.shifts = {{0, ValueKind::kFfnIn, eight}}});
  CHECK_THAT(FoldCheckpoint(*shifted, {.rotate_values = true}).status(),
             Fails(StatusCode::kInvalidArgument, "is shifted already"));
}

TEST_CASE("Random signs are the same everywhere, half of them negative, others for each rotation and seed") {
  const Rotation r = RandomRotation("R4", RotationPlace::kDownIn, 1536, 1);
  std::string text;
  for (int i = 0; i < 32; ++i) text += r.signs[static_cast<size_t>(i)] > 0 ? '+' : '-';
  CHECK(text == "+--++-++-++--+-+-+-+-+-+--+---+-");
  CHECK(r.factors == std::vector<int64_t>{12, 128});
  int64_t negative = 0;
  for (const int8_t s : r.signs) negative += s < 0 ? 1 : 0;
  CHECK(std::abs(negative - 768) < 100);
  CHECK(RandomRotation("R4", RotationPlace::kDownIn, 1536, 2).signs != r.signs);
  CHECK(RandomRotation("R1", RotationPlace::kDownIn, 1536, 1).signs != r.signs);
}

TEST_CASE("Weights are turned by the very rotation that the kernel applies to rows") {
  for (const int64_t width : {1536, 576, 80, 18, 7}) {
    const Rotation r = RandomRotation("R4", RotationPlace::kDownIn, width, 3);
    const std::vector<int32_t> some = SomeTokens(5 * width, 2000);
    std::vector<float> rows(some.begin(), some.end());
    Tensor w = Tensor::FromFloats({5, width}, rows), transposed(DType::kF32, {width, 5});
    for (int64_t i = 0; i < 5 * width; ++i) {
      transposed.as<float>()[static_cast<size_t>(i % width * 5 + i / width)] = rows[static_cast<size_t>(i)];
    }
    ApplyRewrite({.source = "w", .right = {Transform::Rotate(r)}, .left = {}}, &Pool(), &w);
    ApplyRewrite({.source = "w", .right = {}, .left = {Transform::Rotate(r)}}, nullptr, &transposed);
    const auto prepared = MakeRowRotation(r);
    REQUIRE(kernels::hadamard_f32_f32::Run({.m = 5,
                                            .n = width,
                                            .factors = prepared->factors,
                                            .scale = prepared->scale.data(),
                                            .x = rows.data()},
                                           Pool())
                .ok());
    CHECK(RelativeError(rows, w.as<float>()) < 1e-6);
    for (int64_t i = 0; i < 5 * width; ++i) {
      REQUIRE(transposed.as<float>()[static_cast<size_t>(i % width * 5 + i / width)] ==
              w.as<float>()[static_cast<size_t>(i)]);
    }
  }
}

TEST_CASE("Smoothing scales follow the formula, one for all query heads of a KV head") {
  const TinyModel tiny = Tiny();
  const CheckpointReader& model = *tiny.checkpoint;
  const auto site_of = [&](ValueKind v) {
    for (const Site& s : model.graph().sites) {
      if (s.layer == 1 && s.value == v) return s;
    }
    return Site();
  };
  const auto stats_of = [](const Site& site) {
    SiteStats s = {.site = site.id, .k = site.k};
    for (int64_t k = 0; k < site.k; ++k) {
      s.min.push_back(-static_cast<float>(k));
      s.max.push_back(static_cast<float>(k) / 2);
    }
    return s;
  };
  const auto weight_max = [&](const Site& site, int64_t column) {
    double max = 0;
    for (const int l : site.linears) {
      const Node& node = model.graph().nodes[static_cast<size_t>(l)];
      const Tensor w = *model.ReadF32(node.module + ".weight");
      for (int64_t n = 0; n < node.n; ++n) {
        max = std::max<double>(max, std::fabs(w.as<float>()[static_cast<size_t>(n * node.k + column)]));
      }
    }
    return max;
  };
  const Site ffn = site_of(ValueKind::kFfnIn), ctx = site_of(ValueKind::kCtx);
  const auto scales = SmoothSite(model, stats_of(ffn), 0.75);
  REQUIRE(scales.ok());
  CHECK(scales->layer == 1);
  CHECK(scales->value == ValueKind::kFfnIn);
  REQUIRE(scales->scales.size() == 8);
  CHECK(scales->scales[5] == Approx(std::pow(5.0, 0.75) / std::pow(weight_max(ffn, 5), 0.25)).epsilon(1e-6));
  CHECK(scales->scales[0] == Approx(std::pow(1e-5, 0.75) / std::pow(weight_max(ffn, 0), 0.25)).epsilon(1e-6));

  // Query heads 2 and 3 (channels 4, 5 and 6, 7) share KV head 1.
  const auto heads = SmoothSite(model, stats_of(ctx), 0.75);
  REQUIRE(heads.ok());
  REQUIRE(heads->scales.size() == 4);
  const double w = std::max(weight_max(ctx, 5), weight_max(ctx, 7));
  CHECK(heads->scales[3] == Approx(std::pow(7.0, 0.75) / std::pow(w, 0.25)).epsilon(1e-6));

  const auto refused = [&](const SiteStats& s, double alpha, const char* message) {
    CHECK_THAT(SmoothSite(model, s, alpha).status(), Fails(StatusCode::kInvalidArgument, message));
  };
  refused(stats_of(ffn), 1.5, "alpha=1.5; 0 to 1 are allowed");
  refused(stats_of(model.graph().sites.back()), 0.5, "final: the head's input takes no scales");
  SiteStats narrow = stats_of(ffn);
  narrow.max.pop_back();
  refused(narrow, 0.5, "layers.1.ffn_in: statistics of 7 channels; the site has 8");
  narrow.site = 99;
  refused(narrow, 0.5, "statistics of site 99");
  const auto rotated = *FoldCheckpoint(model, {.rotate_down = true});
  CHECK_THAT(SmoothSite(*rotated, stats_of(site_of(ValueKind::kDownIn)), 0.5).status(),
             Fails(StatusCode::kInvalidArgument, "scan the model without R4"));
}

TEST_CASE("Scaled gains are numbers of 16 bits, and the linears take what they differ by") {
  for (const float offset : {0.0f, 1.0f}) {
    TinyModelOptions o = {.hidden = 64,
                          .intermediate = 16,
                          .num_layers = 1,
                          .num_heads = 4,
                          .num_kv_heads = 2,
                          .head_dim = 16,
                          .vocab = 11,
                          .random_gains = true};
    o.norm_gain_offset = offset;
    const TinyModel tiny = MakeTinyModel(o);
    std::vector<float> scales;
    scales.reserve(64);
    for (int i = 0; i < 64; ++i) scales.push_back(std::exp2(static_cast<float>(i - 32) / 5));
    const auto folded = *FoldCheckpoint(*tiny.checkpoint, {.smooth = {{0, ValueKind::kAttnIn, scales}}});
    const Tensor before = *tiny.checkpoint->ReadF32("model.layers.0.input_layernorm.weight");
    const Tensor gain = *folded->ReadF32("model.layers.0.input_layernorm.weight");
    const Tensor w = *tiny.checkpoint->ReadF32("model.layers.0.self_attn.q_proj.weight");
    const Tensor v = *folded->ReadF32("model.layers.0.self_attn.q_proj.weight");
    int narrow = 0;
    for (size_t i = 0; i < 64; ++i) {
      const float stored = gain.as<float>()[i], g = stored + offset, was = before.as<float>()[i] + offset;
      narrow += Bf16ToFloat(FloatToBf16(stored)) == stored ? 1 : 0;
      CHECK(g * scales[i] == Approx(was).epsilon(1.0 / 64));
      CHECK(static_cast<double>(g) * v.as<float>()[i] ==
            Approx(static_cast<double>(was) * w.as<float>()[i]).epsilon(2e-7));
    }
    CHECK(narrow >= (offset == 0 ? 64 : 40));
  }
}

TEST_CASE("Rescaling and scales of rotary pairs that cannot be are refused") {
  const TinyModel tiny = Tiny();
  const auto fold = [&](const FoldOptions& options) {
    return FoldCheckpoint(*tiny.checkpoint, options).status();
  };
  for (const double lambda : {3.0, 0.5, 0.0, -2.0, 131072.0, HUGE_VAL}) {
    CHECK_THAT(fold({.rescale = lambda}), Fails(StatusCode::kInvalidArgument, "is not a power of two"));
  }
  CHECK_THAT(fold({.qk_scales = {{2, {1, 1}}}}), Fails(StatusCode::kInvalidArgument, "no such layer"));
  CHECK_THAT(fold({.qk_scales = {{0, {1}}}}), Fails(StatusCode::kInvalidArgument, "2 are needed"));
  CHECK_THAT(fold({.qk_scales = {{0, {1, 0}}}}), Fails(StatusCode::kInvalidArgument, "scale 1 is 0"));
  CHECK_THAT(fold({.qk_scales = {{1, {1, 1}}, {1, {1, 1}}}}),
             Fails(StatusCode::kInvalidArgument, "does not ascend"));
}

TEST_CASE("The least power of two brings a peak below an eighth of float16's end") {
  CHECK(RescaleFor(0) == 1);
  CHECK(RescaleFor(kRescaledPeak) == 1);
  CHECK(RescaleFor(23'600) == 4);
  CHECK(RescaleFor(88'000) == 16);
  CHECK(RescaleFor(1e12) == 65536);
}

TEST_CASE("Scales of rotary pairs follow the larger of a pair's keys, by head, as powers of two") {
  ModelConfig c;
  c.num_layers = 1;
  c.num_kv_heads = 2;
  c.head_dim = 4;
  // Pairs of head 0: 16 (of 1 and -16) and 1; of head 1: 2 and 2 * 2^0.9.
  const std::vector<float> sizes = {1, 1, -16, 0.5f, 2, 3.73f, 1, 1};
  KeyStats keys{.layer = 0, .rows = 100, .quantiles = {}};
  for (int i = 0; i < kKeyQuantiles; ++i) {
    const float spread = KeyQuantileShare(i) < 1.0 / 64 || KeyQuantileShare(i) > 63.0 / 64 ? 100 : 1;
    for (const float size : sizes) keys.quantiles.push_back(size * spread);  // rare rows do not count
  }
  const auto scales = [&](double alpha) { return (*ChooseQkScales({&keys, 1}, c, alpha))[0].scales; };
  CHECK(scales(1) == std::vector<float>{4, 0.25f, 1, 1});
  CHECK(scales(0.5) == std::vector<float>{2, 0.5f, 1, 1});
  CHECK(scales(0) == std::vector<float>{1, 1, 1, 1});
  c.qk_norm = true;  // one gain for both heads: 16 and 3.73
  CHECK(scales(1) == std::vector<float>{2, 0.5f, 2, 0.5f});
  CHECK_THAT(ChooseQkScales({&keys, 1}, c, 1.5).status(), Fails(StatusCode::kInvalidArgument, "alpha"));
}

}  // namespace spikefold::testing
