#include "kernels/ceiling/ceiling.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "formats/base/weight_memory.h"
#include "kernels/cpu/cpu_features.h"

namespace spikefold::kernels {
namespace {

using Clock = std::chrono::steady_clock;
double SecondsSince(Clock::time_point from) {
  return std::chrono::duration<double>(Clock::now() - from).count();
}

// Rate of one thread, best of many short rounds: other processes only ever take away.
double BestRate(const Chain& chain) {
  double best = 0;
  const Clock::time_point start = Clock::now();
  while (SecondsSince(start) < 0.1) {
    const Clock::time_point begin = Clock::now();
    chain.run();
    best = std::max(best, chain.ops / SecondsSince(begin));
  }
  return best;
}

constexpr int kLanes = 16;
constexpr int kSteps = 4096;

// What the compiler makes of plain loops.
void FloatChainPlain() {
  float acc[kLanes] = {};
  for (int i = 0; i < kSteps; ++i) {
    for (float& a : acc) a = a * 0.5f + 1.0f;
  }
  asm volatile("" ::"m"(acc));
}
void Int8ChainPlain() {
  int32_t acc[kLanes] = {};
  for (int i = 0; i < kSteps; ++i) {
    for (int32_t& a : acc) a += static_cast<int8_t>(i) * static_cast<int8_t>(a);
  }
  asm volatile("" ::"m"(acc));
}

}  // namespace

const Chain kFloatChainPlain = {FloatChainPlain, 2.0 * kLanes* kSteps};
const Chain kInt8ChainPlain = {Int8ChainPlain, 2.0 * kLanes* kSteps};

// Reads 256 MiB in sections of 8 MiB, short against a time slice, and keeps the best one; by the time a
// section comes again it has left every cache. On the pages that weights lie on.
double MeasureReadRate(ThreadPool& pool) {
  constexpr int64_t kSection = int64_t{1} << 20, kSections = 32, kGrain = 16 << 10;  // in words of 8 bytes
  const std::unique_ptr<void, decltype(&FreeWeights)> memory(AllocateWeights(kSection * kSections * 8),
                                                             &FreeWeights);
  uint64_t* const words = static_cast<uint64_t*>(memory.get());
  std::fill_n(words, kSection * kSections, uint64_t{1});
  std::vector<uint64_t> sums(static_cast<size_t>(kSection / kGrain));
  double best = 0;
  for (int64_t round = 0; round < 4 * kSections; ++round) {
    const uint64_t* section = words + round % kSections * kSection;
    const Clock::time_point begin = Clock::now();
    // Several streams at a time, asked for ahead, as kernels read rows of weights.
    pool.ParallelFor(kSection, kGrain, [&](int64_t from, int64_t to) {
      constexpr int64_t kStreams = 4, kAhead = 128, kLine = 8;
      const int64_t part = (to - from) / kStreams;
      uint64_t sum[kLine] = {};
      for (int64_t i = from; i < from + part; i += kLine) {
        for (int64_t s = 0; s < kStreams; ++s) {
          const uint64_t* const line = section + i + s * part;
          __builtin_prefetch(line + kAhead);
          for (int64_t j = 0; j < kLine; ++j) sum[j] += line[j];
        }
      }
      for (const uint64_t s : sum) sums[static_cast<size_t>(from / kGrain)] += s;
    });
    best = std::max(best, static_cast<double>(kSection) * 8 / SecondsSince(begin));
  }
  return best;
}

Ceilings MeasureCeilings(ThreadPool& pool) {
  const Isa isa = ActiveIsa();
  const Chain& float_chain = isa >= Isa::kAvx512 ? kFloatChainAvx512
                             : isa >= Isa::kAvx2 ? kFloatChainAvx2
                                                 : kFloatChainPlain;
  const Chain& int8_chain = isa >= Isa::kAvx512Vnni ? kInt8ChainAvx512Vnni
                            : isa >= Isa::kAvx2     ? kInt8ChainAvx2
                                                    : kInt8ChainPlain;
  return {.read_bytes = MeasureReadRate(pool),
          .float_ops = BestRate(float_chain) * pool.num_threads(),
          .int8_ops = BestRate(int8_chain) * pool.num_threads()};
}

}  // namespace spikefold::kernels
