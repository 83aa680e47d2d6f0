// The one walk over a ModelGraph, for every backend, float or quantized; prefill and decode are the same
// function.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "kernels/runtime/kv_cache.h"
#include "kernels/runtime/model.h"
#include "kernels/runtime/tap.h"

namespace spikefold {

enum class LogitsOf;  // kernels/runtime/ops.h

struct ForwardOptions {
  Taps* taps = nullptr;
  Interventions* interventions = nullptr;
  bool last_row_only = false;  // `hidden` is [1, d]: what goes on from a prompt needs no more
};
// Appends `tokens` to the cache and writes the rows that feed the head (after the final norm) to `hidden`
// [tokens, d]. InvalidArgument: a token id outside the vocabulary, or the cache has no room ("cache: 600
// positions needed; 512 allowed; ..."). A row's result does not depend on how the tokens are split over
// calls (unless spike rows overflow: ActivationForm::max_spike_rows counts per call; and on a GPU, where
// fewer than 64 rows at once attend in float32 and more in f16 if their context becomes codes). With taps or
// interventions all rows of a call pass together, so an observer sees whole windows; without, in blocks of
// 512 rows. On an error the cache is as before (a paged one as KvCache::Truncate leaves it). One call at a
// time a model.
absl::Status Forward(const RuntimeModel& model, absl::Span<const int32_t> tokens, KvCache& cache,
                     absl::Span<float> hidden, const ForwardOptions& options);

// Some nodes of the graph, [begin, end).
struct NodeRange {
  int begin = 0, end = 0;
  // [tokens, k] what the linears at `begin` read, as a tap of that value was shown it. Then `begin` is the
  // first linear of a site, else the embedding (the one to read token ids; `residual` is only written) or a
  // norm of the residual.
  absl::Span<const float> input = {};
};
// A norm that reads the residual: where a layer's two halves, and the head, begin.
bool IsResidualNorm(const Node& node);
// A part of the walk on rows that the caller keeps, so that a quantizer can take all of its text through one
// layer before the next. `residual` [tokens, d] is what the first node reads and becomes what the residual is
// after the last; a part that ends inside a branch leaves it as it was, and the next may begin there from a
// tap's rows. Layers of the range attend to the cache's rows and to their own, and write theirs behind them;
// the cache does not grow: call it for window after window with the same cache. Parts one after the other
// give bit for bit what Forward gives with taps. InvalidArgument as Forward, another beginning, and an input
// of another size. After an error `residual` is undefined.
absl::Status ForwardNodes(const RuntimeModel& model, NodeRange range, absl::Span<const int32_t> tokens,
                          KvCache& cache, absl::Span<float> residual, const ForwardOptions& options);

// One more token of several sequences at once: tokens[i] is appended to caches[i], `hidden` is [sequences,
// d]. The weights are read once for all, which is what a step of decoding costs. The caches may hold
// different numbers of positions. InvalidArgument as Forward, and a cache that stands for two sequences;
// after an error in the middle the caches are unusable.
absl::Status ForwardBatch(const RuntimeModel& model, absl::Span<const int32_t> tokens,
                          absl::Span<KvCache* const> caches, absl::Span<float> hidden);

// The same, and the likeliest token behind each, next[i]: what ForwardBatch(), Logits() and a greedy Sampler
// give, without logits or rows of `hidden` that leave the backend. DataLoss: a logit is not finite.
absl::Status ForwardGreedy(const RuntimeModel& model, absl::Span<const int32_t> tokens,
                           absl::Span<KvCache* const> caches, absl::Span<int32_t> next);
// The error of the token whose logit is not finite.
absl::Status NotFinite(int64_t token);

// logits [rows, vocab] = head(hidden [rows, d]). Call it in row blocks: a block of 64 rows of a 262,144-word
// head is 64 MiB.
absl::Status Logits(const RuntimeModel& model, absl::Span<const float> hidden, absl::Span<float> logits);

// The same, which stay with the model's backend for Ops::CompareLogits(). Unimplemented: as
// Ops::KeepLogits().
absl::Status KeepLogits(const RuntimeModel& model, LogitsOf of, absl::Span<const float> hidden);

// Runs `tokens` from position 0 and returns their keys and values as a prefix (rounded to bf16).
absl::StatusOr<KvPrefix> ComputePrefix(const RuntimeModel& model, absl::Span<const int32_t> tokens);

}  // namespace spikefold
