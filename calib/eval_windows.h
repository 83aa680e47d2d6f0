// What a protocol runs and scores: the windows of a text.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "calib/evaluate.h"

namespace spikefold {

struct EvalWindow {
  std::vector<int32_t> tokens;
  int64_t score_from = 1;  // tokens[score_from ...] are scored, each from the logits of the token before it
  bool leads_with_bos = false;
  int64_t num_scored() const { return static_cast<int64_t>(tokens.size()) - score_from; }
};

struct EvalWindows {
  std::vector<EvalWindow> windows;
  BosMode bos = BosMode::kNone;  // as applied: kLlamaCpp follows the model
  int64_t context = 0;
};

// `bos_id` is -1 if the tokenizer has none, `add_bos` its wish. InvalidArgument: a BOS mode without a BOS
// token, a context below 2 (4 for kLlamaCpp), a text too short for one window.
absl::StatusOr<EvalWindows> MakeEvalWindows(absl::Span<const int32_t> ids, int32_t bos_id, bool add_bos,
                                            const EvalOptions& options);

// Whether a prefix (may be null) holds the tokenizer's BOS token.
bool HoldsBos(const KvPrefix* prefix, const Tokenizer& tokenizer);
// The same windows to be run behind a prefix that holds BOS: their own leading BOS goes, so that it is not
// doubled. Changes score_from of `windows` where needed (a text's very first token) so that both forms score
// the same tokens.
std::vector<EvalWindow> DropLeadingBos(std::vector<EvalWindow>& windows);

}  // namespace spikefold
