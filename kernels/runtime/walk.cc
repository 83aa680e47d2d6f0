#include "kernels/runtime/walk.h"

#include <algorithm>

#include "formats/base/status.h"

namespace spikefold {

Walk::Walk(const ModelGraph& g, Ops& ops)
    : graph(&g), rope(g.config.rope, g.config.head_dim), rope_local(g.config.rope_local, g.config.head_dim) {
  const ModelConfig& c = g.config;
  const auto buffer_of = [&](int64_t width, std::initializer_list<ValueKind> values) {
    owned_buffers.push_back(ops.NewBuffer(width));
    for (const ValueKind v : values) buffers[static_cast<size_t>(v)] = owned_buffers.back().get();
  };
  const auto activation_of = [&](int64_t width, std::initializer_list<ValueKind> values) {
    owned_activations.push_back(ops.NewActivation(width));
    for (const ValueKind v : values) activations[static_cast<size_t>(v)] = owned_activations.back().get();
  };
  using V = ValueKind;
  const int64_t q_width = c.num_heads * c.head_dim, kv_width = c.num_kv_heads * c.head_dim;
  buffer_of(c.hidden, {V::kResidual});
  buffer_of(c.hidden, {V::kAttnOut, V::kFfnOut});  // never alive together
  buffer_of(q_width, {V::kQ});
  buffer_of(kv_width, {V::kK});
  buffer_of(kv_width, {V::kV});
  buffer_of(c.intermediate, {V::kGate});
  buffer_of(c.intermediate, {V::kUp});
  activation_of(c.hidden, {V::kAttnIn, V::kFfnIn, V::kFinal});
  activation_of(q_width, {V::kCtx});
  activation_of(c.intermediate, {V::kDownIn});

  site_of.assign(g.nodes.size(), -1);
  for (size_t i = 0; i < g.nodes.size(); ++i) {
    const Node& node = g.nodes[i];
    const V value = node.op == Op::kLinear ? node.in0 : node.out;
    for (const Site& site : g.sites) {
      if (site.layer == node.layer && site.value == value) site_of[i] = site.id;
    }
  }
}

absl::StatusOr<Walk*> Walk::Of(const RuntimeModel& model) {
  Ops& ops = model.ops();
  if (ops.scratch == nullptr) ops.scratch.reset(new Walk(model.graph(), ops));
  Walk* walk = static_cast<Walk*>(ops.scratch.get());
  if (walk->graph != &model.graph()) {
    return absl::InternalError("forward: one Ops serves two models; make one for each");
  }
  return walk;
}

absl::Status Walk::Reserve(Ops& ops, int64_t num_rows, int64_t positions) {
  rope.Reserve(positions);
  if (graph->config.sliding_window > 0) rope_local.Reserve(positions);
  if (num_rows <= rows) return absl::OkStatus();
  rows = 0;  // until all are there
  for (const auto& b : owned_buffers) SF_RETURN_IF_ERROR(ops.Reserve(*b, num_rows));
  for (const auto& a : owned_activations) SF_RETURN_IF_ERROR(ops.Reserve(*a, num_rows));
  rows = num_rows;
  return absl::OkStatus();
}

}  // namespace spikefold
