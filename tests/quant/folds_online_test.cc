// Rotations that the runtime applies: what taps see, decoding in a batch, prefixes, and natively quantized
// models.
#include <cmath>

#include "absl/strings/match.h"
#include "formats/base/hadamard.h"
#include "formats/families/family.h"
#include "formats/quantized/native.h"
#include "kernels/runtime/ops.h"
#include "quant/folds/folds.h"
#include "tests/kernels/runtime/runtime_kit.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_directory.h"

namespace spikefold::testing {
namespace {

using absl::StatusCode;

TinyModelOptions Small() {
  return {.hidden = 48,
          .intermediate = 80,
          .num_layers = 3,
          .num_heads = 4,
          .num_kv_heads = 2,
          .head_dim = 12,
          .vocab = 67,
          .tied = true,
          .qkv_bias = true,
          .random_gains = true,
          .write_scale = 0.3};
}

std::unique_ptr<FoldedCheckpoint> Fold(const CheckpointReader& base, const FoldOptions& options) {
  auto folded = FoldCheckpoint(base, options, &Pool());
  INFO(folded.status());
  REQUIRE(folded.ok());
  return *std::move(folded);
}

// Rows of one value of one layer.
class Rows : public Taps {
 public:
  Rows(int layer, ValueKind value) : layer_(layer), value_(value) {}
  bool Wants(int layer, ValueKind v) const override { return layer == layer_ && v == value_; }
  void OnRows(const TapRows& r) override { rows.assign(r.data, r.data + r.num_rows * r.width); }
  std::vector<float> rows;

 private:
  int layer_;
  ValueKind value_;
};

std::vector<float> Tapped(const CheckpointReader& reader, ValueKind value,
                          const std::vector<int32_t>& tokens) {
  Rows taps(1, value);
  (void)RunLogits(*Load(reader), tokens, 0, {.taps = &taps});
  return taps.rows;
}

// Rows times the rotation, from its definition.
std::vector<float> Turn(const std::vector<float>& rows, const Rotation& r) {
  const size_t block = static_cast<size_t>(r.block()), width = r.signs.size();
  std::vector<float> turned(rows.size());
  for (size_t at = 0; at < rows.size(); at += block) {
    for (size_t j = 0; j < block; ++j) {
      double sum = 0;
      for (size_t i = 0; i < block; ++i) {
        size_t a = i, c = j;
        int h = r.signs[(at + i) % width];
        for (size_t f = r.factors.size(); f-- > 0;) {
          const size_t order = static_cast<size_t>(r.factors[f]);
          h *= HadamardTable(r.factors[f])[a % order * order + c % order];
          a /= order;
          c /= order;
        }
        sum += h * static_cast<double>(rows[at + i]);
      }
      turned[at + j] = static_cast<float>(sum / std::sqrt(static_cast<double>(block)));
    }
  }
  return turned;
}

// 8-bit weights for every linear of the blocks, activations per token (or float for down_proj of layer 0).
void WriteNative(const std::string& path, const FoldedCheckpoint& folded) {
  const ModelGraph& graph = folded.graph();
  NativeInfo info;
  info.architecture = graph.config.architecture;
  info.base_fingerprint = *folded.base().Fingerprint();
  info.rotations = graph.rotations;
  for (const Site& site : graph.sites) {
    if (!site.shift.empty()) info.shifts.push_back({site.name, site.shift});
  }
  info.folds = folded.provenance();
  std::vector<QuantizedLinear> linears;
  std::vector<SafetensorsWriter::Spec> plain;
  for (const Node& node : graph.nodes) {
    if (node.module.empty()) continue;
    const Tensor w = *folded.ReadF32(node.module + ".weight");
    if (node.op != Op::kLinear) {
      plain.push_back({node.module + ".weight", DType::kF32, w.shape()});
      continue;
    }
    QuantizedLinear q;
    q.module = node.module;
    q.n = node.n;
    q.k = node.k;
    q.has_bias = node.has_bias;
    if (node.has_bias) {
      const Tensor bias = *folded.ReadF32(node.module + ".bias");
      q.bias.assign(bias.as<float>().begin(), bias.as<float>().end());
    }
    if (node.layer < 0) {
      q.float_dtype = DType::kF32;
      q.float_weight = w.Clone();
    } else {
      q.format = WeightFormat::kS8c;
      q.act = ActivationFormat::kS8Token;
      for (int64_t n = 0; n < q.n; ++n) {
        const auto row = w.as<float>().subspan(static_cast<size_t>(n * q.k), static_cast<size_t>(q.k));
        float top = 0;
        for (const float v : row) top = std::max(top, std::fabs(v));
        q.scales.push_back(top / 127);
        for (const float v : row) q.codes.push_back(static_cast<int8_t>(std::nearbyint(v / q.scales.back())));
      }
    }
    linears.push_back(std::move(q));
    info.linears.push_back(linears.back());
  }
  auto writer = NativeWriter::Create(path, info, plain, ConfigToJson(graph.config), {}, {});
  REQUIRE(writer.ok());
  for (const QuantizedLinear& q : linears) REQUIRE((*writer)->WriteLinear(q).ok());
  for (const auto& t : plain) REQUIRE((*writer)->WriteTensor(t.name, folded.ReadF32(t.name)->view()).ok());
  REQUIRE((*writer)->Commit().ok());
}

}  // namespace

TEST_CASE("Taps of rotated values see the rows times the rotation") {
  const TinyModel tiny = MakeTinyModel(Small());
  const auto folded = Fold(*tiny.checkpoint, {.rotate_down = true, .rotate_qk = true});
  REQUIRE(folded->graph().rotations.size() == 2);
  const Rotation &r4 = folded->graph().rotations[0], &r3 = folded->graph().rotations[1];
  CHECK(r4.factors == std::vector<int64_t>{20, 4});
  const std::vector<int32_t> tokens = SomeTokens(19, 67);
  const auto check = [&](ValueKind v, const Rotation& r) {
    const std::vector<float> plain = Tapped(*tiny.checkpoint, v, tokens), turned = Tapped(*folded, v, tokens);
    CHECK(RelativeError(turned, Turn(plain, r)) < 1e-6);
    CHECK(RelativeError(turned, plain) > 0.1);
  };
  check(ValueKind::kDownIn, r4);
  check(ValueKind::kQ, r3);
  check(ValueKind::kK, r3);
  CHECK(RelativeError(Tapped(*folded, ValueKind::kV, tokens),
                      Tapped(*tiny.checkpoint, ValueKind::kV, tokens)) < 1e-6);
}

TEST_CASE("Rotated keys are coded as attention sees them; coding them before the embedding is refused") {
  const TinyModel tiny = MakeTinyModel(Small());
  const auto folded = Fold(*tiny.checkpoint, {.rotate_qk = true});
  const auto model = Load(*folded);
  KvOptions kv = {.k_bits = 8, .v_bits = 8, .k_before_rope = true, .recent = 1};
  const absl::Status refused = model->set_kv(kv);
  CHECK(refused.code() == absl::StatusCode::kInvalidArgument);
  CHECK(absl::StrContains(refused.message(), "keys before rotary embedding, in a model that rotates them"));
  kv.k_before_rope = false;
  kv.evict = 64;
  CHECK(model->set_kv(kv).code() == absl::StatusCode::kInvalidArgument);
  kv.evict = 0;
  REQUIRE(model->set_kv(kv).ok());
  const std::vector<int32_t> tokens = SomeTokens(150, 67);
  const auto run = [&](const RuntimeModel& m, const KvOptions& options) {
    KvCache cache(m.graph().config, 150, nullptr, options);
    return Hidden(m, tokens, cache);
  };
  CHECK(RelativeError(run(*model, kv), run(*Load(*tiny.checkpoint), {})) < 0.02);

  // What is taken off the context is taken off whatever kernel made it.
  const auto shifted =
      Fold(*tiny.checkpoint, {.shifts = {{1, ValueKind::kCtx, std::vector<float>(48, 0.5f)}}});
  CHECK(RelativeError(run(*Load(*shifted), kv), run(*Load(*tiny.checkpoint), {})) < 0.02);
}

TEST_CASE("An intervention on a rotated input edits what the linear reads, which is not rotated again") {
  const TinyModel tiny = MakeTinyModel(Small());
  const auto folded = Fold(*tiny.checkpoint, {.rotate_down = true});
  class Nothing : public Interventions {
   public:
    bool Wants(int, ValueKind v) const override { return v == ValueKind::kDownIn; }
    void Edit(int, ValueKind, float*, int64_t, int64_t, int64_t) override { ++calls; }
    int calls = 0;
  } edits;
  const auto model = Load(*folded);
  const std::vector<int32_t> tokens = SomeTokens(9, 67);
  const std::vector<float> plain = RunLogits(*model, tokens);
  CHECK(RunLogits(*model, tokens, 0, {.interventions = &edits}) == plain);
  CHECK(edits.calls == 3);
}

TEST_CASE("A rotated model decodes alike in one call, in steps, in a batch and behind its own prefix") {
  const TinyModel tiny = MakeTinyModel(Small());
  const auto folded =
      Fold(*tiny.checkpoint, {.rotate_residual = true,
                              .rotate_values = true,
                              .rotate_down = true,
                              .rotate_qk = true,
                              .shifts = {{0, ValueKind::kCtx, std::vector<float>(48, 0.5f)},
                                         {1, ValueKind::kDownIn, std::vector<float>(80, -0.25f)}}});
  const auto model = Load(*folded), plain = Load(*tiny.checkpoint);
  const std::vector<int32_t> tokens = SomeTokens(17, 67);
  const std::vector<float> whole = RunLogits(*model, tokens);
  CHECK(RunLogits(*model, tokens, 3) == whole);

  const auto batch = [&](const RuntimeModel& m) {
    const ModelConfig& c = m.graph().config;
    KvCache a(c, 8), b(c, 8);
    (void)Hidden(m, {3, 4, 5}, a);
    (void)Hidden(m, {6, 7, 8}, b);
    KvCache* const caches[] = {&a, &b};
    std::vector<float> hidden(static_cast<size_t>(2 * c.hidden));
    REQUIRE(ForwardBatch(m, {9, 10}, caches, absl::MakeSpan(hidden)).ok());
    return LogitsOf(m, hidden);
  };
  CHECK(RelativeError(batch(*model), batch(*plain)) < 1e-5);

  // Keys of a prefix are stored rotated, so that rotated queries find them.
  const auto behind_prefix = [&](RuntimeModel& m) {
    auto prefix = ComputePrefix(m, {11, 12});
    REQUIRE(prefix.ok());
    m.set_prefix(*prefix);
    KvCache cache(m.graph().config, 19, m.prefix());
    return LogitsOf(m, Hidden(m, tokens, cache));
  };
  // Rounded to 16 bit in another basis: equal to that precision.
  CHECK(RelativeError(behind_prefix(*model), behind_prefix(*plain)) < 2e-2);
}

TEST_CASE("A natively quantized model keeps its rotations and runs with them") {
  const TempDirectory dir;
  const TinyModel tiny = MakeTinyModel(Small());
  const auto folded =
      Fold(*tiny.checkpoint, {.rotate_residual = true,
                              .rotate_values = true,
                              .rotate_down = true,
                              .rotate_down_layers = {0, 2},
                              .rotate_qk = true,
                              .shifts = {{1, ValueKind::kFfnIn, std::vector<float>(48, 0.5f)}}});
  WriteNative(dir / "q", *folded);
  REQUIRE(NativeVerify(dir / "q") == absl::OkStatus());
  const auto reader = CheckpointReader::Open(dir / "q");
  INFO(reader.status());
  REQUIRE(reader.ok());
  const ModelGraph& graph = (*reader)->graph();
  CHECK(graph.rotations == folded->graph().rotations);
  CHECK_FALSE(graph.config.tied_embeddings);
  for (const Site& site : graph.sites) {
    const bool rotated = site.value == ValueKind::kDownIn && site.layer != 1;
    CHECK((site.rotation >= 0) == rotated);
    CHECK(site.shift == folded->graph().sites[static_cast<size_t>(site.id)].shift);
    CHECK(site.rotation == folded->graph().sites[static_cast<size_t>(site.id)].rotation);
  }
  CHECK(graph.qk_rotation == folded->graph().qk_rotation);

  const std::vector<int32_t> tokens = SomeTokens(33, 67);
  const std::vector<float> want = RunLogits(*Load(*tiny.checkpoint), tokens),
                           got = RunLogits(*Load(**reader), tokens);
  auto simulated = LoadModel(**reader, {.pool = &Pool(), .simulate = true});
  REQUIRE(simulated.ok());
  CHECK(RelativeError(got, want) < 0.05);  // 8 bits
  CHECK(RelativeError(got, RunLogits(**simulated, tokens)) < 1e-5);

  // A rotation of another model.
  CHECK_THAT(FoldCheckpoint(**reader, {.rotate_down = true}).status(),
             Fails(StatusCode::kInvalidArgument, "is quantized; folds rewrite float models"));
}

}  // namespace spikefold::testing
