// What Forward keeps between calls: which buffer holds which value, which site each node feeds, rope tables.
#pragma once

#include <array>
#include <memory>
#include <vector>

#include "kernels/runtime/model.h"
#include "kernels/runtime/ops.h"

namespace spikefold {

inline constexpr size_t kNumValues = static_cast<size_t>(ValueKind::kLogits) + 1;

struct Walk : Ops::Scratch {
  static absl::StatusOr<Walk*> Of(const RuntimeModel& model);

  absl::Status Reserve(Ops& ops, int64_t rows, int64_t positions);
  Buffer* buffer(ValueKind v) const { return buffers[static_cast<size_t>(v)]; }
  Activation* activation(ValueKind v) const { return activations[static_cast<size_t>(v)]; }

  const ModelGraph* graph = nullptr;
  std::vector<int> site_of;  // [nodes] the site whose input the node makes or reads; -1
  std::vector<std::unique_ptr<Buffer>> owned_buffers;
  std::vector<std::unique_ptr<Activation>> owned_activations;
  std::array<Buffer*, kNumValues> buffers{};          // by ValueKind; values that no linear reads
  std::array<Activation*, kNumValues> activations{};  // by ValueKind; inputs of sites
  RopeTable rope, rope_local;
  std::vector<double> column_mass;  // TapAttention
  std::vector<float> host_rows;     // taps of a backend whose memory the host cannot address
  int64_t rows = 0;

 private:
  Walk(const ModelGraph& graph, Ops& ops);
};

}  // namespace spikefold
