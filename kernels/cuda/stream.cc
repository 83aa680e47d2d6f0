#include "kernels/cuda/stream.h"

#include <cuda_runtime.h>

#include "formats/base/status.h"
#include "kernels/cuda/status.h"

namespace spikefold::kernels::cuda {
namespace {

cudaStream_t Handle(const Stream& stream) { return static_cast<cudaStream_t>(stream.handle()); }
cudaEvent_t Event(void* event) { return static_cast<cudaEvent_t>(event); }

}  // namespace

absl::StatusOr<std::unique_ptr<Stream>> Stream::Make() {
  cudaStream_t stream = nullptr;
  SF_RETURN_IF_ERROR(ToStatus(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate"));
  return std::unique_ptr<Stream>(new Stream(stream));
}

Stream::~Stream() { (void)cudaStreamDestroy(static_cast<cudaStream_t>(handle_)); }

absl::Status Stream::Sync() const { return ToStatus(cudaStreamSynchronize(Handle(*this)), "waiting"); }

Timer::Timer(const Stream& stream) : stream_(stream) {
  cudaEvent_t begin = nullptr, end = nullptr;
  if (cudaEventCreate(&begin) == cudaSuccess) begin_ = begin;
  if (cudaEventCreate(&end) == cudaSuccess) end_ = end;
}

Timer::~Timer() {
  if (begin_ != nullptr) (void)cudaEventDestroy(Event(begin_));
  if (end_ != nullptr) (void)cudaEventDestroy(Event(end_));
}

absl::Status Timer::Start() {
  return ToStatus(cudaEventRecord(Event(begin_), Handle(stream_)), "cudaEventRecord");
}

absl::StatusOr<double> Timer::Stop() {
  SF_RETURN_IF_ERROR(ToStatus(cudaEventRecord(Event(end_), Handle(stream_)), "cudaEventRecord"));
  SF_RETURN_IF_ERROR(ToStatus(cudaEventSynchronize(Event(end_)), "waiting"));
  float ms = 0;
  SF_RETURN_IF_ERROR(ToStatus(cudaEventElapsedTime(&ms, Event(begin_), Event(end_)), "cudaEventElapsedTime"));
  return ms * 1e-3;
}

}  // namespace spikefold::kernels::cuda
