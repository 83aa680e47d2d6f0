#include "kernels/runtime/generate.h"

#include <cmath>

#include "kernels/runtime/bench.h"
#include "kernels/runtime/ops.h"
#include "tests/kernels/runtime/runtime_kit.h"

namespace spikefold::testing {
namespace {

TinyModelOptions Small() {
  TinyModelOptions o;
  o.hidden = 64;
  o.intermediate = 96;
  o.num_layers = 2;
  o.head_dim = 16;
  o.vocab = 50;
  o.write_scale = 0.5;
  return o;
}

}  // namespace

TEST_CASE("Greedy decoding follows the largest logit of a whole-sequence run") {
  const TinyModel tiny = MakeTinyModel(Small());
  const auto model = Load(*tiny.checkpoint);
  std::vector<int32_t> text = {3, 14, 15};
  const auto made = Generate(*model, text, {.max_tokens = 12});
  REQUIRE(made.ok());
  REQUIRE(made->size() == 12);
  for (const int32_t token : *made) {
    const std::vector<float> logits = RunLogits(*model, text);
    const auto last = logits.end() - 50;
    CHECK(std::max_element(last, logits.end()) - last == token);
    text.push_back(token);
  }
}

TEST_CASE("Equal seeds give equal text, other seeds other text, and stop ids end it before themselves") {
  const TinyModel tiny = MakeTinyModel(Small());
  const auto model = Load(*tiny.checkpoint);
  const std::vector<int32_t> prompt = {1};
  GenerateOptions options = {.max_tokens = 30, .sampling = {.temperature = 1, .seed = 5}};
  const auto first = Generate(*model, prompt, options);
  CHECK(*first == *Generate(*model, prompt, options));
  options.stop_ids = {(*first)[10]};
  const auto stopped = Generate(*model, prompt, options);
  const auto end = std::find(first->begin(), first->end(), (*first)[10]);
  CHECK(*stopped == std::vector<int32_t>(first->begin(), end));
  options.stop_ids.clear();
  int64_t calls = 0;
  options.on_token = [&](int32_t) { return ++calls < 4; };
  CHECK(Generate(*model, prompt, options)->size() == 4);
  options.on_token = nullptr;
  options.sampling.seed = 6;
  CHECK(*first != *Generate(*model, prompt, options));
}

TEST_CASE("Sampling draws in proportion to the softmax; top-k cuts it; temperature 0 takes the best") {
  const std::vector<float> logits = {0.0f, std::log(3.0f), -20.0f, std::log(6.0f)};  // 0.1, 0.3, 0, 0.6
  const auto counts = [&](const SamplingOptions& options) {
    Sampler sampler(options);
    std::vector<int> n(4);
    for (int i = 0; i < 20000; ++i) ++n[static_cast<size_t>(*sampler.Sample(logits))];
    return n;
  };
  // Five standard deviations of a binomial of 20,000: at most 350.
  std::vector<int> n = counts({.temperature = 1});
  CHECK(std::abs(n[0] - 2000) < 220);
  CHECK(std::abs(n[1] - 6000) < 330);
  CHECK(n[2] == 0);
  CHECK(std::abs(n[3] - 12000) < 350);
  n = counts({.temperature = 1, .top_k = 2});
  CHECK(n[0] == 0);
  CHECK(std::abs(n[3] - 13333) < 340);
  n = counts({.temperature = 0.5f});  // odds squared: 1 : 9 : 36
  CHECK(std::abs(n[3] - 20000 * 36 / 46) < 300);
  CHECK(counts({})[3] == 20000);
}

TEST_CASE("Logits that are not finite are no text") {
  for (const float temperature : {0.0f, 1.0f}) {
    Sampler sampler({.temperature = temperature});
    const absl::Status status = sampler.Sample({0.0f, NAN, 1.0f}).status();
    CHECK(status.code() == absl::StatusCode::kDataLoss);
    CHECK(status.message() ==
          "logits: that of token 1 is not finite; the model computes nothing to choose from");
  }
  const TinyModel tiny = MakeTinyModel(Small());
  const auto norm = tiny.checkpoint->tensor("model.layers.0.input_layernorm.weight").as<float>();
  std::fill(norm.begin(), norm.end(), 3e38f);  // infinite rows of both signs, so that sums are NaN
  CHECK(Generate(*Load(*tiny.checkpoint), {1}, {}).status().code() == absl::StatusCode::kDataLoss);
}

TEST_CASE("Impossible generation and bench options are refused") {
  const TinyModel tiny = MakeTinyModel(Small());
  const auto model = Load(*tiny.checkpoint);
  absl::Status status = Generate(*model, {}, {}).status();
  CHECK(status.code() == absl::StatusCode::kInvalidArgument);
  CHECK(status.message() == "prompt: 0 tokens; at least 1 is needed (e.g. the BOS token)");
  status = Generate(*model, {1}, {.sampling = {.temperature = -1}}).status();
  CHECK(status.code() == absl::StatusCode::kInvalidArgument);
  CHECK(status.message() == "sampling: temperature -1, top-k 0; neither may be negative");
  CHECK(Generate(*model, {50}, {}).status().message() ==
        "token 0: id 50 is outside the vocabulary; 0 to 49 are allowed");
  status = Bench(*model, {.repetitions = 0}).status();
  CHECK(status.code() == absl::StatusCode::kInvalidArgument);
  CHECK(status.message() ==
        "bench: prompt 512, decode 128, batch 1, repetitions 0; counts of at least 0, 0, 1 and 1 are needed");
}

TEST_CASE("Bench reports one time a repetition and their rates") {
  const TinyModel tiny = MakeTinyModel(Small());
  const auto model = Load(*tiny.checkpoint);
  const auto result = Bench(*model, {.prompt = 20, .decode = 5, .repetitions = 3});
  REQUIRE(result.ok());
  REQUIRE(result->prefill.seconds.size() == 3);
  REQUIRE(result->decode.seconds.size() == 3);
  const double fastest = *std::min_element(result->prefill.seconds.begin(), result->prefill.seconds.end());
  CHECK(result->prefill.best == Approx(20 / fastest));
  CHECK(result->decode.mean <= result->decode.best);
  CHECK(Bench(*model, {.prompt = 0, .decode = 2, .repetitions = 1})->prefill.seconds.empty());
  const auto batch = Bench(*model, {.prompt = 0, .decode = 4, .batch = 3, .repetitions = 1});
  REQUIRE(batch.ok());
  CHECK(batch->decode.best == Approx(3 * 4 / batch->decode.seconds[0]));  // of all three sequences
}

TEST_CASE("Bench warms up with as many decoded tokens as it times") {
  const TinyModel tiny = MakeTinyModel(Small());
  const auto model = Load(*tiny.checkpoint);
  const ModelConfig& c = model->graph().config;
  auto channels = std::make_shared<KvChannels>();  // so narrow that every coded key is outside and counted
  const size_t width = static_cast<size_t>(c.num_kv_heads * c.head_dim);
  channels->scale.assign(2, std::vector<float>(width, 1e-6f));
  channels->min.assign(2, std::vector<float>(width, 0));
  REQUIRE(model
              ->set_kv({.k_bits = 4,
                        .v_bits = 4,
                        .k_scale = kernels::KeyScale::kChannel,
                        .k_before_rope = true,
                        .channels = channels})
              .ok());
  const auto saturated = [&](int64_t repetitions) {
    const auto before = model->ops().counters().saturated;
    REQUIRE(Bench(*model, {.prompt = 0, .decode = 100, .repetitions = repetitions}).ok());
    return model->ops().counters().saturated - before;
  };
  const int64_t once = saturated(1);
  CHECK(once > 0);
  CHECK(saturated(2) * 2 == once * 3);
}

}  // namespace spikefold::testing
