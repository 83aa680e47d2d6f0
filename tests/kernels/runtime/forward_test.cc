#include "kernels/runtime/forward.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/runtime/cpu_ops.h"
#include "kernels/runtime/loaded_model.h"
#include "kernels/runtime/ops.h"
#include "tests/kernels/runtime/runtime_kit.h"
#include "tests/testing/reference_model.h"

namespace spikefold::testing {
namespace {

// Float32 against float64 over a few layers of width 64.
constexpr double kFloatTolerance = 1e-5;

TinyModelOptions Small() {
  TinyModelOptions o;
  o.hidden = 64;
  o.intermediate = 96;
  o.num_layers = 3;
  o.head_dim = 16;
  o.vocab = 131;  // not a multiple of any tile
  o.write_scale = 0.2;
  o.random_gains = true;
  return o;
}

// One of each thing a layer can be.
std::vector<std::pair<const char*, TinyModelOptions>> Kinds() {
  TinyModelOptions plain = Small(), biased = Small(), normed = Small(), sandwich = Small();
  plain.rope = {.theta = 10000,
                .scaling = RopeScaling::kLlama3,
                .factor = 8,
                .low_freq_factor = 1,
                .high_freq_factor = 4,
                .original_max_positions = 64};
  biased.tied = biased.qkv_bias = biased.o_bias = biased.mlp_bias = true;
  biased.num_heads = biased.num_kv_heads = 3;
  biased.rope = {.theta = 500, .scaling = RopeScaling::kLinear, .factor = 2};
  normed.qk_norm = true;
  normed.num_heads = 6;
  normed.num_kv_heads = 1;
  normed.head_dim = 24;
  sandwich.sandwich = sandwich.qk_norm = sandwich.tied = true;
  sandwich.activation = GateActivation::kGeluTanh;
  sandwich.norm_gain_offset = 1;
  sandwich.embedding_scale = 8;
  sandwich.sliding_window = 9;
  sandwich.sliding_layers = {true, false, true};
  sandwich.rope = {.theta = 1e6};
  sandwich.rope_local = {.theta = 1e4};
  return {{"plain", plain}, {"biased", biased}, {"q and k norms", normed}, {"sandwich", sandwich}};
}

class Recorder : public Taps {
 public:
  bool Wants(int, ValueKind) const override { return true; }
  void OnRows(const TapRows& rows) override {
    seen.emplace_back(rows.layer, rows.value);
    if (rows.value == ValueKind::kResidual) {
      residual.emplace_back(rows.data, rows.data + rows.num_rows * rows.width);
    }
  }
  bool WantsAttention(int) const override { return true; }
  void OnAttention(const TapAttention& a) override {
    mass.emplace_back(a.column_mass, a.column_mass + a.num_heads * a.num_positions);
  }
  std::vector<std::pair<int, ValueKind>> seen;
  std::vector<std::vector<float>> residual;
  std::vector<std::vector<double>> mass;
};

}  // namespace

TEST_CASE("Logits and residuals equal a float64 model in plain loops, for every kind of layer") {
  for (const auto& [name, options] : Kinds()) {
    INFO(name);
    const TinyModel tiny = MakeTinyModel(options);
    const auto model = Load(*tiny.checkpoint);
    const std::vector<int32_t> tokens = SomeTokens(40, options.vocab);
    const ReferenceRun want = RunReference(*tiny.checkpoint, tokens);
    CHECK(RelativeError(RunLogits(*model, tokens), want.logits) < kFloatTolerance);
    Recorder taps;
    CHECK(RelativeError(RunLogits(*model, tokens, 0, {.taps = &taps}), want.logits) < kFloatTolerance);
    REQUIRE(taps.residual.size() == want.residual.size());
    for (size_t l = 0; l < want.residual.size(); ++l) {
      CHECK(RelativeError(taps.residual[l], want.residual[l]) < kFloatTolerance);
    }
  }
}

// What is left is the rounding of what enters (cosines) and of what leaves (rows for the head, logits).
TEST_CASE("The float64 backend equals the float64 model to float32's last digit, at once and in parts") {
  constexpr double kLastDigit = 2.5e-7;
  for (const auto& [name, options] : Kinds()) {
    INFO(name);
    const TinyModel tiny = MakeTinyModel(options);
    const auto model = Load(*tiny.checkpoint, Backend::kFloat64);
    CHECK(std::string(model->ops().name()) == "float64");
    const std::vector<int32_t> tokens = SomeTokens(40, options.vocab);
    const ReferenceRun want = RunReference(*tiny.checkpoint, tokens);
    CHECK(RelativeError(RunLogits(*model, tokens), want.logits) < kLastDigit);
    CHECK(RelativeError(RunLogits(*model, tokens, 7), want.logits) < kLastDigit);
    // Behind a prefix, which is bf16, it is the CPU's function.
    const auto cpu = Load(*tiny.checkpoint);
    const KvPrefix prefix = *ComputePrefix(*model, SomeTokens(3, options.vocab, 2));
    const auto behind = [&](const RuntimeModel& m) {
      KvCache cache(m.graph().config, 43, &prefix);
      return LogitsOf(m, Hidden(m, tokens, cache));
    };
    CHECK(RelativeError(behind(*model), behind(*cpu)) < kFloatTolerance);
    CHECK(RelativeError(behind(*model), want.logits) > 100 * kFloatTolerance);
  }
}

TEST_CASE("The float64 backend refuses what it would not compute in float64") {
  const TinyModel tiny = MakeTinyModel(Small());
  const auto model = Load(*tiny.checkpoint, Backend::kFloat64);
  const std::vector<int32_t> tokens = SomeTokens(5, Small().vocab);
  std::vector<float> hidden(5 * 64);
  const auto run = [&](KvCache cache, const ForwardOptions& options) {
    return Forward(*model, tokens, cache, absl::MakeSpan(hidden), options).code();
  };
  const ModelConfig& config = model->graph().config;
  CHECK(run(KvCache(config, 5), {}) == absl::StatusCode::kOk);
  CHECK(run(KvCache(config, 5, nullptr, {.k_bits = 8, .v_bits = 8}), {}) == absl::StatusCode::kUnimplemented);
  Recorder counts;
  CHECK(run(KvCache(config, 5), {.taps = &counts}) == absl::StatusCode::kUnimplemented);
  LinearWeights out;
  CHECK(absl::IsUnimplemented(model->ops().PackCodes({}, {}, out)));
}

TEST_CASE("A text that is cut back and goes on gives what it gives at once, in float64 too") {
  const TinyModel tiny = MakeTinyModel(Small());
  for (const Backend backend : {Backend::kCpu, Backend::kFloat64}) {
    const auto model = Load(*tiny.checkpoint, backend);
    const std::vector<int32_t> tokens = SomeTokens(20, Small().vocab),
                               others = SomeTokens(9, Small().vocab, 4);
    const std::vector<float> want = RunLogits(*model, tokens);
    KvCache cache(model->graph().config, 25);
    (void)Hidden(*model, absl::MakeConstSpan(tokens).first(11), cache);
    (void)Hidden(*model, others, cache);
    cache.Truncate(11);
    const auto rest = LogitsOf(*model, Hidden(*model, absl::MakeConstSpan(tokens).subspan(11), cache));
    const auto tail = absl::MakeConstSpan(want).last(rest.size());
    CHECK(RelativeError(rest, tail) < 1e-6);
  }
}

// What the context meets decides what a backend may round it to.
class WatchesReaders : public CpuOps {
 public:
  WatchesReaders() : CpuOps(&Pool()) {}
  absl::Status Attention(const AttentionArgs& args) override {
    readers.push_back(args.reader);
    return CpuOps::Attention(args);
  }
  std::vector<const LinearWeights*> readers;
};

TEST_CASE("Attention is told which linear reads its output") {
  const TinyModel tiny = MakeTinyModel(Small());
  auto ops = std::make_unique<WatchesReaders>();
  WatchesReaders& watched = *ops;
  LoadedModel model(tiny.checkpoint->graph(), std::move(ops), Pool());
  REQUIRE(model.LoadFloat(*tiny.checkpoint, true, {}).ok());
  (void)RunLogits(model, SomeTokens(6, Small().vocab));
  REQUIRE(watched.readers.size() == 3);
  for (int layer = 0; layer < 3; ++layer) {
    const int o_proj = model.graph().FindModule(absl::StrCat("model.layers.", layer, ".self_attn.o_proj"));
    CHECK(watched.readers[static_cast<size_t>(layer)] == model.linear(o_proj));
  }
}

TEST_CASE("One changed weight of any module is seen in the logits") {
  for (const auto& [name, options] : Kinds()) {
    const TinyModel tiny = MakeTinyModel(options);
    const std::vector<int32_t> tokens = SomeTokens(40, options.vocab);
    const ReferenceRun want = RunReference(*tiny.checkpoint, tokens);
    for (const StoredTensor& stored : std::vector<StoredTensor>(tiny.checkpoint->tensors())) {
      INFO(name << " " << stored.name);
      // A softmax does not see what all keys share.
      if (absl::StrContains(stored.name, "k_proj.bias")) continue;
      auto values = tiny.checkpoint->tensor(stored.name).as<float>();
      const size_t at = stored.name == "model.embed_tokens.weight"
                            ? static_cast<size_t>(tokens[3] * options.hidden)
                            : values.size() / 2 + 1;
      const float before = values[at];
      values[at] = before * 1.05f + 0.05f;
      CHECK(RelativeError(RunLogits(*Load(*tiny.checkpoint), tokens), want.logits) > 2 * kFloatTolerance);
      values[at] = before;
    }
  }
}

TEST_CASE("Decoding equals prefill bit for bit, however the tokens are split over calls") {
  for (auto [name, options] : Kinds()) {
    INFO(name);
    options.num_layers = static_cast<int64_t>(options.sliding_layers.empty() ? 2 : 3);
    const TinyModel tiny = MakeTinyModel(options);
    const auto model = Load(*tiny.checkpoint);
    const std::vector<int32_t> tokens = SomeTokens(70, options.vocab);
    const std::vector<float> whole = RunLogits(*model, tokens);
    for (const size_t step : {1u, 2u, 3u, 7u, 16u, 33u, 69u}) {
      INFO(step);
      CHECK(RunLogits(*model, tokens, step) == whole);
    }
  }
}

TEST_CASE("More rows than a block of 512 give the same bits as single calls") {
  TinyModelOptions options = Small();
  options.num_layers = 1;
  const TinyModel tiny = MakeTinyModel(options);
  const auto model = Load(*tiny.checkpoint);
  const std::vector<int32_t> tokens = SomeTokens(700, options.vocab);
  KvCache whole_cache(model->graph().config, 700), cache(model->graph().config, 700);
  CHECK(Hidden(*model, tokens, whole_cache) == Hidden(*model, tokens, cache, 100));
  Recorder taps;
  KvCache tapped(model->graph().config, 700);
  Hidden(*model, tokens, tapped, 0, {.taps = &taps});
  CHECK(taps.residual[0].size() == 700u * 64u);  // a watched call is not cut
}

TEST_CASE("A cache seeded with a prefix equals a cache whose first rows were rounded to bf16") {
  for (const auto& [name, options] : Kinds()) {
    INFO(name);
    const TinyModel tiny = MakeTinyModel(options);
    const auto model = Load(*tiny.checkpoint);
    const ModelConfig& c = model->graph().config;
    const std::vector<int32_t> lead = SomeTokens(5, options.vocab, 7), text = SomeTokens(30, options.vocab);
    auto prefix = ComputePrefix(*model, lead);
    REQUIRE(prefix.ok());

    KvCache by_hand(c, 35);
    Hidden(*model, lead, by_hand);
    std::vector<float> exact_k(by_hand.k(0), by_hand.k(0) + 5 * c.num_kv_heads * c.head_dim);
    for (int layer = 0; layer < c.num_layers; ++layer) {
      for (int64_t i = 0; i < 5 * c.num_kv_heads * c.head_dim; ++i) {
        by_hand.k(layer)[i] = Bf16ToFloat(FloatToBf16(by_hand.k(layer)[i]));
        by_hand.v(layer)[i] = Bf16ToFloat(FloatToBf16(by_hand.v(layer)[i]));
      }
    }
    KvCache seeded(c, 35, &*prefix);
    CHECK(seeded.length() == 5);
    CHECK(seeded.prefix_length() == 5);
    const std::vector<float> hidden = Hidden(*model, text, seeded);
    CHECK(hidden == Hidden(*model, text, by_hand));

    // It stands for the tokens themselves: only the rounding of K and V is between them.
    std::vector<int32_t> all = lead;
    all.insert(all.end(), text.begin(), text.end());
    KvCache plain(c, 35);
    std::vector<float> unrounded = Hidden(*model, all, plain);
    unrounded.erase(unrounded.begin(), unrounded.begin() + 5 * c.hidden);
    CHECK(RelativeError(hidden, unrounded) < 0.02);
    CHECK(hidden != unrounded);

    seeded.Reset();
    CHECK(seeded.length() == 5);
    CHECK(Hidden(*model, text, seeded) == hidden);
    seeded.Truncate(20);
    CHECK(Hidden(*model, absl::MakeConstSpan(text).subspan(15), seeded) ==
          std::vector<float>(hidden.begin() + 15 * c.hidden, hidden.end()));
  }
}

TEST_CASE("A sliding window forgets: tokens outside it change nothing, the oldest inside changes the row") {
  TinyModelOptions options = Small();
  options.num_layers = 1;  // with more, a token's trace travels on through the values
  options.sliding_window = 9;
  options.sliding_layers = {true};
  const TinyModel tiny = MakeTinyModel(options);
  const auto model = Load(*tiny.checkpoint);
  std::vector<int32_t> tokens = SomeTokens(30, options.vocab);
  const std::vector<float> before = RunLogits(*model, tokens);
  tokens[20] = (tokens[20] + 1) % 131;
  const std::vector<float> after = RunLogits(*model, tokens);
  for (size_t t = 0; t < 30; ++t) {
    const bool same = std::equal(before.begin() + static_cast<int64_t>(t * 131),
                                 before.begin() + static_cast<int64_t>((t + 1) * 131),
                                 after.begin() + static_cast<int64_t>(t * 131));
    INFO(t);
    CHECK(same == (t < 20 || t > 28));
  }
}

TEST_CASE("The last row alone is the last of all rows, over blocks of the walk too") {
  const TinyModel tiny = MakeTinyModel(Small());
  const auto model = Load(*tiny.checkpoint);
  for (const int64_t count : {int64_t{1}, int64_t{20}, 2 * model->ops().block_rows() + 3}) {
    const std::vector<int32_t> tokens = SomeTokens(count, 131);
    KvCache cache(model->graph().config, count);
    const std::vector<float> all = Hidden(*model, tokens, cache);
    std::vector<float> last(64), two(128);
    cache.Reset();
    REQUIRE(Forward(*model, tokens, cache, absl::MakeSpan(last), {.last_row_only = true}).ok());
    CHECK(cache.length() == count);
    CHECK(last == std::vector<float>(all.end() - 64, all.end()));
    cache.Reset();
    CHECK(Forward(*model, tokens, cache, absl::MakeSpan(two), {.last_row_only = true}).message() ==
          "hidden: room for 128 values; 64 needed (1 tokens x 64)");
  }
}

TEST_CASE("Token ids outside the vocabulary, a full cache and wrong sizes are refused, and the cache stays") {
  const TinyModel tiny = MakeTinyModel(Small());
  const auto model = Load(*tiny.checkpoint);
  KvCache cache(model->graph().config, 4);
  std::vector<float> hidden(3 * 64);
  const auto feed = [&](const std::vector<int32_t>& tokens) {
    return Forward(*model, tokens, cache, absl::MakeSpan(hidden), {});
  };
  absl::Status status = feed({0, 131, 2});
  CHECK(status.code() == absl::StatusCode::kInvalidArgument);
  CHECK(status.message() == "token 1: id 131 is outside the vocabulary; 0 to 130 are allowed");
  CHECK(feed({0, 1, -1}).message() == "token 2: id -1 is outside the vocabulary; 0 to 130 are allowed");
  CHECK(cache.length() == 0);
  REQUIRE(feed({0, 1, 2}).ok());
  status = feed({0, 1, 2});
  CHECK(status.code() == absl::StatusCode::kInvalidArgument);
  CHECK(status.message() == "cache: 6 positions needed; 4 allowed; make it larger or feed fewer tokens");
  CHECK(cache.length() == 3);
  status = feed({0});
  CHECK(status.code() == absl::StatusCode::kInvalidArgument);
  CHECK(status.message() == "hidden: room for 192 values; 64 needed (1 tokens x 64)");
  std::vector<float> logits(130);
  status = Logits(*model, absl::MakeConstSpan(hidden).first(64), absl::MakeSpan(logits));
  CHECK(status.message() == "logits: 64 hidden values and room for 130 logits; 64 and 131 a row are needed");
}

TEST_CASE("Loading needs a thread pool, and a backend that is missing says how to get it") {
  const TinyModel tiny = MakeTinyModel(Small());
  CHECK(LoadModel(*tiny.checkpoint, {}).status().message() == "load: a thread pool is needed");
  const absl::Status status =
      LoadModel(*tiny.checkpoint, {.pool = &Pool(), .backend = Backend::kCuda}).status();
  if (status.ok()) return;  // built with CUDA, on a machine with a GPU
  CHECK(status.code() == absl::StatusCode::kUnimplemented);
  const std::string message(status.message());
  const bool not_built =
      message == "backend \"cuda\": built without CUDA; configure with -DSPIKEFOLD_CUDA=ON";
  const bool no_driver =
      message == "backend \"cuda\": no NVIDIA driver on this machine; install one, or use --backend cpu";
  INFO(message);
  CHECK((not_built || no_driver));
}

TEST_CASE("Taps see every value once a layer, in the graph's order, and change no bit") {
  TinyModelOptions options = Kinds()[3].second;
  const TinyModel tiny = MakeTinyModel(options);
  const auto model = Load(*tiny.checkpoint);
  const std::vector<int32_t> tokens = SomeTokens(20, options.vocab);
  Recorder taps;
  // Separate passes for the norm of a branch and for its add round differently from nothing: the same
  // operations.
  CHECK(RunLogits(*model, tokens, 0, {.taps = &taps}) == RunLogits(*model, tokens));
  using V = ValueKind;
  std::vector<std::pair<int, V>> want = {{-1, V::kResidual}};
  for (int l = 0; l < 3; ++l) {
    for (const V v : {V::kAttnIn, V::kQ, V::kK, V::kV, V::kCtx, V::kAttnOut, V::kFfnIn, V::kGate, V::kUp,
                      V::kDownIn, V::kFfnOut, V::kResidual}) {
      want.emplace_back(l, v);
    }
  }
  want.emplace_back(-1, V::kFinal);
  CHECK(taps.seen == want);
  for (const std::vector<double>& mass : taps.mass) {  // each of 20 rows of each of 4 heads has mass 1
    double sum = 0;
    for (const double m : mass) sum += m;
    CHECK(sum == Approx(80).epsilon(1e-5));
  }
}

}  // namespace spikefold::testing
