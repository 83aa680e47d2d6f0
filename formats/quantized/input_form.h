// How a linear's input is rounded. Linears that read one activation read it rounded once, so they agree in
// it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "formats/model_graph.h"
#include "formats/quantized/native.h"

namespace spikefold {

struct InputForm {
  std::string module;
  ActivationFormat format;
  float scale = 0;  // static: > 0
  int32_t zero = 0;
  std::vector<int32_t> kept;  // columns, ascending
  float spike_threshold = 0;
  int64_t max_spike_rows = 0;
};
InputForm InputFormOf(const QuantizedLinear& linear);

// InvalidArgument with both modules and what differs.
absl::Status CheckSameInput(const InputForm& first, const InputForm& other);

// The same over all of a model's linears, in any order. Those with float weights read float rows whatever the
// others read.
class InputForms {
 public:
  explicit InputForms(const ModelGraph& graph) : graph_(graph) {}
  absl::Status Add(const InputForm& form);

 private:
  const ModelGraph& graph_;
  absl::flat_hash_map<int, InputForm> first_;  // by site
};

}  // namespace spikefold
