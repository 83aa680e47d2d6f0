// Kernel launches with their errors.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/device.h"
#include "kernels/cuda/status.h"
#include "kernels/cuda/stream.h"

namespace spikefold::kernels::cuda {

inline cudaStream_t Handle(const Stream& stream) { return static_cast<cudaStream_t>(stream.handle()); }

// More than 48 KiB of shared memory must be asked for, once a kernel and device; asking again is cheap. What
// a kernel declares counts too, up to 1 KiB beside `bytes`.
template <typename Kernel>
absl::Status AllowShared(Kernel* kernel, int64_t bytes, const char* name) {
  if (bytes <= 47 << 10) return absl::OkStatus();
  return ToStatus(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
      name);
}

struct Shape {
  dim3 grid, block;
  int64_t shared_bytes = 0;
  // The kernel calls WaitForInputs() before it reads or writes what a kernel before it writes or reads: its
  // launch may overlap that one's end.
  bool overlaps = false;
  unsigned cluster_y = 1;  // blocks along y that form a cluster (sm_90)
};
template <typename... Params, typename... Args>
absl::Status Launch(const char* name, void (*kernel)(Params...), const Shape& shape, const Stream& stream,
                    Args... args) {
  absl::Status status = AllowShared(kernel, shape.shared_bytes, name);
  if (!status.ok()) return status;
  cudaLaunchAttribute attributes[2] = {};
  unsigned count = 0;
  if (shape.overlaps && CanOverlap()) {
    attributes[count].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[count++].val.programmaticStreamSerializationAllowed = 1;
  }
  if (shape.cluster_y > 1) {
    attributes[count].id = cudaLaunchAttributeClusterDimension;
    attributes[count].val.clusterDim.x = attributes[count].val.clusterDim.z = 1;
    attributes[count++].val.clusterDim.y = shape.cluster_y;
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = static_cast<size_t>(shape.shared_bytes);
  config.stream = Handle(stream);
  config.attrs = attributes;
  config.numAttrs = count;
  return ToStatus(cudaLaunchKernelEx(&config, kernel, static_cast<Params>(args)...), name);
}

// By every thread of a kernel launched with Shape::overlaps, before it touches memory that others write:
// waits for the kernels before it, whose writes are visible then.
__device__ inline void WaitForInputs() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
// The next kernel may be set up from here on; its WaitForInputs() still waits for this one's end.
__device__ inline void LetNextStart() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

}  // namespace spikefold::kernels::cuda
