#include "kernels/runtime/torch/torch_graph.h"

#include <cmath>

#include "formats/base/hadamard.h"

namespace spikefold {
namespace {

static_assert(static_cast<int>(Op::kEmbed) == kSfEmbed && static_cast<int>(Op::kNorm) == kSfNorm &&
              static_cast<int>(Op::kLinear) == kSfLinear && static_cast<int>(Op::kHeadNorm) == kSfHeadNorm &&
              static_cast<int>(Op::kRope) == kSfRope && static_cast<int>(Op::kAttention) == kSfAttention &&
              static_cast<int>(Op::kGatedMul) == kSfGatedMul && static_cast<int>(Op::kAdd) == kSfAdd);

SfTorchRope RopeOf(const RopeConfig& rope) {
  return {.theta = rope.theta,
          .factor = rope.factor,
          .low_freq_factor = rope.low_freq_factor,
          .high_freq_factor = rope.high_freq_factor,
          .original_max_positions = rope.original_max_positions,
          .scaling = rope.scaling == RopeScaling::kNone     ? 0
                     : rope.scaling == RopeScaling::kLinear ? 1
                                                            : 2};
}

void SetRounding(const ActivationFormat& act, float scale, int32_t zero, SfTorchSite& s) {
  s.act_bits = act.bits;
  s.act_lo = act.is_float() ? 0 : act.lo();
  s.act_hi = act.is_float() ? 0 : act.hi();
  s.act_symmetric = act.symmetric ? 1 : 0;
  s.act_group = act.group;
  s.static_scale = act.is_static() ? scale : 0;
  s.static_zero = zero;
}

}  // namespace

TorchGraph::TorchGraph(const ModelGraph& graph) : graph_(graph), lists_(graph.sites.size()) {
  for (const Rotation& rotation : graph.rotations) AddRotation(rotation);
  for (const Site& site : graph.sites) {
    sites_.push_back({.k = site.k,
                      .rotation = site.rotation,
                      .shift = site.shift.empty() ? nullptr : site.shift.data(),
                      .turn = -1});
  }
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    const Node& n = graph.nodes[i];
    nodes_.push_back({.op = static_cast<int32_t>(n.op),
                      .layer = n.layer,
                      .in0 = static_cast<int32_t>(n.in0),
                      .in1 = static_cast<int32_t>(n.in1),
                      .out = static_cast<int32_t>(n.out),
                      .site = graph.SiteOf(static_cast<int>(i)),
                      .n = n.n,
                      .k = n.k});
  }
  const ModelConfig& c = graph.config;
  for (const bool slides : c.sliding_layers) slides_.push_back(slides ? 1 : 0);
  out_.value_residual = static_cast<int32_t>(ValueKind::kResidual);
  out_.value_k = static_cast<int32_t>(ValueKind::kK);
  out_.value_v = static_cast<int32_t>(ValueKind::kV);
  out_.num_values = static_cast<int32_t>(ValueKind::kLogits) + 1;
  out_.num_layers = static_cast<int32_t>(c.num_layers);
  out_.qk_rotation = graph.qk_rotation;
  out_.tied_head = c.tied_embeddings ? 1 : 0;
  out_.gelu = c.activation == GateActivation::kGeluTanh ? 1 : 0;
  out_.num_heads = c.num_heads;
  out_.num_kv_heads = c.num_kv_heads;
  out_.head_dim = c.head_dim;
  out_.sliding_window = c.sliding_window;
  out_.norm_eps = c.norm_eps;
  out_.embedding_scale = c.embedding_scale;
  out_.attention_scale = c.attention_scale;
  out_.rope = RopeOf(c.rope);
  out_.rope_local = RopeOf(c.rope_local);
  out_.num_threads = 1;
  out_.device = "cpu";
}

void TorchGraph::AddRotation(const Rotation& rotation) {
  const float unit = static_cast<float>(1 / std::sqrt(static_cast<double>(rotation.block())));
  std::vector<float>& scale = floats_.emplace_back();
  for (const int8_t sign : rotation.signs) scale.push_back(static_cast<float>(sign) * unit);
  std::vector<const float*>& factors = factors_.emplace_back();
  for (const int64_t order : rotation.factors) {
    std::vector<float>& h = floats_.emplace_back(static_cast<size_t>(order * order));
    for (int64_t i = 0; i < order * order; ++i) {
      // A power of two may be larger than the tables: Sylvester's rule.
      h[static_cast<size_t>(i)] = HasHadamardTable(order) ? HadamardTable(order)[static_cast<size_t>(i)]
                                  : __builtin_parityll(static_cast<uint64_t>((i / order) & (i % order))) != 0
                                      ? -1.0f
                                      : 1.0f;
    }
    factors.push_back(h.data());
  }
  rotations_.push_back({.width = rotation.width(),
                        .scale = scale.data(),
                        .num_factors = static_cast<int32_t>(factors.size()),
                        .orders = rotation.factors.data(),
                        .factors = factors.data()});
}

void TorchGraph::SetForm(int site, const QuantizedLinear& q, const std::vector<int32_t>& super_columns) {
  SiteLists& lists = lists_[static_cast<size_t>(site)];
  lists.kept = q.kept_columns;
  lists.super = super_columns;
  SfTorchSite& s = sites_[static_cast<size_t>(site)];
  SetRounding(q.act, q.input_scale, q.input_zero, s);
  s.spike_threshold = q.spike_threshold;
}

void TorchGraph::SetForm(int site, const TorchForms::Site& form) {
  SfTorchSite& s = sites_[static_cast<size_t>(site)];
  SetRounding(form.act, form.input_scale, form.input_zero, s);
  s.turn = form.turn;
}

const SfTorchGraph& TorchGraph::Describe() {
  for (size_t i = 0; i < sites_.size(); ++i) {
    sites_[i].num_kept = static_cast<int64_t>(lists_[i].kept.size());
    sites_[i].kept = lists_[i].kept.data();
    sites_[i].num_super = static_cast<int64_t>(lists_[i].super.size());
    sites_[i].super = lists_[i].super.data();
  }
  out_.num_nodes = static_cast<int32_t>(nodes_.size());
  out_.nodes = nodes_.data();
  out_.num_sites = static_cast<int32_t>(sites_.size());
  out_.sites = sites_.data();
  out_.num_rotations = static_cast<int32_t>(rotations_.size());
  out_.rotations = rotations_.data();
  out_.num_turns = static_cast<int32_t>(turn_orders_.size());
  out_.turn_orders = turn_orders_.data();
  out_.slides = slides_.empty() ? nullptr : slides_.data();
  return out_;
}

}  // namespace spikefold
