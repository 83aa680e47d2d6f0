// What the runtime's tests share: loading, one call for logits, comparing rows.
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "catch2/catch.hpp"
#include "kernels/runtime/forward.h"
#include "tests/testing/tiny_model.h"

namespace spikefold::testing {

inline ThreadPool& Pool() {
  static ThreadPool pool(2);
  return pool;
}

inline std::unique_ptr<RuntimeModel> Load(const CheckpointReader& reader, Backend backend = Backend::kCpu) {
  auto model = LoadModel(reader, {.pool = &Pool(), .backend = backend});
  INFO(model.status());
  REQUIRE(model.ok());
  return *std::move(model);
}

// Feeds `tokens` in calls of `step` rows and returns the rows for the head, [tokens, d].
inline std::vector<float> Hidden(const RuntimeModel& model, absl::Span<const int32_t> tokens, KvCache& cache,
                                 size_t step = 0, const ForwardOptions& options = {}) {
  const size_t d = static_cast<size_t>(model.graph().config.hidden);
  if (step == 0) step = std::max<size_t>(tokens.size(), 1);
  std::vector<float> hidden(tokens.size() * d);
  for (size_t at = 0; at < tokens.size(); at += step) {
    const size_t rows = std::min(step, tokens.size() - at);
    const absl::Status status = Forward(model, tokens.subspan(at, rows), cache,
                                        absl::MakeSpan(hidden).subspan(at * d, rows * d), options);
    INFO(status);
    REQUIRE(status.ok());
  }
  return hidden;
}

inline std::vector<float> LogitsOf(const RuntimeModel& model, const std::vector<float>& hidden) {
  const ModelConfig& c = model.graph().config;
  std::vector<float> logits(hidden.size() / static_cast<size_t>(c.hidden) * static_cast<size_t>(c.vocab));
  REQUIRE(Logits(model, hidden, absl::MakeSpan(logits)).ok());
  return logits;
}

inline std::vector<float> RunLogits(const RuntimeModel& model, absl::Span<const int32_t> tokens,
                                    size_t step = 0, const ForwardOptions& options = {}) {
  KvCache cache(model.graph().config, static_cast<int64_t>(tokens.size()));
  return LogitsOf(model, Hidden(model, tokens, cache, step, options));
}

// Largest |a - b| over the largest |b|.
template <typename A, typename B>
double RelativeError(const A& a, const B& b) {
  REQUIRE(a.size() == b.size());
  double error = 0, top = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double difference = std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
    if (!(difference <= 1e300)) return INFINITY;  // NaN never passes
    error = std::max(error, difference);
    top = std::max(top, std::abs(static_cast<double>(b[i])));
  }
  return error / top;
}

inline std::vector<int32_t> SomeTokens(int64_t count, int64_t vocab, uint64_t seed = 1) {
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < count; ++i) {
    seed = seed * 6364136223846793005ull + 1442695040888963407ull;
    tokens.push_back(static_cast<int32_t>((seed >> 33) % static_cast<uint64_t>(vocab)));
  }
  return tokens;
}

}  // namespace spikefold::testing
