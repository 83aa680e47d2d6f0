// Device and pinned host memory that grows and never shrinks: decoding reuses what prefill made, so the hot
// path allocates nothing. NumAllocations() lets a test hold that.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "kernels/cuda/stream.h"

namespace spikefold::kernels::cuda {

class DeviceMemory {
 public:
  DeviceMemory() = default;
  ~DeviceMemory();
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;
  DeviceMemory(DeviceMemory&& other) noexcept;
  DeviceMemory& operator=(DeviceMemory&& other) noexcept;

  // At least `bytes`, aligned to 256. Contents are lost if it grows; growing waits for the device.
  // ResourceExhausted with what was asked for and what is free.
  absl::Status Reserve(size_t bytes);
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  size_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

// Page-locked: the copy engine reads and writes it at full speed while the host goes on.
class PinnedMemory {
 public:
  PinnedMemory() = default;
  ~PinnedMemory();
  PinnedMemory(const PinnedMemory&) = delete;
  PinnedMemory& operator=(const PinnedMemory&) = delete;
  absl::Status Reserve(size_t bytes);  // as DeviceMemory::Reserve
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

// Of device and pinned memory since the process began.
int64_t NumAllocations();

// Queued copies. A pageable host buffer may be reused when the call returns (it is staged); a pinned one only
// after Stream::Sync.
absl::Status CopyIn(void* device, const void* host, size_t bytes, const Stream& stream);
absl::Status CopyOut(void* host, const void* device, size_t bytes, const Stream& stream);
absl::Status CopyDevice(void* to, const void* from, size_t bytes, const Stream& stream);
absl::Status Fill(void* device, int byte, size_t bytes, const Stream& stream);

}  // namespace spikefold::kernels::cuda
