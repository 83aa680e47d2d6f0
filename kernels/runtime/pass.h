// One walk over a graph's nodes for one block of rows: what forward.h's functions are made of.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/runtime/forward.h"
#include "kernels/runtime/ops.h"
#include "kernels/runtime/walk.h"

namespace spikefold {

// [nodes] Whether a node does its work. Nodes that leave theirs to others must be among those that do: adds
// and norms of a branch, which the next norm of the residual takes over, head norms and the rope of q.
using NodeFilter = std::vector<bool>;

// Buffers and caches outlive it; one at a time a model.
class Pass {
 public:
  // One cache: rows are consecutive positions of one sequence. Several: row i is the next position of
  // sequence i.
  Pass(const RuntimeModel& model, Walk& walk, absl::Span<KvCache* const> caches,
       const ForwardOptions& options)
      : model_(model),
        graph_(model.graph()),
        ops_(model.ops()),
        walk_(walk),
        caches_(caches),
        taps_(options.taps),
        edits_(options.interventions) {}

  // Rows from `wanted` on go to `hidden`.
  absl::Status Run(absl::Span<const int32_t> tokens, int64_t wanted, float* hidden);

  // The likeliest token behind each row. DataLoss: a logit is not finite.
  absl::Status FindBest(absl::Span<const int32_t> tokens, int32_t* next);
  // Seconds of the nodes that do their work (all without a filter; the head of the last row of each sequence)
  // as Ops::Time() takes them. The caches stay as long as they are.
  absl::StatusOr<Ops::Timing> Time(absl::Span<const int32_t> tokens, const NodeFilter* filter, int times);
  // ForwardNodes(), what it asks for having been looked at.
  absl::Status RunPart(NodeRange range, absl::Span<const int32_t> tokens, float* residual);

 private:
  // All nodes up to the head, or up to its likeliest tokens.
  absl::Status RunAll(absl::Span<const int32_t> tokens, bool finds_best);
  NodeRange AllNodes() const { return {.begin = 0, .end = static_cast<int>(graph_.nodes.size())}; }
  StepArgs ArgsOf(bool finds_best) const;
  absl::Status FindBestOf(int64_t rows);
  bool Works(int i) const { return filter_ == nullptr || (*filter_)[static_cast<size_t>(i)]; }
  const Buffer& Final() const { return walk_.activation(ValueKind::kFinal)->floats(); }
  void Advance();
  bool TouchesResidual(const NodeRange& range) const;
  absl::Status SetInput(const NodeRange& range, int64_t rows);

  // What to walk with: as many tokens of each sequence.
  void Take(absl::Span<const int32_t> tokens);
  absl::Status Steps(NodeRange range);
  absl::Status Step(int i, const Node& node);
  absl::Status Embed(int i, const Node& node);
  absl::Status Norm(int i, const Node& node);

  // residual += pending branch; out = norm(residual) if there is a gain.
  absl::Status AddNorm(const std::vector<float>* gain, const ActivationForm* form, Activation* out);

  // The first linear of a site runs them all.
  absl::Status Linears(int i, const Node& node);
  absl::Status Rope(const Node& node);
  absl::Status Attention(int i, const Node& node);
  absl::Status GatedMul(int i, const Node& node);

  // Left pending, so that the next norm adds in the same pass over the rows, unless somebody looks.
  absl::Status Add(const Node& node);

  // A branch is shown as it is added: after its own norm, where it has one.
  absl::Status ShowBranch(const Node& node);
  bool Wanted(int layer, ValueKind v) const;

  // Lets interventions edit rows, then shows them to taps. True if they were edited.
  absl::StatusOr<bool> Show(int layer, ValueKind v, Buffer& buffer);
  absl::Status ShowActivation(int layer, ValueKind v, Activation& x);
  Activation& Out(int i, const Node& node);

  // Whether a linear of the site that node i feeds was left in high precision, or is not there to be asked.
  bool ReadsFloats(int i) const;

  // The linear of the site that node i feeds, if it is one.
  const LinearWeights* ReaderOf(int i) const;

  // The rows for the head leave as floats: Logits() quantizes them itself.
  const ActivationForm* FormOf(int i, const Node& node) const;
  bool Slides(int layer) const;

  const RuntimeModel& model_;
  const ModelGraph& graph_;
  Ops& ops_;
  Walk& walk_;
  absl::Span<KvCache* const> caches_;
  std::vector<SequenceRows> sequences_;
  Taps* taps_;
  Interventions* edits_;
  const NodeFilter* filter_ = nullptr;

  absl::Span<const int32_t> tokens_;
  int64_t rows_ = 0, first_ = 0;                     // position of the first row
  Buffer* branch_ = nullptr;                         // to be added to the residual
  const std::vector<float>* branch_gain_ = nullptr;  // norm of that branch
  const std::vector<float>*q_gain_ = nullptr, *k_gain_ = nullptr;
};

}  // namespace spikefold
