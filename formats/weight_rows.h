// The rows of a stored matrix as float32, a block at a time: who works by rows needs no more memory than its
// reader does.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "formats/base/thread_pool.h"
#include "formats/tensor.h"

namespace spikefold {

class WeightRows {
 public:
  virtual ~WeightRows() = default;
  // Rows [begin, end) of [n, k] into out [end - begin, k]. Threads may call it at once. DataLoss: what is
  // stored is corrupt, values that are not finite included.
  virtual absl::Status Read(int64_t begin, int64_t end, float* out) const = 0;
  // Reads are of whole blocks of so many rows, but for the last.
  virtual int64_t rows_together() const { return 1; }
};

// Of a matrix in memory.
std::unique_ptr<WeightRows> RowsInMemory(Tensor matrix);
// Rows [begin, end) of k values each.
absl::StatusOr<std::unique_ptr<float[]>> ReadBlock(const WeightRows& rows, int64_t begin, int64_t end,
                                                   int64_t k);

// Calls body(begin, end) for blocks of the rows of [n, k], each a multiple of `together` rows but for the
// last, and where that allows small enough for the cache. The status is that of the first block that has
// none; later ones may then be left out.
absl::Status ForRowBlocks(ThreadPool& pool, int64_t n, int64_t k, int64_t together,
                          absl::FunctionRef<absl::Status(int64_t begin, int64_t end)> body);

}  // namespace spikefold
