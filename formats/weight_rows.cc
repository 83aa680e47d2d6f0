#include "formats/weight_rows.h"

#include <algorithm>
#include <cstring>
#include <mutex>
#include <utility>

#include "formats/base/status.h"

namespace spikefold {
namespace {

constexpr int64_t kBlockValues = 1 << 16;  // 256 KiB of float32

class MatrixRows : public WeightRows {
 public:
  explicit MatrixRows(Tensor matrix) : matrix_(std::move(matrix)) {}
  absl::Status Read(int64_t begin, int64_t end, float* out) const override {
    const int64_t k = matrix_.dim(1);
    std::memcpy(out, matrix_.as<float>().data() + begin * k,
                static_cast<size_t>((end - begin) * k) * sizeof(float));
    return absl::OkStatus();
  }

 private:
  const Tensor matrix_;
};

}  // namespace

std::unique_ptr<WeightRows> RowsInMemory(Tensor matrix) {
  return std::make_unique<MatrixRows>(std::move(matrix));
}

absl::StatusOr<std::unique_ptr<float[]>> ReadBlock(const WeightRows& rows, int64_t begin, int64_t end,
                                                   int64_t k) {
  auto values = std::make_unique_for_overwrite<float[]>(static_cast<size_t>((end - begin) * k));
  SF_RETURN_IF_ERROR(rows.Read(begin, end, values.get()));
  return values;
}

absl::Status ForRowBlocks(ThreadPool& pool, int64_t n, int64_t k, int64_t together,
                          absl::FunctionRef<absl::Status(int64_t begin, int64_t end)> body) {
  const int64_t fit = kBlockValues / std::max<int64_t>(1, k);
  const int64_t rows = std::max<int64_t>(1, fit / together) * together;
  std::mutex mutex;
  absl::Status first;  // guarded, as the next
  int64_t failed = n;
  pool.ParallelFor(n, rows, [&](int64_t begin, int64_t end) {
    {
      const std::lock_guard<std::mutex> lock(mutex);
      if (begin > failed) return;
    }
    absl::Status status = body(begin, end);
    if (status.ok()) return;
    const std::lock_guard<std::mutex> lock(mutex);
    if (begin > failed) return;
    failed = begin;
    first = std::move(status);
  });
  return first;
}

}  // namespace spikefold
