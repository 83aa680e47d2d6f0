// The forward pass again, in another library's arithmetic: nothing here is shared with kernels/ or
// kernels/runtime/forward.cc, so that agreement says something.
#include "kernels/runtime/torch/aten_model.h"

#include <cmath>
#include <stdexcept>

namespace spikefold::torch_plugin {
namespace {

at::Tensor Int64(const int32_t* data, int64_t size) {
  std::vector<int64_t> wide(data, data + size);
  return at::tensor(wide, at::kLong);
}

// Frequencies of the pairs, as the rope scaling of Hugging Face's configs defines them.
std::vector<double> Frequencies(const SfTorchRope& rope, int64_t head_dim) {
  std::vector<double> out;
  for (int64_t i = 0; i < head_dim / 2; ++i) {
    const double f = 1.0 / std::pow(rope.theta, 2.0 * static_cast<double>(i) / static_cast<double>(head_dim));
    if (rope.scaling == 0) {
      out.push_back(f);
    } else if (rope.scaling == 1) {
      out.push_back(f / rope.factor);
    } else {
      const double original = static_cast<double>(rope.original_max_positions);
      const double wavelength = 2 * M_PI / f;
      const double smooth =
          (original / wavelength - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
      const double keep = std::fmin(1.0, std::fmax(0.0, smooth));
      out.push_back(keep * f + (1 - keep) * f / rope.factor);
    }
  }
  return out;
}

}  // namespace

at::Tensor Parameter::Value() const {
  if (!t.defined()) return base;
  return additive ? base + t * unit : base * (t + 1);
}

Model::Model(const SfTorchGraph& graph)
    : graph_(graph),
      nodes_(graph.nodes, graph.nodes + graph.num_nodes),
      linears_(nodes_.size()),
      gains_(nodes_.size()),
      frequencies_(Frequencies(graph.rope, graph.head_dim)),
      local_frequencies_(Frequencies(graph.rope_local, graph.head_dim)),
      device_(graph.device),
      product_type_(graph.bf16 != 0 ? at::kBFloat16 : at::kFloat) {
  if (graph.slides != nullptr) slides_.assign(graph.slides, graph.slides + graph.num_layers);
  for (int32_t i = 0; i < graph.num_rotations; ++i) {
    const SfTorchRotation& r = graph.rotations[i];
    Rotation rotation{.scale = FromFloats(r.scale, {r.width}), .factors = {}};
    for (int32_t f = 0; f < r.num_factors; ++f) {
      rotation.factors.push_back(FromFloats(r.factors[f], {r.orders[f], r.orders[f]}));
    }
    rotations_.push_back(std::move(rotation));
  }
  for (int32_t i = 0; i < graph.num_turns; ++i) {
    const at::TensorOptions wide = at::TensorOptions().dtype(at::kDouble).device(device_);
    turns_.push_back({.q = at::eye(graph.turn_orders[i], wide).requires_grad_(true)});
  }
  for (int32_t i = 0; i < graph.num_sites; ++i) {
    const SfTorchSite& s = graph.sites[i];
    Site site{.info = s};
    if (s.shift != nullptr) site.shift = FromFloats(s.shift, {s.k});
    if (s.num_super > 0) site.super = Int64(s.super, s.num_super).to(device_);
    if (s.num_kept > 0) {
      site.kept = Int64(s.kept, s.num_kept).to(device_);
      site.unkept = at::ones({s.k}, at::TensorOptions().device(device_)).index_fill(0, site.kept, 0);
    }
    sites_.push_back(std::move(site));
  }
}

at::Tensor Model::FromFloats(const float* data, at::IntArrayRef shape) const {
  return at::from_blob(const_cast<float*>(data), shape, at::kFloat).clone().to(device_);
}

void Model::SetLinear(int node, const SfTorchLinear& from) {
  const SfTorchNode& info = nodes_[static_cast<size_t>(node)];
  Linear linear;
  if (from.values_f32 != nullptr) {
    linear.values = FromFloats(from.values_f32, {info.n, info.k}).to(product_type_);
  } else {
    const at::Tensor codes =
        at::from_blob(const_cast<int8_t*>(from.values_s8), {info.n, info.k}, at::kChar).to(device_);
    linear.values = codes.to(product_type_);  // codes less than 256 in size are exact in bfloat16
  }
  if (from.num_groups > 0) {
    const int64_t groups = from.num_groups;
    linear.scales.base = FromFloats(from.scales, {info.n, groups});
    if (from.zeros != nullptr) {
      const at::Tensor zeros =
          at::from_blob(const_cast<int8_t*>(from.zeros), {info.n, groups, 1}, at::kChar).to(device_);
      linear.values = linear.values.view({info.n, groups, info.k / groups})
                          .sub(zeros.to(product_type_))
                          .view({info.n, info.k});
    }
    if (groups > 1) {
      linear.codes = linear.values.view({info.n, groups, info.k / groups});
      linear.values = at::Tensor();
    }
  }
  if (from.bias != nullptr) linear.bias.base = FromFloats(from.bias, {info.n});
  linear.bias.additive = true;
  if (from.kept != nullptr && info.site >= 0) {
    linear.kept = FromFloats(from.kept, {info.n, sites_[static_cast<size_t>(info.site)].info.num_kept});
  }
  if (from.num_super > 0) {
    linear.super_row = Int64(from.super_row, from.num_super).to(device_);
    linear.super_slot = Int64(from.super_slot, from.num_super).to(device_);
    linear.super_value = FromFloats(from.super_value, {from.num_super});
  }
  linears_[static_cast<size_t>(node)] = std::move(linear);
}

void Model::SetGain(int node, const float* gain, int64_t size) {
  gains_[static_cast<size_t>(node)].base = FromFloats(gain, {size});
}

void Model::SetPrefix(int layer, int64_t positions, const float* k, const float* v) {
  TORCH_CHECK(layer >= 0 && layer < graph_.num_layers, "prefix: layer ", layer, " of ", graph_.num_layers);
  prefix_.resize(static_cast<size_t>(graph_.num_layers));
  const std::vector<int64_t> shape = {graph_.num_kv_heads, positions, graph_.head_dim};
  prefix_[static_cast<size_t>(layer)] = {FromFloats(k, shape), FromFloats(v, shape)};
}

at::Tensor Model::Rotate(const at::Tensor& x, const Rotation& r) const {
  int64_t block = 1;
  for (const at::Tensor& f : r.factors) block *= f.size(0);
  std::vector<int64_t> shape = {x.numel() / block};
  for (const at::Tensor& f : r.factors) shape.push_back(f.size(0));
  at::Tensor y = (x * r.scale).reshape(shape);
  // The first axis left is contracted and its result appended, so that after all of them the order is back.
  for (const at::Tensor& f : r.factors) y = at::tensordot(y, f, {1}, {0});
  return y.reshape(x.sizes());
}

at::Tensor Model::Product(const at::Tensor& x, const at::Tensor& w) const {
  return at::linear(x.to(product_type_), w).to(at::kFloat);
}

at::Tensor Model::Norm(const at::Tensor& x, const at::Tensor& gain) const {
  return x * at::rsqrt(x.square().mean(-1, true) + graph_.norm_eps) * gain;
}

// Codes and back. Scales that pass no gradients: it passes as if nothing had been rounded.
at::Tensor Model::RoundRows(const at::Tensor& x, const SfTorchSite& site) const {
  const bool constant = graph_.scale_gradients == 0;
  const at::Tensor rows = constant ? x.detach() : x;
  const int64_t group = site.act_group > 0 ? site.act_group : site.k;
  const at::Tensor grouped = rows.reshape({-1, site.k / group, group});
  at::Tensor scale, zero;
  if (site.static_scale > 0) {
    scale = at::full({1, 1, 1}, site.static_scale, rows.options());
    zero = at::full({1, 1, 1}, site.static_zero, rows.options());
  } else if (site.act_symmetric != 0) {
    scale = grouped.abs().amax(-1, true) / site.act_hi;
    zero = at::zeros_like(scale);
  } else {
    const at::Tensor low = grouped.amin(-1, true).clamp_max(0), high = grouped.amax(-1, true).clamp_min(0);
    scale = (high - low) / (site.act_hi - site.act_lo);
    zero = (site.act_lo - low / scale.clamp_min(1e-30)).detach().round().clamp(site.act_lo, site.act_hi);
  }
  scale = at::where(scale > 0, scale, at::ones_like(scale));
  if (!constant) {
    const at::Tensor ratio = grouped / scale, whole = ratio + (ratio.round() - ratio).detach();
    return (((whole + zero).clamp(site.act_lo, site.act_hi) - zero) * scale).reshape(x.sizes());
  }
  const at::Tensor codes = ((grouped / scale).round() + zero).clamp(site.act_lo, site.act_hi);
  return x + (((codes - zero) * scale).reshape(rows.sizes()) - rows);
}

// In the basis that a turn gives the row, and back from it: without rounding it would be the row itself.
at::Tensor Model::RoundTurned(const at::Tensor& x, const SfTorchSite& site) const {
  if (site.turn < 0) return RoundRows(x, site);
  const at::Tensor q = turns_[static_cast<size_t>(site.turn)].q.to(at::kFloat);
  const at::Tensor turned = at::matmul(x.reshape({x.size(0), -1, q.size(0)}), q);
  const at::Tensor rounded = RoundRows(turned.reshape(x.sizes()), site);
  return at::matmul(rounded.reshape(turned.sizes()), q.t()).reshape(x.sizes());
}

Model::Formed Model::Form(const at::Tensor& input, const Site& site) const {
  const SfTorchSite& info = site.info;
  at::Tensor x = input;
  if (info.rotation >= 0) x = Rotate(x, rotations_[static_cast<size_t>(info.rotation)]);
  if (site.shift.defined()) x = x - site.shift;
  Formed out;
  const auto half = [](const at::Tensor& t) { return t.to(at::kBFloat16).to(at::kFloat); };
  if (site.kept.defined()) out.kept = half(x.index_select(-1, site.kept));
  if (site.super.defined()) out.super = half(x.index_select(-1, site.super));
  const at::Tensor coded = site.unkept.defined() ? x * site.unkept : x;
  out.rows = coded;
  if (info.act_bits > 0) {
    out.rows = RoundTurned(coded, info);
    if (info.spike_threshold > 0) {
      const at::Tensor spike = coded.abs().amax(-1, true) > info.spike_threshold;
      out.rows = at::where(spike, coded, out.rows);
    }
  }
  return out;
}

at::Tensor Model::Apply(const Linear& w, const Formed& x) const {
  at::Tensor y;
  if (w.codes.defined()) {
    const at::Tensor dense = (w.codes.to(at::kFloat) * w.scales.Value().unsqueeze(-1)).flatten(1);
    y = Product(x.rows, dense.to(product_type_));
  } else {
    y = Product(x.rows, w.values);
    if (w.scales.defined()) y = y * w.scales.Value().squeeze(-1);
  }
  if (w.kept.defined()) y = y + at::linear(x.kept, w.kept);
  if (w.super_row.defined()) {
    y = y.index_add(-1, w.super_row, x.super.index_select(-1, w.super_slot) * w.super_value);
  }
  if (w.bias.defined()) y = y + w.bias.Value();
  return y;
}

at::Tensor Model::Embed(const Linear& table, const at::Tensor& tokens) const {
  at::Tensor rows;
  if (table.codes.defined()) {
    rows = (table.codes.index_select(0, tokens).to(at::kFloat) *
            table.scales.Value().index_select(0, tokens).unsqueeze(-1))
               .flatten(1);
  } else {
    rows = table.values.index_select(0, tokens).to(at::kFloat);
    if (table.scales.defined()) rows = rows * table.scales.Value().index_select(0, tokens);
  }
  return rows * graph_.embedding_scale;
}

at::Tensor Model::Heads(const at::Tensor& x) const {
  return x.view({x.size(0), -1, graph_.head_dim}).transpose(0, 1);
}

at::Tensor Model::Rope(const at::Tensor& x, int layer, int64_t first) const {
  const std::vector<double>& frequencies = Slides(layer) ? local_frequencies_ : frequencies_;
  const at::TensorOptions wide = at::TensorOptions().dtype(at::kDouble).device(device_);
  const at::Tensor positions = at::arange(first, first + x.size(1), wide);
  const at::Tensor angles = at::outer(positions, at::tensor(frequencies, at::kDouble).to(device_));
  const at::Tensor cos = angles.cos().to(at::kFloat), sin = angles.sin().to(at::kFloat);
  const std::vector<at::Tensor> halves = x.chunk(2, -1);
  at::Tensor y = at::cat({halves[0] * cos - halves[1] * sin, halves[1] * cos + halves[0] * sin}, -1);
  if (graph_.qk_rotation >= 0) y = Rotate(y, rotations_[static_cast<size_t>(graph_.qk_rotation)]);
  return y;
}

// q [heads, T, d], k and v [kv heads, T, d]
at::Tensor Model::Attention(const at::Tensor& q, at::Tensor k, at::Tensor v, int layer) const {
  if (!prefix_.empty()) {
    const auto& [prefix_k, prefix_v] = prefix_[static_cast<size_t>(layer)];
    k = at::cat({prefix_k, k}, 1);
    v = at::cat({prefix_v, v}, 1);
  }
  const int64_t rows = q.size(1), positions = k.size(1), first = positions - rows;
  const at::TensorOptions whole = at::TensorOptions().dtype(at::kLong).device(device_);
  const at::Tensor i = at::arange(first, positions, whole).unsqueeze(1),
                   j = at::arange(positions, whole).unsqueeze(0);
  at::Tensor hidden = j > i;
  if (Slides(layer)) hidden = hidden.logical_or(j <= i - graph_.sliding_window);
  const int64_t shared = graph_.num_heads / graph_.num_kv_heads;
  k = k.repeat_interleave(shared, 0);
  v = v.repeat_interleave(shared, 0);
  const at::Tensor scores =
      (at::matmul(q, k.transpose(1, 2)) * graph_.attention_scale).masked_fill(hidden, -INFINITY);
  const at::Tensor context = at::matmul(at::softmax(scores, -1), v);
  return context.transpose(0, 1).reshape({rows, -1});
}

at::Tensor Model::Logits(const SfTorchWindow& window) const {
  const at::Tensor tokens = Int64(window.tokens, window.num_tokens).to(device_);
  const int64_t first = prefix_.empty() ? 0 : prefix_.front().first.size(1);
  std::vector<at::Tensor> values(static_cast<size_t>(graph_.num_values));
  std::vector<Formed> formed(sites_.size());
  const auto value = [&](int32_t which) -> at::Tensor& { return values[static_cast<size_t>(which)]; };
  for (size_t i = 0; i < nodes_.size(); ++i) {
    const SfTorchNode& node = nodes_[i];
    at::Tensor& out = value(node.out);
    switch (node.op) {
      case kSfEmbed:
        out = Embed(linears_[i], tokens);
        break;
      case kSfNorm:
        out = Norm(value(node.in0), gains_[i].Value());
        break;
      case kSfLinear: {
        const bool head = i + 1 == nodes_.size();
        Formed& x = formed[static_cast<size_t>(node.site)];
        if (!x.rows.defined()) {
          const at::Tensor& in = value(node.in0);
          x = Form(head ? in.slice(0, window.first_scored) : in, sites_[static_cast<size_t>(node.site)]);
        }
        out = Apply(head && graph_.tied_head != 0 ? linears_[0] : linears_[i], x);
        break;
      }
      case kSfHeadNorm:
        out = Norm(value(node.in0).view({window.num_tokens, -1, graph_.head_dim}), gains_[i].Value())
                  .flatten(1);
        break;
      case kSfRope:
        out = Rope(Heads(value(node.in0)), node.layer, first);
        break;
      case kSfAttention:
        out = Attention(value(node.in0), value(node.in1), Heads(value(graph_.value_v)), node.layer);
        break;
      case kSfGatedMul: {
        const at::Tensor& gate = value(node.in0);
        out = (graph_.gelu != 0 ? at::gelu(gate, "tanh") : at::silu(gate)) * value(node.in1);
        break;
      }
      case kSfAdd:
        out = value(node.in0) + value(node.in1);
        break;
      default:
        throw std::runtime_error("a node of an unknown kind");
    }
  }
  return value(nodes_.back().out);
}

at::Tensor Model::Divergence(const SfTorchWindow& window, const float* target) const {
  const at::Tensor mine = at::log_softmax(Logits(window), -1);
  const at::Tensor theirs =
      at::log_softmax(at::from_blob(const_cast<float*>(target), mine.sizes(), at::kFloat).to(device_), -1);
  return (theirs.exp() * (theirs - mine)).sum(-1).mean();
}

Parameter& Model::Find(int node, int which) {
  const size_t i = static_cast<size_t>(node);
  Parameter& p = which == kSfGain ? gains_[i] : which == kSfBias ? linears_[i].bias : linears_[i].scales;
  if (!p.defined()) throw std::runtime_error("a parameter that this node has not");
  return p;
}

void Model::Learn(int node, int which, float unit) {
  Parameter& p = Find(node, which);
  p.unit = unit;
  p.t = at::zeros_like(p.base).requires_grad_(true);
  p.first_moment = at::zeros_like(p.base);
  p.second_moment = at::zeros_like(p.base);
  learnt_.push_back(&p);
}

}  // namespace spikefold::torch_plugin
