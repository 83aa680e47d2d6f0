// Logits by two libraries: this program's forward pass and LibTorch's walk of the same graph. Without the
// plugin the tests are skipped, and ctest says so.
#include <cstdlib>

#include "kernels/runtime/torch/torch_model.h"
#include "tests/kernels/runtime/runtime_kit.h"

namespace spikefold::testing {
namespace {

bool HasPlugin() {
  const auto plugin = LoadTorchPlugin();
  if (!plugin.ok()) WARN("skipped: " << plugin.status().message());
  return plugin.ok();
}

std::vector<float> OracleLogits(const CheckpointReader& reader, const std::vector<int32_t>& tokens) {
  auto oracle = TorchModel::Load(reader, {.num_threads = 2});
  INFO(oracle.status());
  REQUIRE(oracle.ok());
  std::vector<float> logits(tokens.size() * static_cast<size_t>(reader.graph().config.vocab));
  const absl::Status status = (*oracle)->Logits(tokens, 0, absl::MakeSpan(logits));
  INFO(status);
  REQUIRE(status.ok());
  return logits;
}

TinyModelOptions Llama() {
  return {.hidden = 64,
          .intermediate = 96,
          .num_layers = 3,
          .head_dim = 16,
          .vocab = 131,
          .random_gains = true,
          .write_scale = 0.3};
}
TinyModelOptions Qwen() {
  TinyModelOptions o = Llama();
  o.qkv_bias = o.o_bias = o.mlp_bias = o.tied = o.qk_norm = true;
  o.rope = {.theta = 5e5, .scaling = RopeScaling::kLlama3, .factor = 8, .original_max_positions = 64};
  return o;
}
TinyModelOptions Gemma() {
  TinyModelOptions o = Llama();
  o.activation = GateActivation::kGeluTanh;
  o.tied = o.qk_norm = o.sandwich = true;
  o.norm_gain_offset = 1;
  o.embedding_scale = 8;
  o.sliding_window = 7;
  o.sliding_layers = {true, false, true};
  o.rope = {.theta = 1e6, .scaling = RopeScaling::kLinear, .factor = 8};
  o.rope_local = {.theta = 1e4};
  return o;
}

TEST_CASE("LibTorch finds the same logits for the shapes of all families", "[torch]") {
  if (!HasPlugin()) return;
  for (const TinyModelOptions& options : {Llama(), Qwen(), Gemma()}) {
    const TinyModel tiny = MakeTinyModel(options);
    const std::vector<int32_t> tokens = SomeTokens(40, options.vocab);
    const std::vector<float> ours = RunLogits(*Load(*tiny.checkpoint), tokens);
    CHECK(RelativeError(ours, OracleLogits(*tiny.checkpoint, tokens)) < 1e-5);
    // A canary: one weight of one linear.
    Tensor& w = tiny.checkpoint->tensor("model.layers.1.self_attn.k_proj.weight");
    w.as<float>()[5] += 0.1f;
    CHECK(RelativeError(ours, OracleLogits(*tiny.checkpoint, tokens)) > 1e-4);
  }
}

void CheckRealModel(const std::string& file) {
  if (!HasPlugin()) return;
  const auto reader = CheckpointReader::Open(std::string(SPIKEFOLD_MODELS) + "/" + file);
  INFO(reader.status() << " (make models fetches it)");
  REQUIRE(reader.ok());
  const std::vector<int32_t> tokens = SomeTokens(48, 40000);
  const std::vector<float> ours = RunLogits(*Load(**reader), tokens);
  CHECK(RelativeError(ours, OracleLogits(**reader, tokens)) < 1e-4);
}
TEST_CASE("LibTorch finds SmolLM2's logits", "[torch][model]") {
  CheckRealModel("smollm2-135m-instruct-q4_1.gguf");
}
TEST_CASE("LibTorch finds Gemma 3's logits", "[torch][model]") { CheckRealModel("gemma-3-270m-q4_k_m.gguf"); }

TEST_CASE("A gradient step goes downhill, and parameters come back as they were remembered", "[torch]") {
  if (!HasPlugin()) return;
  const TinyModel tiny = MakeTinyModel(Llama());
  const std::vector<int32_t> tokens = SomeTokens(24, 131);
  const std::vector<float> target = OracleLogits(*tiny.checkpoint, tokens);
  const int norm = tiny.checkpoint->graph().FindModule("model.layers.1.input_layernorm");
  Tensor& gain = tiny.checkpoint->tensor("model.layers.1.input_layernorm.weight");
  const std::vector<float> right(gain.as<float>().begin(), gain.as<float>().end());
  for (float& g : gain.as<float>()) g *= 1.2f;
  auto model = *TorchModel::Load(*tiny.checkpoint, {});
  REQUIRE(model->Learn(norm, TorchParameter::kGain).ok());
  REQUIRE(model->Remember().ok());
  const double before = *model->Divergence(tokens, 0, target);
  for (int i = 0; i < 120; ++i) {
    REQUIRE(*model->Accumulate(tokens, 0, target, 1) > 0);
    REQUIRE(*model->AdamStep(0.01));
  }
  CHECK(*model->Divergence(tokens, 0, target) < 0.05 * before);
  // What it found is what was taken away.
  const std::vector<float> found = *model->Read(norm, TorchParameter::kGain, 64);
  CHECK(RelativeError(found, right) < 0.1);  // it was 0.2
  REQUIRE(model->Recall().ok());
  CHECK(*model->Divergence(tokens, 0, target) == Approx(before).epsilon(1e-6));
  CHECK(RelativeError(*model->Read(norm, TorchParameter::kGain, 64), gain.as<float>()) < 1e-6);
}

TEST_CASE("Turns begin as nothing, stay orthogonal and go downhill", "[torch]") {
  if (!HasPlugin()) return;
  const TinyModel tiny = MakeTinyModel(Llama());
  // A wide channel, so that there is something to turn away from.
  auto embedding = tiny.checkpoint->tensor("model.embed_tokens.weight").as<float>();
  for (size_t i = 3; i < embedding.size(); i += 64) embedding[i] *= 12;
  const ModelGraph& graph = tiny.checkpoint->graph();
  const std::vector<int32_t> tokens = SomeTokens(24, 131);
  const std::vector<float> target = OracleLogits(*tiny.checkpoint, tokens);
  TorchForms plain;
  for (const Site& site : graph.sites) {
    plain.sites.push_back({.act = {.bits = site.layer < 0 ? 0 : 4}});
  }
  TorchForms turned = plain;
  turned.turns = {64, 16};
  for (const Site& site : graph.sites) {
    int& turn = turned.sites[static_cast<size_t>(site.id)].turn;
    if (site.value == ValueKind::kAttnIn || site.value == ValueKind::kFfnIn) turn = 0;
    if (site.value == ValueKind::kCtx) turn = 1;  // 16 of its 64 columns: head by head
  }
  auto a = *TorchModel::Load(*tiny.checkpoint, {.forms = &plain});
  auto b = *TorchModel::Load(*tiny.checkpoint, {.forms = &turned});
  const double before = *a->Divergence(tokens, 0, target);
  CHECK(before > 1e-4);
  CHECK(*b->Divergence(tokens, 0, target) == Approx(before).epsilon(1e-6));
  REQUIRE(b->Remember().ok());
  for (int i = 0; i < 20; ++i) {
    REQUIRE(b->Accumulate(tokens, 0, target, 1).ok());
    REQUIRE(*b->CayleyStep(0.02));
  }
  CHECK(*b->Divergence(tokens, 0, target) < 0.9 * before);
  for (const auto& [turn, order] : {std::pair<int, int64_t>{0, 64}, {1, 16}}) {
    const std::vector<double> q = *b->ReadTurn(turn, order);
    double worst = 0, moved = 0;
    for (int64_t i = 0; i < order * order; ++i) {
      double sum = i / order == i % order ? -1 : 0;
      moved = std::max(moved, std::abs(q[static_cast<size_t>(i)] + sum));
      for (int64_t k = 0; k < order; ++k) {
        sum += q[static_cast<size_t>(i / order * order + k)] * q[static_cast<size_t>(i % order * order + k)];
      }
      worst = std::max(worst, std::abs(sum));
    }
    CHECK(worst < 1e-12);
    CHECK(moved > 0.01);
  }
  REQUIRE(b->Recall().ok());
  CHECK(*b->Divergence(tokens, 0, target) == Approx(before).epsilon(1e-6));
  CHECK_FALSE(b->ReadTurn(2, 16).ok());
}

TEST_CASE("What LibTorch cannot be asked is refused", "[torch]") {
  if (!HasPlugin()) return;
  const TinyModel tiny = MakeTinyModel(Llama());
  auto model = *TorchModel::Load(*tiny.checkpoint, {});
  std::vector<float> logits(3 * 131);
  CHECK(model->Logits({1, 2, 131}, 0, absl::MakeSpan(logits)).message() ==
        "torch: token 131 is outside the vocabulary; 0 to 130 are allowed");
  CHECK(model->Logits({1, 2}, 2, absl::MakeSpan(logits)).code() == absl::StatusCode::kInvalidArgument);
  CHECK(model->Logits({1, 2}, 0, absl::MakeSpan(logits)).message() ==
        "torch: 393 logits for 2 rows; 262 are needed");
  // Nothing with this name belongs to an attention node.
  const absl::Status status = model->Learn(7, TorchParameter::kBias);
  CHECK(status.code() == absl::StatusCode::kInternal);
}

}  // namespace
}  // namespace spikefold::testing
