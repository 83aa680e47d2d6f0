// Runs of 64 codes as operands of m16n8k16 in f16 (kernels/kv_page.h says how a run is packed).
//
// A page's keys and values are the left operand: 16 rows of an m-tile are positions (of keys) or channels (of
// values), pairs along k are two channels or two positions, so a register takes its halves from two runs.
// Lane (g, t) reads the codes of rows g and g + 8 of all four m-tiles of a run at once. Which of the run's 64
// places is row r of tile i is free, as long as everybody agrees: Place(i, r).
//
// Codes are not converted: as bits of an f16 they are a subnormal number, a multiple of 1 / Unit(i) in tile
// i, which tensor cores multiply exactly. Which of 16 channels lane t holds as its e-th is Channel(e, t).
#pragma once

#include <cuda_fp16.h>

#include <cstdint>

namespace spikefold::kernels::attention_f32_f32_ukv {

__device__ inline uint32_t Bits(__half2 h) { return *reinterpret_cast<const uint32_t*>(&h); }
__device__ inline __half2 Halves(uint32_t bits) { return *reinterpret_cast<const __half2*>(&bits); }

// Which of the two places that a lane holds is row g and which row g + 8, as selectors of half words.
struct RowOrder {
  uint32_t first = 0x5410, second = 0x7632;
};

// Half of each: a's is the low one.
__device__ inline uint32_t LowHalves(uint32_t a, uint32_t b) { return __byte_perm(a, b, 0x5410); }
__device__ inline uint32_t HighHalves(uint32_t a, uint32_t b) { return __byte_perm(a, b, 0x7632); }

template <int kBits>
struct UkvCodes;

template <>
struct UkvCodes<4> {
  static constexpr int kWords = 1, kRunBytes = 32;
  static constexpr int kSwizzleShift = 3;  // bits of a position that lanes of a load differ in, from here
  static constexpr int kSwizzleMask = 1;
  // Rows g and g + 8: lanes 2g and 2g + 1 of the run, by turns, so that the four positions of a load are even
  // and odd ones.
  static constexpr bool kAlternates = true;
  __device__ static int Place(int tile, int row) {
    const int g = row % 8, high = row / 8;
    return 16 * tile + 2 * g + (high ^ (g >> 1 & 1));
  }
  __device__ static int Offset(int g) { return 4 * g; }  // of a lane's words in a run
  __device__ static void Load(const char* at, uint32_t (&w)[kWords]) {
    w[0] = *reinterpret_cast<const uint32_t*>(at);
  }
  // Neighbours in pairs, so that their scales, turns and queries are read together: lanes that meet in a bank
  // cost less.
  static constexpr bool kPairs = true;
  __device__ static int Channel(int e, int t) { return 8 * (e / 2) + 2 * t + e % 2; }
  // The codes of rows g and g + 8 of tile i in runs a and b, where they lie: one shift for four tiles.
  __host__ __device__ static constexpr float Unit(int tile) { return tile % 2 == 0 ? 0x1p24f : 0x1p20f; }
  __device__ static void Split(const uint32_t (&a)[kWords], const uint32_t (&b)[kWords], int i,
                               const RowOrder& order, uint32_t& first, uint32_t& second) {
    const uint32_t mask = i % 2 == 0 ? 0x000f000fu : 0x00f000f0u;
    first = __byte_perm(a[0], b[0], order.first) >> (i / 2 * 8) & mask;
    second = __byte_perm(a[0], b[0], order.second) >> (i / 2 * 8) & mask;
  }
};
template <>
struct UkvCodes<8> {
  static constexpr int kWords = 2, kRunBytes = 64;
  static constexpr bool kPairs = false;
  static constexpr int kSwizzleShift = 4, kSwizzleMask = 3;
  static constexpr bool kAlternates = false;
  __device__ static int Place(int tile, int row) { return 8 * (row % 8) + 2 * tile + row / 8; }
  __device__ static int Offset(int g) { return 8 * g; }
  __device__ static void Load(const char* at, uint32_t (&w)[kWords]) {
    const uint2 both = *reinterpret_cast<const uint2*>(at);
    w[0] = both.x;
    w[1] = both.y;
  }
  __device__ static int Channel(int e, int t) { return 4 * e + t; }
  __host__ __device__ static constexpr float Unit(int) { return 0x1p24f; }
  __device__ static void Split(const uint32_t (&a)[kWords], const uint32_t (&b)[kWords], int i,
                               const RowOrder&, uint32_t& first, uint32_t& second) {
    const uint32_t four = i % 2 == 0 ? LowHalves(a[i / 2], b[i / 2]) : HighHalves(a[i / 2], b[i / 2]);
    first = four & 0x00ff00ffu;
    second = four >> 8 & 0x00ff00ffu;
  }
};
template <>
struct UkvCodes<16> {
  static constexpr int kWords = 4, kRunBytes = 128;
  static constexpr bool kPairs = false;
  static constexpr int kSwizzleShift = 2, kSwizzleMask = 3;
  static constexpr bool kAlternates = false;
  __device__ static int Place(int tile, int row) { return 16 * tile + 2 * (row % 8) + row / 8; }
  __device__ static int Offset(int g) { return 4 * g; }
  __device__ static void Load(const char* at, uint32_t (&w)[kWords]) {
#pragma unroll
    for (int i = 0; i < kWords; ++i) w[i] = *reinterpret_cast<const uint32_t*>(at + 32 * i);
  }
  __device__ static int Channel(int e, int t) { return 4 * e + t; }
  __host__ __device__ static constexpr float Unit(int) { return 1; }
  __device__ static void Split(const uint32_t (&a)[kWords], const uint32_t (&b)[kWords], int i,
                               const RowOrder&, uint32_t& first, uint32_t& second) {
    first = LowHalves(a[i], b[i]);
    second = HighHalves(a[i], b[i]);
  }
};

}  // namespace spikefold::kernels::attention_f32_f32_ukv
