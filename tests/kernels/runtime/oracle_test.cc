// Tiny models of each family against the logits and residuals that transformers computed (tests/data/tiny).
#include <cmath>

#include "formats/safetensors.h"
#include "tests/kernels/runtime/runtime_kit.h"

namespace spikefold::testing {
namespace {

constexpr double kTolerance = 1e-5;

struct Expected {
  std::unique_ptr<SafetensorsFile> file;
  explicit Expected(const std::string& directory)
      : file(*SafetensorsFile::Open(directory + "/expected.safetensors")) {}
  Tensor Get(absl::string_view name) const { return *file->Read(*file->Find(name)); }
  std::vector<int32_t> Ids(absl::string_view name) const {
    const Tensor t = Get(name);
    return {t.as<int32_t>().begin(), t.as<int32_t>().end()};
  }
};

class Residuals : public Taps {
 public:
  bool Wants(int, ValueKind v) const override { return v == ValueKind::kResidual; }
  void OnRows(const TapRows& r) override { rows.insert(rows.end(), r.data, r.data + r.num_rows * r.width); }
  std::vector<float> rows;
};

std::unique_ptr<RuntimeModel> LoadFrom(const std::string& path) {
  auto reader = CheckpointReader::Open(path);
  INFO(reader.status());
  REQUIRE(reader.ok());
  return Load(**reader);
}

}  // namespace

TEST_CASE("Logits and residuals of tiny models of five families equal those of transformers") {
  for (const char* family : {"llama", "llama_bias", "mistral", "qwen2", "qwen3", "gemma3"}) {
    INFO(family);
    const std::string directory = std::string(SPIKEFOLD_TEST_DATA) + "/tiny/" + family;
    const Expected want(directory);
    const auto model = LoadFrom(directory);
    for (const char* which : {"a", "b"}) {
      const std::vector<int32_t> ids = want.Ids(std::string("ids_") + which);
      Residuals taps;
      const std::vector<float> logits = RunLogits(*model, ids, 0, {.taps = &taps});
      const Tensor expected = want.Get(std::string("logits_") + which);
      CHECK(RelativeError(logits, expected.as<float>()) < kTolerance);
      CHECK(RunLogits(*model, ids, 5) == logits);
      if (which[0] == 'b') continue;
      const Tensor hidden = want.Get("hidden_a");  // without the last layer's
      taps.rows.resize(static_cast<size_t>(hidden.num_elements()));
      CHECK(RelativeError(taps.rows, hidden.as<float>()) < kTolerance);
    }
  }
}

TEST_CASE("The same models from GGUF files give the same logits") {
  // GGUF has no key for Gemma's query_pre_attn_scalar, which the tiny Gemma sets.
  for (const char* family : {"llama", "llama_bias", "qwen3"}) {
    INFO(family);
    const std::string directory = std::string(SPIKEFOLD_TEST_DATA) + "/tiny/" + family;
    const Expected want(directory);
    const auto model = LoadFrom(directory + "/model.gguf");
    const Tensor expected = want.Get("logits_b");
    CHECK(RelativeError(RunLogits(*model, want.Ids("ids_b")), expected.as<float>()) < kTolerance);
  }
}

}  // namespace spikefold::testing
