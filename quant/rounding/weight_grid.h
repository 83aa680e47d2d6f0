// What a quantized weight can be, and how a group of weights gets its scale: one place for every rounding
// method.
//
//   w is about scale * (code - zero)
//
// Symmetric: zero = 0, codes in [-2^(b-1), 2^(b-1) - 1] ([-127, 127] for 8 bits, as the kernels have it).
// Asymmetric: codes in the same signed range, zero an integer of it, so that 0 is a value of every grid: a
// weight that is stored elsewhere (kept column, super weight) takes the code `zero` and counts for nothing.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "formats/base/dtype.h"
#include "formats/base/thread_pool.h"
#include "formats/ggml_scales.h"
#include "quant/recipe.h"

namespace spikefold {

struct WeightGrid {
  int bits = 4;          // 2 .. 8
  bool trellis = false;  // codes are steps of a path (formats/quantized/trellis.h): one F32 scale a row
  bool symmetric = true;
  int64_t group = 0;                 // columns that share a scale; 0: all of a row
  DType scale_dtype = DType::kBF16;  // F32, BF16 or F16: codes are chosen for the stored scale
  // Scales of a row are whole multiples, 1 to kMaxGroupFactor, of one (row_scales.h). At most 4 bits.
  bool multiples = false;
  ScaleMethod scales = ScaleMethod::kMse;  // kMse: clip search; anything else: nothing clips
  // Blocks of ggml (block_scales.h), which decide all of the above but `bits`; null: our own grids.
  const GgmlScaleLayout* blocks = nullptr;

  int lo() const {
    if (blocks != nullptr) return blocks->lo;
    return -(1 << (bits - 1)) + (symmetric && bits == 8 ? 1 : 0);
  }
  int hi() const { return blocks != nullptr ? blocks->hi : (1 << (bits - 1)) - 1; }
  int64_t group_width(int64_t k) const { return group == 0 ? k : group; }
  int64_t num_groups(int64_t k) const { return k / group_width(k); }
  float Stored(double scale) const;  // the nearest positive scale that scale_dtype holds
  // The nearest whose multiples it holds too: four bits shorter. In F16 from 2^-24, and fine from 2^-18.
  float StoredUnit(double scale) const;
};
// InvalidArgument naming module, value and what is allowed.
absl::Status CheckGrid(absl::string_view module, int64_t k, const WeightGrid& grid);

struct GroupScale {
  float scale = 1;
  float zero = 0;  // an integer
};

// code - zero of a value: the nearest, ties to even. No call, so that loops vectorise; |lo|, |hi| < 2^22.
inline float GridPoint(float w, float scale, float lo, float hi) {
  constexpr float kMagic = 0x1.8p23f;
  return (std::min(std::max(w / scale, lo), hi) + kMagic) - kMagic;
}
inline float GridPoint(float w, GroupScale s, const WeightGrid& grid) {
  return GridPoint(w, s.scale, static_cast<float>(grid.lo()) - s.zero,
                   static_cast<float>(grid.hi()) - s.zero);
}

// Scale and zero of a group. kMse: the largest magnitude (the range, if asymmetric) times rho = 1, 0.97, ...
// 0.4, minimising sum_j h_j (w_j - q_j)^2, h = the Hessian's diagonal, or equal where `importance` is null.
// A group of zeros gets scale 1.
GroupScale ChooseScale(const float* w, const float* importance, int64_t count, const WeightGrid& grid);
double GroupError(const float* w, const float* importance, int64_t count, GroupScale scale,
                  const WeightGrid& grid);  // that sum

// The parts of a quantized matrix [n, k].
struct GridWeights {
  std::vector<int8_t> codes;  // [n, k]; `zero` (0 if symmetric) in kept columns and at super weights
  std::vector<float> scales;  // [n, groups], the values that are stored
  std::vector<int8_t> zeros;  // [n, groups]; empty: symmetric
  int trellis_bits = 0;       // > 0: the codes are those of a trellis
  // Blocks of a ggml type as a file holds them, row by row; then there is nothing else. Empty: none.
  std::string blocks;
  GgmlType block_type = GgmlType::kF32;
};
// The float matrix that they stand for, into `out` [n, k] or as a vector.
void Dequantize(const GridWeights& weights, int64_t n, int64_t k, ThreadPool& pool, float* out);
std::vector<float> Dequantize(const GridWeights& weights, int64_t n, int64_t k, ThreadPool& pool);

}  // namespace spikefold
