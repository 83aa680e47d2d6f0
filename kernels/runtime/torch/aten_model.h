// A graph of SfTorchNodes in ATen, with autograd through whatever is learnt.
#pragma once

#include <ATen/ATen.h>

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "kernels/runtime/torch/torch_abi.h"

namespace spikefold::torch_plugin {

// A value that may be learnt: base * (1 + t), or base + unit * t where `additive`.
struct Parameter {
  at::Tensor base, t;  // t undefined: not learnt
  bool additive = false;
  float unit = 1;
  at::Tensor Value() const;
  bool defined() const { return base.defined(); }

  at::Tensor first_moment, second_moment, remembered;  // of t
};

struct Linear {
  at::Tensor values;  // [n, k] in the type of products
  at::Tensor codes;   // [n, groups, k / groups] codes less their zero points: more than one group; as values
  at::Tensor kept;    // [n, r] float32
  at::Tensor super_row, super_slot, super_value;
  Parameter scales;  // [n, groups]; undefined: none
  Parameter bias;    // [n]
};

// An orthogonal matrix that is learnt, in float64.
struct Turn {
  at::Tensor q;         // [order, order]
  at::Tensor momentum;  // skew, in the frame that turns with q
  double square = 0;    // running mean of the squared length of an axis' gradient
  at::Tensor remembered;
};

class Model {
 public:
  explicit Model(const SfTorchGraph& graph);

  void SetLinear(int node, const SfTorchLinear& linear);
  void SetGain(int node, const float* gain, int64_t size);
  void SetPrefix(int layer, int64_t positions, const float* k, const float* v);
  at::Tensor Logits(const SfTorchWindow& window) const;  // [scored, vocab]
  // Mean KL(target || model) of the scored rows.
  at::Tensor Divergence(const SfTorchWindow& window, const float* target) const;

  Parameter& Find(int node, int which);
  void Learn(int node, int which, float unit);
  std::vector<Parameter*>& learnt() { return learnt_; }
  std::vector<Turn>& turns() { return turns_; }
  int64_t steps = 0;  // of learning

 private:
  struct Site {
    SfTorchSite info;
    at::Tensor shift, kept, super;  // kept, super: int64 columns
    at::Tensor unkept;              // [k] 1 where the codes hold the column; undefined: everywhere
  };
  struct Rotation {
    at::Tensor scale;
    std::vector<at::Tensor> factors;
  };
  // A site's input as its linears multiply it.
  struct Formed {
    at::Tensor rows;         // float32, rounded to codes and back
    at::Tensor kept, super;  // [rows, ...] values in bf16 precision
  };

  at::Tensor FromFloats(const float* data, at::IntArrayRef shape) const;
  at::Tensor Rotate(const at::Tensor& x, const Rotation& rotation) const;
  at::Tensor Product(const at::Tensor& x, const at::Tensor& w) const;  // x * w^T
  at::Tensor Norm(const at::Tensor& x, const at::Tensor& gain) const;
  at::Tensor RoundRows(const at::Tensor& x, const SfTorchSite& site) const;
  at::Tensor RoundTurned(const at::Tensor& x, const SfTorchSite& site) const;
  Formed Form(const at::Tensor& x, const Site& site) const;
  at::Tensor Apply(const Linear& linear, const Formed& x) const;
  at::Tensor Embed(const Linear& table, const at::Tensor& tokens) const;
  at::Tensor Heads(const at::Tensor& x) const;  // [T, heads * d] -> [heads, T, d]
  at::Tensor Rope(const at::Tensor& x, int layer, int64_t first) const;
  at::Tensor Attention(const at::Tensor& q, at::Tensor k, at::Tensor v, int layer) const;
  bool Slides(int layer) const { return !slides_.empty() && slides_[static_cast<size_t>(layer)] != 0; }

  const SfTorchGraph graph_;  // numbers only: its pointers are not followed after construction
  std::vector<SfTorchNode> nodes_;
  std::vector<uint8_t> slides_;
  std::vector<Site> sites_;
  std::vector<Rotation> rotations_;
  std::vector<Turn> turns_;
  std::vector<Linear> linears_;                            // by node
  std::vector<Parameter> gains_;                           // by node
  std::vector<std::pair<at::Tensor, at::Tensor>> prefix_;  // by layer, k and v [kv heads, p, d]; or empty
  std::vector<double> frequencies_, local_frequencies_;
  std::vector<Parameter*> learnt_;
  at::Device device_;
  at::ScalarType product_type_;
};

}  // namespace spikefold::torch_plugin
