#include "kernels/kernel_check.h"

#include <time.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "absl/strings/str_cat.h"

namespace spikefold::kernels {

void CheckReport::Note(absl::string_view case_name, size_t index, double actual, double expected,
                       double tolerance) {
  const double error = std::fabs(actual - expected);
  // NaN, or any difference where none is allowed.
  const bool hopeless = !(error <= std::numeric_limits<double>::max()) || (tolerance <= 0 && error > 0);
  const double ratio = hopeless ? std::numeric_limits<double>::infinity() : error > 0 ? error / tolerance : 0;
  if (!(ratio > worst)) return;
  worst = ratio;
  detail = absl::StrCat(case_name, ": [", index, "] is ", actual, ", expected ", expected, " +- ", tolerance);
}

void CheckReport::Compare(absl::string_view case_name, absl::Span<const float> actual,
                          absl::Span<const double> expected, absl::Span<const double> tolerance) {
  ++num_cases;
  num_values += static_cast<int64_t>(expected.size());
  for (size_t i = 0; i < expected.size(); ++i) Note(case_name, i, actual[i], expected[i], tolerance[i]);
}

template <typename T>
void CheckReport::CompareBits(absl::string_view case_name, absl::Span<const T> actual,
                              absl::Span<const T> expected) {
  ++num_cases;
  num_values += static_cast<int64_t>(expected.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    // NOLINTNEXTLINE(bugprone-suspicious-memory-comparison): bits, not values
    if (std::memcmp(&actual[i], &expected[i], sizeof(T)) == 0) continue;
    if (!(worst <= std::numeric_limits<double>::max())) return;  // the first one is told
    worst = std::numeric_limits<double>::infinity();
    detail = absl::StrCat(case_name, ": [", i, "] is ", actual[i], ", expected exactly ", expected[i]);
  }
}

void CheckReport::CompareExact(absl::string_view case_name, absl::Span<const int32_t> actual,
                               absl::Span<const int32_t> expected) {
  CompareBits(case_name, actual, expected);
}
void CheckReport::CompareExact(absl::string_view case_name, absl::Span<const int8_t> actual,
                               absl::Span<const int8_t> expected) {
  CompareBits(case_name, actual, expected);
}
void CheckReport::CompareExact(absl::string_view case_name, absl::Span<const float> actual,
                               absl::Span<const float> expected) {
  CompareBits(case_name, actual, expected);
}

std::vector<float> RandomFloats(int64_t count, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<size_t>(count));
  for (float& v : values) v = normal(random);
  return values;
}

std::vector<int8_t> RandomCodes(int64_t count, int min, int max, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::uniform_int_distribution<int> uniform(min, max);
  std::vector<int8_t> codes(static_cast<size_t>(count));
  for (int8_t& c : codes) c = static_cast<int8_t>(uniform(random));
  return codes;
}

void Bench::Time(std::string shape, double ops, double bytes, absl::FunctionRef<void()> body) {
  // One thread: its own processor time, which other processes hardly disturb. Several: the wall clock.
  const clockid_t clock = pool_.num_threads() == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC;
  const auto now = [clock] {
    timespec t;
    clock_gettime(clock, &t);
    return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
  };
  const double start = now();
  body();  // warm
  const double once = now() - start;
  // Rounds of about a millisecond: shorter than a time slice, so that some round runs undisturbed.
  const int64_t calls = std::max<int64_t>(1, static_cast<int64_t>(1e-3 / std::max(once, 1e-7)));
  double best = std::numeric_limits<double>::infinity();
  for (int round = 0; round < 3 || now() - start < budget_; ++round) {
    const double begin = now();
    for (int64_t i = 0; i < calls; ++i) body();
    best = std::min(best, (now() - begin) / static_cast<double>(calls));
  }
  lines_.push_back({std::move(shape), best, ops, bytes});
}

}  // namespace spikefold::kernels
