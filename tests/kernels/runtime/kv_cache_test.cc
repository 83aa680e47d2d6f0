// The paged cache against the float one: f16 rows change nothing but rounding, codes cost what their bits
// cost, and how tokens are split over calls changes nothing at all.
#include "kernels/runtime/kv_cache.h"

#include <functional>

#include "kernels/cpu/cpu_features.h"
#include "kernels/runtime/ops.h"
#include "tests/kernels/runtime/runtime_kit.h"
#include "tests/testing/status_matchers.h"

namespace spikefold::testing {
namespace {

using kernels::KeyScale;

TinyModelOptions Small() {
  TinyModelOptions o;
  o.hidden = 64;
  o.intermediate = 96;
  o.num_layers = 2;
  o.head_dim = 16;
  o.vocab = 131;
  o.write_scale = 0.2;
  o.random_gains = true;
  return o;
}

// Grouped queries; one KV head with norms of q and k and an odd number of pairs; layers that slide, with a
// rotary embedding of their own.
std::vector<std::pair<const char*, TinyModelOptions>> Kinds() {
  TinyModelOptions grouped = Small(), normed = Small(), sliding = Small();
  grouped.qkv_bias = true;
  normed.qk_norm = true;
  normed.num_heads = 5;
  normed.num_kv_heads = 1;
  normed.head_dim = 22;
  sliding.num_layers = 3;
  sliding.qk_norm = sliding.sandwich = true;
  sliding.sliding_window = 90;
  sliding.sliding_layers = {true, false, true};
  sliding.rope = {.theta = 1e6, .scaling = RopeScaling::kLinear, .factor = 2};
  sliding.rope_local = {.theta = 1e4};
  return {{"grouped", grouped}, {"normed", normed}, {"sliding", sliding}};
}

// Scales for any model of these sizes: wide enough for every key.
std::shared_ptr<const KvChannels> WideScales(const ModelConfig& c, int bits) {
  auto channels = std::make_shared<KvChannels>();
  const size_t layers = static_cast<size_t>(c.num_layers),
               width = static_cast<size_t>(c.num_kv_heads * c.head_dim);
  channels->scale.assign(layers, std::vector<float>(width, 12.0f / static_cast<float>((1 << bits) - 1)));
  channels->min.assign(layers, std::vector<float>(width, -6.0f));
  return channels;
}

std::vector<KvOptions> Forms(const ModelConfig& c) {
  const KvOptions forms[] = {
      {.k_bits = 16, .v_bits = 16, .k_before_rope = true, .recent = 1},
      {.k_bits = 8, .v_bits = 8, .k_scale = KeyScale::kToken, .recent = 16},
      {.k_bits = 4, .v_bits = 4, .sinks = 3, .recent = 7},
      {.k_bits = 3, .v_bits = 2, .k_before_rope = true, .sinks = 1, .recent = 33},
      {.k_bits = 4,
       .v_bits = 3,
       .k_scale = KeyScale::kChannel,
       .k_before_rope = true,
       .recent = 1,
       .channels = WideScales(c, 4)},
      {.k_bits = 2, .v_bits = 8, .k_before_rope = true, .sinks = 4, .recent = 16, .evict = 100},
      {.k_bits = 16, .v_bits = 16, .sinks = 70, .recent = 16, .evict = 65},
  };
  return {std::begin(forms), std::end(forms)};
}

std::vector<float> RunCache(const RuntimeModel& model, absl::Span<const int32_t> tokens,
                            const KvOptions& options, size_t step = 0, const KvPrefix* prefix = nullptr) {
  REQUIRE(CheckKvOptions(options, model.graph().config) == absl::OkStatus());
  KvCache cache(model.graph().config, static_cast<int64_t>(tokens.size()) + (prefix ? prefix->size() : 0),
                prefix, options);
  return Hidden(model, tokens, cache, step);
}

// Root of the squared error over the squares.
double NoiseRatio(const std::vector<float>& a, const std::vector<float>& b) {
  double error = 0, square = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    error += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
    square += double{b[i]} * b[i];
  }
  return std::sqrt(error / square);
}

std::vector<float> LastRow(const std::vector<float>& hidden, int64_t width) {
  return {hidden.end() - width, hidden.end()};
}

}  // namespace

TEST_CASE("A cache of f16 pages equals the float cache but for rounding, for every kind of layer") {
  for (const auto& [name, options] : Kinds()) {
    for (const bool before_rope : {false, true}) {
      INFO(name << (before_rope ? " before rope" : ""));
      const TinyModel tiny = MakeTinyModel(options);
      const auto model = Load(*tiny.checkpoint);
      const std::vector<int32_t> tokens = SomeTokens(300, options.vocab), lead = {5, 9};
      const KvPrefix prefix = *ComputePrefix(*model, lead);
      for (const KvPrefix* p : {static_cast<const KvPrefix*>(nullptr), &prefix}) {
        const std::vector<float> want = RunCache(*model, tokens, {}, 0, p);
        const std::vector<float> got = RunCache(
            *model, tokens, {.k_bits = 16, .v_bits = 16, .k_before_rope = before_rope, .recent = 4}, 0, p);
        CHECK(RelativeError(got, want) < 1e-3);
        CHECK(got != want);
      }
    }
  }
}

TEST_CASE("Rows do not depend on how tokens are split over calls, in any form of the cache") {
  for (const auto& [name, options] : Kinds()) {
    const TinyModel tiny = MakeTinyModel(options);
    const auto model = Load(*tiny.checkpoint);
    const std::vector<int32_t> tokens = SomeTokens(310, options.vocab);
    const KvPrefix prefix = *ComputePrefix(*model, std::vector<int32_t>{5, 9});
    int form = 0;
    for (const KvOptions& kv : Forms(model->graph().config)) {
      INFO(name << " form " << form++);
      const std::vector<float> whole = RunCache(*model, tokens, kv, 0, &prefix);
      CHECK(RunCache(*model, tokens, kv, 1, &prefix) == whole);
      CHECK(RunCache(*model, tokens, kv, 37, &prefix) == whole);
      CHECK(RunCache(*model, tokens, kv, 129, &prefix) == whole);
    }
  }
}

TEST_CASE("More calls than a block of 512 rows, and the same rows decoded, give the same bits") {
  TinyModelOptions options = Small();
  options.num_layers = 1;
  const TinyModel tiny = MakeTinyModel(options);
  const auto model = Load(*tiny.checkpoint);
  const std::vector<int32_t> tokens = SomeTokens(1100, options.vocab);
  const KvOptions kv = {.k_bits = 4, .v_bits = 4, .k_before_rope = true, .sinks = 1};
  CHECK(RunCache(*model, tokens, kv) == RunCache(*model, tokens, kv, 100));
}

TEST_CASE("More bits mean less error, down to that of f16") {
  const TinyModelOptions options = Kinds()[0].second;
  const TinyModel tiny = MakeTinyModel(options);
  const auto model = Load(*tiny.checkpoint);
  const std::vector<int32_t> tokens = SomeTokens(400, options.vocab);
  const std::vector<float> want = RunCache(*model, tokens, {});
  for (const bool by_token : {false, true}) {
    double last = 1e30;
    for (const int bits : {2, 3, 4, 8, 16}) {
      const double error = NoiseRatio(
          RunCache(
              *model, tokens,
              {.k_bits = bits, .v_bits = bits, .k_scale = by_token ? KeyScale::kToken : KeyScale::kPage}),
          want);
      INFO(bits << " bits: " << error);
      CHECK(error < last / 1.5);
      last = error;
    }
  }
}

TEST_CASE("Rows are codes as soon as enough rows lie behind their page, and no sooner") {
  TinyModelOptions options = Small();
  options.num_layers = 1;  // with more, one row's codes would be seen through later rows' values
  const TinyModel tiny = MakeTinyModel(options);
  const auto model = Load(*tiny.checkpoint);
  const int64_t d = options.hidden;
  const std::vector<int32_t> tokens = SomeTokens(160, options.vocab);
  const KvOptions f16 = {.k_bits = 16, .v_bits = 16, .sinks = 3, .recent = 20};
  KvOptions coded = f16;
  coded.k_bits = coded.v_bits = 2;
  const std::vector<float> want = RunCache(*model, tokens, f16), got = RunCache(*model, tokens, coded);
  for (int64_t t = 0; t < 160; ++t) {
    INFO(t);
    const bool same = std::equal(want.begin() + t * d, want.begin() + (t + 1) * d, got.begin() + t * d);
    CHECK(same == (t + 1 - 20 < 3 + 64));  // the first page ends at position 67
  }
}

TEST_CASE("With eviction the last row equals a float run over the pinned tokens and the last ones") {
  for (const bool slides : {false, true}) {
    for (const bool before_rope : {false, true}) {
      INFO(slides << before_rope);
      TinyModelOptions options = Small();
      options.num_layers = 1;  // keys and values of a first layer depend on their own token only
      if (slides) {
        options.sliding_window = 75;
        options.sliding_layers = {true};
        options.rope_local = {.theta = 3e4};
      }
      const TinyModel tiny = MakeTinyModel(options);
      const auto model = Load(*tiny.checkpoint);
      const std::vector<int32_t> tokens = SomeTokens(260, options.vocab);
      const int64_t sinks = 5, kept = 72;
      const std::vector<float> all = RunCache(
          *model, tokens,
          {.k_bits = 16, .v_bits = 16, .k_before_rope = before_rope, .sinks = sinks, .evict = kept}, 50);
      for (const int64_t end : {70, 77, 78, 100, 200, 260}) {
        std::vector<int32_t> inside(tokens.begin(), tokens.begin() + std::min(end, sinks));
        inside.insert(inside.end(), tokens.begin() + std::max(sinks, end - kept), tokens.begin() + end);
        const std::vector<float> want = LastRow(RunCache(*model, inside, {}), options.hidden);
        const std::vector<float> got(all.begin() + (end - 1) * options.hidden,
                                     all.begin() + end * options.hidden);
        INFO(end);
        CHECK(RelativeError(got, want) < 1e-3);
        // The rows that left count: without eviction the result is another.
        const std::vector<float> whole =
            LastRow(RunCache(*model, absl::MakeConstSpan(tokens).first(static_cast<size_t>(end)), {}),
                    options.hidden);
        if (end >= 100) CHECK(RelativeError(got, whole) > 1e-2);
      }
    }
  }
}

TEST_CASE("Codes take the memory that their bits say, and an evicting cache stops growing") {
  TinyModelOptions options = Small();
  options.head_dim = 64;  // values of fewer channels would be padded
  options.num_heads = 2;
  options.num_kv_heads = 1;
  const TinyModel tiny = MakeTinyModel(options);
  const auto model = Load(*tiny.checkpoint);
  const ModelConfig& c = model->graph().config;
  const std::vector<int32_t> tokens = SomeTokens(64 * 100, options.vocab);
  const auto bytes = [&](const KvOptions& kv, size_t count) {
    KvCache cache(c, static_cast<int64_t>(count), nullptr, kv);
    Hidden(*model, absl::MakeConstSpan(tokens).first(count), cache, 256);
    return static_cast<double>(cache.bytes());
  };
  const double float_bytes = bytes({}, tokens.size());
  CHECK(float_bytes == KvBytesPerPosition({}, c) * 6400);
  for (const int bits : {16, 8, 4, 2}) {
    const KvOptions kv = {.k_bits = bits, .v_bits = bits};
    INFO(bits);
    CHECK(bytes(kv, 6400) - bytes(kv, 3200) == KvBytesPerPosition(kv, c) * 3200);
    CHECK(bytes(kv, tokens.size()) < float_bytes);
  }
  CHECK(KvBits({.k_bits = 4, .v_bits = 4}, c) == 4.5);
  CHECK(KvBits({.k_bits = 8, .v_bits = 2, .k_scale = KeyScale::kChannel, .k_before_rope = true}, c) == 5.25);
  const KvOptions evicting = {.k_bits = 4, .v_bits = 4, .sinks = 4, .evict = 256};
  CHECK(bytes(evicting, 3200) == bytes(evicting, 6400));
}

TEST_CASE(
    "A paged cache goes back: to the prefix, inside its recent rows exactly, further at its codes' "
    "precision") {
  const TinyModelOptions options = Kinds()[0].second;
  const TinyModel tiny = MakeTinyModel(options);
  const auto model = Load(*tiny.checkpoint);
  const ModelConfig& c = model->graph().config;
  const std::vector<int32_t> tokens = SomeTokens(200, options.vocab);
  const absl::Span<const int32_t> text(tokens);
  const KvPrefix prefix = *ComputePrefix(*model, std::vector<int32_t>{5, 9});
  for (const bool before_rope : {false, true}) {
    const KvOptions kv = {.k_bits = 8, .v_bits = 8, .k_before_rope = before_rope, .recent = 30};
    KvCache cache(c, 300, &prefix, kv);
    CHECK(cache.length() == 2);
    const std::vector<float> whole = Hidden(*model, text, cache);
    cache.Reset();
    CHECK(cache.length() == 2);
    CHECK(Hidden(*model, text, cache, 11) == whole);
    // 202 positions: pages end at 66, 130; 66 and 130 are codes.
    cache.Truncate(175);
    CHECK(Hidden(*model, text.subspan(173), cache) ==
          std::vector<float>(whole.begin() + 173 * c.hidden, whole.end()));
    cache.Truncate(100);
    const std::vector<float> again = Hidden(*model, text.subspan(98), cache);
    const std::vector<float> want(whole.begin() + 98 * c.hidden, whole.end());
    CHECK(again != want);
    CHECK(RelativeError(again, want) < 0.01);
    cache.Truncate(0);
    CHECK(cache.length() == 2);
    CHECK(Hidden(*model, text, cache) == whole);
  }
  KvCache evicting(c, 3000, nullptr, {.k_bits = 4, .v_bits = 4, .evict = 64});
  const std::vector<int32_t> longer = SomeTokens(1000, options.vocab);
  const std::vector<float> whole = Hidden(*model, longer, evicting, 100);
  evicting.Truncate(900);  // a short step back is kept
  CHECK(evicting.length() == 900);
  evicting.Truncate(300);
  CHECK(evicting.length() == 0);
  CHECK(Hidden(*model, longer, evicting, 77) == whole);
}

TEST_CASE("A copied cache and sequences of a batch behave as caches of their own") {
  const TinyModelOptions options = Kinds()[2].second;
  const TinyModel tiny = MakeTinyModel(options);
  const auto model = Load(*tiny.checkpoint);
  const ModelConfig& c = model->graph().config;
  for (const KvOptions& kv : Forms(c)) {
    const std::vector<int32_t> tokens = SomeTokens(150, options.vocab);
    KvCache first(c, 200, nullptr, kv);
    Hidden(*model, tokens, first);
    std::vector<KvCache> caches(3, first);
    std::vector<KvCache*> pointers = {&caches[0], &caches[1], &caches[2]};
    std::vector<float> hidden(static_cast<size_t>(3 * c.hidden)), want;
    for (int step = 0; step < 3; ++step) {
      const std::vector<int32_t> next = {7 + step, 50, 9 * step};
      REQUIRE(ForwardBatch(*model, next, pointers, absl::MakeSpan(hidden)).ok());
    }
    for (int32_t i = 0; i < 3; ++i) {
      KvCache own = first;
      std::vector<float> last;
      for (int32_t step = 0; step < 3; ++step) {
        const int32_t next[] = {i == 0 ? 7 + step : i == 1 ? 50 : 9 * step};
        last = Hidden(*model, next, own);
      }
      want.insert(want.end(), last.begin(), last.end());
    }
    CHECK(hidden == want);
  }
}

TEST_CASE("All instruction levels agree on a paged cache up to float sums") {
  const TinyModelOptions options = Kinds()[0].second;
  const TinyModel tiny = MakeTinyModel(options);
  const auto model = Load(*tiny.checkpoint);
  const std::vector<int32_t> tokens = SomeTokens(200, options.vocab);
  const KvOptions kv = {.k_bits = 8, .v_bits = 8, .k_before_rope = true, .sinks = 1};
  std::vector<float> plain;
  for (const kernels::Isa isa : kernels::AvailableIsas()) {
    REQUIRE(kernels::SetIsa(isa).ok());
    const std::vector<float> hidden = RunCache(*model, tokens, kv);
    if (plain.empty()) plain = hidden;
    // A key on the edge between two codes may fall on either side.
    CHECK(RelativeError(hidden, plain) < 1e-3);
  }
  REQUIRE(kernels::SetIsa(kernels::DetectedIsa()).ok());
}

TEST_CASE("Keys outside their static scales are counted") {
  const TinyModelOptions options = Kinds()[0].second;
  const TinyModel tiny = MakeTinyModel(options);
  const auto model = Load(*tiny.checkpoint);
  const ModelConfig& c = model->graph().config;
  auto channels = std::make_shared<KvChannels>(*WideScales(c, 4));
  const std::vector<int32_t> tokens = SomeTokens(200, options.vocab);
  KvOptions kv = {
      .k_bits = 4, .v_bits = 4, .k_scale = KeyScale::kChannel, .k_before_rope = true, .channels = channels};
  const std::vector<float> wide = RunCache(*model, tokens, kv);
  CHECK(model->ops().counters().saturated == 0);
  channels->scale[1][3] = 0.01f;
  const std::vector<float> narrow = RunCache(*model, tokens, kv);
  CHECK(model->ops().counters().saturated > 0);
  CHECK(narrow != wide);
}

TEST_CASE("Options that no cache can have are refused") {
  const ModelConfig c = Load(*MakeTinyModel(Small()).checkpoint)->graph().config;
  const auto check = [&](const KvOptions& kv) { return CheckKvOptions(kv, c); };
  using absl::StatusCode;
  CHECK(check({}).ok());
  CHECK_THAT(
      check({.k_bits = 5, .v_bits = 4}),
      Fails(StatusCode::kInvalidArgument, "kv: keys of 5 and values of 4 bits; use 2, 3, 4, 8 or 16, or 32"));
  CHECK_THAT(check({.k_bits = 32, .v_bits = 8}), Fails(StatusCode::kInvalidArgument, "or 32 for both"));
  CHECK_THAT(check({.evict = 100}),
             Fails(StatusCode::kInvalidArgument, "kv: a window of 100 rows needs a cache of 16"));
  CHECK_THAT(check({.k_bits = 4, .v_bits = 4, .recent = 0}),
             Fails(StatusCode::kInvalidArgument, "kv: 0 recent rows"));
  KvOptions by_channel = {.k_bits = 4, .v_bits = 4, .k_scale = KeyScale::kChannel};
  CHECK_THAT(check(by_channel),
             Fails(StatusCode::kInvalidArgument, "before rotary embedding; set k_before_rope"));
  by_channel.k_before_rope = true;
  CHECK_THAT(check(by_channel),
             Fails(StatusCode::kInvalidArgument, "need scales of all 2 layers; calibrate them"));
  auto channels = std::make_shared<KvChannels>(*WideScales(c, 4));
  by_channel.channels = channels;
  CHECK(check(by_channel).ok());
  channels->scale[1][0] = -1;
  CHECK_THAT(check(by_channel),
             Fails(StatusCode::kInvalidArgument, "key scales of layer 1 are not 32 positive"));
}

TEST_CASE("A paged cache refuses what it cannot count: the attention mass of each position") {
  const TinyModel tiny = MakeTinyModel(Small());
  const auto model = Load(*tiny.checkpoint);
  struct Mass : Taps {
    bool Wants(int, ValueKind) const override { return false; }
    void OnRows(const TapRows&) override {}
    bool WantsAttention(int) const override { return true; }
  } taps;
  KvCache cache(model->graph().config, 10, nullptr, {.k_bits = 4, .v_bits = 4});
  std::vector<float> hidden(64);
  CHECK_THAT(Forward(*model, std::vector<int32_t>{1}, cache, absl::MakeSpan(hidden), {.taps = &taps}),
             Fails(absl::StatusCode::kUnimplemented, "use a float one"));
  CHECK(cache.length() == 0);
}

}  // namespace spikefold::testing
