// RuntimeModel as LoadModel fills it.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "kernels/runtime/model.h"
#include "kernels/runtime/ops.h"

namespace spikefold {

// Order of loading: the widest matrices (embedding and head) first, while least is in memory.
std::vector<int> LoadOrder(const ModelGraph& graph);

class LoadedModel : public RuntimeModel {
 public:
  LoadedModel(const ModelGraph& graph, std::unique_ptr<Ops> ops, ThreadPool& pool)
      : graph_(graph),
        ops_(std::move(ops)),
        pool_(pool),
        linears_(graph.nodes.size()),
        gains_(graph.nodes.size()),
        forms_(graph.sites.size()) {}

  const ModelGraph& graph() const override { return graph_; }
  Ops& ops() const override { return *ops_; }
  ThreadPool& pool() const override { return pool_; }
  const LinearWeights* linear(int node) const override { return linears_[static_cast<size_t>(node)].get(); }
  const std::vector<float>& gain(int node) const override { return gains_[static_cast<size_t>(node)]; }
  const ActivationForm& form(int site) const override { return forms_[static_cast<size_t>(site)]; }
  const RowRotation* qk_rotation() const override { return qk_rotation_.get(); }
  const KvPrefix* prefix() const override { return prefix_.empty() ? nullptr : &prefix_; }
  void set_prefix(KvPrefix prefix) override { prefix_ = std::move(prefix); }
  const KvOptions& kv() const override { return kv_; }
  absl::Status set_kv(const KvOptions& options) override;
  uint64_t weight_bytes() const override;
  absl::Status ReplaceLinear(int node, LinearWeights weights) override;
  void ReleaseLinear(int node) override { linears_[static_cast<size_t>(node)].reset(); }

  absl::Status LoadFloat(const CheckpointReader& reader, bool linears, const Progress& progress);
  // load_native.cc
  absl::Status LoadNative(const CheckpointReader& reader, bool simulate, const Progress& progress);

 private:
  friend class NativeLoader;
  absl::Status LoadGain(const CheckpointReader& reader, int node);
  absl::Status LoadFloatLinear(const CheckpointReader& reader, int node);
  absl::Status LoadFloatNode(const CheckpointReader& reader, int node);
  void SetRotations();  // the last step of loading

  const ModelGraph graph_;
  std::unique_ptr<Ops> ops_;
  ThreadPool& pool_;
  std::vector<std::shared_ptr<LinearWeights>> linears_;  // by node
  std::vector<std::vector<float>> gains_;                // by node
  std::vector<ActivationForm> forms_;                    // by site
  std::shared_ptr<const RowRotation> qk_rotation_;
  KvPrefix prefix_;
  KvOptions kv_;
};

}  // namespace spikefold
