#include "calib/hessian.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "calib/median.h"
#include "formats/base/status.h"
#include "formats/base/vector_clones.h"
#include "kernels/matmul_f32_s8r_s8c/matmul_f32_s8r_s8c.h"

namespace spikefold {
namespace {

namespace s8 = kernels::matmul_f32_s8r_s8c;

constexpr int64_t kChunkRows = kCodeProductRows;  // whose codes share scales: see the header
constexpr int64_t kColumns = 64;                  // whose codes one thread makes
constexpr int64_t kLine = 16;                     // floats of a cache line

// ||x||^2 and max |x| of each row of x [rows, k], in 16 lanes.
SF_VECTOR_CLONES void Measure(const float* x, int64_t rows, int64_t k, float* norm, float* peak) {
  using Lanes = float __attribute__((vector_size(kLine * sizeof(float))));
  for (int64_t t = 0; t < rows; ++t, x += k) {
    Lanes sum = {}, top = {};
    for (int64_t c = 0; c < k; c += kLine) {
      Lanes line = {};
      std::memcpy(&line, x + c, static_cast<size_t>(std::min(kLine, k - c)) * sizeof(float));
      sum += line * line;
      const Lanes size = line < 0 ? -line : line;
      top = size > top ? size : top;
    }
    norm[t] = peak[t] = 0;
    for (int64_t i = 0; i < kLine; ++i) {
      norm[t] += sum[i];
      peak[t] = std::max(peak[t], top[i]);
    }
  }
}

// The nearest integer of |x| < 2^22, ties to even, as integer operations that a compiler turns into vectors.
SF_VECTOR_INLINE int32_t Nearest(float x) {
  return std::bit_cast<int32_t>(x + 12582912.0f) - std::bit_cast<int32_t>(12582912.0f);
}

// Columns [c0, c1) of x [rows, k], times root[t], as rows of codes [k, rows] with a scale each.
SF_VECTOR_CLONES void QuantizeColumns(const float* x, int64_t rows, int64_t k, const float* root, int64_t c0,
                                      int64_t c1, int8_t* codes, float* scale) {
  int32_t peak[kColumns] = {};  // as bits: sizes compare like them, and NaN above all
  float inverse[kColumns];
  const int64_t width = c1 - c0;
  for (int64_t t = 0; t < rows; ++t) {
    for (int64_t c = 0; c < width; ++c) {
      const int32_t size = std::bit_cast<int32_t>(x[t * k + c0 + c] * root[t]) & 0x7fffffff;
      peak[c] = size > peak[c] ? size : peak[c];
    }
  }
  for (int64_t c = 0; c < width; ++c) {
    const float size = std::bit_cast<float>(peak[c]);
    scale[c0 + c] = size / 127;
    inverse[c] = size > 0 ? 127 / size : 0;
  }
  for (int64_t t0 = 0; t0 < rows; t0 += kLine) {
    const int64_t t1 = std::min(t0 + kLine, rows);
    int8_t block[kLine][kColumns];
    for (int64_t t = t0; t < t1; ++t) {
      for (int64_t c = 0; c < width; ++c) {
        block[t - t0][c] = static_cast<int8_t>(Nearest(x[t * k + c0 + c] * root[t] * inverse[c]));
      }
    }
    for (int64_t c = 0; c < width; ++c) {
      for (int64_t t = t0; t < t1; ++t) codes[(c0 + c) * rows + t] = block[t - t0][c];
    }
  }
}

// to [kTile, kTile] += from [m, n].
SF_VECTOR_CLONES void AddTile(const float* from, int64_t m, int64_t n, int64_t stride, float* to) {
  for (int64_t r = 0; r < m; ++r) {
    for (int64_t c = 0; c < n; ++c) to[r * stride + c] += from[r * n + c];
  }
}

}  // namespace

RowSizes MeasureRows(const float* x, int64_t rows, int64_t k, float* to, ThreadPool& pool) {
  constexpr int64_t kRows = 16;  // that a second-level cache still holds when they are measured
  RowSizes out{.norm = std::vector<float>(static_cast<size_t>(rows)),
               .peak = std::vector<float>(static_cast<size_t>(rows))};
  pool.ParallelFor(rows, kRows, [&](int64_t begin, int64_t end) {
    const size_t bytes = static_cast<size_t>((end - begin) * k) * sizeof(float);
    if (to != nullptr) std::memcpy(to + begin * k, x + begin * k, bytes);
    Measure(x + begin * k, end - begin, k, out.norm.data() + begin, out.peak.data() + begin);
  });
  return out;
}

std::vector<float> RowWeights(const RowSizes& sizes, const RowWeighting& weighting) {
  std::vector<float> weight(sizes.norm.size(), 1.0f);
  if (weighting.cap <= 0 && weighting.spike_threshold <= 0) return weight;
  const double limit = weighting.cap * static_cast<double>(Median(sizes.norm));
  for (size_t t = 0; t < weight.size(); ++t) {
    if (weighting.spike_threshold > 0 && sizes.peak[t] > weighting.spike_threshold) {
      weight[t] = 0;
    } else if (limit > 0 && static_cast<double>(sizes.norm[t]) > limit) {
      weight[t] = static_cast<float>(limit / static_cast<double>(sizes.norm[t]));
    }
  }
  return weight;
}

OuterProductSum::OuterProductSum(int64_t k, bool symmetric, std::unique_ptr<CodeProductSum> device)
    : k_(k), symmetric_(symmetric), device_(std::move(device)) {
  if (device_ != nullptr) return;
  for (int64_t row = 0; row < k; row += kTile) {
    for (int64_t column = symmetric ? row : 0; column < k; column += kTile) {
      tiles_.push_back(
          {.row = row, .column = column, .values = std::vector<float>(static_cast<size_t>(kTile * kTile))});
    }
  }
}

absl::Status OuterProductSum::Add(const float* a, const float* b, int64_t rows,
                                  absl::Span<const float> weight, ThreadPool& pool) {
  if (rounds_) return absl::FailedPreconditionError("second moments: rows behind what rounds by them");
  std::vector<float> root(static_cast<size_t>(rows), 1.0f);
  for (size_t t = 0; t < weight.size(); ++t) root[t] = std::sqrt(weight[t]);
  for (int64_t at = 0; at < rows; at += kChunkRows) {
    const size_t count = static_cast<size_t>(std::min(kChunkRows, rows - at));
    SF_RETURN_IF_ERROR(AddChunk(a + at * k_, b + at * k_,
                                absl::MakeConstSpan(root).subspan(static_cast<size_t>(at), count), pool));
  }
  weight_ += weight.empty() ? static_cast<double>(rows) : 0.0;
  for (const float w : weight) weight_ += static_cast<double>(w);
  num_rows_ += rows;
  return absl::OkStatus();
}

absl::Status OuterProductSum::AddChunk(const float* a, const float* b, absl::Span<const float> root,
                                       ThreadPool& pool) {
  const int64_t rows = static_cast<int64_t>(root.size());
  SF_RETURN_IF_ERROR(Quantize(a, root, pool, left_));
  if (!symmetric_) SF_RETURN_IF_ERROR(Quantize(b, root, pool, right_));
  const Codes& right = symmetric_ ? left_ : right_;
  if (device_ == nullptr) return AddTiles(rows, right, pool);
  return device_->Add(rows, left_.codes.data(), left_.scale.data(), right.codes.data(), right.scale.data());
}

absl::Status OuterProductSum::AddTiles(int64_t rows, const Codes& right, ThreadPool& pool) {
  const size_t panel_bytes = s8::PackedBytes(kTile, rows);
  const int64_t num_panels = (k_ + kTile - 1) / kTile;
  packed_.resize(panel_bytes * static_cast<size_t>(num_panels));
  pool.ParallelFor(num_panels, 1, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      s8::Pack(right.codes.data() + p * kTile * rows, std::min(kTile, k_ - p * kTile), rows,
               packed_.data() + static_cast<size_t>(p) * panel_bytes);
    }
  });
  std::vector<absl::Status> status(tiles_.size());
  pool.ParallelFor(static_cast<int64_t>(tiles_.size()), 1, [&](int64_t begin, int64_t end) {
    std::vector<float> product(static_cast<size_t>(kTile * kTile));
    for (int64_t i = begin; i < end; ++i) {
      Tile& tile = tiles_[static_cast<size_t>(i)];
      const int64_t m = std::min(kTile, k_ - tile.row), n = std::min(kTile, k_ - tile.column);
      status[static_cast<size_t>(i)] =
          s8::Run({.m = m,
                   .n = n,
                   .k = rows,
                   .x = left_.codes.data() + tile.row * rows,
                   .x_scale = left_.scale.data() + tile.row,
                   .w = packed_.data() + static_cast<size_t>(tile.column / kTile) * panel_bytes,
                   .w_scale = right.scale.data() + tile.column,
                   .y = product.data()},
                  pool);
      AddTile(product.data(), m, n, kTile, tile.values.data());
    }
  });
  for (const absl::Status& s : status) SF_RETURN_IF_ERROR(s);
  return absl::OkStatus();
}

absl::Status OuterProductSum::Quantize(const float* x, absl::Span<const float> root, ThreadPool& pool,
                                       Codes& out) const {
  const int64_t rows = static_cast<int64_t>(root.size());
  out.codes.resize(static_cast<size_t>(k_ * rows));
  out.scale.resize(static_cast<size_t>(k_));
  pool.ParallelFor((k_ + kColumns - 1) / kColumns, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      QuantizeColumns(x, rows, k_, root.data(), i * kColumns, std::min((i + 1) * kColumns, k_),
                      out.codes.data(), out.scale.data());
    }
  });
  for (int64_t c = 0; c < k_; ++c) {
    if (std::isfinite(out.scale[static_cast<size_t>(c)])) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("second moments: input channel ", c, " of ", k_, " holds values that are not finite"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<SiteRounder>> OuterProductSum::NewRounder() {
  if (device_ == nullptr || !symmetric_) return std::unique_ptr<SiteRounder>();
  rounds_ = true;
  return device_->NewRounder();
}

absl::Status OuterProductSum::ReadDevice(double* full, ThreadPool& pool) const {
  constexpr int64_t kRows = 256;
  std::vector<float> rows(static_cast<size_t>(std::min(kRows, k_) * k_));
  for (int64_t first = 0; first < k_; first += kRows) {
    const int64_t count = std::min(kRows, k_ - first);
    SF_RETURN_IF_ERROR(device_->Read(first, count, rows.data()));
    pool.ParallelFor(count, 16, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t row = first + i;
        for (int64_t c = symmetric_ ? row : 0; c < k_; ++c) {  // its upper half counts
          const double value = static_cast<double>(rows[static_cast<size_t>(i * k_ + c)]);
          full[row * k_ + c] = value;
          if (symmetric_) full[c * k_ + row] = value;
        }
      }
    });
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<double>> OuterProductSum::Full(ThreadPool& pool) const {
  std::vector<double> full(static_cast<size_t>(k_ * k_));
  if (device_ != nullptr) {
    SF_RETURN_IF_ERROR(ReadDevice(full.data(), pool));
    return full;
  }
  pool.ParallelFor(static_cast<int64_t>(tiles_.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const Tile& tile = tiles_[static_cast<size_t>(i)];
      const int64_t m = std::min(kTile, k_ - tile.row), n = std::min(kTile, k_ - tile.column);
      for (int64_t r = 0; r < m; ++r) {
        std::copy_n(tile.values.data() + r * kTile, n, full.data() + (tile.row + r) * k_ + tile.column);
      }
      if (!symmetric_) continue;
      const bool diagonal = tile.row == tile.column;  // its upper half counts
      for (int64_t c = 0; c < n; ++c) {
        double* mirrored = full.data() + (tile.column + c) * k_ + tile.row;
        for (int64_t r = 0; r < (diagonal ? c : m); ++r) {
          mirrored[r] = static_cast<double>(tile.values[static_cast<size_t>(r * kTile + c)]);
        }
      }
    }
  });
  return full;
}

}  // namespace spikefold
