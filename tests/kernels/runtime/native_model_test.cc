// Natively quantized checkpoints: written, loaded, run on the real kernels and simulated in float.
#include <cmath>

#include "formats/families/family.h"
#include "formats/quantized/native.h"
#include "kernels/runtime/generate.h"
#include "kernels/runtime/ops.h"
#include "tests/kernels/runtime/runtime_kit.h"
#include "tests/testing/reference_model.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_directory.h"

namespace spikefold::testing {
namespace {

TinyModelOptions Small(bool tied) {
  TinyModelOptions o;
  o.hidden = 64;
  o.intermediate = 96;
  o.num_layers = 3;
  o.head_dim = 16;
  o.vocab = 131;
  o.write_scale = 0.2;
  o.tied = tied;
  o.qkv_bias = true;
  return o;
}

// How a linear is to be stored.
struct How {
  WeightFormat weights = WeightFormat::kFloat;
  ActivationFormat act = ActivationFormat::kFloat;
  std::vector<int32_t> kept;
  std::vector<std::pair<int32_t, int32_t>> supers;  // (row, column)
  float spike_threshold = 0;
  int64_t group = 16, max_spike_rows = 4;
};

// Round to nearest; kept columns and super weights left out, as the format wants.
QuantizedLinear Quantize(const Node& node, const Tensor& w, absl::Span<const float> bias, const How& how) {
  QuantizedLinear q;
  q.module = node.module;
  q.n = node.n;
  q.k = node.k;
  q.format = how.weights;
  q.act = how.act;
  q.bias.assign(bias.begin(), bias.end());
  q.has_bias = !bias.empty();
  if (how.act.is_static()) q.input_scale = how.act.bits == 8 ? 0.04f : 0.6f;
  if (how.act.is_static() && !how.act.symmetric) q.input_zero = how.act.bits == 8 ? -9 : 1;
  q.spike_threshold = how.spike_threshold;
  q.max_spike_rows = how.max_spike_rows;
  q.reason = "test";
  Tensor rest = w.Clone();
  const auto at = [&](int64_t row, int64_t column) -> float& {
    return rest.as<float>()[static_cast<size_t>(row * q.k + column)];
  };
  if (how.weights.is_float()) {
    q.float_dtype = DType::kF32;
    q.float_weight = std::move(rest);
    return q;
  }
  q.kept_columns = how.kept;
  q.num_kept = static_cast<int64_t>(how.kept.size());
  q.num_super = static_cast<int64_t>(how.supers.size());
  for (const auto& [row, column] : how.supers) {
    q.supers.push_back({row, column, at(row, column)});
    at(row, column) = 0;
  }
  for (int64_t n = 0; n < q.n; ++n) {
    for (const int32_t k : how.kept) {
      q.kept_weight_bf16.push_back(FloatToBf16(at(n, k)));
      at(n, k) = 0;
    }
  }
  const auto values = rest.as<float>();
  q.group = how.weights.grouped ? how.group : 0;
  const int64_t step = how.weights.grouped ? how.group : q.k;
  q.codes.resize(static_cast<size_t>(q.n * q.k));
  const auto lo = static_cast<float>(q.format.lo()), hi = static_cast<float>(q.format.hi());
  for (int64_t i = 0; i < q.n * q.k; i += step) {
    float low = 0, high = 0;
    for (int64_t k = i; k < i + step; ++k) {
      low = std::min(low, values[static_cast<size_t>(k)]);
      high = std::max(high, values[static_cast<size_t>(k)]);
    }
    float scale = q.format.symmetric ? std::max(-low, high) / hi : (high - low) / (hi - lo);
    if (scale == 0) scale = 1;
    if (how.weights.grouped) scale = Bf16ToFloat(FloatToBf16(scale));
    q.scales.push_back(scale);
    const float zero = q.format.symmetric ? 0 : std::clamp(std::nearbyint(lo - low / scale), lo, hi);
    if (!q.format.symmetric) q.zeros.push_back(static_cast<int8_t>(zero));
    for (int64_t k = i; k < i + step; ++k) {
      const float code = std::nearbyint(values[static_cast<size_t>(k)] / scale) + zero;
      q.codes[static_cast<size_t>(k)] = static_cast<int8_t>(std::clamp(code, lo, hi));
    }
  }
  return q;
}

using Choose = std::function<How(const Node&)>;

// Writes the tiny model with each linear stored as `choose` says, and puts what the codes mean into
// `meaning`.
absl::Status WriteNative(const std::string& path, const TinyModel& tiny, const Choose& choose,
                         const NativePrefix* prefix, MemoryCheckpoint* meaning, const NativeKv& kv = {}) {
  const ModelGraph& graph = tiny.checkpoint->graph();
  NativeInfo info;
  info.tool_version = "test";
  info.architecture = graph.config.architecture;
  info.base_fingerprint = "test";
  std::vector<QuantizedLinear> linears;
  std::vector<SafetensorsWriter::Spec> plain;
  for (const Node& node : graph.nodes) {
    const std::string name = node.module + ".weight";
    if (node.module.empty() || tiny.checkpoint->Find(name) == nullptr) continue;
    const Tensor w = *tiny.checkpoint->ReadF32(name);
    const bool quantized = !choose(node).weights.is_float();
    if (node.op != Op::kLinear && !(node.role == Role::kEmbedding && quantized)) {
      plain.push_back({name, DType::kF32, w.shape()});
      continue;
    }
    const Tensor bias = node.has_bias ? *tiny.checkpoint->ReadF32(node.module + ".bias") : Tensor();
    linears.push_back(
        Quantize(node, w, node.has_bias ? bias.as<float>() : absl::Span<const float>(), choose(node)));
    if (meaning != nullptr) meaning->tensor(name) = Dequantize(linears.back());
  }
  for (const QuantizedLinear& q : linears) info.linears.push_back(q);
  info.kv = kv;
  if (prefix != nullptr) {
    info.prefix = {.num_tokens = static_cast<int64_t>(prefix->ids.size()),
                   .kind = "tokens",
                   .layers = {0, 1, 2},
                   .num_kv_heads = graph.config.num_kv_heads,
                   .head_dim = graph.config.head_dim};
  }
  auto writer = NativeWriter::Create(path, info, plain, ConfigToJson(graph.config), {}, {});
  if (!writer.ok()) return writer.status();
  for (const QuantizedLinear& q : linears) {
    if (absl::Status s = (*writer)->WriteLinear(q); !s.ok()) return s;
  }
  for (const auto& spec : plain) {
    if (absl::Status s = (*writer)->WriteTensor(spec.name, tiny.checkpoint->ReadF32(spec.name)->view());
        !s.ok()) {
      return s;
    }
  }
  if (prefix != nullptr) {
    if (absl::Status s = (*writer)->WritePrefix(*prefix); !s.ok()) return s;
  }
  return (*writer)->Commit();
}

absl::StatusOr<std::unique_ptr<RuntimeModel>> LoadNative(const std::string& path, bool simulate = false) {
  auto reader = CheckpointReader::Open(path);
  if (!reader.ok()) return reader.status();
  return LoadModel(**reader, {.pool = &Pool(), .simulate = simulate});
}

// Everything at once: both weight kinds, all activation forms, kept columns, super weights, spike rows, a
// linear left in float on a quantized site, and float weights on a quantized input.
How Mixed(const Node& node, bool tied) {
  using W = WeightFormat;
  using A = ActivationFormat;
  if (node.role == Role::kEmbedding && !tied) return {W::kS4g, A::kFloat, {}, {}, 0};
  if (node.role == Role::kEmbedding || node.role == Role::kHead) return {W::kS8c, A::kS8Token, {3, 9}, {}, 0};
  if (node.layer == 0) {
    if (node.role == Role::kDownProj) return {W::kS8c, A::kS8Token, {5, 70, 71}, {{1, 7}, {60, 90}}, 4.5f};
    if (node.role == Role::kVProj) return {};
    return {W::kS8c, A::kS8Static, {0, 63}, {}, 0};
  }
  if (node.layer == 1) {
    return {W::kS4g, A::kFloat, {11}, {{2, 30}}, 0};
  }
  return {W::kS4g, A::kS8Token, {}, {}, 0};
}

}  // namespace

TEST_CASE("Weight-only models compute what their codes mean") {
  for (const bool tied : {false, true}) {
    for (const char* word : {"s8c", "s8g", "u8c", "u8g", "s4c", "s4g", "u4c", "u4g", "s3c", "s3g", "u3c",
                             "u3g", "s2c", "s2g", "u2c", "u2g"}) {
      INFO(word);
      const WeightFormat format = *ParseWeightFormat(word);
      const TinyModel tiny = MakeTinyModel(Small(tied)), meaning = MakeTinyModel(Small(tied));
      TempDirectory dir;
      const Choose choose = [&](const Node&) { return How{format, ActivationFormat::kFloat, {}, {}, 0}; };
      REQUIRE(WriteNative(dir / "q", tiny, choose, nullptr, meaning.checkpoint.get()) == absl::OkStatus());
      const auto model = LoadNative(dir / "q");
      REQUIRE(model.status() == absl::OkStatus());
      const std::vector<int32_t> tokens = SomeTokens(40, 131);
      const ReferenceRun want = RunReference(*meaning.checkpoint, tokens);
      const std::vector<float> logits = RunLogits(**model, tokens);
      CHECK(RelativeError(logits, want.logits) < 1e-5);
      CHECK(RelativeError(logits, RunReference(*tiny.checkpoint, tokens).logits) >
            1e-3);  // rounding is there
      CHECK(RunLogits(**model, tokens, 3) == logits);
    }
  }
}

TEST_CASE("Real kernels and simulation agree on a model that mixes every kind of storage") {
  for (const bool tied : {false, true}) {
    const TinyModel tiny = MakeTinyModel(Small(tied));
    TempDirectory dir;
    const Choose choose = [&](const Node& node) { return Mixed(node, tied); };
    REQUIRE(WriteNative(dir / "q", tiny, choose, nullptr, nullptr) == absl::OkStatus());
    const auto real = LoadNative(dir / "q"), simulated = LoadNative(dir / "q", true);
    REQUIRE(real.status() == absl::OkStatus());
    REQUIRE(simulated.status() == absl::OkStatus());
    // Equal up to float32 sums, but for a rare value on the edge between two codes: short texts, so that such
    // a value spoils its own text only.
    int equal = 0;
    for (uint64_t text = 0; text < 40; ++text) {
      const std::vector<int32_t> tokens = SomeTokens(3, 131, text);
      const double error = RelativeError(RunLogits(**real, tokens), RunLogits(**simulated, tokens));
      CHECK(error < 0.05);
      equal += error < 1e-5 ? 1 : 0;
    }
    CHECK(equal >= 32);
    CHECK((*real)->ops().counters().spike_rows > 0);
    CHECK((*real)->ops().counters().missed_spike_rows == 0);
    const std::vector<int32_t> tokens = SomeTokens(40, 131);
    CHECK((RunLogits(**real, tokens, 7) == RunLogits(**real, tokens)));
    CHECK((*simulated)->weight_bytes() > 2 * (*real)->weight_bytes());
  }
}

TEST_CASE("Real kernels and simulation agree on a model of every scheme") {
  // w8a8 to w4a4-static, symmetric and not.
  const std::pair<const char*, const char*> kPairs[] = {
      {"s8c", "s8r"}, {"s8c", "u8r"}, {"u8c", "s8r"},   {"s8c", "s8t"},   {"s8c", "u8t"},   {"u8g", "u8t"},
      {"s4g", "s8r"}, {"u4g", "u8r"}, {"s4g", "s8t"},   {"u4g", "u8t"},   {"s4c", "s8r"},   {"u4c", "u8r"},
      {"s4g", "s4r"}, {"u4g", "u4r"}, {"s4g", "s4g32"}, {"u4g", "u4g32"}, {"s4c", "s4g32"}, {"s8c", "s4g32"},
      {"s4g", "s4t"}, {"u4g", "u4t"}, {"s8c", "s4r"},   {"u3g", "u8r"},   {"s2g", "s8r"}};
  for (const auto& [weights, act] : kPairs) {
    INFO(weights << " " << act);
    const How how{*ParseWeightFormat(weights), *ParseActivationFormat(act), {}, {}, 0};
    const TinyModel tiny = MakeTinyModel(Small(false));
    TempDirectory dir;
    const Choose choose = [&](const Node& node) {
      if (node.role == Role::kEmbedding || node.role == Role::kHead) return How();
      How h = how;
      h.kept = {3, 17};
      h.supers = {{1, 5}};
      h.spike_threshold = node.role == Role::kDownProj && node.layer == 0 ? 4.5f : 0;
      h.max_spike_rows = 40;  // room for all
      return h;
    };
    REQUIRE(WriteNative(dir / "q", tiny, choose, nullptr, nullptr) == absl::OkStatus());
    const auto real = LoadNative(dir / "q"), simulated = LoadNative(dir / "q", true);
    REQUIRE(real.status() == absl::OkStatus());
    REQUIRE(simulated.status() == absl::OkStatus());
    int equal = 0;  // short texts: see above
    for (uint64_t text = 0; text < 12; ++text) {
      const std::vector<int32_t> tokens = SomeTokens(3, 131, text);
      const double error = RelativeError(RunLogits(**real, tokens), RunLogits(**simulated, tokens));
      CHECK(error < 0.3);
      equal += error < 1e-5 ? 1 : 0;
    }
    CHECK(equal >= 9);
    const std::vector<int32_t> tokens = SomeTokens(40, 131);
    CHECK((RunLogits(**real, tokens, 7) == RunLogits(**real, tokens)));
    CHECK((*real)->ops().counters().spike_rows > 0);
    CHECK((*real)->ops().counters().missed_spike_rows == 0);
  }
}

TEST_CASE("Groups that no kernel takes are refused when the model is loaded") {
  const TinyModel tiny = MakeTinyModel(Small(false));
  TempDirectory dir;
  const Choose choose = [](const Node& node) {
    return node.role == Role::kUpProj ? How{.weights = WeightFormat::kS4g, .group = 8} : How();
  };
  REQUIRE(WriteNative(dir / "q", tiny, choose, nullptr, nullptr) == absl::OkStatus());
  CHECK_THAT(LoadNative(dir / "q").status(),
             Fails(absl::StatusCode::kUnimplemented,
                   "model.layers.0.mlp.up_proj: weights in groups: group=8 is not a multiple of 16"));
  CHECK(LoadNative(dir / "q", true).ok());
}

TEST_CASE("A stored prefix comes back as it was written") {
  const TinyModel tiny = MakeTinyModel(Small(false));
  const auto model = Load(*tiny.checkpoint);
  const KvPrefix prefix = *ComputePrefix(*model, std::vector<int32_t>{5, 9});
  NativePrefix stored;
  stored.ids = prefix.tokens;
  for (size_t l = 0; l < 3; ++l) {
    for (const auto& [rows, to] : {std::pair(&prefix.k[l], &stored.k), std::pair(&prefix.v[l], &stored.v)}) {
      Tensor t(DType::kBF16, {2, 2, 16});
      std::copy(rows->begin(), rows->end(), t.as<uint16_t>().begin());
      to->push_back(std::move(t));
    }
  }
  TempDirectory dir;
  const Choose floats = [](const Node&) { return How(); };
  REQUIRE(WriteNative(dir / "q", tiny, floats, &stored, nullptr) == absl::OkStatus());
  const auto loaded = LoadNative(dir / "q");
  REQUIRE(loaded.status() == absl::OkStatus());
  REQUIRE((*loaded)->prefix() != nullptr);
  CHECK((*loaded)->prefix()->tokens == prefix.tokens);
  CHECK((*loaded)->prefix()->k == prefix.k);
  CHECK((*loaded)->prefix()->v == prefix.v);
  const std::vector<int32_t> tokens = SomeTokens(20, 131);
  CHECK(RunLogits(**loaded, tokens) == RunLogits(*model, tokens));  // float linears are the model's own
}

TEST_CASE("A stored key/value cache becomes the model's own, and every sequence keeps its rows so") {
  const TinyModel tiny = MakeTinyModel(Small(false));
  const auto model = Load(*tiny.checkpoint);
  const ModelConfig& c = model->graph().config;
  auto channels = std::make_shared<KvChannels>();
  channels->scale.assign(3, std::vector<float>(32, 0.8f));
  channels->min.assign(3, std::vector<float>(32, -6.0f));
  channels->scale[2][5] = 0.5f;
  const KvOptions forms[] = {{.k_bits = 4, .v_bits = 8, .sinks = 3, .recent = 9, .evict = 90},
                             {.k_bits = 8, .v_bits = 16, .k_scale = kernels::KeyScale::kToken, .recent = 33},
                             {.k_bits = 16, .v_bits = 2, .k_before_rope = true},
                             {.k_bits = 4,
                              .v_bits = 3,
                              .k_scale = kernels::KeyScale::kChannel,
                              .k_before_rope = true,
                              .channels = channels}};
  const std::vector<int32_t> tokens = SomeTokens(200, 131);
  const auto run = [&](const RuntimeModel& m) {
    KvCache cache(c, 200, nullptr, m.kv());
    return Hidden(m, tokens, cache);
  };
  const std::vector<float> plain = run(*model);
  for (const KvOptions& kv : forms) {
    TempDirectory dir;
    const Choose floats = [](const Node&) { return How(); };
    REQUIRE(WriteNative(dir / "q", tiny, floats, nullptr, nullptr, KvToNative(kv, c)) == absl::OkStatus());
    const auto loaded = LoadNative(dir / "q");
    REQUIRE(loaded.status() == absl::OkStatus());
    CHECK(KvToNative((*loaded)->kv(), c) == KvToNative(kv, c));
    REQUIRE(model->set_kv(kv).ok());
    const std::vector<float> rows = run(**loaded);
    CHECK(rows == run(*model));
    CHECK(rows != plain);
    CHECK(*Generate(**loaded, tokens, {.max_tokens = 20}) == *Generate(*model, tokens, {.max_tokens = 20}));
  }
  // A file whose scales are another model's.
  NativeKv kv = KvToNative(forms[3], c);
  kv.scale.pop_back();
  kv.min.pop_back();
  TempDirectory dir;
  const Choose floats = [](const Node&) { return How(); };
  REQUIRE(WriteNative(dir / "q", tiny, floats, nullptr, nullptr, kv) == absl::OkStatus());
  CHECK_THAT(LoadNative(dir / "q").status(),
             Fails(absl::StatusCode::kDataLoss, "need scales of all 3 layers"));
}

TEST_CASE("Linears that read one input must ask for one form") {
  const TinyModel tiny = MakeTinyModel(Small(false));
  const auto load = [&](const How& k_proj) {
    TempDirectory dir;
    const Choose choose = [&](const Node& node) {
      if (node.layer != 1 || node.in0 != ValueKind::kAttnIn || node.op != Op::kLinear) return How();
      if (node.role == Role::kKProj) return k_proj;
      return How{WeightFormat::kS8c, ActivationFormat::kS8Token, {4, 5}, {}, 0};
    };
    REQUIRE(WriteNative(dir / "q", tiny, choose, nullptr, nullptr) == absl::OkStatus());
    return LoadNative(dir / "q").status();
  };
  CHECK(load({WeightFormat::kS4g, ActivationFormat::kS8Token, {4, 5}, {{1, 1}}, 0}).ok());
  absl::Status status = load({WeightFormat::kS8c, ActivationFormat::kS8Token, {4, 6}, {}, 0});
  CHECK(status.code() == absl::StatusCode::kDataLoss);
  CHECK(status.message() ==
        "model.layers.1.self_attn.k_proj: kept_columns differs from model.layers.1.self_attn.q_proj, which "
        "reads "
        "the same input; quantize them alike");
  status = load({WeightFormat::kS8c, ActivationFormat::kFloat, {4, 5}, {}, 0});
  CHECK_THAT(status, Fails(absl::StatusCode::kDataLoss, "activation format differs from"));
}

}  // namespace spikefold::testing
