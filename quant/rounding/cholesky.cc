#include "quant/rounding/cholesky.h"

#include <Eigen/Cholesky>
#include <Eigen/Core>
#include <algorithm>

namespace spikefold {
namespace {

constexpr int64_t kBlock = 96;  // a tile of doubles is 72 KiB: three fit in a second-level cache

constexpr int64_t kSolveRows = 32;

using Matrix = Eigen::MatrixXd;
using Tile = Eigen::Map<Matrix, 0, Eigen::OuterStride<>>;

// The [rows, columns] part of a column-major matrix of leading dimension n.
Tile Part(double* a, int64_t n, int64_t row, int64_t column, int64_t rows, int64_t columns) {
  return {a + column * n + row, rows, columns, Eigen::OuterStride<>(n)};
}

}  // namespace

bool CholeskyInPlace(double* a, int64_t n, ThreadPool& pool) {
  const int64_t num_blocks = (n + kBlock - 1) / kBlock;
  const auto width = [&](int64_t b) { return std::min(kBlock, n - b * kBlock); };
  for (int64_t b = 0; b < num_blocks; ++b) {
    const int64_t at = b * kBlock, columns = width(b);
    Tile diagonal = Part(a, n, at, at, columns, columns);
    const Eigen::LLT<Eigen::Ref<Matrix>> factor(diagonal);
    if (factor.info() != Eigen::Success) return false;
    const int64_t below = num_blocks - b - 1;
    pool.ParallelFor(below, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = b + 1 + begin; i < b + 1 + end; ++i) {
        Tile tile = Part(a, n, i * kBlock, at, width(i), columns);
        diagonal.triangularView<Eigen::Lower>().transpose().solveInPlace<Eigen::OnTheRight>(tile);
      }
    });
    // The longest columns first, so that no thread starts one last.
    pool.ParallelFor(below, 1, [&](int64_t begin, int64_t end) {
      for (int64_t j = b + 1 + begin; j < b + 1 + end; ++j) {
        const int64_t row = j * kBlock;
        Tile tile = Part(a, n, row, row, n - row, width(j));
        tile.noalias() -=
            Part(a, n, row, at, n - row, columns) * Part(a, n, row, at, width(j), columns).transpose();
      }
    });
  }
  return true;
}

void CholeskySolve(const double* l, int64_t n, double* b, int64_t rows, ThreadPool& pool) {
  const Eigen::Map<const Matrix> factor(l, n, n);
  pool.ParallelFor(rows, kSolveRows, [&](int64_t begin, int64_t end) {
    Eigen::Map<Matrix> right(b + begin * n, n, end - begin);  // rows of b are columns here
    factor.triangularView<Eigen::Lower>().solveInPlace(right);
    factor.triangularView<Eigen::Lower>().transpose().solveInPlace(right);
  });
}

bool SolveSmall(double* a, const double* b, int64_t n, double* x) {
  const Eigen::LLT<Matrix> factor(Eigen::Map<Matrix>(a, n, n));
  if (factor.info() != Eigen::Success) return false;
  Eigen::Map<Eigen::VectorXd>(x, n) = factor.solve(Eigen::Map<const Eigen::VectorXd>(b, n));
  return true;
}

}  // namespace spikefold
