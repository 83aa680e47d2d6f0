// Operands and shapes of the quantized matmuls, for their <name>_cases.cc, their tests and the benchmark.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "kernels/group_weights.h"
#include "kernels/kernel_check.h"
#include "kernels/outlier_tail.h"

namespace spikefold::kernels {

struct QuantizedCase {
  int64_t m = 1, n = 1, k = 1;
  int64_t group = 0;  // 0: one weight scale a channel; else 2, 3, 4 or 8 bits in groups
  int bits = 8;
  bool w_zeros = false;  // with a group: a zero point each
  int64_t x_group = 0;   // 0: one x scale a row
  bool x_zeros = false;  // a zero point a row
  int64_t num_kept = 0, num_super = 0;
  bool bias = false;
  bool extremes = false;     // every code is the largest or the smallest
  bool one_x_scale = false;  // x_scale_stride 0
  bool pack_kept = true;     // kept columns packed beforehand
  int mantissa_bits = 10;    // of group scales: 10 are float16, 7 bfloat16, 23 float32
  bool multiples = false;    // group scales are multiples of a channel's, and factor * code an INT8 code
};
std::string CaseName(const QuantizedCase& c);  // "M=3 N=17 K=64 group=32 r=16"

// All row counts up to 17 and around tiles; N and K around panels; 0, 1, 16, 64 kept columns.
std::vector<QuantizedCase> ChannelCases();
std::vector<QuantizedCase> GroupCases();
// Those of at most 4 bits with multiples.
std::vector<QuantizedCase> MultipleCases();

struct QuantizedOperands {
  // Weight codes of all values of their bits, but -128 only in groups; x codes in [-127, 127].
  QuantizedOperands(const QuantizedCase& c, uint64_t seed);
  OutlierTail Tail() const;
  GroupWeights Groups() const;             // views of codes, scales and zero points
  std::vector<int8_t> WholeCodes() const;  // [n, k] with multiples: weights over their channel's scale
  double Weight(int64_t n, int64_t k) const;
  std::vector<double> CodeRows() const;   // [m, k] (|x_code| + |x_zero|) * x_scale
  std::vector<double> FloatRows() const;  // [m, k] x

  QuantizedCase shape;
  std::vector<int8_t> codes;        // [n, k]
  std::vector<float> w_scale;       // [n] or [n, k/group]
  std::vector<float> unit;          // [n] with multiples: the scales that w_scale holds multiples of
  std::vector<int8_t> w_zero;       // [n, k/group] or empty
  std::vector<int8_t> x_codes;      // [m, k]
  std::vector<float> x_scale;       // [m], [1] or [m, k/x_group]
  std::vector<int32_t> x_zero;      // [m] or empty
  std::vector<int32_t> w_code_sum;  // [n] sums of a row's codes
  std::vector<float> w_row_sum;     // [n] sums of a row's weights
  std::vector<float> x;             // [m, k]
  std::vector<float> kept_x;        // [m, r]
  std::vector<uint16_t> kept_w;     // [n, r]
  std::vector<uint32_t> kept_packed;
  std::vector<float> super_x;  // [m, s]
  std::vector<int32_t> super_slot, super_row;
  std::vector<float> super_value, bias;
};

// Tolerances of y [m, n]: float_terms roundings of each term, plus the rounding of the result. x is [m, k]:
// codes times their scale, or floats.
std::vector<double> Tolerances(const QuantizedOperands& o, const std::vector<double>& x,
                               const std::vector<float>& expected, double float_terms);

// One linear of the benchmark: weights of `copies` layers, used by turns, so that they come from memory and
// not from cache when few rows read them.
struct BenchShape {
  int64_t m, n, k, num_kept;
  int64_t copies;
};
// SmolLM2-135M: decode (m = 1), a small batch, prefill of 512 rows, with kept columns.
std::vector<BenchShape> BenchShapes(absl::FunctionRef<size_t(int64_t n, int64_t k)> packed_bytes);
// Those of weights in groups, or only the widest of them.
std::vector<BenchShape> GroupBenchShapes(const QuantizedCase& form, bool all);
QuantizedCase WithShape(QuantizedCase form, const BenchShape& s);

}  // namespace spikefold::kernels
