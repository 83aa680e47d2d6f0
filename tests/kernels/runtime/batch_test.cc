// Several sequences side by side give what each gives alone.
#include <algorithm>
#include <catch2/catch.hpp>

#include "kernels/runtime/forward.h"
#include "tests/testing/tiny_model.h"

namespace spikefold {
namespace {

constexpr int kSequences = 3, kSteps = 4;
constexpr int32_t kText[kSequences][kSteps] = {{1, 5, 9, 2}, {60, 1, 1, 7}, {33, 32, 31, 30}};

std::vector<KvCache*> Pointers(std::vector<KvCache>& caches) {
  std::vector<KvCache*> pointers;
  for (KvCache& cache : caches) pointers.push_back(&cache);
  return pointers;
}

// Sequence s has `before`[s] tokens already.
void CheckBatch(const RuntimeModel& model, const std::vector<int>& before, const KvOptions& kv) {
  const ModelConfig& config = model.graph().config;
  const size_t d = static_cast<size_t>(config.hidden);
  std::vector<KvCache> caches(kSequences, KvCache(config, 200, nullptr, kv)), own = caches;
  std::vector<float> together(kSequences * d), alone(d);
  for (size_t s = 0; s < kSequences; ++s) {
    for (KvCache* cache : {&caches[s], &own[s]}) {
      std::vector<int32_t> tokens;
      for (int t = 0; t < before[s]; ++t) tokens.push_back((7 * t + static_cast<int>(s)) % 64);
      if (tokens.empty()) continue;
      REQUIRE(Forward(model, tokens, *cache, absl::MakeSpan(alone), {.last_row_only = true}).ok());
    }
  }
  const std::vector<KvCache*> pointers = Pointers(caches);
  for (int t = 0; t < kSteps; ++t) {
    std::vector<int32_t> step;
    for (const auto& text : kText) step.push_back(text[t]);
    REQUIRE(ForwardBatch(model, step, pointers, absl::MakeSpan(together)).ok());
    for (size_t s = 0; s < kSequences; ++s) {
      REQUIRE(Forward(model, {&kText[s][t], 1}, own[s], absl::MakeSpan(alone), {}).ok());
      for (size_t i = 0; i < d; ++i) CHECK(together[s * d + i] == Approx(alone[i]).margin(1e-5));
    }
  }
  for (size_t s = 0; s < kSequences; ++s) CHECK(caches[s].length() == before[s] + kSteps);
}

}  // namespace

TEST_CASE("Sequences of a batch give the rows that each gives alone, however long each is") {
  for (const bool qk_norm : {false, true}) {
    const testing::TinyModel tiny = testing::MakeTinyModel(
        {.hidden = 64, .intermediate = 96, .num_layers = 3, .vocab = 64, .qk_norm = qk_norm});
    ThreadPool pool(2);
    const auto model = LoadModel(*tiny.checkpoint, {.pool = &pool});
    const auto reference = LoadModel(*tiny.checkpoint, {.pool = &pool, .backend = Backend::kFloat64});
    REQUIRE(model.ok());
    REQUIRE(reference.ok());
    for (const std::vector<int>& before : {std::vector<int>{0, 0, 0}, {5, 0, 130}, {1, 77, 2}}) {
      CheckBatch(**model, before, {});
      CheckBatch(**model, before, {.k_bits = 8, .v_bits = 8});
      CheckBatch(**reference, before, {});
    }
  }
}

TEST_CASE("The likeliest tokens of a batch are those of its logits") {
  const testing::TinyModel tiny =
      testing::MakeTinyModel({.hidden = 64, .intermediate = 96, .num_layers = 2, .vocab = 64});
  ThreadPool pool(2);
  const auto model = LoadModel(*tiny.checkpoint, {.pool = &pool});
  REQUIRE(model.ok());
  const ModelConfig& config = (*model)->graph().config;
  std::vector<KvCache> caches(70, KvCache(config, 20)), own = caches;  // more than a block of the head's rows
  const std::vector<KvCache*> pointers = Pointers(caches), own_pointers = Pointers(own);
  std::vector<int32_t> tokens, next(caches.size());
  for (size_t s = 0; s < caches.size(); ++s) tokens.push_back(static_cast<int32_t>(s * 5 % 64));
  std::vector<float> hidden(caches.size() * 64), logits(caches.size() * 64);
  for (int step = 0; step < 6; ++step) {
    REQUIRE(ForwardGreedy(**model, tokens, pointers, absl::MakeSpan(next)).ok());
    REQUIRE(ForwardBatch(**model, tokens, own_pointers, absl::MakeSpan(hidden)).ok());
    REQUIRE(Logits(**model, hidden, absl::MakeSpan(logits)).ok());
    for (size_t s = 0; s < caches.size(); ++s) {
      const auto row = logits.begin() + static_cast<int64_t>(s) * 64;
      CHECK(next[s] == std::max_element(row, row + 64) - row);
    }
    tokens = next;
  }
  CHECK(caches[3].length() == 6);
  const auto narrow = ForwardGreedy(**model, tokens, pointers, absl::MakeSpan(next).first(3));
  CHECK(narrow.message() == "batch: room for 3 tokens; 70 needed");
}

TEST_CASE("A batch with a full cache or another number of tokens is refused") {
  const testing::TinyModel tiny =
      testing::MakeTinyModel({.hidden = 64, .intermediate = 96, .num_layers = 1, .vocab = 64});
  ThreadPool pool(1);
  const auto model = LoadModel(*tiny.checkpoint, {.pool = &pool});
  REQUIRE(model.ok());
  const ModelConfig& config = (*model)->graph().config;
  std::vector<KvCache> caches = {KvCache(config, 9), KvCache(config, 1), KvCache(config, 9)};
  const std::vector<KvCache*> pointers = Pointers(caches);
  std::vector<float> hidden(3 * 64);
  REQUIRE(ForwardBatch(**model, {{1, 2, 3}}, pointers, absl::MakeSpan(hidden)).ok());
  const auto full = ForwardBatch(**model, {{1, 2, 3}}, pointers, absl::MakeSpan(hidden));
  CHECK(full.code() == absl::StatusCode::kInvalidArgument);
  CHECK(full.message() == "batch: sequence 1: its cache of 1 positions is full; make it larger");
  CHECK(caches[0].length() == 1);
  const auto uneven = ForwardBatch(**model, {{1, 2}}, pointers, absl::MakeSpan(hidden));
  CHECK(uneven.message() == "batch: 2 tokens for 3 caches; one each is needed");
  const auto shared =
      ForwardBatch(**model, {{1, 2, 3}}, {{pointers[0], pointers[2], pointers[0]}}, absl::MakeSpan(hidden));
  CHECK(shared.code() == absl::StatusCode::kInvalidArgument);
  CHECK(shared.message() ==
        "batch: sequence 2: its cache is that of another one too; each needs one of its own");
  CHECK(caches[0].length() == 1);
}

}  // namespace spikefold
