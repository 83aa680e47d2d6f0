// Kernel launches with their errors.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/status.h"
#include "kernels/cuda/stream.h"

namespace spikefold::kernels::cuda {

inline cudaStream_t Handle(const Stream& stream) { return static_cast<cudaStream_t>(stream.handle()); }

// More than 48 KiB of shared memory must be asked for, once a kernel and device; asking again is cheap.
template <typename Kernel>
absl::Status AllowShared(Kernel* kernel, int64_t bytes, const char* name) {
  if (bytes <= 48 << 10) return absl::OkStatus();
  return ToStatus(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
      name);
}

struct Shape {
  dim3 grid, block;
  int64_t shared_bytes = 0;
};
template <typename... Params, typename... Args>
absl::Status Launch(const char* name, void (*kernel)(Params...), const Shape& shape, const Stream& stream,
                    Args... args) {
  absl::Status status = AllowShared(kernel, shape.shared_bytes, name);
  if (!status.ok()) return status;
  kernel<<<shape.grid, shape.block, static_cast<size_t>(shape.shared_bytes), Handle(stream)>>>(args...);
  return CheckLaunch(name);
}

}  // namespace spikefold::kernels::cuda
