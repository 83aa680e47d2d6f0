#include "kernels/kv_page.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "formats/base/dtype.h"

namespace spikefold::kernels {
namespace {

constexpr int64_t kRun = 64, kLane = 16;
// Keys of a channel and page: with so few bits a narrower grid pays, although it clips. SmolLM2, keys alone,
// KLD over the range / narrowed: 2 bits .288 / .173, 3 bits .043 / .029, 4 bits .0077 / .0081. Values lose by
// it, and so do keys whose squared errors are made least: what is clipped is what is attended to.
constexpr int kNarrowBits = 3;

struct GroupScale {
  uint16_t scale = 0, min = 0;  // f16
};

// The f16 below or at `value`, above or at it.
uint16_t Step(uint16_t f16, bool up) {
  const bool negative = (f16 & 0x8000u) != 0;
  if ((f16 & 0x7fffu) == 0) return up ? 0x0001u : 0x8001u;
  return static_cast<uint16_t>(negative == up ? f16 - 1 : f16 + 1);
}
uint16_t F16AtMost(float value) {
  const uint16_t nearest = FloatToF16(value);
  return F16ToFloat(nearest) > value ? Step(nearest, false) : nearest;
}
uint16_t F16AtLeast(float value) {
  const uint16_t nearest = FloatToF16(value);
  return F16ToFloat(nearest) < value ? Step(nearest, true) : nearest;
}

// The narrowest grid of f16 scale and minimum that covers [low, high].
GroupScale GridOver(float low, float high, int bits) {
  const uint16_t min = F16AtMost(low);
  return {F16AtLeast((high - F16ToFloat(min)) / static_cast<float>((1 << bits) - 1)), min};
}

constexpr float kToInteger = 0x1.8p23f;  // adding and subtracting it rounds a small float, ties to even

// Sum of the errors' fourth powers.
float FourthPowerError(const float* x, int64_t n, int bits, const GroupScale& grid) {
  const float scale = F16ToFloat(grid.scale), min = F16ToFloat(grid.min);
  const float inverse = 1.0f / scale, top = static_cast<float>((1 << bits) - 1);
  constexpr int64_t kSums = 8;
  float sums[kSums] = {};
  for (int64_t i = 0; i < n; i += kSums) {
    for (int64_t l = 0; l < kSums; ++l) {
      const float u = std::min(std::max((x[i + l] - min) * inverse, 0.0f), top);
      const float error = ((u + kToInteger) - kToInteger) * scale + min - x[i + l];
      sums[l] += error * error * (error * error);
    }
  }
  return ((sums[0] + sums[4]) + (sums[1] + sums[5])) + ((sums[2] + sums[6]) + (sums[3] + sums[7]));
}

// Draws the ends of the range in, by steps of a twentieth of it, while the errors' fourth powers shrink. x:
// [64]
GroupScale NarrowGrid(const float* x, float low, float high, int bits) {
  const float step = (high - low) / 20;
  float ends[2] = {low, high};
  GroupScale best = GridOver(low, high, bits);
  if (!(F16ToFloat(best.scale) > 0)) return best;
  float least = FourthPowerError(x, kRun, bits, best);
  int failed = 0;
  for (int turn = 0; failed < 2 && turn < 16; ++turn) {
    float tried[2] = {ends[0], ends[1]};
    tried[turn % 2] += turn % 2 == 0 ? step : -step;
    const GroupScale grid = GridOver(tried[0], tried[1], bits);
    const float error = FourthPowerError(x, kRun, bits, grid);
    failed = error < least ? 0 : failed + 1;
    if (failed > 0) continue;
    least = error;
    best = grid;
    ends[turn % 2] = tried[turn % 2];
  }
  return best;
}

// A grid for x that covers its range, or (narrow: n is 64) most of it.
GroupScale ChooseGrid(const float* x, int64_t n, int bits, bool narrow) {
  float low = x[0], high = x[0], finite = 0;
  for (int64_t i = 0; i < n; ++i) {
    low = std::min(low, x[i]);
    high = std::max(high, x[i]);
    finite += x[i] * 0.0f;
  }
  if (!(finite == 0)) return {0x7e00u, 0x7e00u};
  return narrow ? NarrowGrid(x, low, high, bits) : GridOver(low, high, bits);
}

// codes[i] = round((x[i] - min) / scale); returns how many lie more than half a step outside.
int64_t Encode(const float* x, int64_t n, int bits, float scale, float min, uint8_t* codes) {
  if (!(scale > 0)) {  // all values equal, or not a number
    std::memset(codes, 0, static_cast<size_t>(n));
    return 0;
  }
  const float inverse = 1.0f / scale, top = static_cast<float>((1 << bits) - 1);
  int64_t outside = 0;
  for (int64_t i = 0; i < n; ++i) {
    const float u = (x[i] - min) * inverse;
    outside += u < -0.5f || u > top + 0.5f ? 1 : 0;
    codes[i] = static_cast<uint8_t>((std::min(std::max(u, 0.0f), top) + kToInteger) - kToInteger);
  }
  return outside;
}

void PackRun(const uint8_t* codes, int bits, uint8_t* out) {
  if (bits == 8) {
    std::memcpy(out, codes, kRun);
    return;
  }
  const int stored = bits == 4 ? 4 : 2, mask = (1 << stored) - 1;
  for (int64_t l = 0; l < kLane; ++l) {
    unsigned lane = 0;
    for (int64_t k = 0; k < 4; ++k)
      lane |= static_cast<unsigned>(codes[k * kLane + l] & mask) << (stored * k);
    if (bits == 4) {
      const uint16_t word = static_cast<uint16_t>(lane);
      std::memcpy(out + 2 * l, &word, sizeof(word));
    } else {
      out[l] = static_cast<uint8_t>(lane);
    }
  }
  if (bits != 3) return;
  uint64_t high = 0;
  for (int64_t i = 0; i < kRun; ++i) high |= static_cast<uint64_t>(codes[i] >> 2) << i;
  std::memcpy(out + kLane, &high, sizeof(high));
}

// Code i of a run.
int CodeAt(const uint8_t* run, int bits, int64_t i) {
  const int64_t l = i % kLane, k = i / kLane;
  if (bits == 8) return run[i];
  if (bits == 4) {
    uint16_t word;
    std::memcpy(&word, run + 2 * l, sizeof(word));
    return (word >> (4 * k)) & 15;
  }
  const int low = (run[l] >> (2 * k)) & 3;
  return bits == 2 ? low : low | (((run[kLane + i / 8] >> (i % 8)) & 1) << 2);
}

uint16_t F16At(const uint8_t* at, int64_t i) {
  uint16_t bits;
  std::memcpy(&bits, at + 2 * i, sizeof(bits));
  return bits;
}
void SetF16(uint8_t* at, int64_t i, uint16_t bits) { std::memcpy(at + 2 * i, &bits, sizeof(bits)); }

void StoreRunF16(const float* x, int64_t n, uint8_t* run) {
  for (int64_t i = 0; i < n; ++i) SetF16(run, i, FloatToF16(x[i]));
}

// One group whose scale is found here.
GroupScale EncodeGroup(const float* x, int64_t n, int bits, bool narrow, uint8_t* codes) {
  const GroupScale s = ChooseGrid(x, n, bits, narrow);
  Encode(x, n, bits, F16ToFloat(s.scale), F16ToFloat(s.min), codes);
  return s;
}

// By `sign` times the angle whose cos and sin are given.
void Turn(float& a, float& b, float cos, float sin) {
  const float x = a * cos - b * sin, y = b * cos + a * sin;
  a = x;
  b = y;
}

class HeadWriter {
 public:
  HeadWriter(const KvFormat& format, int64_t head, uint8_t* page)
      : f_(format), layout_(format), head_(head), part_(page + head * layout_.head_bytes) {}

  // channel_major: [head_dim, 64]
  int64_t Keys(const float* channel_major, const ChannelScales& channels) {
    const int64_t d = f_.head_dim;
    uint8_t* codes_at = part_ + layout_.k_codes;
    if (f_.k_bits == 16) {
      for (int64_t c = 0; c < d; ++c)
        StoreRunF16(channel_major + c * kRun, kRun, codes_at + c * layout_.k_run);
      return 0;
    }
    if (f_.key_scale == KeyScale::kToken) {
      KeysByToken(channel_major);
      return 0;
    }
    int64_t outside = 0;
    uint8_t* scales = part_ + layout_.k_scales;
    uint8_t codes[kRun];
    for (int64_t c = 0; c < d; ++c) {
      const float* x = channel_major + c * kRun;
      if (f_.key_scale == KeyScale::kPage) {
        const GroupScale s = EncodeGroup(x, kRun, f_.k_bits, f_.k_bits <= kNarrowBits, codes);
        SetF16(scales, c, s.scale);
        SetF16(scales, d + c, s.min);
      } else {
        const int64_t at = head_ * d + c;
        outside += Encode(x, kRun, f_.k_bits, channels.scale[at], channels.min[at], codes);
      }
      PackRun(codes, f_.k_bits, codes_at + c * layout_.k_run);
    }
    return outside;
  }

  void Value(int64_t row, const float* x) {
    const int64_t d = f_.head_dim;
    uint8_t* run = part_ + layout_.v_codes + row * layout_.v_runs * layout_.v_run;
    if (f_.v_bits == 16) {
      StoreRunF16(x, d, run);
      return;
    }
    codes_.assign(static_cast<size_t>(layout_.v_runs * kRun), 0);
    const GroupScale s = EncodeGroup(x, d, f_.v_bits, false, codes_.data());
    for (int64_t i = 0; i < layout_.v_runs; ++i) {
      PackRun(codes_.data() + i * kRun, f_.v_bits, run + i * layout_.v_run);
    }
    SetF16(part_ + layout_.v_scales, row, s.scale);
    SetF16(part_ + layout_.v_scales, kPageTokens + row, s.min);
  }

 private:
  void KeysByToken(const float* channel_major) {
    const int64_t d = f_.head_dim;
    std::vector<float> x(static_cast<size_t>(d));
    std::vector<uint8_t> row(static_cast<size_t>(d));
    codes_.resize(static_cast<size_t>(d * kRun));
    for (int64_t t = 0; t < kPageTokens; ++t) {
      for (int64_t c = 0; c < d; ++c) x[static_cast<size_t>(c)] = channel_major[c * kRun + t];
      const GroupScale s = EncodeGroup(x.data(), d, f_.k_bits, false, row.data());
      for (int64_t c = 0; c < d; ++c) codes_[static_cast<size_t>(c * kRun + t)] = row[static_cast<size_t>(c)];
      SetF16(part_ + layout_.k_scales, t, s.scale);
      SetF16(part_ + layout_.k_scales, kPageTokens + t, s.min);
    }
    for (int64_t c = 0; c < d; ++c) {
      PackRun(codes_.data() + c * kRun, f_.k_bits, part_ + layout_.k_codes + c * layout_.k_run);
    }
  }

  const KvFormat& f_;
  const KvPageLayout layout_;
  const int64_t head_;
  uint8_t* part_;
  std::vector<uint8_t> codes_;
};

// x[head_dim, 64] -> before rotary embedding.
void TurnBack(const KeyRotation& rotation, int64_t head_dim, float* x) {
  const int64_t half = head_dim / 2;
  const float *offset_cos = rotation.offset, *offset_sin = rotation.offset + half * kRun;
  for (int64_t i = 0; i < half; ++i) {
    const float base_cos = rotation.base[i], base_sin = rotation.base[half + i];
    float *a = x + i * kRun, *b = x + (i + half) * kRun;
    for (int64_t t = 0; t < kRun; ++t) {
      Turn(a[t], b[t], base_cos, -base_sin);
      Turn(a[t], b[t], offset_cos[i * kRun + t], -offset_sin[i * kRun + t]);
    }
  }
}

int64_t RoundUp(int64_t bytes) { return (bytes + 15) / 16 * 16; }

}  // namespace

bool IsKvBits(int bits) { return bits == 2 || bits == 3 || bits == 4 || bits == 8 || bits == 16; }

KvPageLayout::KvPageLayout(const KvFormat& f) {
  k_run = 8 * f.k_bits;
  v_run = 8 * f.v_bits;
  v_runs = (f.head_dim + kRun - 1) / kRun;
  const bool k_coded = f.k_bits < 16 && f.key_scale != KeyScale::kChannel;
  num_k_scales = !k_coded ? 0 : f.key_scale == KeyScale::kToken ? kPageTokens : f.head_dim;
  k_scales = RoundUp(f.head_dim * k_run);
  v_codes = k_scales + RoundUp(4 * num_k_scales);
  v_scales = v_codes + kPageTokens * v_runs * v_run;
  const int64_t end = v_scales + (f.v_bits < 16 ? 4 * kPageTokens : 0);
  head_bytes = (end + 63) / 64 * 64;
  page_bytes = f.num_kv_heads * head_bytes;
}

int64_t QuantizePageHead(const KvFormat& format, int64_t head, const float* k, const float* v,
                         const KeyRotation& rotation, const ChannelScales& channels, uint8_t* page) {
  const int64_t d = format.head_dim, stride = format.num_kv_heads * d;
  std::vector<float> keys(static_cast<size_t>(d * kRun));
  for (int64_t t = 0; t < kPageTokens; ++t) {
    const float* row = k + t * stride + head * d;
    for (int64_t c = 0; c < d; ++c) keys[static_cast<size_t>(c * kRun + t)] = row[c];
  }
  if (rotation.base != nullptr) TurnBack(rotation, d, keys.data());
  HeadWriter writer(format, head, page);
  const int64_t outside = writer.Keys(keys.data(), channels);
  for (int64_t t = 0; t < kPageTokens; ++t) writer.Value(t, v + t * stride + head * d);
  return outside;
}

void ReadPageRow(const KvFormat& format, int64_t head, int64_t row, const uint8_t* page,
                 const KeyRotation& rotation, const ChannelScales& channels, float* k, float* v) {
  const KvPageLayout layout(format);
  const int64_t d = format.head_dim;
  const uint8_t* part = page + head * layout.head_bytes;
  const auto scaled = [](int code, float scale, float min) {
    return std::fma(static_cast<float>(code), scale, min);
  };
  for (int64_t c = 0; c < d; ++c) {
    const uint8_t* run = part + layout.k_codes + c * layout.k_run;
    if (format.k_bits == 16) {
      k[c] = F16ToFloat(F16At(run, row));
      continue;
    }
    const int code = CodeAt(run, format.k_bits, row);
    if (format.key_scale == KeyScale::kChannel) {
      k[c] = scaled(code, channels.scale[head * d + c], channels.min[head * d + c]);
    } else {
      const int64_t at = format.key_scale == KeyScale::kToken ? row : c;
      const uint8_t* scales = part + layout.k_scales;
      k[c] = scaled(code, F16ToFloat(F16At(scales, at)), F16ToFloat(F16At(scales, layout.num_k_scales + at)));
    }
  }
  if (rotation.base != nullptr) {
    const int64_t half = d / 2;
    for (int64_t i = 0; i < half; ++i) {
      Turn(k[i], k[i + half], rotation.offset[i * kRun + row], rotation.offset[(half + i) * kRun + row]);
      Turn(k[i], k[i + half], rotation.base[i], rotation.base[half + i]);
    }
  }
  const uint8_t* runs = part + layout.v_codes + row * layout.v_runs * layout.v_run;
  const uint8_t* scales = part + layout.v_scales;
  for (int64_t c = 0; c < d; ++c) {
    const uint8_t* run = runs + c / kRun * layout.v_run;
    v[c] = format.v_bits == 16 ? F16ToFloat(F16At(run, c % kRun))
                               : scaled(CodeAt(run, format.v_bits, c % kRun), F16ToFloat(F16At(scales, row)),
                                        F16ToFloat(F16At(scales, kPageTokens + row)));
  }
}

}  // namespace spikefold::kernels
