#include "calib/hessian.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "calib/median.h"
#include "formats/base/status.h"
#include "kernels/matmul_f32_f32_f32/matmul_f32_f32_f32.h"

namespace spikefold {
namespace {

namespace f32 = kernels::matmul_f32_f32_f32;

constexpr int64_t kChunkRows = 512;  // float32 sums stay short, and an operand of a tile fits in L2
constexpr int64_t kLine = 16;        // floats of a cache line

// ||x||^2 and max |x| of a row, in lanes that the vector units like.
void Measure(const float* x, int64_t k, float& norm, float& peak) {
  float sum[kLine] = {}, top[kLine] = {};
  int64_t c = 0;
  for (; c + kLine <= k; c += kLine) {
    float line[kLine];
    std::memcpy(line, x + c, sizeof(line));
#pragma GCC unroll 16
    for (int64_t i = 0; i < kLine; ++i) sum[i] += line[i] * line[i];
#pragma GCC unroll 16
    for (int64_t i = 0; i < kLine; ++i) {
      const float size = std::fabs(line[i]);
      top[i] = size > top[i] ? size : top[i];
    }
  }
  for (int64_t i = 0; c + i < k; ++i) {
    sum[i] += x[c + i] * x[c + i];
    top[i] = std::max(top[i], std::fabs(x[c + i]));
  }
  norm = peak = 0;
  for (int64_t i = 0; i < kLine; ++i) {
    norm += sum[i];
    peak = std::max(peak, top[i]);
  }
}

// columns [c0, c1) of x [rows, k] as rows of out [k, rows], times weight.
void Transpose(const float* x, int64_t rows, int64_t k, const float* weight, int64_t c0, int64_t c1,
               float* out) {
  for (int64_t t0 = 0; t0 < rows; t0 += kLine) {
    const int64_t t1 = std::min(t0 + kLine, rows);
    for (int64_t c = c0; c < c1; ++c) {
      for (int64_t t = t0; t < t1; ++t) out[c * rows + t] = weight[t] * x[t * k + c];
    }
  }
}

// columns [panel * 32, ...) of x [rows, k] as a panel of the packed matrix x^T [k, rows].
void PackPanel(const float* x, int64_t rows, int64_t k, int64_t panel, float* packed) {
  const int64_t first = panel * f32::kPanel, width = std::min(f32::kPanel, k - first);
  float* out = packed + panel * rows * f32::kPanel;
  for (int64_t t = 0; t < rows; ++t, out += f32::kPanel) {
    std::memcpy(out, x + t * k + first, static_cast<size_t>(width) * sizeof(float));
    std::fill(out + width, out + f32::kPanel, 0.0f);
  }
}

}  // namespace

std::vector<float> RowWeights(const float* x, int64_t rows, int64_t k, const RowWeighting& weighting,
                              ThreadPool& pool) {
  std::vector<float> weight(static_cast<size_t>(rows), 1.0f);
  if (weighting.cap <= 0 && weighting.spike_threshold <= 0) return weight;
  std::vector<float> norm(static_cast<size_t>(rows)), peak(norm);
  pool.ParallelFor(rows, 32, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      Measure(x + t * k, k, norm[static_cast<size_t>(t)], peak[static_cast<size_t>(t)]);
    }
  });
  const double limit = weighting.cap * static_cast<double>(Median(norm));
  for (size_t t = 0; t < norm.size(); ++t) {
    if (weighting.spike_threshold > 0 && peak[t] > weighting.spike_threshold) {
      weight[t] = 0;
    } else if (limit > 0 && static_cast<double>(norm[t]) > limit) {
      weight[t] = static_cast<float>(limit / static_cast<double>(norm[t]));
    }
  }
  return weight;
}

OuterProductSum::OuterProductSum(int64_t k, bool symmetric) : k_(k), symmetric_(symmetric) {
  for (int64_t row = 0; row < k; row += kTile) {
    for (int64_t column = symmetric ? row : 0; column < k; column += kTile) {
      tiles_.push_back(
          {.row = row, .column = column, .values = std::vector<double>(static_cast<size_t>(kTile * kTile))});
    }
  }
}

absl::Status OuterProductSum::Add(const float* a, const float* b, int64_t rows,
                                  absl::Span<const float> weight, ThreadPool& pool) {
  const std::vector<float> ones(weight.empty() ? static_cast<size_t>(rows) : 0, 1.0f);
  const float* w = weight.empty() ? ones.data() : weight.data();
  for (int64_t at = 0; at < rows; at += kChunkRows) {
    SF_RETURN_IF_ERROR(AddChunk(a + at * k_, b + at * k_, std::min(kChunkRows, rows - at), w + at, pool));
  }
  for (int64_t t = 0; t < rows; ++t) weight_ += static_cast<double>(w[t]);
  num_rows_ += rows;
  return absl::OkStatus();
}

absl::Status OuterProductSum::AddChunk(const float* a, const float* b, int64_t rows, const float* weight,
                                       ThreadPool& pool) {
  const int64_t panels = (k_ + f32::kPanel - 1) / f32::kPanel;
  transposed_.resize(static_cast<size_t>(k_ * rows));
  packed_.resize(static_cast<size_t>(panels * f32::kPanel * rows));
  pool.ParallelFor(panels, 1, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      PackPanel(b, rows, k_, p, packed_.data());
      Transpose(a, rows, k_, weight, p * f32::kPanel, std::min((p + 1) * f32::kPanel, k_),
                transposed_.data());
    }
  });
  std::vector<absl::Status> status(tiles_.size());
  pool.ParallelFor(static_cast<int64_t>(tiles_.size()), 1, [&](int64_t begin, int64_t end) {
    std::vector<float> product(static_cast<size_t>(kTile * kTile));
    for (int64_t i = begin; i < end; ++i) {
      Tile& tile = tiles_[static_cast<size_t>(i)];
      const int64_t m = std::min(kTile, k_ - tile.row), n = std::min(kTile, k_ - tile.column);
      status[static_cast<size_t>(i)] = f32::Run({.m = m,
                                                 .n = n,
                                                 .k = rows,
                                                 .x = transposed_.data() + tile.row * rows,
                                                 .x_stride = rows,
                                                 .w = packed_.data() + tile.column * rows,
                                                 .y = product.data(),
                                                 .y_stride = kTile},
                                                pool);
      for (int64_t r = 0; r < m; ++r) {
        for (int64_t c = 0; c < n; ++c) {
          const size_t at = static_cast<size_t>(r * kTile + c);
          tile.values[at] += static_cast<double>(product[at]);
        }
      }
    }
  });
  for (const absl::Status& s : status) SF_RETURN_IF_ERROR(s);
  return absl::OkStatus();
}

std::vector<double> OuterProductSum::Full() const {
  std::vector<double> full(static_cast<size_t>(k_ * k_));
  for (const Tile& tile : tiles_) {
    const int64_t m = std::min(kTile, k_ - tile.row), n = std::min(kTile, k_ - tile.column);
    const bool diagonal = symmetric_ && tile.row == tile.column;
    for (int64_t r = 0; r < m; ++r) {
      for (int64_t c = diagonal ? r : 0; c < n; ++c) {
        const double value = tile.values[static_cast<size_t>(r * kTile + c)];
        full[static_cast<size_t>((tile.row + r) * k_ + tile.column + c)] = value;
        if (symmetric_) full[static_cast<size_t>((tile.column + c) * k_ + tile.row + r)] = value;
      }
    }
  }
  return full;
}

}  // namespace spikefold
