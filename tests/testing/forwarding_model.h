// A model that is another one in all that a test does not override.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "kernels/runtime/model.h"

namespace spikefold::testing {

class ForwardingModel : public RuntimeModel {
 public:
  explicit ForwardingModel(std::unique_ptr<RuntimeModel> model) : model_(std::move(model)) {}
  const ModelGraph& graph() const override { return model_->graph(); }
  Ops& ops() const override { return model_->ops(); }
  ThreadPool& pool() const override { return model_->pool(); }
  const LinearWeights* linear(int node) const override { return model_->linear(node); }
  const std::vector<float>& gain(int node) const override { return model_->gain(node); }
  const ActivationForm& form(int site) const override { return model_->form(site); }
  const RowRotation* qk_rotation() const override { return model_->qk_rotation(); }
  const KvPrefix* prefix() const override { return model_->prefix(); }
  void set_prefix(KvPrefix prefix) override { model_->set_prefix(std::move(prefix)); }
  const KvOptions& kv() const override { return model_->kv(); }
  absl::Status set_kv(const KvOptions& options) override { return model_->set_kv(options); }
  uint64_t weight_bytes() const override { return model_->weight_bytes(); }
  absl::Status ReplaceLinear(int node, LinearWeights weights) override {
    return model_->ReplaceLinear(node, std::move(weights));
  }
  void ReleaseLinear(int node) override { model_->ReleaseLinear(node); }

 private:
  const std::unique_ptr<RuntimeModel> model_;
};

}  // namespace spikefold::testing
