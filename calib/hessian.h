// Second moments of a linear's input, H = sum_t omega_t x_t x_t^T: the shape of its output error, by which
// weights are rounded.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "formats/base/thread_pool.h"
#include "kernels/runtime/code_product_sum.h"

namespace spikefold {

// The weight omega_t of each row. A row that stands far above the others would otherwise rule the sum: with
// two rows of 480 times the norm GPTQ's error on ordinary rows doubles, and with one huge entry it is worse
// than rounding to nearest. But rows that the quantized linear does see must not be dropped: the damage then
// moves to them.
struct RowWeighting {
  double cap = 16;            // omega_t = min(1, cap * median ||x||^2 / ||x_t||^2); 0: all 1
  float spike_threshold = 0;  // > 0: rows with a larger |x| are computed in float, so omega_t = 0
};
// ||x||^2 and max |x| of each row. The norm of a row with a value that is not finite is not finite either.
struct RowSizes {
  std::vector<float> norm, peak;
};
// Of x [rows, k], which is copied to `to` [rows, k] on the way, unless that is null.
RowSizes MeasureRows(const float* x, int64_t rows, int64_t k, float* to, ThreadPool& pool);
// Of one call's rows: the median is theirs.
std::vector<float> RowWeights(const RowSizes& sizes, const RowWeighting& weighting);

// sum_t omega_t a_t b_t^T, [k, k], over any number of calls. Of up to 512 rows sqrt(omega_t) a_t is rounded
// to INT8 with a scale a column, max / 127; the products' sums are integers and exact, and those of all
// chunks are added in their order: no number of threads or instruction set shows. If a is b, only half is
// computed and kept. A column's rounding errors are on average at most 512 / (12 * 127^2) = 0.26 % of its
// power, if one row holds all of it, and 1e-4 for Gaussian values, where GPTQ's damping is 1 % of the mean.
class OuterProductSum {
 public:
  // With `device` the products are summed there, to the same bits.
  OuterProductSum(int64_t k, bool symmetric, std::unique_ptr<CodeProductSum> device = nullptr);
  // a, b [rows, k], the same pointer if symmetric; `weight` [rows] or empty: all 1. Not for several threads
  // at once. InvalidArgument: a value that is not finite. FailedPrecondition: rows after NewRounder().
  absl::Status Add(const float* a, const float* b, int64_t rows, absl::Span<const float> weight,
                   ThreadPool& pool);
  int64_t k() const { return k_; }
  int64_t num_rows() const { return num_rows_; }  // added so far
  double weight() const { return weight_; }       // sum of omega
  bool on_device() const { return device_ != nullptr; }
  // What rounds by a symmetric sum on a device (CodeProductSum::NewRounder); no more rows then. Null: that
  // device cannot.
  absl::StatusOr<std::unique_ptr<SiteRounder>> NewRounder();
  // [k, k]. An error: a device's.
  absl::StatusOr<std::vector<double>> Full(ThreadPool& pool) const;

 private:
  static constexpr int64_t kTile = 128;
  struct Tile {
    int64_t row, column;        // of its first element
    std::vector<float> values;  // [kTile, kTile]
  };
  struct Codes {
    std::vector<int8_t> codes;  // [k, rows] of the transposed operand
    std::vector<float> scale;   // [k]
  };
  // root [rows]: sqrt(omega).
  absl::Status AddChunk(const float* a, const float* b, absl::Span<const float> root, ThreadPool& pool);
  absl::Status Quantize(const float* x, absl::Span<const float> root, ThreadPool& pool, Codes& out) const;
  absl::Status AddTiles(int64_t rows, const Codes& right, ThreadPool& pool);
  absl::Status ReadDevice(double* full, ThreadPool& pool) const;

  const int64_t k_;
  const bool symmetric_;
  int64_t num_rows_ = 0;
  double weight_ = 0;
  bool rounds_ = false;  // NewRounder() was asked
  std::unique_ptr<CodeProductSum> device_;
  std::vector<Tile> tiles_;  // none with a device
  Codes left_, right_;
  std::vector<uint8_t> packed_;  // the right one in panels of kTile columns, as the matmul reads them
};

// H of one site.
class Hessian : public OuterProductSum {
 public:
  explicit Hessian(int64_t k, std::unique_ptr<CodeProductSum> device = nullptr)
      : OuterProductSum(k, true, std::move(device)) {}
  absl::Status AddRows(const float* x, int64_t rows, const RowWeighting& weighting, ThreadPool& pool) {
    return Add(x, x, rows, RowWeights(MeasureRows(x, rows, k(), nullptr, pool), weighting), pool);
  }
};

}  // namespace spikefold
