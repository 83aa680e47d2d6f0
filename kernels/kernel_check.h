// What a kernel's <name>_cases.cc is written with: comparison against the reference, and timing.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "formats/base/thread_pool.h"

namespace spikefold::kernels {

// What a check does to the kernel's operands after the reference has read them. kOneElement: the smallest
// fault that matters (one weight, one code, one scale), so that the check must fail: the canary.
enum class Fault { kNone, kOneElement };

struct CheckReport {
  int64_t num_cases = 0, num_values = 0;
  double worst = 0;    // largest |error| / tolerance; above 1 the kernel is wrong; infinite for NaN
  std::string detail;  // the worst value: "M=3 N=17 K=64: [5] is 0.25, expected 0.5 +- 1e-06"
  bool ok() const { return num_values > 0 && worst <= 1; }

  void Compare(absl::string_view case_name, absl::Span<const float> actual, absl::Span<const double> expected,
               absl::Span<const double> tolerance);
  // Integers, or floats that must be equal bit for bit.
  void CompareExact(absl::string_view case_name, absl::Span<const int32_t> actual,
                    absl::Span<const int32_t> expected);
  void CompareExact(absl::string_view case_name, absl::Span<const int8_t> actual,
                    absl::Span<const int8_t> expected);
  void CompareExact(absl::string_view case_name, absl::Span<const float> actual,
                    absl::Span<const float> expected);

 private:
  template <typename T>
  void CompareBits(absl::string_view case_name, absl::Span<const T> actual, absl::Span<const T> expected);
  void Note(absl::string_view case_name, size_t index, double actual, double expected, double tolerance);
};

// Values that differ from run to run only by `seed`: normal(0, 1), and the same with a few spikes.
std::vector<float> RandomFloats(int64_t count, uint64_t seed);
std::vector<int8_t> RandomCodes(int64_t count, int min, int max, uint64_t seed);

// One timed shape. Rates are per second of the best of several rounds.
struct BenchLine {
  std::string shape;
  double seconds = 0;  // of one call
  double ops = 0;      // floating-point or integer operations of one call (a multiply-add counts 2)
  double bytes = 0;    // bytes a call must move
};

class Bench {
 public:
  Bench(ThreadPool& pool, double seconds_per_shape) : pool_(pool), budget_(seconds_per_shape) {}
  ThreadPool& pool() { return pool_; }
  // Calls `body` until the time is spent (three rounds at least) and keeps the best round.
  void Time(std::string shape, double ops, double bytes, absl::FunctionRef<void()> body);
  const std::vector<BenchLine>& lines() const { return lines_; }

 private:
  ThreadPool& pool_;
  double budget_;
  std::vector<BenchLine> lines_;
};

}  // namespace spikefold::kernels
