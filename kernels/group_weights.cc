#include "kernels/group_weights.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <vector>

#include "absl/strings/str_cat.h"
#include "formats/base/dtype.h"

namespace spikefold::kernels {
namespace {

constexpr int64_t kHeaderBytes = 64;  // keeps the blocks on cache lines
constexpr int64_t kLineBytes = 64;

struct Header {
  ScaleType type;
  uint32_t bits, has_zeros;
};

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

// First bit of the two low bits of quad q, and the bit of the high one of a channel of either half.
constexpr int kLowBits[4] = {0, 4, 2, 6};
constexpr int kHighBit[2][4] = {{2, 6, 1, 5}, {0, 4, 3, 7}};

// Code (unsigned) of k in [0, 16) of a unit, channel `lane` of the panel.
template <int bits>
void PutCode(uint8_t* unit, int64_t lane, int64_t k, int code) {
  const int64_t quad = k / 4, byte = k % 4;
  const auto put = [](uint8_t& at, int value, int shift) {
    at = static_cast<uint8_t>(at | static_cast<uint8_t>(value << shift));
  };
  if (bits == 8) {
    put(unit[quad * (kPanel * 4) + lane * 4 + byte], code, 0);
  } else if (bits == 4) {
    put(unit[quad / 2 * (kPanel * 4) + lane * 4 + byte], code, quad % 2 * 4);
  } else {
    put(unit[lane * 4 + byte], code & 3, kLowBits[quad]);
    if (bits == 3) put(unit[kPanel * 4 + lane % 16 * 4 + byte], code >> 2, kHighBit[lane / 16][quad]);
  }
}

template <int bits>
int GetCode(const uint8_t* unit, int64_t lane, int64_t k) {
  const int64_t quad = k / 4, byte = k % 4;
  if (bits == 8) return unit[quad * (kPanel * 4) + lane * 4 + byte];
  if (bits == 4) return (unit[quad / 2 * (kPanel * 4) + lane * 4 + byte] >> (quad % 2 * 4)) & 15;
  int code = (unit[lane * 4 + byte] >> kLowBits[quad]) & 3;
  if (bits == 3) code |= ((unit[kPanel * 4 + lane % 16 * 4 + byte] >> kHighBit[lane / 16][quad]) & 1) << 2;
  return code;
}

template <class F>
void WithBits(int bits, F&& f) {
  if (bits == 2) f(std::integral_constant<int, 2>{});
  if (bits == 3) f(std::integral_constant<int, 3>{});
  if (bits == 4) f(std::integral_constant<int, 4>{});
  if (bits == 8) f(std::integral_constant<int, 8>{});
}

template <int bits>
void PackCodes(const int8_t* codes, int64_t count, int64_t lane, uint8_t* units) {
  for (int64_t i = 0; i < count; ++i) {
    PutCode<bits>(units + i / kUnit * (kPanel * kUnit * bits / 8), lane, i % kUnit,
                  codes[i] + (1 << (bits - 1)));
  }
}

GroupView ViewOf(const GroupLayout& layout, void* packed) {
  const Header header{layout.scales, static_cast<uint32_t>(layout.bits), layout.zeros ? 1u : 0u};
  std::memset(packed, 0, kHeaderBytes);
  std::memcpy(packed, &header, sizeof(header));
  return GroupView(packed, layout.k, layout.group);
}

}  // namespace

ScaleType NarrowestScaleType(const float* scales, int64_t count) {
  const auto all = [&](auto fits) { return std::all_of(scales, scales + count, fits); };
  if (all([](float s) { return SameBits(s, F16ToFloat(FloatToF16(s))); })) return ScaleType::kF16;
  if (all([](float s) { return SameBits(s, Bf16ToFloat(FloatToBf16(s))); })) return ScaleType::kBf16;
  return ScaleType::kF32;
}

absl::Status CheckGroupLayout(absl::string_view kernel, const GroupLayout& l) {
  if (l.bits != 2 && l.bits != 3 && l.bits != 4 && l.bits != 8) {
    return absl::UnimplementedError(absl::StrCat(kernel, ": weights of ", l.bits, " bits; use 2, 3, 4 or 8"));
  }
  const bool row = l.group == l.k && l.k <= kMaxGroup;
  if (!row && (l.group < kUnit || l.group > kMaxShortGroup || l.group % kUnit != 0)) {
    return absl::UnimplementedError(absl::StrCat(kernel, ": group=", l.group,
                                                 " is not a multiple of 16 in [16, 256]; use 32, 64 or 128"));
  }
  if (l.k % l.group != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(kernel, ": K=", l.k, " is not a multiple of group=", l.group));
  }
  return absl::OkStatus();
}

GroupView::GroupView(const void* packed, int64_t k, int64_t group) {
  Header header;
  std::memcpy(&header, packed, sizeof(header));
  type = header.type;
  bits = static_cast<int>(header.bits);
  has_zeros = header.has_zeros != 0;
  num_groups = k / group;
  units = CeilDiv(group, kUnit);
  unit_bytes = kPanel * kUnit * bits / 8;
  scale_bytes = kPanel * ScaleBytes(type);
  group_bytes = scale_bytes + units * unit_bytes;
  zeros_at = group_bytes * num_groups;
  panel_bytes = zeros_at + (has_zeros ? CeilDiv(num_groups * kPanel, kLineBytes) * kLineBytes : 0);
  panels = static_cast<const uint8_t*>(packed) + kHeaderBytes;
}

size_t GroupPackedBytes(const GroupLayout& layout) {
  uint8_t header[kHeaderBytes];
  return static_cast<size_t>(kHeaderBytes + CeilDiv(layout.n, kPanel) * ViewOf(layout, header).panel_bytes);
}

GroupLayout LayoutOf(const GroupWeights& w) {
  return {.n = w.n,
          .k = w.k,
          .group = w.group,
          .bits = w.bits,
          .zeros = w.zeros != nullptr,
          .scales = NarrowestScaleType(w.scales, w.n * (w.k / w.group))};
}

void PackGroups(const GroupWeights& w, void* packed) {
  const GroupLayout layout = LayoutOf(w);
  const GroupView view = ViewOf(layout, packed);
  uint8_t* panels = static_cast<uint8_t*>(packed) + kHeaderBytes;
  std::memset(panels, 0, GroupPackedBytes(layout) - kHeaderBytes);
  const int half = 1 << (w.bits - 1);
  for (int64_t row = 0; row < w.n; ++row) {
    const int64_t lane = row % kPanel;
    uint8_t* panel = panels + row / kPanel * view.panel_bytes;
    for (int64_t g = 0; g < view.num_groups; ++g) {
      uint8_t* block = panel + g * view.group_bytes;
      StoreScale(view.type, w.scales[row * view.num_groups + g], block + lane * ScaleBytes(view.type));
      if (view.has_zeros) {
        panel[view.zeros_at + g * kPanel + lane] =
            static_cast<uint8_t>(w.zeros[row * view.num_groups + g] + half);
      }
      WithBits(w.bits, [&](auto bits) {
        PackCodes<bits>(w.codes + row * w.k + g * w.group, w.group, lane, block + view.scale_bytes);
      });
    }
  }
}

void UnpackGroupRow(const void* packed, int64_t k, int64_t group, int64_t row, float* out) {
  const GroupView view(packed, k, group);
  const int64_t lane = row % kPanel;
  for (int64_t g = 0; g < view.num_groups; ++g) {
    const uint8_t* panel = view.panels + row / kPanel * view.panel_bytes;
    float scales[kPanel];
    view.LoadScales(row / kPanel, g, scales);
    const int zero = view.has_zeros ? panel[view.zeros_at + g * kPanel + lane] : 1 << (view.bits - 1);
    const uint8_t* codes = panel + g * view.group_bytes + view.scale_bytes;
    WithBits(view.bits, [&](auto bits) {
      for (int64_t i = 0; i < group; ++i) {
        const int code = GetCode<bits>(codes + i / kUnit * view.unit_bytes, lane, i % kUnit);
        out[g * group + i] = static_cast<float>(code - zero) * scales[lane];
      }
    });
  }
}

void GroupView::LoadScales(int64_t panel, int64_t g, float* scales) const {
  const uint8_t* block = panels + panel * panel_bytes + g * group_bytes;
  if (type == ScaleType::kF32) {
    std::memcpy(scales, block, kPanel * sizeof(float));
    return;
  }
  uint16_t halves[kPanel];
  std::memcpy(halves, block, sizeof(halves));
  for (int64_t i = 0; i < kPanel; ++i) {
    scales[i] = type == ScaleType::kF16 ? F16ToFloat(halves[i]) : Bf16ToFloat(halves[i]);
  }
}

void GroupView::LoadCodes(int64_t panel, int64_t g, int16_t* codes) const {
  const uint8_t* at = panels + panel * panel_bytes;
  const uint8_t* units_at = at + g * group_bytes + scale_bytes;
  int zeros[kPanel];
  for (int64_t lane = 0; lane < kPanel; ++lane) {
    zeros[lane] = has_zeros ? at[zeros_at + g * kPanel + lane] : 1 << (bits - 1);
  }
  WithBits(bits, [&](auto width) {
    for (int64_t k = 0; k < units * kUnit; ++k) {
      for (int64_t lane = 0; lane < kPanel; ++lane) {
        const int code = GetCode<width>(units_at + k / kUnit * unit_bytes, lane, k % kUnit);
        codes[k * kPanel + lane] = static_cast<int16_t>(code - zeros[lane]);
      }
    }
  });
}

}  // namespace spikefold::kernels
