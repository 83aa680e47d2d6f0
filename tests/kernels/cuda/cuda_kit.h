// What tests on a GPU share: a stream, arrays in device memory, bounds.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
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

// What sum_k x(k) * weight(k) may be off by where x is integers under a scale for each `chunk` columns, off
// by 2^-22 of their largest at most, whose products are exact, and float32 adds the chunks' sums in some
// order. By Hoeffding's inequality a sum of such errors exceeds 6 times the root of the sum of their squares
// once in 3e7 sums. Partial sums of random operands in another order are taken to be twice as large as in
// this.
template <typename X, typename Weight>
double DigitTolerance(int64_t k, int64_t chunk, X x, Weight weight) {
  double size = 0, squares = 0, sum = 0, widest = 0;
  for (int64_t begin = 0; begin < k; begin += chunk) {
    const int64_t end = std::min(k, begin + chunk);
    double largest = 0;
    for (int64_t i = begin; i < end; ++i) largest = std::max(largest, std::abs(static_cast<double>(x(i))));
    for (int64_t i = begin; i < end; ++i) {
      const double w = weight(i), term = largest * w;
      size += std::abs(term);
      squares += term * term;
      sum += static_cast<double>(x(i)) * w;
    }
    widest = std::max(widest, std::abs(sum));
  }
  constexpr int kParts = 32;  // that warps or lanes leave
  const double additions = static_cast<double>((k + chunk - 1) / chunk + kParts);
  return 0x1p-22 * std::min(size, 6 * std::sqrt(squares)) + 0x1p-24 * 6 * std::sqrt(additions) * 2 * widest;
}

}  // namespace spikefold::kernels::cuda
