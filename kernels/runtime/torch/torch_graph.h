// A ModelGraph in the plugin's words, with the storage that those point into.
#pragma once

#include <cstdint>
#include <deque>
#include <vector>

#include "formats/model_graph.h"
#include "formats/quantized/native.h"
#include "kernels/runtime/torch/torch_abi.h"
#include "kernels/runtime/torch/torch_model.h"

namespace spikefold {

class TorchGraph {
 public:
  explicit TorchGraph(const ModelGraph& graph);
  // How the linears of a site round their input; of a site whose linears are quantized.
  void SetForm(int site, const QuantizedLinear& linear, const std::vector<int32_t>& super_columns);
  void SetForm(int site, const TorchForms::Site& form);
  void SetTurns(const std::vector<int64_t>& orders) { turn_orders_ = orders; }
  const SfTorchGraph& Describe();  // valid until the next change
  SfTorchGraph& settings() { return out_; }

 private:
  struct SiteLists {
    std::vector<int32_t> kept, super;
  };
  void AddRotation(const Rotation& rotation);

  const ModelGraph& graph_;
  SfTorchGraph out_{};
  std::vector<SfTorchNode> nodes_;
  std::vector<SfTorchSite> sites_;
  std::vector<SiteLists> lists_;
  std::vector<SfTorchRotation> rotations_;
  std::vector<uint8_t> slides_;
  std::vector<int64_t> turn_orders_;
  std::deque<std::vector<float>> floats_;
  std::deque<std::vector<const float*>> factors_;
};

}  // namespace spikefold
