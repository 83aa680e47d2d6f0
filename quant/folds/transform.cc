#include "quant/folds/transform.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "absl/functional/function_ref.h"
#include "formats/base/hadamard.h"
#include "formats/base/vector_clones.h"

namespace spikefold {
namespace {

constexpr int64_t kColumns = 64;  // of a block of columns: 64 * 8 B * width stays in the second-level cache

SF_VECTOR_CLONES void Butterflies(double* x, int64_t count, int64_t distance) {
  for (int64_t group = 0; group < count; group += 2 * distance) {
    double* a = x + group;
    double* b = a + distance;
    for (int64_t i = 0; i < distance; ++i) {
      const double sum = a[i] + b[i];
      b[i] = a[i] - b[i];
      a[i] = sum;
    }
  }
}

constexpr int64_t kLanes = 8, kSlice = 32;  // sums of so many columns stay in registers

// Columns [0, width) of all points: y[c * distance + i] = sum_a x[a * kColumns + i] * table[a][c].
SF_VECTOR_INLINE void SignedSums(const std::vector<int8_t>& table, int64_t order, const double* x,
                                 int64_t width, int64_t distance, double* y) {
  using Lanes = double __attribute__((vector_size(kLanes * sizeof(double))));
  for (int64_t c = 0; c < order; ++c, y += distance) {
    if (width == kSlice) {
      Lanes sum[kSlice / kLanes] = {};
      for (int64_t a = 0; a < order; ++a) {
        const double sign = table[static_cast<size_t>(a * order + c)];
        for (int64_t i = 0; i < kSlice / kLanes; ++i) {
          Lanes lanes;
          std::memcpy(&lanes, x + a * kColumns + i * kLanes, sizeof lanes);
          sum[i] += sign * lanes;
        }
      }
      std::memcpy(y, sum, sizeof sum);
    } else {
      double sum[kSlice] = {};
      for (int64_t a = 0; a < order; ++a) {
        const double sign = table[static_cast<size_t>(a * order + c)];
        for (int64_t i = 0; i < width; ++i) sum[i] += sign * x[a * kColumns + i];
      }
      std::copy_n(sum, width, y);
    }
  }
}

// y[c] = sum_a x[a] * H[a][c] over points that lie `distance` apart, in slices of kColumns.
SF_VECTOR_CLONES void TableProducts(double* x, int64_t count, int64_t order, int64_t distance,
                                    std::vector<double>& scratch) {
  const std::vector<int8_t>& table = HadamardTable(order);
  scratch.resize(static_cast<size_t>(order * kColumns));
  for (int64_t group = 0; group < count; group += order * distance) {
    for (int64_t at = 0; at < distance; at += kColumns) {
      const int64_t width = std::min(kColumns, distance - at);
      double* points = x + group + at;
      for (int64_t a = 0; a < order; ++a) {
        std::copy_n(points + a * distance, width, scratch.data() + a * kColumns);
      }
      for (int64_t i = 0; i < width; i += kSlice) {
        SignedSums(table, order, scratch.data() + i, std::min(kSlice, width - i), distance, points + i);
      }
    }
  }
}

// y[m * ldy + n] = sum_a x[a * step + m * ldx] * b[a * ldb + n] for m < count, n < width; terms are added in
// the order of a, whatever the tile.
struct Product {
  const double *x, *b;
  double* y;
  int64_t step, ldx, ldb, ldy, depth;
};

template <int64_t kRows, int64_t kWidth>
SF_VECTOR_INLINE void ProductTile(const Product& p, int64_t m, int64_t n) {
  double sum[kRows][kWidth] = {};
  for (int64_t a = 0; a < p.depth; ++a) {
    const double* b = p.b + a * p.ldb + n;
    for (int64_t r = 0; r < kRows; ++r) {
      const double x = p.x[a * p.step + (m + r) * p.ldx];
      for (int64_t i = 0; i < kWidth; ++i) sum[r][i] += x * b[i];
    }
  }
  for (int64_t r = 0; r < kRows; ++r) std::copy_n(sum[r], kWidth, p.y + (m + r) * p.ldy + n);
}

// The wider side is read once: of a wide b a panel of columns stays in the second-level cache for all rows.
SF_VECTOR_CLONES void Products(const Product& p, int64_t count, int64_t width) {
  constexpr int64_t kRows = 4, kWidth = 16;
  const int64_t whole_rows = count - count % kRows, whole_width = width - width % kWidth;
  if (width > count) {
    for (int64_t n = 0; n < whole_width; n += kWidth) {
      for (int64_t m = 0; m < whole_rows; m += kRows) ProductTile<kRows, kWidth>(p, m, n);
    }
  } else {
    for (int64_t m = 0; m < whole_rows; m += kRows) {
      for (int64_t n = 0; n < whole_width; n += kWidth) ProductTile<kRows, kWidth>(p, m, n);
    }
  }
  for (int64_t m = 0; m < count; ++m) {
    for (int64_t n = m < whole_rows ? whole_width : 0; n < width; ++n) ProductTile<1, 1>(p, m, n);
  }
}

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

Transform Transform::Diagonal(std::vector<double> scale) {
  Transform t;
  t.scale_ = std::move(scale);
  return t;
}

Transform Transform::Rotate(const Rotation& r) {
  Transform t;
  t.factors_ = r.factors;
  const double unit = 1 / std::sqrt(static_cast<double>(r.block()));
  for (const int8_t sign : r.signs) t.scale_.push_back(sign * unit);
  return t;
}

Transform Transform::Dense(std::shared_ptr<const std::vector<double>> matrix, int64_t order) {
  Transform t;
  t.dense_ = std::move(matrix);
  t.order_ = order;
  return t;
}

void Transform::ApplyRows(double* rows, int64_t count, int64_t width) const {
  if (dense_ == nullptr) {
    for (int64_t row = 0; row < count; ++row) Apply(rows + row * width, width, 1);
    return;
  }
  std::vector<double> y(static_cast<size_t>(count * order_));
  for (int64_t block = 0; block < width; block += order_) {
    Products({rows + block, dense_->data(), y.data(), 1, width, order_, order_, order_}, count, order_);
    for (int64_t row = 0; row < count; ++row) {
      std::copy_n(y.data() + row * order_, order_, rows + row * width + block);
    }
  }
}

void Transform::Apply(double* x, int64_t width, int64_t inner) const {
  if (dense_ != nullptr) {
    if (inner == 1) return ApplyRows(x, 1, width);
    std::vector<double> y(static_cast<size_t>(order_ * inner));
    for (double* block = x; block < x + width * inner; block += order_ * inner) {
      Products({dense_->data(), block, y.data(), order_, 1, inner, inner, order_}, order_, inner);
      std::copy(y.begin(), y.end(), block);
    }
    return;
  }
  const int64_t period = static_cast<int64_t>(scale_.size());
  for (int64_t i = 0; i < width; ++i) {
    const double scale = scale_[static_cast<size_t>(i % period)];
    for (double* v = x + i * inner; v < x + (i + 1) * inner; ++v) *v *= scale;
  }
  if (factors_.empty()) return;
  // Every factor acts on points a fixed distance apart, so blocks and heads need no loop of their own.
  std::vector<double> scratch;
  int64_t distance = inner;
  for (; distance < factors_.back() * inner; distance *= 2) Butterflies(x, width * inner, distance);
  for (size_t f = factors_.size() - 1; f-- > 0; distance *= factors_[f]) {
    TableProducts(x, width * inner, factors_[f], distance, scratch);
  }
}

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
