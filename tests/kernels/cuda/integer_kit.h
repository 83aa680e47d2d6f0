// Operands of integer kernels as the GPU reads them.
#pragma once

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <vector>

#include "formats/base/dtype.h"
#include "kernels/matmul_f32_s8r_s8c/matmul_f32_s8r_s8c_cuda.h"
#include "kernels/quantized_case.h"
#include "tests/kernels/cuda/cuda_kit.h"

namespace spikefold::kernels {

// Rows padded with zeros to the kernel's row bytes.
inline std::vector<int8_t> Padded(const std::vector<int8_t>& codes, int64_t rows, int64_t k) {
  const int64_t stride = matmul_f32_s8r_s8c::RowBytes(k);
  std::vector<int8_t> out(static_cast<size_t>(rows * stride), 0);
  for (int64_t r = 0; r < rows; ++r) std::copy_n(codes.begin() + r * k, k, out.begin() + r * stride);
  return out;
}

inline std::vector<uint16_t> Transposed(const std::vector<uint16_t>& w, int64_t n, int64_t r) {
  std::vector<uint16_t> out(w.size());
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t c = 0; c < r; ++c) out[static_cast<size_t>(c * n + i)] = w[static_cast<size_t>(i * r + c)];
  }
  return out;
}

// Codes without zero points, as the GPU's group kernels read them.
inline std::vector<int8_t> Effective(const QuantizedOperands& o) {
  std::vector<int8_t> codes = o.codes;
  const QuantizedCase& c = o.shape;
  for (size_t i = 0; i < codes.size() && !o.w_zero.empty(); ++i) {
    const size_t row = i / static_cast<size_t>(c.k), k = i % static_cast<size_t>(c.k);
    codes[i] = static_cast<int8_t>(
        codes[i] - o.w_zero[row * static_cast<size_t>(c.k / c.group) + k / static_cast<size_t>(c.group)]);
  }
  return codes;
}

// [rows, r] -> [rows, KeptColumns(r)] in bf16.
template <typename T>
std::vector<uint16_t> KeptRows(const std::vector<T>& values, int64_t rows, int64_t r) {
  const int64_t columns = matmul_f32_s8r_s8c::KeptColumns(r);
  std::vector<uint16_t> out(static_cast<size_t>(rows * columns), 0);
  for (int64_t i = 0; i < rows * r; ++i) {
    const T v = values[static_cast<size_t>(i)];
    if constexpr (std::is_same_v<T, float>) {
      out[static_cast<size_t>(i / r * columns + i % r)] = FloatToBf16(v);
    } else {
      out[static_cast<size_t>(i / r * columns + i % r)] = v;
    }
  }
  return out;
}

// What outputs of these cases are off by at the most where the tensor cores add kept columns. TailBound() is
// the worst case of any operands, 8 times as much for 64 columns; sums of thousands of times each product, as
// no case has, come to a third of that.
inline std::vector<double> KeptTolerance(const QuantizedOperands& o, const std::vector<float>& expected) {
  const QuantizedCase& c = o.shape;
  std::vector<double> tolerance;
  for (int64_t i = 0; i < c.m * c.n; ++i) {
    double size = std::abs(double{expected[static_cast<size_t>(i)]});
    for (int64_t k = 0; k < c.num_kept; ++k) {
      size += 2 * std::abs(double{o.kept_x[static_cast<size_t>(i / c.n * c.num_kept + k)]} *
                           double{Bf16ToFloat(o.kept_w[static_cast<size_t>(i % c.n * c.num_kept + k)])});
    }
    if (!o.bias.empty()) size += 2 * std::abs(double{o.bias[static_cast<size_t>(i % c.n)]});
    for (size_t s = 0; s < o.super_row.size(); ++s) {
      if (o.super_row[s] != i % c.n) continue;
      size += 2 * std::abs(double{o.super_value[s]} *
                           o.super_x[static_cast<size_t>(i / c.n * c.num_super + o.super_slot[s])]);
    }
    tolerance.push_back(size * 0x1p-22 * static_cast<double>(std::max<int64_t>(4, (c.num_kept + 15) / 16)));
  }
  return tolerance;
}

inline const cuda::DeviceInfo& TheDevice() {
  static const absl::StatusOr<cuda::DeviceInfo> device = cuda::QueryDevice();
  cuda::Ok(device.status());
  return *device;
}

}  // namespace spikefold::kernels
