// AMX's eight tile registers, 16 rows of 64 bytes each. Only *_avx512amx.cc files include this: everything is
// in an anonymous namespace. Intel SDM, volume 1, chapter 18.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace spikefold::kernels {
namespace {

constexpr int64_t kTileRows = 16, kTileBytes = 64;

// Full tiles as long as it lives. Threads call it once a chunk: loading the configuration zeroes the tiles
// and takes some tens of nanoseconds; releasing them keeps context switches short.
class FullTiles {
 public:
  FullTiles() {
    struct alignas(64) {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {};
      uint8_t rows[16] = {};
    } config;
    for (int i = 0; i < 8; ++i) {
      config.row_bytes[i] = kTileBytes;
      config.rows[i] = kTileRows;
    }
    asm volatile("" : : "m"(config) : "memory");  // GCC 12 does not say that all of it is read
    _tile_loadconfig(&config);
  }
  ~FullTiles() { _tile_release(); }
  FullTiles(const FullTiles&) = delete;
  FullTiles& operator=(const FullTiles&) = delete;
};

}  // namespace
}  // namespace spikefold::kernels
