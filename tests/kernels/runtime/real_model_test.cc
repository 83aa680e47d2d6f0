// Real models against transformers' logits of the same dequantized weights (tests/data/logits) and
// llama.cpp's perplexity (tests/data/oracle).
#include <cmath>

#include "formats/base/file.h"
#include "formats/base/json.h"
#include "formats/safetensors.h"
#include "tests/kernels/runtime/runtime_kit.h"

namespace spikefold::testing {
namespace {

struct Real {
  const char *gguf, *logits;
  double tolerance;  // of a logit, over the largest
};
// Gemma's residual reaches 1e5, which float32 sums in another order resolve to about 1e-5 of it.
const Real kSmolLm2 = {"smollm2-135m-instruct-q4_1.gguf", "smollm2-135m.safetensors", 2e-5};
const Real kGemma3 = {"gemma-3-270m-q4_k_m.gguf", "gemma-3-270m.safetensors", 1e-4};

std::unique_ptr<CheckpointReader> OpenReal(const Real& real) {
  auto reader = CheckpointReader::Open(std::string(SPIKEFOLD_MODELS) + "/" + real.gguf);
  INFO(reader.status() << " (make models fetches it)");
  REQUIRE(reader.ok());
  return *std::move(reader);
}

double LogSumExp(const float* row, int64_t n) {
  const double top = *std::max_element(row, row + n);
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += std::exp(row[i] - top);
  return top + std::log(sum);
}

void CheckAgainstTransformers(const Real& real) {
  const auto reader = OpenReal(real);
  const auto model = Load(*reader);
  const auto file = *SafetensorsFile::Open(std::string(SPIKEFOLD_TEST_DATA) + "/logits/" + real.logits);
  const auto get = [&](const std::string& name) { return *file->Read(*file->Find(name)); };
  const Tensor positions = get("positions");
  const int64_t vocab = model->graph().config.vocab;
  for (const char* prompt : {"a", "b"}) {
    const Tensor ids = get(std::string("ids_") + prompt), want = get(std::string("logits_") + prompt);
    const Tensor lse = get(std::string("lse_") + prompt), best = get(std::string("argmax_") + prompt);
    const std::vector<float> logits = RunLogits(*model, ids.as<int32_t>());
    std::vector<float> stored;
    for (const int32_t p : positions.as<int32_t>()) {
      stored.insert(stored.end(), logits.begin() + p * vocab, logits.begin() + p * vocab + want.dim(1));
    }
    CHECK(RelativeError(stored, want.as<float>()) < real.tolerance);
    stored[17] += static_cast<float>(real.tolerance) * 100;  // canary
    CHECK(RelativeError(stored, want.as<float>()) > 2 * real.tolerance);
    int same_top = 0;
    for (size_t t = 0; t < 64; ++t) {
      const float* row = logits.data() + static_cast<int64_t>(t) * vocab;
      CHECK(LogSumExp(row, vocab) == Approx(lse.as<float>()[t]).epsilon(1e-4));
      same_top += std::max_element(row, row + vocab) - row == best.as<int32_t>()[t] ? 1 : 0;
    }
    CHECK(same_top == 64);
  }
}

// llama.cpp's protocol: chunks of 512, the second half scored.
double Perplexity(const RuntimeModel& model, const std::vector<int32_t>& ids, int32_t bos, int64_t chunks) {
  const ModelConfig& c = model.graph().config;
  double nll = 0;
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    std::vector<int32_t> window(ids.begin() + chunk * 512, ids.begin() + (chunk + 1) * 512);
    if (bos >= 0) window[0] = bos;
    KvCache cache(c, 512);
    const std::vector<float> hidden = Hidden(model, window, cache);
    for (int64_t p = 256; p < 511; p += 51) {
      const std::vector<float> logits =
          LogitsOf(model, {hidden.begin() + p * c.hidden, hidden.begin() + (p + 51) * c.hidden});
      for (int64_t i = 0; i < 51; ++i) {
        const float* row = logits.data() + i * c.vocab;
        nll += LogSumExp(row, c.vocab) - row[window[static_cast<size_t>(p + i + 1)]];
      }
    }
  }
  return std::exp(nll / static_cast<double>(255 * chunks));
}

void CheckAgainstLlamaCpp(const Real& real, size_t chunks, double tolerance) {
  const auto reader = OpenReal(real);
  const auto model = Load(*reader);
  const auto tokenizer = *reader->LoadTokenizer();
  const std::string data = SPIKEFOLD_TEST_DATA;
  std::vector<int32_t> ids = *tokenizer->Encode(*ReadFileToString(data + "/wiki.test.raw", 1 << 24));
  const int32_t bos = tokenizer->add_bos() ? tokenizer->bos_id() : -1;
  if (bos >= 0) ids.insert(ids.begin(), bos);
  const Json oracle =
      *ParseJson(*ReadFileToString(data + "/oracle/perplexity.json", 1 << 20), "perplexity.json");
  bool found = false;
  for (const Json& c : oracle.Find("cases")->array()) {
    if (c.Find("model")->string_value() != real.gguf || c.Find("kv_cache")->string_value() != "f32") continue;
    const double want = c.Find("cumulative")->array()[chunks - 1].number_value();
    CHECK(Perplexity(*model, ids, bos, static_cast<int64_t>(chunks)) == Approx(want).epsilon(tolerance));
    found = true;
  }
  CHECK(found);
}

}  // namespace

TEST_CASE("SmolLM2's logits equal those of transformers") { CheckAgainstTransformers(kSmolLm2); }

TEST_CASE("Gemma 3's logits equal those of transformers") { CheckAgainstTransformers(kGemma3); }

TEST_CASE("SmolLM2's perplexity equals llama.cpp's with a float32 cache") {
  CheckAgainstLlamaCpp(kSmolLm2, 3, 2e-5);
}

TEST_CASE(
    "Gemma 3's perplexity equals llama.cpp's with a float32 cache, but for its GELU table in half "
    "precision") {
  CheckAgainstLlamaCpp(kGemma3, 2, 2e-4);
}

}  // namespace spikefold::testing
