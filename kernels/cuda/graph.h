// A recorded sequence of device work, started as one.
#pragma once

#include <cstdint>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/cuda/stream.h"

namespace spikefold::kernels::cuda {

class Graph {
 public:
  Graph() = default;
  ~Graph();
  Graph(Graph&& other) noexcept;
  Graph& operator=(Graph&& other) noexcept;

  // What `work` queues on the stream is recorded and not run. It may not wait, allocate or copy from pageable
  // memory; addresses and values are those of now.
  static absl::StatusOr<Graph> Record(const Stream& stream, absl::FunctionRef<absl::Status()> work);
  absl::Status Run(const Stream& stream) const;

 private:
  void* handle_ = nullptr;  // a cudaGraphExec_t
};
// Calls of Run since the start, for tests.
int64_t NumGraphRuns();

}  // namespace spikefold::kernels::cuda
