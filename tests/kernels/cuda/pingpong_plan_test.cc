// Which tiles a product of many rows takes.
#include "kernels/cuda/pingpong_plan.h"

#include <algorithm>
#include <cstdint>
#include <iterator>

#include "catch2/catch.hpp"
#include "kernels/matmul_f32_s8r_u4h/matmul_f32_s8r_u4h_cuda.h"

namespace spikefold::kernels::cuda::pingpong {
namespace {

constexpr int kSms = 132;

Plan Of(int64_t m, int64_t n, int64_t k_bytes, bool codes, bool wide = true) {
  Product product = {.m = m, .linears = {.count = 1}, .steps = k_bytes / 128, .codes = codes, .wide = wide};
  product.linears.linear[0].n = n;
  return PlanOf(product, kSms);
}
bool Is(const Plan& plan, int tile_m, int tile_n) { return plan.tile_m == tile_m && plan.tile_n == tile_n; }

TEST_CASE("Tiles are as large as leaves no multiprocessor idle", "[cuda]") {
  CHECK(Is(Of(128, 4096, 4096, true), 64, 64));
  CHECK(Is(Of(256, 4096, 4096, true), 64, 128));
  CHECK(Is(Of(256, 6144, 4096, true), 128, 128));
  CHECK(Is(Of(4096, 28672, 4096, true), 128, 128));
}

TEST_CASE("Long products take wide tiles, where there are any", "[cuda]") {
  CHECK(Is(Of(4096, 4096, 14336, true), 128, 256));
  CHECK(Is(Of(4096, 4096, 14336, true, false), 128, 128));
  CHECK(Is(Of(4096, 28672, 8192, false), 128, 256));
}

TEST_CASE("Linears of a site count together", "[cuda]") {
  Product product = {.m = 128, .linears = {.count = 3}, .steps = 32, .codes = true};
  for (int i = 0; i < 3; ++i) product.linears.linear[i].n = 4096;
  CHECK(Tiles(product.m, product.linears, {64, 64}) == 3 * 2 * 64);
  CHECK(Is(PlanOf(product, kSms), 128, 128));
}

TEST_CASE("4-bit codes in two levels take tiles that exist, large ones where K is long", "[cuda]") {
  namespace u4h = matmul_f32_s8r_u4h;
  const auto of = [](int64_t m, int64_t n, int64_t k) {
    LinearGroup linears = {.count = 1};
    linears.linear[0].n = n;
    return u4h::PlanMany(m, k, linears, kSms);
  };
  CHECK(Is(of(128, 4096, 4096), 64, 64));
  CHECK(Is(of(256, 4096, 4096), 128, 64));
  CHECK(Is(of(128, 28672, 4096), 128, 128));
  CHECK(Is(of(512, 4096, 4096), 256, 64));
  CHECK(Is(of(1024, 6144, 4096), 256, 64));  // 3 rounds of 1 where 256 x 128 has 2 of almost 2
  CHECK(Is(of(1024, 4096, 4096), 256, 128));
  CHECK(Is(of(768, 4096, 14336), 256, 128));
  for (const int64_t m : {1, 65, 300, 1024, 5000}) {
    for (const int64_t n : {1, 500, 4096, 28672}) {
      for (const int64_t k : {64, 4096, 14336}) {
        const Plan plan = of(m, n, k);
        CHECK(std::any_of(std::begin(u4h::kManyTiles), std::end(u4h::kManyTiles),
                          [&](const Plan& tiles) { return Is(plan, tiles.tile_m, tiles.tile_n); }));
      }
    }
  }
}

TEST_CASE("33 to 64 rows take tiles that fill the card, or with kept columns unless K is long", "[cuda]") {
  const uint16_t kept = 0;
  LinearGroup plain = {.count = 1}, keeps = {.count = 2};
  keeps.linear[1].kept_w = &kept;
  plain.linear[0].n = keeps.linear[0].n = 4096;
  CHECK_FALSE(BeatsFewRows(64, plain, 32, kSms));
  CHECK(BeatsFewRows(64, keeps, 32, kSms));
  CHECK(BeatsFewRows(64, keeps, 96, kSms));
  CHECK_FALSE(BeatsFewRows(64, keeps, 112, kSms));
  CHECK_FALSE(BeatsFewRows(32, keeps, 32, kSms));
  plain.linear[0].n = 6144;
  CHECK(BeatsFewRows(64, plain, 32, kSms));
  CHECK(BeatsFewRows(64, plain, 112, kSms));
  keeps.linear[0].n = 1024;
  CHECK_FALSE(BeatsFewRows(64, keeps, 64, kSms));
}

}  // namespace
}  // namespace spikefold::kernels::cuda::pingpong
