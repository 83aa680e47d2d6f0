#include "quant/plan.h"

namespace spikefold {
namespace {

double Bits(int64_t bytes, int64_t weights) {
  return weights == 0 ? 0.0 : 8.0 * static_cast<double>(bytes) / static_cast<double>(weights);
}

constexpr int64_t kBytesPerPrefixToken = 4;  // its id
constexpr int64_t kBytesPerPrefixValue = 2;  // bf16
constexpr int64_t kBytesPerNormWeight = 4;   // F32
constexpr int64_t kBytesPerShift = 2;        // bf16

}  // namespace

double PlanTotals::bits_linear() const { return Bits(linear_bytes, linear_weights); }
double PlanTotals::bits_total() const { return Bits(total_bytes, total_weights); }

const TensorDecision* Plan::Find(absl::string_view module) const {
  for (const TensorDecision& d : linears) {
    if (d.module == module) return &d;
  }
  if (embedding.module == module) return &embedding;
  return has_head && head.module == module ? &head : nullptr;
}

const TensorDecision* Plan::FindStatic(const ModelGraph& graph, const Site& site) const {
  for (const int linear : site.linears) {
    const TensorDecision* d = Find(graph.nodes[static_cast<size_t>(linear)].module);
    if (d != nullptr && d->activation_static) return d;
  }
  return nullptr;
}

QuantizedLinearSpec SpecOf(const TensorDecision& d) {
  QuantizedLinearSpec spec;
  spec.module = d.module;
  spec.n = d.n;
  spec.k = d.k;
  spec.has_bias = d.has_bias;
  spec.reason = d.reason;
  if (d.weight_bits == 16) return spec;
  spec.format = {
      .bits = d.weight_bits, .grouped = d.group_size > 0, .symmetric = !d.weight_zeros, .trellis = d.trellis};
  spec.group = d.group_size;
  spec.num_kept = static_cast<int64_t>(d.kept.size());
  spec.num_super = static_cast<int64_t>(d.supers.size());
  spec.spike_threshold = d.spike_threshold;
  if (d.activation_bits < 16) {
    using Scales = ActivationFormat::Scales;
    spec.act = {.bits = d.activation_bits,
                .scales = d.activation_static      ? Scales::kTensor
                          : d.activation_group > 0 ? Scales::kGroup
                                                   : Scales::kToken,
                .group = d.activation_group,
                .symmetric = !d.activation_zeros};
  }
  return spec;
}

void CountPlanBytes(const ModelGraph& graph, Plan& plan) {
  const ModelConfig& c = graph.config;
  PlanTotals& t = plan.totals;
  t = {};
  double macs = 0, mac_bits = 0;
  for (TensorDecision& d : plan.linears) {
    d.bytes = StoredBytes(SpecOf(d));
    t.linear_bytes += d.bytes;
    t.linear_weights += d.n * d.k;
    const double kept = static_cast<double>(d.kept.size()), k = static_cast<double>(d.k);
    macs += static_cast<double>(d.n) * k;
    mac_bits += static_cast<double>(d.n) * (kept * 16.0 + (k - kept) * d.activation_bits);
  }
  for (const Site& site : graph.sites) {
    t.linear_bytes += kBytesPerShift * static_cast<int64_t>(site.shift.size());
  }
  t.activation_bits = macs == 0 ? 16.0 : mac_bits / macs;
  t.total_bytes = t.linear_bytes;
  for (const Rotation& r : graph.rotations) t.total_bytes += r.width();  // signs
  t.total_weights = t.linear_weights;
  const auto add = [&](TensorDecision& d) {
    d.bytes = StoredBytes(SpecOf(d));
    t.total_bytes += d.bytes;
    t.total_weights += d.n * d.k;
  };
  add(plan.embedding);
  if (plan.has_head) add(plan.head);
  plan.num_norm_weights = 0;
  for (const Node& node : graph.nodes) {
    if (node.op == Op::kNorm || node.op == Op::kHeadNorm) plan.num_norm_weights += node.k;
  }
  plan.norm_bytes = plan.num_norm_weights * kBytesPerNormWeight;
  const int64_t values = 2 * c.num_layers * c.num_kv_heads * c.head_dim;
  t.prefix_bytes =
      static_cast<int64_t>(plan.prefix.size()) * (kBytesPerPrefixToken + values * kBytesPerPrefixValue);
  t.total_bytes += plan.norm_bytes + t.prefix_bytes;
  t.total_weights += plan.num_norm_weights;
}

}  // namespace spikefold
