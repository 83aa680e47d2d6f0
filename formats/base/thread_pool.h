// A fixed set of threads for data-parallel loops.
//
// Work is split into chunks that idle threads take from a shared counter, and waiting threads spin only
// briefly before they sleep, so a thread that loses its core to another process delays the loop by one chunk,
// not by a time slice. Results never depend on which thread ran a chunk: callers write disjoint outputs.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/functional/function_ref.h"

namespace spikefold {

class ThreadPool {
 public:
  explicit ThreadPool(int num_threads);  // >= 1, the calling one included; throws std::system_error
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const;
  // Runs body(begin, end) over [0, count) in chunks of `grain` (the last may be shorter); returns when all
  // are done. Nested calls run inline. What the body throws (memory that is not there) is thrown here, the
  // first of it, once no thread runs the body any more; chunks that nobody had begun are left out.
  void ParallelFor(int64_t count, int64_t grain, absl::FunctionRef<void(int64_t begin, int64_t end)> body);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

int DefaultNumThreads();  // cores this process may run on (affinity mask, cgroup quota)

}  // namespace spikefold
