// The proof that folds are exact: each alone, and all stacked, run beside the model that they rewrite, once
// with every value and sum in float64 and once as models run, in float32.
//
// Equal functions are not equal numbers: a rewrite rounds the weights once more, and in float32 every value
// in between. Float64 tells whether the functions are equal; float32, what is left of that in use. What
// rounding alone does to the logits is the control: the model itself with each weight (and, in float32, each
// value of the residual, of queries, keys and values and each input of a linear) moved to one of its float32
// neighbours, or not, at random, three times; the largest changes count. Spikes and norms amplify it
// differently from model to model and from token to token.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "formats/base/progress.h"
#include "formats/base/thread_pool.h"
#include "formats/checkpoint.h"
#include "quant/folds/learned_rotations.h"

namespace spikefold {

// What an exact fold may move: a logit, over the largest of all, and in float32 more only within a few times
// the control; KL divergence, nats a token.
inline constexpr double kExactLogit = 1e-5, kExactDivergence = 1e-6, kTimesControl = 4;

struct FoldChange {
  double logit = 0;       // largest change of a logit over the largest logit
  double divergence = 0;  // mean KL divergence from the model as it is
};
struct FoldProof {
  bool control = false;
  std::string fold;      // "R1", "R1+R2+smooth+R3+R4"
  std::string refused;   // why it is not legal; empty: it was applied, with the exceptions below
  std::string excepted;  // what of it is not legal, with the reason
  FoldChange float64, float32;
};
bool IsExact(const FoldProof& proof, const FoldProof& control);

struct FoldProofOptions {
  ThreadPool* pool = nullptr;  // required
  uint64_t seed = 1;           // of the rotations' signs
  // Proved as "R1+R2 learned"; null: dense orthogonal matrices drawn at random, others in each layer.
  std::shared_ptr<const LearnedRotations> learned;
  Progress progress;
};
// The control first. Runs every window through the model and through each of its rewrites, twice. Scales and
// shifts are taken from the same windows: what they are does not matter, only that they are not trivial. Held
// in memory: two models, and the logits of the text up to 1 GiB. InvalidArgument: a quantized model, no
// windows, a token outside the vocabulary.
absl::StatusOr<std::vector<FoldProof>> ProveFolds(const CheckpointReader& reader,
                                                  const std::vector<std::vector<int32_t>>& windows,
                                                  const FoldProofOptions& options);

}  // namespace spikefold
