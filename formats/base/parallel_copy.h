// Copies of many megabytes, by all threads of a pool: one thread alone does not fill the memory's bandwidth.
#pragma once

#include <cstdint>
#include <cstring>

#include "formats/base/thread_pool.h"

namespace spikefold {

// to[0, count) = from[0, count). Short ones are the caller's alone.
inline void ParallelCopy(ThreadPool& pool, const float* from, int64_t count, float* to) {
  constexpr int64_t kGrain = 1 << 16;
  pool.ParallelFor(count, kGrain, [&](int64_t begin, int64_t end) {
    std::memcpy(to + begin, from + begin, static_cast<size_t>(end - begin) * sizeof(float));
  });
}

}  // namespace spikefold
