// How weights are packed for GPUs, which is done on the host.
#include <cstdint>
#include <vector>

#include "catch2/catch.hpp"
#include "kernels/kernel_check.h"
#include "kernels/matmul_f32_f32_s4g/matmul_f32_f32_s4g_cuda.h"
#include "kernels/matmul_f32_s8r_u4h/matmul_f32_s8r_u4h_cuda.h"

namespace spikefold::kernels {
namespace {

namespace s4g = matmul_f32_f32_s4g;
namespace u4h = matmul_f32_s8r_u4h;

TEST_CASE("Each code, scale and zero point lies where the tensor cores' lanes look for it",
          "[matmul][pack]") {
  constexpr int64_t kN = 40, kK = 192, kGroup = 64, kTiles = kK / 64;
  std::vector<int8_t> codes(kN * kK), zeros(kN * kTiles);
  std::vector<float> scales(kN * kTiles);
  for (size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<int8_t>(i * 7 / 3 % 16) - 8;
  for (size_t i = 0; i < zeros.size(); ++i) {
    zeros[i] = static_cast<int8_t>(i * 5 % 16) - 8;
    scales[i] = static_cast<float>(i + 1);
  }
  const s4g::Packed packed =
      s4g::Pack({.n = kN, .k = kK, .group = kGroup, .codes = codes, .scales = scales, .zeros = zeros});
  // As mma.m16n8k16 has its left operand: register q of lane 4 g + t holds channel g + 8 (q % 2), columns 2 t
  // and 2 t + 1 of the half q / 2 of the instruction's 16. Column 2 t + i of half h is column 4 t + 2 h + i
  // of W, on both sides; register q of a word is its nibbles q and q + 4.
  size_t wrong = 0;
  for (int64_t n = 0; n < 48; ++n) {
    for (int64_t k = 0; k < kK; ++k) {
      const int64_t tile = n / 16 * kTiles + k / 64, g = n % 8, high = n % 16 / 8;
      const int64_t j = k % 64 / 16, t = k % 16 / 4, h = k % 4 / 2, i = k % 2;
      const uint32_t word = packed.codes[static_cast<size_t>((tile * 32 + g * 4 + t) * 4 + j)];
      const int64_t q = high + 2 * h;
      const int code = static_cast<int>(word >> (4 * (q + 4 * i)) & 15) - 8;
      const size_t at = static_cast<size_t>(tile * 16 + g * 2 + high),
                   from = static_cast<size_t>(n * kTiles + k / 64);
      const bool inside = n < kN;
      wrong += code != (inside ? codes[static_cast<size_t>(n * kK + k)] : 0);
      wrong += packed.scales[at] != (inside ? scales[from] : 0.0f);
      wrong += packed.zeros[at] - 8 != (inside ? zeros[from] : 0);
    }
  }
  CHECK(wrong == 0);
  // Beside digits, as mma.m16n8k32 on bytes: a word's low nibbles are channel g, its high ones g + 8, of
  // columns 4 t, 4 t + 2, 4 t + 1 and 4 t + 3. Turned around and in the high half of a byte a nibble is 16
  // times the code, with its sign.
  constexpr int64_t kColumnOfByte[] = {0, 2, 1, 3};
  for (int64_t n = 0; n < kN; ++n) {
    for (int64_t k = 0; k < kK; k += 4) {
      const int64_t tile = n / 16 * kTiles + k / 64, lane = n % 8 * 4 + k % 16 / 4;
      const uint32_t word = packed.codes[static_cast<size_t>((tile * 32 + lane) * 4 + k % 64 / 16)];
      const uint32_t bytes = ((n % 16 < 8 ? word << 4 : word) ^ 0x88888888u) & 0xf0f0f0f0u;
      for (int64_t b = 0; b < 4; ++b) {
        const auto signed_byte = static_cast<int8_t>(bytes >> (8 * b) & 0xff);
        wrong += signed_byte != 16 * codes[static_cast<size_t>(n * kK + k + kColumnOfByte[b])];
      }
    }
  }
  CHECK(wrong == 0);
}

TEST_CASE("Codes in two levels are packed so that each is found again", "[matmul][pack]") {
  constexpr int64_t kGroup = 64;
  uint64_t seed = 3;
  for (const int64_t n : {1, 8, 15, 64, 70, 200}) {
    for (const int64_t k : {64, 128, 192, 320}) {
      for (const bool has_zeros : {false, true}) {
        const std::vector<int8_t> codes = RandomCodes(n * k, -8, 7, ++seed);
        const std::vector<int8_t> zeros = RandomCodes(has_zeros ? n * k / kGroup : 0, -8, 7, ++seed);
        std::vector<uint8_t> factors;
        for (const int8_t f : RandomCodes(n * k / kGroup, 1, 8, ++seed)) {
          factors.push_back(static_cast<uint8_t>(f));  // 8 times 15 is a byte
        }
        const std::vector<uint8_t> packed =
            u4h::Pack({.n = n, .k = k, .group = kGroup, .codes = codes, .factors = factors, .zeros = zeros});
        int64_t wrong = 0;
        for (int64_t i = 0; i < n * k; ++i) {
          const auto at = static_cast<size_t>(i), group = static_cast<size_t>(i / kGroup);
          const int whole = (codes[at] - (has_zeros ? zeros[group] : 0)) * factors[group];
          wrong += u4h::CodeAt(packed, n, i / k, i % k) != whole;
        }
        CHECK(wrong == 0);
        CHECK(packed.size() % u4h::kTileBytes == 0);
      }
    }
  }
}

}  // namespace
}  // namespace spikefold::kernels
