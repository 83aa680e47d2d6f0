// Whole float models: the walk on a GPU against the walk on the CPU.
#include "kernels/cuda/memory.h"
#include "kernels/runtime/ops.h"
#include "tests/kernels/runtime/runtime_kit.h"

namespace spikefold::testing {
namespace {

std::unique_ptr<RuntimeModel> LoadCuda(const CheckpointReader& reader) {
  auto model = LoadModel(reader, {.pool = &Pool(), .backend = Backend::kCuda});
  INFO(model.status());
  REQUIRE(model.ok());
  return *std::move(model);
}

TinyModelOptions Llama() {
  return {.hidden = 192,
          .intermediate = 320,
          .num_layers = 3,
          .head_dim = 48,
          .random_gains = true,
          .write_scale = 0.2};
}
TinyModelOptions Gemma() {
  TinyModelOptions o = Llama();
  o.activation = GateActivation::kGeluTanh;
  o.tied = o.qk_norm = o.sandwich = true;
  o.embedding_scale = 13.9f;
  o.norm_gain_offset = 1;
  o.sliding_window = 16;
  o.sliding_layers = {true, false, true};
  return o;
}
TinyModelOptions Qwen() {
  TinyModelOptions o = Llama();
  o.qkv_bias = o.o_bias = o.mlp_bias = true;
  return o;
}

TEST_CASE("Float models of every family give the CPU's logits, in one call or in steps", "[gpu][model]") {
  for (const TinyModelOptions& options : {Llama(), Gemma(), Qwen()}) {
    const TinyModel tiny = MakeTinyModel(options);
    const auto cpu = Load(*tiny.checkpoint), gpu = LoadCuda(*tiny.checkpoint);
    CHECK(gpu->weight_bytes() >= cpu->weight_bytes() / 2);
    const std::vector<int32_t> tokens = SomeTokens(70, options.vocab);
    const std::vector<float> expected = RunLogits(*cpu, tokens);
    CHECK(RelativeError(RunLogits(*gpu, tokens), expected) < 1e-4);
    CHECK(RelativeError(RunLogits(*gpu, tokens, 7), expected) < 1e-4);
    CHECK(RelativeError(RunLogits(*gpu, tokens, 1), expected) < 1e-4);
  }
}

TEST_CASE("A prefix computed on the GPU is the CPU's, and text runs behind it", "[gpu][model]") {
  const TinyModel tiny = MakeTinyModel(Llama());
  const auto cpu = Load(*tiny.checkpoint), gpu = LoadCuda(*tiny.checkpoint);
  const std::vector<int32_t> head = SomeTokens(3, 256, 5), tokens = SomeTokens(20, 256, 6);
  const auto a = ComputePrefix(*cpu, head), b = ComputePrefix(*gpu, head);
  REQUIRE(a.ok());
  REQUIRE(b.ok());
  for (size_t layer = 0; layer < 3; ++layer) {
    for (size_t i = 0; i < a->k[layer].size(); ++i) {
      const float x = Bf16ToFloat(a->k[layer][i]), y = Bf16ToFloat(b->k[layer][i]);
      CHECK(std::abs(x - y) <= 0x1p-7f * std::abs(x) + 1e-6f);
    }
  }
  KvCache on_cpu(cpu->graph().config, 23, &*a), on_gpu(gpu->graph().config, 23, &*a);
  CHECK(RelativeError(Hidden(*gpu, tokens, on_gpu), Hidden(*cpu, tokens, on_cpu)) < 1e-4);
  on_gpu.Reset();
  on_cpu.Reset();
  CHECK(RelativeError(Hidden(*gpu, tokens, on_gpu, 4), Hidden(*cpu, tokens, on_cpu, 4)) < 1e-4);
}

TEST_CASE("Decoding allocates nothing once it is under way", "[gpu][memory]") {
  const TinyModel tiny = MakeTinyModel(Llama());
  const auto gpu = LoadCuda(*tiny.checkpoint);
  const std::vector<int32_t> tokens = SomeTokens(40, 256);
  KvCache cache(gpu->graph().config, 40);
  const std::vector<float> first = Hidden(*gpu, absl::MakeConstSpan(tokens).first(4), cache, 1);
  (void)LogitsOf(*gpu, {first.begin(), first.begin() + 192});
  const int64_t before = kernels::cuda::NumAllocations();
  for (size_t i = 4; i < tokens.size(); ++i) {
    const std::vector<float> h = Hidden(*gpu, absl::MakeConstSpan(tokens).subspan(i, 1), cache);
    (void)LogitsOf(*gpu, h);
  }
  CHECK(kernels::cuda::NumAllocations() == before);
}

TEST_CASE("A recorded token's results are those of a prefill, over several recordings and a new start",
          "[gpu][model][decode]") {
  for (const TinyModelOptions& options : {Llama(), Gemma(), Qwen()}) {
    const TinyModel tiny = MakeTinyModel(options);
    const auto gpu = LoadCuda(*tiny.checkpoint);
    const std::vector<int32_t> tokens = SomeTokens(300, options.vocab);
    KvCache whole(gpu->graph().config, 300), steps(gpu->graph().config, 300);
    const std::vector<float> expected = Hidden(*gpu, tokens, whole);
    CHECK(RelativeError(Hidden(*gpu, tokens, steps, 1), expected) < 1e-4);
    steps.Reset();  // the recordings stay
    CHECK(RelativeError(Hidden(*gpu, tokens, steps, 1), expected) < 1e-4);
  }
}

TEST_CASE("What has no kernel is refused", "[gpu][model]") {
  const TinyModel tiny = MakeTinyModel(Llama());
  const auto gpu = LoadCuda(*tiny.checkpoint);
  KvCache cache(gpu->graph().config, 8, nullptr, {.k_bits = 8, .v_bits = 8});
  std::vector<float> hidden(2 * 192);
  const absl::Status status = Forward(*gpu, {1, 2}, cache, absl::MakeSpan(hidden), {});
  CHECK(status.code() == absl::StatusCode::kUnimplemented);
  CHECK(status.message() ==
        "backend \"cuda\": no kernel for a quantized key/value cache; use a float one, or --backend cpu");
}

}  // namespace
}  // namespace spikefold::testing
