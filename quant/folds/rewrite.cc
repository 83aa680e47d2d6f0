#include "quant/folds/rewrite.h"

#include <algorithm>

#include "absl/functional/function_ref.h"

namespace spikefold {
namespace {

constexpr int64_t kColumns = 64;  // of a block of columns: 64 * 8 B * width stays in the second-level cache

void ForRange(ThreadPool* pool, int64_t count, int64_t grain,
              absl::FunctionRef<void(int64_t, int64_t)> body) {
  if (pool == nullptr) return body(0, count);
  pool->ParallelFor(count, grain, body);
}

constexpr int64_t kRowsAtOnce = 64;  // that share a reading of a dense matrix

// Rows by blocks: of a block the points of all rows lie side by side, so that every step of a rotation is one
// of whole vectors; a dense matrix takes the rows as they are.
void RightOnly(const Rewrite& r, ThreadPool* pool, int64_t n, int64_t k, float* w) {
  const bool dense =
      std::any_of(r.right.begin(), r.right.end(), [](const Transform& t) { return t.order() > 0; });
  ForRange(pool, n, kRowsAtOnce, [&](int64_t begin, int64_t end) {
    std::vector<double> block(static_cast<size_t>(kRowsAtOnce * k));
    for (int64_t first = begin; first < end; first += kRowsAtOnce) {
      const int64_t count = std::min(kRowsAtOnce, end - first);
      float* const at = w + first * k;
      const int64_t row_step = dense ? k : 1, column_step = dense ? 1 : count;
      const auto for_each = [&](auto use) {
        for (int64_t row = 0; row < count; ++row) {
          for (int64_t i = 0; i < k; ++i) {
            use(at[row * k + i], block[static_cast<size_t>(row * row_step + i * column_step)]);
          }
        }
      };
      for_each([](float weight, double& value) { value = static_cast<double>(weight); });
      for (const Transform& t : r.right) {
        if (dense) {
          t.ApplyRows(block.data(), count, k);
        } else {
          t.Apply(block.data(), k, count);
        }
      }
      for_each([](float& weight, double value) { weight = static_cast<float>(value); });
    }
  });
}

// The whole matrix in float64, so that it is rounded once.
void BothSides(const Rewrite& r, ThreadPool* pool, int64_t n, int64_t k, float* w) {
  std::vector<double> wide(w, w + n * k);
  if (!r.right.empty()) {
    ForRange(pool, n, kRowsAtOnce, [&](int64_t begin, int64_t end) {
      for (const Transform& t : r.right) t.ApplyRows(wide.data() + begin * k, end - begin, k);
    });
  }
  ForRange(pool, (k + kColumns - 1) / kColumns, 1, [&](int64_t begin, int64_t end) {
    std::vector<double> columns(static_cast<size_t>(n * kColumns));
    for (int64_t first = begin * kColumns; first < std::min(end * kColumns, k); first += kColumns) {
      const int64_t width = std::min(kColumns, k - first);
      for (int64_t row = 0; row < n; ++row) {
        std::copy_n(wide.data() + row * k + first, width, columns.data() + row * width);
      }
      for (const Transform& t : r.left) t.Apply(columns.data(), n, width);
      for (int64_t row = 0; row < n; ++row) {
        for (int64_t i = 0; i < width; ++i) {
          w[row * k + first + i] = static_cast<float>(columns[static_cast<size_t>(row * width + i)]);
        }
      }
    }
  });
}

}  // namespace

void ApplyRewrite(const Rewrite& rewrite, ThreadPool* pool, Tensor* tensor) {
  const int64_t n = tensor->dim(0), k = tensor->shape().size() > 1 ? tensor->dim(1) : 1;
  float* w = tensor->as<float>().data();
  if (rewrite.left.empty()) {
    RightOnly(rewrite, pool, n, k, w);
  } else {
    BothSides(rewrite, pool, n, k, w);
  }
}

int64_t RewriteMemory(const Rewrite& r, ThreadPool* pool, int64_t n, int64_t k) {
  const bool both = !r.left.empty();
  // A block of rows a thread; or the whole matrix, and a block of columns.
  const int64_t at_once = both ? kColumns : kRowsAtOnce, lines = both ? k : n, length = both ? n : k;
  int64_t product = 0;  // of a dense matrix with one of them
  for (const Transform& t : both ? r.left : r.right) product = std::max(product, t.order());
  const int64_t blocks =
      std::min<int64_t>(pool == nullptr ? 1 : pool->num_threads(), (lines + at_once - 1) / at_once);
  const int64_t values = (both ? n * k : 0) + blocks * std::min(at_once, lines) * (length + product);
  return static_cast<int64_t>(sizeof(double)) * values;
}

}  // namespace spikefold
