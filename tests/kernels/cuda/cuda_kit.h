// What tests on a GPU share: a stream, arrays in device memory.
#pragma once

#include <string>
#include <vector>

#include "catch2/catch.hpp"
#include "kernels/cuda/memory.h"
#include "kernels/cuda/stream.h"

namespace spikefold::kernels::cuda {

inline Stream& TheStream() {
  static const absl::StatusOr<std::unique_ptr<Stream>> stream = Stream::Make();
  INFO(stream.status());
  REQUIRE(stream.ok());
  return **stream;
}

inline void Ok(const absl::Status& status) {
  INFO(status);
  REQUIRE(status.ok());
}

// An array on the device, with guards around it that Read() checks: a kernel that writes beyond its output
// fails.
template <typename T>
class Array {
 public:
  explicit Array(const std::vector<T>& values) : Array(static_cast<int64_t>(values.size())) {
    Ok(CopyIn(data(), values.data(), values.size() * sizeof(T), TheStream()));
  }
  // Poisoned: every byte 0xff, which is NaN for floats.
  explicit Array(int64_t count) : count_(count) {
    Ok(memory_.Reserve(static_cast<size_t>(count) * sizeof(T) + 2 * kGuard));
    Ok(Fill(memory_.as<void>(), 0xff, static_cast<size_t>(count) * sizeof(T) + 2 * kGuard, TheStream()));
  }
  T* data() const { return reinterpret_cast<T*>(memory_.as<char>() + kGuard); }
  int64_t size() const { return count_; }
  std::vector<T> Read() const {
    const size_t bytes = static_cast<size_t>(count_) * sizeof(T);
    std::vector<unsigned char> all(bytes + 2 * kGuard);
    Ok(CopyOut(all.data(), memory_.as<void>(), all.size(), TheStream()));
    Ok(TheStream().Sync());
    for (size_t i = 0; i < kGuard; ++i) {
      REQUIRE(all[i] == 0xff);
      REQUIRE(all[kGuard + bytes + i] == 0xff);
    }
    std::vector<T> values(static_cast<size_t>(count_));
    std::copy_n(all.data() + kGuard, bytes, reinterpret_cast<unsigned char*>(values.data()));
    return values;
  }

 private:
  static constexpr size_t kGuard = 1024;
  int64_t count_ = 0;
  DeviceMemory memory_;
};

}  // namespace spikefold::kernels::cuda
