// How far a tensor core's sum of kept columns may be from the CPU's.
#include "kernels/outlier_tail.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "catch2/catch.hpp"

namespace spikefold::kernels {
namespace {

double Truncated(double v, int bits_below, double to) {
  if (to == 0) return 0;
  const double unit = std::ldexp(1.0, std::ilogb(to) - 23 - bits_below);
  return std::trunc(v / unit) * unit;
}
// As Hopper adds, 16 products at once (TailBound() says whose model it is).
float TensorCore(float sum, const std::vector<float>& products) {
  for (size_t first = 0; first < products.size(); first += 16) {
    const size_t end = std::min(products.size(), first + 16);
    double largest = std::abs(sum);
    for (size_t i = first; i < end; ++i) largest = std::max(largest, std::abs(double{products[i]}));
    double all = Truncated(sum, 2, largest);
    for (size_t i = first; i < end; ++i) all += Truncated(products[i], 2, largest);
    sum = static_cast<float>(Truncated(all, 0, all));
  }
  return sum;
}
// Their difference with a bias behind them, as a share of what TailBound() allows.
double Share(float sum, const std::vector<float>& products, float bias) {
  float one_by_one = sum;
  double size = std::abs(double{sum}) + std::abs(double{bias});
  for (const float p : products) {
    one_by_one += p;
    size += std::abs(double{p});
  }
  const float on_tensor_core = TensorCore(sum, products) + bias;
  return std::abs(double{on_tensor_core} - (one_by_one + bias)) /
         (size * TailBound(static_cast<int64_t>(products.size())));
}

TEST_CASE("Kept columns on a tensor core stay within their bound", "[matmul]") {
  std::mt19937_64 random(7);
  std::normal_distribution<float> normal;
  double worst = 0;
  for (const size_t count : {1, 16, 64, 304, 832}) {
    for (const float big : {0.0f, 1.0f, 100.0f, 5000.0f}) {
      for (int round = 0; round < 500; ++round) {
        std::vector<float> products(count);
        for (float& p : products) p = normal(random);
        worst = std::max(worst, Share(big * normal(random), products, normal(random)));
      }
    }
    // One and the same product again and again: what roundings lose adds up. Fractions of the last place.
    for (double fraction = 0.01; fraction < 4; fraction += 0.01) {
      for (const double sign : {-1.0, 1.0}) {
        const auto product = static_cast<float>(sign * fraction * 0x1p-23);
        worst = std::max(worst, Share(1, std::vector<float>(count, product), 0));
      }
    }
  }
  CHECK(worst <= 1);
  CHECK(worst > 0.45);  // half of it is reached
}

}  // namespace
}  // namespace spikefold::kernels
