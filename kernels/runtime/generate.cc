#include "kernels/runtime/generate.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "formats/base/status.h"
#include "kernels/argmax_s32_f32/argmax_s32_f32.h"
#include "kernels/runtime/forward.h"

namespace spikefold {

Sampler::Sampler(const SamplingOptions& options) : options_(options), state_(options.seed) {}

// SplitMix64 (Steele, Lea, Flood 2014): the standard library's distributions differ between implementations.
double Sampler::Uniform() {
  state_ += 0x9e3779b97f4a7c15ull;
  uint64_t z = state_;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return static_cast<double>((z ^ (z >> 31)) >> 11) * 0x1p-53;
}

absl::StatusOr<int32_t> Sampler::Sample(absl::Span<const float> logits) {
  const auto best = kernels::argmax_s32_f32::Run(logits.data(), static_cast<int64_t>(logits.size()));
  if (best.odd >= 0) return NotFinite(best.odd);
  if (options_.temperature <= 0) return best.top;
  const double largest = logits[static_cast<size_t>(best.top)];
  candidates_.clear();
  for (size_t i = 0; i < logits.size(); ++i) candidates_.emplace_back(logits[i], static_cast<int32_t>(i));
  const size_t k = static_cast<size_t>(options_.top_k);
  if (k > 0 && k < candidates_.size()) {
    const auto before = [](const auto& a, const auto& b) {
      return a.first != b.first ? a.first > b.first : a.second < b.second;
    };
    std::nth_element(candidates_.begin(), candidates_.begin() + static_cast<int64_t>(k), candidates_.end(),
                     before);
    candidates_.resize(k);
    std::sort(candidates_.begin(), candidates_.end(), before);
  }
  weights_.resize(candidates_.size());
  double total = 0;
  for (size_t i = 0; i < candidates_.size(); ++i) {
    const double x = (static_cast<double>(candidates_[i].first) - largest) / options_.temperature;
    weights_[i] = std::exp(x);
    total += weights_[i];
  }
  double left = Uniform() * total;
  for (size_t i = 0; i < weights_.size(); ++i) {
    left -= weights_[i];
    if (left < 0) return candidates_[i].second;
  }
  return candidates_.back().second;
}

absl::StatusOr<std::vector<int32_t>> Generate(const RuntimeModel& model, absl::Span<const int32_t> prompt,
                                              const GenerateOptions& options) {
  if (prompt.empty()) {
    return absl::InvalidArgumentError("prompt: 0 tokens; at least 1 is needed (e.g. the BOS token)");
  }
  if (!(options.sampling.temperature >= 0) || options.sampling.top_k < 0) {
    return absl::InvalidArgumentError(absl::StrCat("sampling: temperature ", options.sampling.temperature,
                                                   ", top-k ", options.sampling.top_k,
                                                   "; neither may be negative"));
  }
  const ModelConfig& c = model.graph().config;
  const size_t d = static_cast<size_t>(c.hidden);
  const int64_t prefix = model.prefix() == nullptr ? 0 : model.prefix()->size();
  const int64_t max_tokens = std::max<int64_t>(options.max_tokens, 0);
  KvCache cache(c, prefix + static_cast<int64_t>(prompt.size()) + max_tokens, model.prefix(), model.kv());
  std::vector<float> hidden(d), logits(static_cast<size_t>(c.vocab));
  const absl::Span<float> last = absl::MakeSpan(hidden);
  SF_RETURN_IF_ERROR(Forward(model, prompt, cache, last, {.last_row_only = true}));
  Sampler sampler(options.sampling);
  std::vector<int32_t> out;
  out.reserve(static_cast<size_t>(max_tokens));
  // Behind the prompt by a draw; then, if that is greedy, in one call with the token's own pass.
  const bool greedy = options.sampling.temperature <= 0;
  KvCache* const caches[] = {&cache};
  int32_t next = 0;
  while (static_cast<int64_t>(out.size()) < max_tokens) {
    if (out.empty() || !greedy) {
      SF_RETURN_IF_ERROR(Logits(model, last, absl::MakeSpan(logits)));
      SF_ASSIGN_OR_RETURN(next, sampler.Sample(logits));
    }
    const int32_t token = next;
    if (std::count(options.stop_ids.begin(), options.stop_ids.end(), token) > 0) break;
    out.push_back(token);
    if (options.on_token && !options.on_token(token)) break;
    if (static_cast<int64_t>(out.size()) == max_tokens) break;
    SF_RETURN_IF_ERROR(greedy ? ForwardGreedy(model, {&out.back(), 1}, caches, {&next, 1})
                              : Forward(model, {&out.back(), 1}, cache, last, {}));
  }
  return out;
}

}  // namespace spikefold
