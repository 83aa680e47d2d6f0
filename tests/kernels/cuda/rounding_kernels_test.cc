// What GPTQ multiplies and factors with.
#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/cholesky_f64/cholesky_f64_cuda.h"
#include "kernels/kernel_check.h"
#include "kernels/matmul_f32_f32_f32/matmul_f32_f32_f32.h"
#include "kernels/matmul_f32_f32_f32/matmul_f32_f32_f32_ordered_cuda.h"
#include "tests/kernels/cuda/cuda_kit.h"

namespace spikefold::kernels {
namespace {

using cuda::Array;
using cuda::Ok;
using cuda::TheStream;
namespace f32 = matmul_f32_f32_f32;

// Rows of `columns` values `stride` apart; between them `gap`.
std::vector<float> Strided(const std::vector<float>& values, int64_t columns, int64_t stride, float gap) {
  const int64_t rows = static_cast<int64_t>(values.size()) / columns;
  std::vector<float> out(static_cast<size_t>(rows * stride), gap);
  for (int64_t r = 0; r < rows; ++r)
    std::copy_n(values.data() + r * columns, columns, out.data() + r * stride);
  return out;
}

TEST_CASE("Ordered products are sums fused within blocks of columns, block behind block", "[gpu][matmul]") {
  CheckReport report;
  uint64_t seed = 1;
  struct Case {
    int64_t m, n, k;
    bool adds = false;
  };
  for (const Case& c : std::vector<Case>{{1, 1, 1},
                                         {3, 5, 64, true},
                                         {64, 64, 65},
                                         {65, 130, 63, true},
                                         {129, 127, 200},
                                         {200, 300, 1027, true},
                                         {70, 33, 4096}}) {
    const int64_t x_stride = (c.k + 3) / 4 * 4 + 8, w_stride = (c.k + 3) / 4 * 4, y_stride = c.n + 3;
    const std::vector<float> x = RandomFloats(c.m * c.k, seed++), w = RandomFloats(c.n * c.k, seed++),
                             y = RandomFloats(c.m * c.n, seed++);
    std::vector<float> expected = Strided(y, c.n, y_stride, 7);
    for (int64_t r = 0; r < c.m; ++r) {
      for (int64_t n = 0; n < c.n; ++n) {
        float& out = expected[static_cast<size_t>(r * y_stride + n)];
        if (!c.adds) out = 0;
        for (int64_t begin = 0; begin < c.k; begin += f32::kSumBlock) {
          float sum = 0;
          for (int64_t k = begin; k < std::min(c.k, begin + f32::kSumBlock); ++k) {
            sum = std::fma(x[static_cast<size_t>(r * c.k + k)], w[static_cast<size_t>(n * c.k + k)], sum);
          }
          out += sum;
        }
      }
    }
    for (const bool wrong : {false, true}) {
      std::vector<float> used = w;
      if (wrong) used.back() = -used.back();
      const Array<float> device_x(Strided(x, c.k, x_stride, 0)), device_w(Strided(used, c.k, w_stride, 3)),
          device_y(Strided(y, c.n, y_stride, 7));
      Ok(f32::RunOrderedCuda({.m = c.m,
                              .n = c.n,
                              .k = c.k,
                              .x = device_x.data(),
                              .x_stride = x_stride,
                              .w = device_w.data(),
                              .w_stride = w_stride,
                              .y = device_y.data(),
                              .y_stride = y_stride,
                              .adds = c.adds},
                             TheStream()));
      const std::vector<float> actual = device_y.Read();
      if (wrong) {
        CHECK(actual != expected);
      } else {
        report.CompareExact(absl::StrCat("M=", c.m, " N=", c.n, " K=", c.k), actual, expected);
      }
    }
  }
  INFO(report.detail);
  CHECK(report.ok());
}

// The largest |A - L L^T| as a share of what rounding may leave of it, gamma(n + 1) |L| |L|^T (Higham,
// Accuracy and Stability of Numerical Algorithms, theorem 10.3). Infinite where L has no positive diagonal.
double Residual(const std::vector<double>& a, const std::vector<double>& l, int64_t n, int64_t stride) {
  const double unit = 0x1p-53 * static_cast<double>(n + 1), gamma = unit / (1 - unit);
  double worst = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (!(l[static_cast<size_t>(i * stride + i)] > 0)) return std::numeric_limits<double>::infinity();
    for (int64_t j = 0; j <= i; ++j) {
      long double sum = 0, size = 0;
      for (int64_t k = 0; k <= j; ++k) {
        const long double product = static_cast<long double>(l[static_cast<size_t>(i * stride + k)]) *
                                    l[static_cast<size_t>(j * stride + k)];
        sum += product;
        size += std::abs(product);
      }
      const double difference = std::abs(static_cast<double>(a[static_cast<size_t>(i * stride + j)] - sum));
      worst = std::max(worst, difference / (gamma * static_cast<double>(size)));
    }
  }
  return worst;
}

TEST_CASE("A factor on a GPU gives its matrix back to float64's last bits", "[gpu]") {
  for (const auto& [n, gap] : std::vector<std::pair<int64_t, int64_t>>{
           {1, 0}, {2, 3}, {31, 1}, {64, 0}, {65, 7}, {200, 0}, {515, 5}}) {
    CAPTURE(n, gap);
    const int64_t stride = n + gap;
    // Products of random rows, of sizes that differ by thousands.
    const std::vector<float> b = RandomFloats(n * (n + 2), static_cast<uint64_t>(n));
    std::vector<double> a(static_cast<size_t>(n * stride), 5);
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        double sum = 0;
        for (int64_t k = 0; k < n + 2; ++k) {
          sum += double{b[static_cast<size_t>(i * (n + 2) + k)]} * b[static_cast<size_t>(j * (n + 2) + k)];
        }
        a[static_cast<size_t>(i * stride + j)] =
            sum * std::exp2(static_cast<double>(i % 13) + static_cast<double>(j % 13));
      }
    }
    const Array<double> matrix(a);
    const Array<int> failed(std::vector<int>{0});
    Ok(cholesky_f64::RunCuda({.n = n, .stride = stride, .a = matrix.data(), .failed = failed.data()},
                             TheStream()));
    std::vector<double> l = matrix.Read();
    CHECK(failed.Read()[0] == 0);
    CHECK(Residual(a, l, n, stride) <= 1);
    l[static_cast<size_t>((n - 1) * stride + n / 2)] *= 1 + 1e-9;  // the canary
    CHECK(Residual(a, l, n, stride) > 1);
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = n; j < stride; ++j) REQUIRE(l[static_cast<size_t>(i * stride + j)] == 5);
    }

    a[static_cast<size_t>((n - 1) * stride + n - 1)] *= -1;  // seen in the last column alone
    const Array<double> indefinite(a);
    Ok(cholesky_f64::RunCuda({.n = n, .stride = stride, .a = indefinite.data(), .failed = failed.data()},
                             TheStream()));
    CHECK(failed.Read()[0] == 1);
  }
}

}  // namespace
}  // namespace spikefold::kernels
