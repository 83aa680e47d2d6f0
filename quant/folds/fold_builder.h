// What a fold edits: the graph, a rewrite a tensor, norm gains; and what it reports. Only files of this
// folder include it.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "quant/folds/folds.h"
#include "quant/folds/rewrite.h"

namespace spikefold {

// A model with its folds, without the base.
struct FoldedModel {
  ModelGraph graph;
  absl::flat_hash_map<std::string, Rewrite> rewrites;  // by tensor name
  // Gains as they are stored (offset subtracted), by tensor name.
  absl::flat_hash_map<std::string, std::vector<float>> gains;
  bool untied = false;  // lm_head.weight is new
  // Biases that take up the product of a weight with the site's shift, by tensor name: the node.
  // `new_biases`: those that the base has not.
  absl::flat_hash_map<std::string, int> shifted_biases;
  std::vector<std::string> new_biases;
  std::vector<std::string> folds;
  std::vector<RefusedFold> refused;
  Json provenance = Json::MakeArray();
};

class FoldBuilder {
 public:
  explicit FoldBuilder(const CheckpointReader& base) : base_(base) { model_.graph = base.graph(); }
  const ModelGraph& graph() const { return model_.graph; }
  const Node& node(int index) const { return model_.graph.nodes[static_cast<size_t>(index)]; }

  // W <- W * F of a linear or the embedding. A tied head has no weight of its own: Untie() first.
  void Right(int node, Transform f);
  // W <- F^T * W, b <- F^T * b of a linear.
  void Left(int node, Transform f);
  // The gain that the norm multiplies by, offset added.
  absl::StatusOr<std::vector<float>> Gain(int node) const;
  // Sets it to the nearest gains that can be stored, and returns those.
  std::vector<float> SetGain(int node, absl::Span<const double> gain);
  // As it is, rounded to float32 alone: where no linear can take what a narrower number leaves.
  void SetExactGain(int node, absl::Span<const double> gain);
  // The epsilon of every norm of the model.
  void DivideNormEps(double divisor);
  // Gives a tied head its own copy of the embedding.
  void Untie();
  absl::Status AddRotation(Rotation rotation) {
    return spikefold::AddRotation(std::move(rotation), &model_.graph);
  }

  // Takes `values`, rounded to BF16, off a site's input; gives its linears biases. Returns what is taken off.
  std::vector<float> Shift(int site, absl::Span<const float> values);

  void Applied(std::string fold, Json provenance);
  void Refuse(std::string fold, std::string reason);
  FoldedModel Finish() { return std::move(model_); }

 private:
  Rewrite& RewriteOf(const std::string& tensor);

  const CheckpointReader& base_;
  FoldedModel model_;
};

// A randomised Hadamard rotation: the factors of the width's largest block, signs from (seed, name).
Rotation RandomRotation(const std::string& name, RotationPlace place, int64_t width, uint64_t seed);
// {"kind": "rotation", "name", "at", "factors", "block", "width", "seed"}.
Json RotationProvenance(const Rotation& rotation, uint64_t seed);
// {"kind": "learned rotation", "name", "at", "width", "sha256"}: the matrices are in no checkpoint.
Json LearnedProvenance(const std::string& name, RotationPlace place, int64_t width,
                       const LearnedRotations& learned);

// The folds, each in a file of its own. An error means bad options or an unreadable tensor; a fold that is
// not legal is refused.
absl::Status FoldNormGains(const FoldOptions& options, FoldBuilder& builder);
absl::Status RotateResidual(const FoldOptions& options, FoldBuilder& builder);
absl::Status RescaleResidual(const FoldOptions& options, FoldBuilder& builder);
absl::Status RotateValues(const FoldOptions& options, FoldBuilder& builder);
absl::Status ScaleChannels(const FoldOptions& options, FoldBuilder& builder);
absl::Status ScaleQueriesKeys(const FoldOptions& options, FoldBuilder& builder);
absl::Status RotateDown(const FoldOptions& options, FoldBuilder& builder);
absl::Status RotateQueriesKeys(const FoldOptions& options, FoldBuilder& builder);
absl::Status ShiftChannels(const FoldOptions& options, FoldBuilder& builder);
// residual_rotation.cc: whether the residual stream may be rotated once norm gains are gone.
bool ResidualMayRotate(const ModelGraph& graph, std::string* why);
// value_rotation.cc: whether each head's values may be.
bool ValuesMayRotate(const ModelGraph& graph, std::string* why);

}  // namespace spikefold
