#include "formats/ggml_scales.h"

#include <cstring>

#include "formats/base/dtype.h"

// Layouts of the bytes: gguf_blocks.cc.

namespace spikefold {
namespace {

constexpr GgmlScaleLayout kLayouts[] = {
    {GgmlType::kQ4_0, 32, 32, -8, 7, false, 1, 1},     {GgmlType::kQ4_1, 32, 32, 0, 15, true, 1, 1},
    {GgmlType::kQ5_0, 32, 32, -16, 15, false, 1, 1},   {GgmlType::kQ5_1, 32, 32, 0, 31, true, 1, 1},
    {GgmlType::kQ8_0, 32, 32, -127, 127, false, 1, 1}, {GgmlType::kQ4_K, 256, 32, 0, 15, true, 0, 63},
    {GgmlType::kQ5_K, 256, 32, 0, 31, true, 0, 63},    {GgmlType::kQ6_K, 256, 16, -32, 31, false, -128, 127},
};

uint8_t* StoreHalf(float value, uint8_t* out) {
  const uint16_t half = FloatToF16(value);
  std::memcpy(out, &half, 2);
  return out + 2;
}

int Code(const GgmlScaleLayout& layout, const int8_t* codes, int i) { return codes[i] - layout.lo; }

void PackQ8_0(const int8_t* codes, uint8_t* out) { std::memcpy(out, codes, 32); }

// Fifth bits, if there are some, then the low four: elements j and j + 16 share byte j.
void PackFourOrFive(const GgmlScaleLayout& layout, const int8_t* codes, uint8_t* out) {
  if (layout.hi - layout.lo == 31) {
    uint32_t high = 0;
    for (int j = 0; j < 32; ++j) high |= static_cast<uint32_t>(Code(layout, codes, j) >> 4) << j;
    std::memcpy(out, &high, 4);
    out += 4;
  }
  for (int j = 0; j < 16; ++j) {
    const int low = Code(layout, codes, j) & 15, high = Code(layout, codes, j + 16) & 15;
    out[j] = static_cast<uint8_t>(low | high << 4);
  }
}

// Eight pairs of 6 bits in 12 bytes.
void PackScaleMin(const GgmlBlockScales& scales, uint8_t* out) {
  for (int j = 0; j < 4; ++j) {
    const int top_scale = scales.scale[j + 4] >> 4, top_min = scales.minimum[j + 4] >> 4;
    out[j] = static_cast<uint8_t>(scales.scale[j] | top_scale << 6);
    out[j + 4] = static_cast<uint8_t>(scales.minimum[j] | top_min << 6);
    out[j + 8] = static_cast<uint8_t>((scales.scale[j + 4] & 15) | (scales.minimum[j + 4] & 15) << 4);
  }
}

void PackQ4KOrQ5K(const GgmlScaleLayout& layout, const GgmlBlockScales& scales, const int8_t* codes,
                  uint8_t* out) {
  out = StoreHalf(scales.m, StoreHalf(scales.d, out));
  PackScaleMin(scales, out);
  out += 12;
  if (layout.hi == 31) {
    for (int j = 0; j < 32; ++j) {
      int bits = 0;
      for (int g = 0; g < 8; ++g) bits |= (codes[32 * g + j] >> 4) << g;
      out[j] = static_cast<uint8_t>(bits);
    }
    out += 32;
  }
  for (int pair = 0; pair < 4; ++pair) {
    const int8_t* from = codes + 64 * pair;
    for (int j = 0; j < 32; ++j) {
      out[32 * pair + j] = static_cast<uint8_t>((from[j] & 15) | (from[32 + j] & 15) << 4);
    }
  }
}

void PackQ6K(const GgmlScaleLayout& layout, const GgmlBlockScales& scales, const int8_t* codes,
             uint8_t* out) {
  for (int half = 0; half < 2; ++half) {
    const int8_t* from = codes + 128 * half;
    for (int j = 0; j < 64; ++j) {
      const int low = Code(layout, from, j) & 15, high = Code(layout, from, j + 64) & 15;
      out[64 * half + j] = static_cast<uint8_t>(low | high << 4);
    }
    for (int j = 0; j < 32; ++j) {
      int bits = 0;
      for (int quarter = 0; quarter < 4; ++quarter) {
        bits |= Code(layout, from, j + 32 * quarter) >> 4 << (2 * quarter);
      }
      out[128 + 32 * half + j] = static_cast<uint8_t>(bits);
    }
  }
  std::memcpy(out + 192, scales.scale, 16);
  StoreHalf(scales.d, out + 208);
}

}  // namespace

const GgmlScaleLayout* FindGgmlScaleLayout(GgmlType type) {
  for (const GgmlScaleLayout& layout : kLayouts) {
    if (layout.type == type) return &layout;
  }
  return nullptr;
}

void PackGgmlBlock(const GgmlScaleLayout& layout, const GgmlBlockScales& scales, const int8_t* codes,
                   char* out) {
  uint8_t* bytes = reinterpret_cast<uint8_t*>(out);
  if (layout.type == GgmlType::kQ6_K) return PackQ6K(layout, scales, codes, bytes);
  if (layout.integer_scales()) return PackQ4KOrQ5K(layout, scales, codes, bytes);
  bytes = StoreHalf(scales.d, bytes);
  if (layout.offsets) bytes = StoreHalf(scales.m, bytes);
  if (layout.type == GgmlType::kQ8_0) return PackQ8_0(codes, bytes);
  PackFourOrFive(layout, codes, bytes);
}

}  // namespace spikefold
