#include "kernels/cuda/memory.h"

#include <cuda_runtime.h>

#include <atomic>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/status.h"

namespace spikefold::kernels::cuda {
namespace {

std::atomic<int64_t> num_allocations{0};

cudaStream_t Handle(const Stream& stream) { return static_cast<cudaStream_t>(stream.handle()); }

absl::Status NoMemory(const char* kind, size_t bytes, cudaError_t error) {
  if (error != cudaErrorMemoryAllocation) return ToStatus(error, kind);
  (void)cudaGetLastError();  // it is reported here, not by the next launch
  size_t free = 0, total = 0;
  (void)cudaMemGetInfo(&free, &total);
  return absl::ResourceExhaustedError(absl::StrCat("CUDA: ", bytes, " bytes of ", kind, " are needed; ", free,
                                                   " of ", total,
                                                   " on the GPU are free; use a smaller model or context"));
}

}  // namespace

DeviceMemory::~DeviceMemory() { (void)cudaFree(data_); }

DeviceMemory::DeviceMemory(DeviceMemory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

DeviceMemory& DeviceMemory::operator=(DeviceMemory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

absl::Status DeviceMemory::Reserve(size_t bytes) {
  if (bytes <= bytes_) return absl::OkStatus();
  // Waits for the kernels that use it; refused while a recording is made.
  if (const cudaError_t error = cudaFree(data_); error != cudaSuccess) {
    (void)cudaGetLastError();
    return ToStatus(error, "freeing device memory");
  }
  data_ = nullptr;
  bytes_ = 0;
  ++num_allocations;
  const cudaError_t error = cudaMalloc(&data_, bytes);
  if (error != cudaSuccess) return NoMemory("device memory", bytes, error);
  bytes_ = bytes;
  return absl::OkStatus();
}

PinnedMemory::~PinnedMemory() { (void)cudaFreeHost(data_); }

absl::Status PinnedMemory::Reserve(size_t bytes) {
  if (bytes <= bytes_) return absl::OkStatus();
  (void)cudaFreeHost(data_);
  data_ = nullptr;
  bytes_ = 0;
  ++num_allocations;
  const cudaError_t error = cudaMallocHost(&data_, bytes);
  if (error != cudaSuccess) return NoMemory("pinned host memory", bytes, error);
  bytes_ = bytes;
  return absl::OkStatus();
}

int64_t NumAllocations() { return num_allocations.load(); }

absl::Status CopyIn(void* device, const void* host, size_t bytes, const Stream& stream) {
  if (bytes == 0) return absl::OkStatus();
  return ToStatus(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, Handle(stream)),
                  "copy to GPU");
}

absl::Status CopyOut(void* host, const void* device, size_t bytes, const Stream& stream) {
  if (bytes == 0) return absl::OkStatus();
  return ToStatus(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, Handle(stream)),
                  "copy from GPU");
}

absl::Status CopyDevice(void* to, const void* from, size_t bytes, const Stream& stream) {
  if (bytes == 0) return absl::OkStatus();
  return ToStatus(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, Handle(stream)),
                  "copy on the GPU");
}

absl::Status Fill(void* device, int byte, size_t bytes, const Stream& stream) {
  if (bytes == 0) return absl::OkStatus();
  return ToStatus(cudaMemsetAsync(device, byte, bytes, Handle(stream)), "fill");
}

}  // namespace spikefold::kernels::cuda
