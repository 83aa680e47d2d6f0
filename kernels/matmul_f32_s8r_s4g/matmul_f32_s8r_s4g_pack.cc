#include <algorithm>
#include <bit>
#include <cstring>

#include "formats/base/dtype.h"
#include "kernels/matmul_f32_s8r_s4g/matmul_f32_s8r_s4g.h"
#include "kernels/numeric.h"

namespace spikefold::kernels::matmul_f32_s8r_s4g {
namespace {

constexpr int64_t kHeaderBytes = 64;  // keeps the blocks on cache lines; holds the ScaleType

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

int64_t ScaleBytes(ScaleType type) { return type == ScaleType::kF32 ? 4 : 2; }

bool SameBits(float a, float b) { return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b); }

void StoreScale(ScaleType type, float scale, uint8_t* out) {
  const uint16_t half = type == ScaleType::kF16 ? FloatToF16(scale) : FloatToBf16(scale);
  if (type == ScaleType::kF32) {
    std::memcpy(out, &scale, sizeof(scale));
  } else {
    std::memcpy(out, &half, sizeof(half));
  }
}

}  // namespace

ScaleType NarrowestScaleType(const float* scales, int64_t count) {
  const auto all = [&](auto fits) { return std::all_of(scales, scales + count, fits); };
  if (all([](float s) { return SameBits(s, F16ToFloat(FloatToF16(s))); })) return ScaleType::kF16;
  if (all([](float s) { return SameBits(s, Bf16ToFloat(FloatToBf16(s))); })) return ScaleType::kBf16;
  return ScaleType::kF32;
}

size_t PackedBytes(int64_t n, int64_t k, int64_t group, ScaleType type) {
  const int64_t channels = CeilDiv(n, kPanel) * kPanel;
  return static_cast<size_t>(kHeaderBytes + channels * (k / 2 + k / group * ScaleBytes(type)));
}

PackedView::PackedView(const void* packed, int64_t k, int64_t group) {
  std::memcpy(&type, packed, sizeof(type));
  scale_bytes = kPanel * ScaleBytes(type);
  group_bytes = scale_bytes + kPanel * group / 2;
  panel_bytes = group_bytes * (k / group);
  panels = static_cast<const uint8_t*>(packed) + kHeaderBytes;
}

void Pack(const int8_t* codes, const float* scales, int64_t n, int64_t k, int64_t group, void* packed) {
  const ScaleType type = NarrowestScaleType(scales, n * (k / group));
  auto* out = static_cast<uint8_t*>(packed);
  std::memset(out, 0, kHeaderBytes);
  std::memcpy(out, &type, sizeof(type));
  const PackedView view(packed, k, group);
  for (int64_t row = 0; row < CeilDiv(n, kPanel) * kPanel; ++row) {
    const int64_t lane = row % kPanel;
    for (int64_t g = 0; g < k / group; ++g) {
      uint8_t* block = out + kHeaderBytes + row / kPanel * view.panel_bytes + g * view.group_bytes;
      const float scale = row < n ? scales[row * (k / group) + g] : 0.0f;
      StoreScale(type, scale, block + lane * ScaleBytes(type));
      const int8_t* in = codes + row * k + g * group;
      uint8_t* bytes = block + view.scale_bytes + lane * 4;
      for (int64_t i = 0; i < group / 2; ++i) {
        const int64_t low = i / 4 * 8 + i % 4;
        bytes[i / 4 * (kPanel * 4) + i % 4] = row < n ? PackNibbles(in[low], in[low + 4]) : PackNibbles(0, 0);
      }
    }
  }
}

void LoadScales(const PackedView& view, const uint8_t* group, float* scales) {
  if (view.type == ScaleType::kF32) {
    std::memcpy(scales, group, kPanel * sizeof(float));
    return;
  }
  uint16_t halves[kPanel];
  std::memcpy(halves, group, sizeof(halves));
  for (int64_t i = 0; i < kPanel; ++i) {
    scales[i] = view.type == ScaleType::kF16 ? F16ToFloat(halves[i]) : Bf16ToFloat(halves[i]);
  }
}

void UnpackRow(const void* packed, int64_t, int64_t k, int64_t group, int64_t row, float* out) {
  const PackedView view(packed, k, group);
  const int64_t lane = row % kPanel;
  for (int64_t g = 0; g < k / group; ++g) {
    const uint8_t* block = view.panels + row / kPanel * view.panel_bytes + g * view.group_bytes;
    float scales[kPanel];
    LoadScales(view, block, scales);
    const uint8_t* bytes = block + view.scale_bytes + lane * 4;
    for (int64_t i = 0; i < group / 2; ++i) {
      const uint8_t pair = bytes[i / 4 * (kPanel * 4) + i % 4];
      float* at = out + g * group + i / 4 * 8 + i % 4;
      at[0] = static_cast<float>(LowNibble(pair)) * scales[lane];
      at[4] = static_cast<float>(HighNibble(pair)) * scales[lane];
    }
  }
}

}  // namespace spikefold::kernels::matmul_f32_s8r_s4g
