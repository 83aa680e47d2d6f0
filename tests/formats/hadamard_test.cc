#include "formats/base/hadamard.h"

#include <catch2/catch.hpp>
#include <numeric>
#include <string>

#include "formats/base/hash.h"

namespace spikefold {
namespace {

// Largest |H * H^T - order * I|.
int64_t Defect(const std::vector<int8_t>& h, int64_t n) {
  int64_t worst = 0;
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      int64_t dot = 0;
      for (int64_t k = 0; k < n; ++k) {
        dot += h[static_cast<size_t>(i * n + k)] * h[static_cast<size_t>(j * n + k)];
      }
      worst = std::max(worst, std::abs(dot - (i == j ? n : 0)));
    }
  }
  return worst;
}

int64_t Product(const std::vector<int64_t>& factors) {
  return std::accumulate(factors.begin(), factors.end(), int64_t{1}, std::multiplies<>());
}

TEST_CASE("Every Hadamard table satisfies H * H^T = n * I in integers, and one wrong sign shows") {
  int num_tables = 0;
  for (int64_t n = 1; n <= kMaxHadamardOrder; ++n) {
    if (!HasHadamardTable(n)) continue;
    ++num_tables;
    INFO("order " << n);
    std::vector<int8_t> h = HadamardTable(n);
    for (const int8_t v : h) REQUIRE((v == 1 || v == -1));
    REQUIRE(Defect(h, n) == 0);
    if (n < 3) continue;
    h[static_cast<size_t>(n + 1)] *= -1;
    CHECK(Defect(h, n) > 0);
  }
  CHECK(num_tables == 45);
  for (const int64_t n : {12, 20, 28, 36, 44, 52, 60, 76, 92, 108, 140, 148, 172}) CHECK(HasHadamardTable(n));
  for (const int64_t n : {0, 3, 9, 100, 116, 156, 188, 512}) CHECK_FALSE(HasHadamardTable(n));
}

// Part of the format: files store orders, not matrices. tests/data/make/hadamard_digest.py builds the same
// tables by other means.
TEST_CASE("The matrix of an order never changes") {
  std::string all;
  for (int64_t n = 1; n <= kMaxHadamardOrder; ++n) {
    if (HasHadamardTable(n))
      all.append(reinterpret_cast<const char*>(HadamardTable(n).data()), static_cast<size_t>(n * n));
  }
  CHECK(Sha256Hex(all) == "58a06a7730b6180947bbed7dac4d00f7e30f1c0c4f33e30ba981d03179a36ad3");
}

TEST_CASE("Widths of published models have a full Hadamard matrix, cheap factors first") {
  CHECK(HadamardFactors(576) == std::vector<int64_t>{12, 12, 4});
  CHECK(HadamardFactors(640) == std::vector<int64_t>{20, 32});
  CHECK(HadamardFactors(1536) == std::vector<int64_t>{12, 128});
  CHECK(HadamardFactors(2048) == std::vector<int64_t>{2048});
  CHECK(HadamardFactors(11008) == std::vector<int64_t>{172, 64});
  CHECK(HadamardFactors(14336) == std::vector<int64_t>{28, 512});
  CHECK(HadamardFactors(6912) == std::vector<int64_t>{12, 12, 12, 4});
  CHECK(HadamardFactors(96) == std::vector<int64_t>{12, 8});
  for (const int64_t n :
       {896,  960,  1152,  2304,  2560,  3072,  3584,  3840,  4096,  4864,  5120,  5376,  5632, 6656,
        8960, 9728, 10240, 13824, 17408, 17920, 18944, 21504, 25600, 27648, 28672, 29568, 53248}) {
    INFO(n);
    const std::vector<int64_t> factors = HadamardFactors(n);
    REQUIRE_FALSE(factors.empty());
    CHECK(Product(factors) == n);
  }
}

TEST_CASE("A width without a Hadamard matrix falls back to the largest blocks that have one") {
  for (const int64_t n : {3, 9, 18, 47 * 64}) CHECK(HadamardFactors(n).empty());
  CHECK(HadamardBlockFactors(9) == std::vector<int64_t>{1});
  CHECK(HadamardBlockFactors(18) == std::vector<int64_t>{2});
  CHECK(HadamardBlockFactors(47 * 64) == std::vector<int64_t>{64});
  CHECK(HadamardBlockFactors(36) == std::vector<int64_t>{36, 1});
}

}  // namespace
}  // namespace spikefold
