// Folds change no logit: on random models of every shape, on the tiny models of five families, with planted
// spikes. Each fold alone and all together; and every tensor that a fold rewrites matters.
#include "quant/folds/folds.h"

#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "formats/safetensors.h"
#include "tests/kernels/runtime/runtime_kit.h"
#include "tests/testing/reference_model.h"
#include "tests/testing/status_matchers.h"

namespace spikefold::testing {
namespace {

constexpr double kTolerance = 1e-5;  // of a logit, over the largest

// Scales between 1/4 and 4 for every site of the blocks.
std::vector<SiteScales> SomeScales(const ModelGraph& graph) {
  std::vector<SiteScales> all;
  uint64_t seed = 5;
  for (const Site& site : graph.sites) {
    if (site.layer < 0) continue;
    const ModelConfig& c = graph.config;
    const int64_t width = site.value == ValueKind::kCtx ? c.num_kv_heads * c.head_dim : site.k;
    SiteScales s = {.layer = site.layer, .value = site.value, .scales = {}};
    for (const int32_t t : SomeTokens(width, 1000, ++seed))
      s.scales.push_back(std::exp2(static_cast<float>(t) / 250 - 2));
    all.push_back(std::move(s));
  }
  return all;
}

// Values that BF16 holds, of the size of the inputs, for every site of the blocks.
std::vector<SiteShift> SomeShifts(const ModelGraph& graph) {
  std::vector<SiteShift> all;
  uint64_t seed = 70;
  for (const Site& site : graph.sites) {
    if (site.layer < 0) continue;
    SiteShift s = {.layer = site.layer, .value = site.value, .values = {}};
    for (const int32_t t : SomeTokens(site.k, 64, ++seed))
      s.values.push_back(static_cast<float>(t - 32) / 32);
    all.push_back(std::move(s));
  }
  return all;
}

// Between 1/4 and 4, for all layers.
std::vector<QkScales> SomeQkScales(const ModelGraph& graph) {
  const ModelConfig& c = graph.config;
  std::vector<QkScales> all;
  for (int layer = 0; layer < c.num_layers; ++layer) {
    QkScales& s = all.emplace_back(QkScales{.layer = layer, .scales = {}});
    const auto drawn = SomeTokens(c.num_kv_heads * c.head_dim / 2, 1000, 90 + static_cast<uint64_t>(layer));
    for (size_t i = 0; i < drawn.size(); ++i) {
      const size_t from = c.qk_norm ? i % static_cast<size_t>(c.head_dim / 2) : i;  // all heads alike
      s.scales.push_back(std::exp2(static_cast<float>(drawn[from]) / 250 - 2));
    }
  }
  return all;
}

// "norm_gain", "R1", ... or "all".
FoldOptions Options(const std::string& fold, const ModelGraph& graph) {
  FoldOptions o;
  const bool all = fold == "all";
  o.norm_gain = all || fold == "norm_gain";
  o.rotate_residual = all || fold == "R1";
  o.rotate_values = all || fold == "R2";
  o.rotate_qk = all || fold == "R3";
  o.rotate_down = all || fold == "R4";
  if (all || fold == "rescale") o.rescale = 8;
  if (all || fold == "qk_scale") o.qk_scales = SomeQkScales(graph);
  if (all || fold == "smooth") o.smooth = SomeScales(graph);
  if (all || fold == "shift") o.shifts = SomeShifts(graph);
  return o;
}
const char* const kFolds[] = {"norm_gain", "R1", "R2", "smooth", "qk_scale", "R4", "R3", "shift", "all"};

std::unique_ptr<FoldedCheckpoint> Fold(const CheckpointReader& base, const FoldOptions& options) {
  auto folded = FoldCheckpoint(base, options, &Pool());
  INFO(folded.status());
  REQUIRE(folded.ok());
  return *std::move(folded);
}

std::string Refused(const FoldedCheckpoint& folded) {
  std::set<std::string> names;
  for (const RefusedFold& r : folded.refused()) names.insert(r.fold);
  return absl::StrJoin(names, " ");
}

// A folded model but for one tensor, which is the base's `source`; empty: a bias of zeros.
class AllButOne : public CheckpointReader {
 public:
  AllButOne(const FoldedCheckpoint& folded, std::string name, std::string source)
      : folded_(folded), name_(std::move(name)), source_(std::move(source)) {}
  CheckpointKind kind() const override { return folded_.kind(); }
  const std::string& path() const override { return folded_.path(); }
  const ModelGraph& graph() const override { return folded_.graph(); }
  const std::vector<StoredTensor>& tensors() const override { return folded_.tensors(); }
  const StoredTensor* Find(absl::string_view name) const override { return folded_.Find(name); }
  absl::StatusOr<Tensor> ReadF32(absl::string_view name) const override {
    if (name != name_) return folded_.ReadF32(name);
    if (source_.empty())
      return Tensor::FromFloats(folded_.Find(name)->shape,
                                std::vector<float>(static_cast<size_t>(folded_.Find(name)->shape[0])));
    return folded_.base().ReadF32(source_);
  }
  absl::StatusOr<Tensor> ReadRaw(absl::string_view name) const override { return ReadF32(name); }
  absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer() const override {
    return folded_.LoadTokenizer();
  }
  const Json& config_json() const override { return folded_.config_json(); }
  absl::StatusOr<std::vector<SideFile>> SideFiles() const override { return folded_.SideFiles(); }
  absl::StatusOr<std::string> Fingerprint() const override { return folded_.Fingerprint(); }
  uint64_t file_bytes() const override { return folded_.file_bytes(); }

 private:
  const FoldedCheckpoint& folded_;
  const std::string name_, source_;
};

// Names of tensors that differ from the base's.
std::vector<std::string> Changed(const FoldedCheckpoint& folded) {
  std::vector<std::string> names;
  for (const StoredTensor& t : folded.tensors()) {
    if (folded.base().Find(t.name) == nullptr) {
      names.push_back(t.name);
      continue;
    }
    const Tensor before = *folded.base().ReadF32(t.name), after = *folded.ReadF32(t.name);
    CHECK(before.shape() == after.shape());
    CHECK(t.shape == after.shape());
    if (before.as<float>() != after.as<float>()) names.push_back(t.name);
  }
  return names;
}

// Largest |h| behind a layer.
class Peak : public Taps {
 public:
  explicit Peak(int layer = 2) : layer_(layer) {}
  bool Wants(int layer, ValueKind v) const override { return layer == layer_ && v == ValueKind::kResidual; }
  void OnRows(const TapRows& r) override {
    for (int64_t i = 0; i < r.num_rows * r.width; ++i) peak = std::max(peak, std::abs(r.data[i]));
  }
  float peak = 0;

 private:
  const int layer_;
};

// Each fold alone and all: equal logits; and unequal ones when any one of its tensors is left out.
void CheckFolds(const CheckpointReader& base, absl::Span<const int32_t> tokens, const std::string& refused) {
  const std::vector<float> want = RunLogits(*Load(base), tokens);
  for (const std::string fold : kFolds) {
    INFO("fold " << fold);
    const auto folded = Fold(base, Options(fold, base.graph()));
    const std::vector<std::string> changed = Changed(*folded);
    CHECK(RelativeError(RunLogits(*Load(*folded), tokens), want) < kTolerance);
    // A tied head needs its norm's gain, unless R1 unties it.
    const bool tied = fold == "norm_gain" && base.graph().config.tied_embeddings;
    const bool listed = (" " + refused + " ").find(" " + fold + " ") != std::string::npos;
    CHECK(Refused(*folded) == (fold == "all" ? refused : tied || listed ? fold : ""));
    CHECK(folded->folds().empty() == (changed.empty() && fold != "R3"));
    for (const std::string& name : changed) {
      INFO("without " << name);
      const bool is_new = folded->base().Find(name) == nullptr;
      const std::string source = name == "lm_head.weight" ? "model.embed_tokens.weight" : "";
      const AllButOne half(*folded, name, is_new ? source : name);
      CHECK(RelativeError(RunLogits(*Load(half), tokens), want) > 1e-3);
    }
  }
}

}  // namespace

TEST_CASE("No fold changes a logit of a random model, and every tensor it rewrites matters") {
  TinyModelOptions small = {.hidden = 48,
                            .intermediate = 80,
                            .num_layers = 2,
                            .num_heads = 4,
                            .num_kv_heads = 2,
                            .head_dim = 12,
                            .vocab = 67,
                            .random_gains = true,
                            .write_scale = 0.3};
  SECTION("untied, with every bias") {
    small.qkv_bias = small.o_bias = small.mlp_bias = true;
    const TinyModel tiny = MakeTinyModel(small);
    CheckFolds(*tiny.checkpoint, SomeTokens(30, 67), "");
  }
  SECTION("QK-norm, one KV head") {
    small.num_kv_heads = 1;
    small.qk_norm = true;
    const TinyModel tiny = MakeTinyModel(small);
    CheckFolds(*tiny.checkpoint, SomeTokens(30, 67), "");
  }
  SECTION("widths without a Hadamard matrix, GELU") {
    small.hidden = 45;
    small.intermediate = 66;
    small.head_dim = 18;
    small.activation = GateActivation::kGeluTanh;
    const TinyModel tiny = MakeTinyModel(small);
    CheckFolds(*tiny.checkpoint, SomeTokens(30, 67), "");
  }
  SECTION("sandwich norm, gain offset, embedding scale, sliding layers, tied") {
    small.tied = small.sandwich = small.qk_norm = true;
    small.norm_gain_offset = 1;
    small.embedding_scale = 7;
    small.sliding_window = 8;
    small.sliding_layers = {true, false};
    const TinyModel tiny = MakeTinyModel(small);
    CheckFolds(*tiny.checkpoint, SomeTokens(30, 67), "R1 norm_gain");
  }
}

TEST_CASE("No fold changes a logit of the tiny models of five families") {
  struct Case {
    const char *family, *refused;
  };
  const Case cases[] = {{"llama", ""}, {"llama_bias", ""}, {"mistral", ""},
                        {"qwen2", ""}, {"qwen3", ""},      {"gemma3", "R1 norm_gain"}};
  for (const Case& c : cases) {
    INFO(c.family);
    const std::string directory = std::string(SPIKEFOLD_TEST_DATA) + "/tiny/" + c.family;
    const auto base = CheckpointReader::Open(directory);
    REQUIRE(base.ok());
    const auto expected = *SafetensorsFile::Open(directory + "/expected.safetensors");
    const Tensor ids = *expected->Read(*expected->Find("ids_a"));
    CheckFolds(**base, ids.as<int32_t>(), c.refused);
    // transformers' logits, from all folds at once.
    const auto folded = Fold(**base, Options("all", (*base)->graph()));
    const Tensor want = *expected->Read(*expected->Find("logits_a"));
    CHECK(RelativeError(RunLogits(*Load(*folded), ids.as<int32_t>()), want.as<float>()) < 2 * kTolerance);
  }
}

// Epsilons as large as what they are added to, so that it shows where one was not divided.
TEST_CASE("A residual that is divided by a power of two gives the same logits to the bit") {
  TinyModelOptions options = {.hidden = 48,
                              .intermediate = 80,
                              .num_layers = 2,
                              .num_heads = 4,
                              .num_kv_heads = 2,
                              .head_dim = 12,
                              .vocab = 67,
                              .norm_eps = 0.5f,
                              .random_gains = true,
                              .write_scale = 0.3};
  bool to_the_bit = true;
  SECTION("untied, with every bias") { options.qkv_bias = options.o_bias = options.mlp_bias = true; }
  SECTION("tied") { options.tied = true; }
  SECTION("tied, sandwich norm, QK-norm with biases") {
    options.tied = options.sandwich = options.qk_norm = options.qkv_bias = options.o_bias = true;
  }
  SECTION("the same with gains that are stored less 1") {
    options.tied = options.sandwich = options.qk_norm = true;
    options.norm_gain_offset = 1;
    options.embedding_scale = 7;
    to_the_bit = false;  // 1/8 of a gain, less 1, has other digits
  }
  const TinyModel tiny = MakeTinyModel(options);
  const std::vector<int32_t> tokens = SomeTokens(30, 67);
  Peak before(1), after(1);
  const std::vector<float> want = RunLogits(*Load(*tiny.checkpoint), tokens, 0, {.taps = &before});
  const auto folded = Fold(*tiny.checkpoint, {.rescale = 8});
  const std::vector<float> got = RunLogits(*Load(*folded), tokens, 0, {.taps = &after});
  CHECK((got == want) == to_the_bit);
  CHECK(RelativeError(got, want) < 1e-6);
  CHECK(after.peak == Approx(before.peak / 8).epsilon(1e-6));
  CHECK(folded->graph().config.norm_eps == 0.5f / 64);
  CHECK(*folded->config_json().GetDouble("rms_norm_eps", "config.json") == 0.5 / 64);
  for (const std::string& name : Changed(*folded)) {
    INFO("without " << name);
    CHECK(RelativeError(RunLogits(*Load(AllButOne(*folded, name, name)), tokens), want) > 1e-3);
  }
}

// In float64 no logit moves. In float32 the spike's row loses digits: where 2000 is added and subtracted
// again, 2000 * 2^-24 = 1e-4 is lost of values around 1; of two channels only, or of all in another basis.
TEST_CASE("With planted spikes folds are exact in float64, and as near to it in float32 as the model is") {
  const TinyModel tiny = MakeTinyModel({.spike_channels = {70, 301}, .step_up = 1, .step_down = 3});
  std::vector<int32_t> tokens = SomeTokens(40, 256);
  tokens[0] = 7;
  Peak before, after;
  const std::vector<double> exact = RunReference(*tiny.checkpoint, tokens).logits;
  const std::vector<float> own = RunLogits(*Load(*tiny.checkpoint), tokens, 0, {.taps = &before});
  const auto row = [](const auto& logits, size_t t) {
    return absl::MakeConstSpan(logits).subspan(t * 256, 256);
  };
  for (const std::string fold : kFolds) {
    INFO("fold " << fold);
    const auto folded = Fold(*tiny.checkpoint, Options(fold, tiny.checkpoint->graph()));
    CHECK(Refused(*folded).empty());
    const std::vector<float> wide = RunLogits(*Load(*folded, Backend::kFloat64), tokens);
    const std::vector<float> logits = RunLogits(*Load(*folded), tokens);
    for (size_t t = 0; t < tokens.size(); ++t) {
      CHECK(RelativeError(row(wide, t), row(exact, t)) < kTolerance);
      const double noise = RelativeError(row(own, t), row(exact, t));
      if (tokens[t] != 7) CHECK(noise < kTolerance);
      CHECK(RelativeError(row(logits, t), row(exact, t)) <
            (tokens[t] == 7 ? before.peak * 0x1p-24 : kTolerance));
    }
  }
  const auto rotated = Fold(*tiny.checkpoint, Options("R1", tiny.checkpoint->graph()));
  (void)RunLogits(*Load(*rotated), tokens, 0, {.taps = &after});
  CHECK(before.peak > 1000);
  CHECK(after.peak < before.peak / 10);  // two channels spread over 512: 16 to 22
}

}  // namespace spikefold::testing
