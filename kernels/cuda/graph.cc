#include "kernels/cuda/graph.h"

#include <cuda_runtime.h>

#include <atomic>
#include <utility>

#include "formats/base/status.h"
#include "kernels/cuda/status.h"

namespace spikefold::kernels::cuda {
namespace {

cudaStream_t Handle(const Stream& stream) { return static_cast<cudaStream_t>(stream.handle()); }

std::atomic<int64_t> num_runs{0};

}  // namespace

int64_t NumGraphRuns() { return num_runs.load(); }

Graph::~Graph() {
  if (handle_ != nullptr) (void)cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(handle_));
}
Graph::Graph(Graph&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
Graph& Graph::operator=(Graph&& other) noexcept {
  std::swap(handle_, other.handle_);
  return *this;
}

absl::StatusOr<Graph> Graph::Record(const Stream& stream, absl::FunctionRef<absl::Status()> work) {
  SF_RETURN_IF_ERROR(ToStatus(cudaStreamBeginCapture(Handle(stream), cudaStreamCaptureModeThreadLocal),
                              "cudaStreamBeginCapture"));
  const absl::Status recorded = work();
  cudaGraph_t graph = nullptr;
  const absl::Status ended = ToStatus(cudaStreamEndCapture(Handle(stream), &graph), "cudaStreamEndCapture");
  absl::Status status = recorded.ok() ? ended : recorded;
  cudaGraphExec_t exec = nullptr;
  if (status.ok()) status = ToStatus(cudaGraphInstantiate(&exec, graph, 0), "cudaGraphInstantiate");
  if (graph != nullptr) (void)cudaGraphDestroy(graph);
  SF_RETURN_IF_ERROR(status);
  Graph out;
  out.handle_ = exec;
  return out;
}

absl::Status Graph::Run(const Stream& stream) const {
  ++num_runs;
  return ToStatus(cudaGraphLaunch(static_cast<cudaGraphExec_t>(handle_), Handle(stream)), "cudaGraphLaunch");
}

}  // namespace spikefold::kernels::cuda
