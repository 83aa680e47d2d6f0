#include "kernels/cuda/status.h"

#include <cuda_runtime.h>

#include "absl/strings/str_cat.h"

namespace spikefold::kernels::cuda {
namespace {

absl::StatusCode CodeOf(cudaError_t error) {
  switch (error) {
    case cudaErrorMemoryAllocation:
      return absl::StatusCode::kResourceExhausted;
    case cudaErrorNoDevice:
    case cudaErrorInsufficientDriver:
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorUnsupportedPtxVersion:
    case cudaErrorStubLibrary:
    case cudaErrorSystemDriverMismatch:
      return absl::StatusCode::kUnimplemented;
    default:
      return absl::StatusCode::kInternal;
  }
}

}  // namespace

absl::Status ToStatus(int error, absl::string_view what) {
  const auto code = static_cast<cudaError_t>(error);
  if (code == cudaSuccess) return absl::OkStatus();
  (void)cudaGetLastError();  // it is reported here, not by the next launch
  return absl::Status(CodeOf(code), absl::StrCat("CUDA: ", what, ": ", cudaGetErrorString(code), " (",
                                                 cudaGetErrorName(code), ")"));
}

absl::Status CheckLaunch(absl::string_view kernel) { return ToStatus(cudaGetLastError(), kernel); }

}  // namespace spikefold::kernels::cuda
