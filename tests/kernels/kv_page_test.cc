// Pages of the key/value cache: what is written is read back within the grid that was chosen, and bytes lie
// where the layout says.
#include "kernels/kv_page.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <vector>

#include "formats/base/dtype.h"
#include "kernels/kernel_check.h"

namespace spikefold::kernels {
namespace {

constexpr int kAllBits[] = {2, 3, 4, 8, 16};
constexpr KeyScale kAllScales[] = {KeyScale::kToken, KeyScale::kPage, KeyScale::kChannel};

// 64 rows of random keys and values that f16 holds; channels differ in offset and width, rows in width.
struct Rows {
  explicit Rows(const KvFormat& format) : width(format.num_kv_heads * format.head_dim) {
    k = RandomFloats(kPageTokens * width, 1);
    v = RandomFloats(kPageTokens * width, 2);
    for (int64_t i = 0; i < kPageTokens * width; ++i) {
      const size_t at = static_cast<size_t>(i);
      const int64_t token = i / width;
      const float channel = static_cast<float>(i % width), row = static_cast<float>(token);
      k[at] = Round(k[at] * (0.5f + 0.1f * channel) + channel - 3);
      v[at] = Round(v[at] * (0.1f + 0.05f * row));
    }
  }
  static float Round(float x) { return F16ToFloat(FloatToF16(x)); }
  int64_t width;
  std::vector<float> k, v;
};

// One scale for all channels that covers their range.
struct Scales {
  Scales(const KvFormat& format, float low, float high) {
    const size_t n = static_cast<size_t>(format.num_kv_heads * format.head_dim);
    scale.assign(n, (high - low) / static_cast<float>((1 << std::min(format.k_bits, 8)) - 1));
    min.assign(n, low);
  }
  ChannelScales view() const { return {scale.data(), min.data()}; }
  std::vector<float> scale, min;
};

std::vector<uint8_t> WritePage(const KvFormat& format, const Rows& rows, const KeyRotation& rotation,
                               const ChannelScales& channels) {
  std::vector<uint8_t> page(static_cast<size_t>(KvPageLayout(format).page_bytes));
  for (int64_t h = 0; h < format.num_kv_heads; ++h) {
    QuantizePageHead(format, h, rows.k.data(), rows.v.data(), rotation, channels, page.data());
  }
  return page;
}

Rows ReadPage(const KvFormat& format, const std::vector<uint8_t>& page, const KeyRotation& rotation,
              const ChannelScales& channels) {
  Rows out(format);
  for (int64_t t = 0; t < kPageTokens; ++t) {
    for (int64_t h = 0; h < format.num_kv_heads; ++h) {
      const int64_t at = t * out.width + h * format.head_dim;
      ReadPageRow(format, h, t, page.data(), rotation, channels, out.k.data() + at, out.v.data() + at);
    }
  }
  return out;
}

// Half a step of the grid over the range of `n` values `stride` apart.
double HalfStep(const float* x, int64_t n, int64_t stride, int bits) {
  float low = x[0], high = x[0];
  for (int64_t i = 0; i < n; ++i) {
    low = std::min(low, x[i * stride]);
    high = std::max(high, x[i * stride]);
  }
  // The minimum is rounded down and the scale up to f16: 1 part in 1024 of either.
  const double levels = (1 << bits) - 1;
  return (static_cast<double>(high) - low + std::fabs(low) / 1000) / levels / 2 * 1.002;
}

}  // namespace

TEST_CASE("A page gives every key and value back within half a step of its group's range") {
  for (const int bits : kAllBits) {
    for (const KeyScale scale : kAllScales) {
      for (const int64_t head_dim : {64, 24, 5, 130}) {
        INFO(bits << " bits, scale " << static_cast<int>(scale) << ", head_dim " << head_dim);
        const KvFormat format = {2, head_dim, bits, bits, scale};
        const Rows rows(format);
        const float low = *std::min_element(rows.k.begin(), rows.k.end());
        const float high = *std::max_element(rows.k.begin(), rows.k.end());
        const Scales scales(format, low, high);
        const Rows back = ReadPage(format, WritePage(format, rows, {}, scales.view()), {}, scales.view());
        double worst_k = 0, worst_v = 0;
        for (int64_t t = 0; t < kPageTokens; ++t) {
          for (int64_t c = 0; c < rows.width; ++c) {
            const int64_t at = t * rows.width + c, head = at - c % head_dim;
            const double step_k =
                bits == 16                  ? 1e-30
                : scale == KeyScale::kToken ? HalfStep(rows.k.data() + head, head_dim, 1, bits)
                : scale == KeyScale::kPage  ? HalfStep(rows.k.data() + c, kPageTokens, rows.width, bits)
                                            : static_cast<double>(scales.scale[0]) / 2 * 1.0001;
            const double step_v = bits == 16 ? 1e-30 : HalfStep(rows.v.data() + head, head_dim, 1, bits);
            const size_t i = static_cast<size_t>(at);
            worst_k = std::max(worst_k, std::fabs(double{back.k[i]} - rows.k[i]) / step_k);
            worst_v = std::max(worst_v, std::fabs(double{back.v[i]} - rows.v[i]) / step_v);
          }
        }
        const bool narrowed = scale == KeyScale::kPage && bits <= 3;
        CHECK((worst_k <= 1 || narrowed));
        CHECK(worst_v <= 1);
        if (bits < 16) CHECK(worst_k > 0.5);  // and uses its grid: the bound is not idle
      }
    }
  }
}

TEST_CASE("Keys of a channel and page in few bits get a grid whose fourth-power error is least, or near it") {
  for (const int bits : {2, 3}) {
    const KvFormat format = {1, 40, bits, bits, KeyScale::kPage};
    const Rows rows(format);
    const Rows back = ReadPage(format, WritePage(format, rows, {}, {}), {}, {});
    double total = 0, covering = 0, best = 0;
    for (int64_t c = 0; c < rows.width; ++c) {
      std::vector<double> x;
      for (int64_t t = 0; t < kPageTokens; ++t) {
        x.push_back(rows.k[static_cast<size_t>(t * rows.width + c)]);
        const double error = back.k[static_cast<size_t>(t * rows.width + c)] - x.back();
        total += error * error * error * error;
      }
      const auto [low, high] = std::minmax_element(x.begin(), x.end());
      const double levels = (1 << bits) - 1, range = *high - *low;
      double least = 1e300;
      for (int a = 0; a < 10; ++a) {
        for (int b = 0; b < 10; ++b) {
          const double min = *low + range * a / 20, step = (*high - range * b / 20 - min) / levels;
          double sum = 0;
          for (const double v : x) {
            const double u = std::clamp(std::nearbyint((v - min) / step), 0.0, levels);
            sum += std::pow(min + u * step - v, 4);
          }
          if (a == 0 && b == 0) covering += sum;
          least = std::min(least, sum);
        }
      }
      best += least;
    }
    INFO(bits << " bits: " << total << ", over the range " << covering << ", best of 100 grids " << best);
    CHECK(total < 0.75 * covering);
    CHECK(total < 1.5 * best);
  }
}

TEST_CASE("Codes of a run lie in the bits that the layout names") {
  for (const int bits : {2, 3, 4, 8}) {
    INFO(bits);
    const KvFormat format = {1, 1, bits, bits, KeyScale::kChannel};
    Rows rows(format);
    const int levels = 1 << bits;
    for (int64_t t = 0; t < kPageTokens; ++t)
      rows.k[static_cast<size_t>(t)] = static_cast<float>(t * 37 % levels);
    const std::vector<float> one = {1}, zero = {0};
    const std::vector<uint8_t> page = WritePage(format, rows, {}, {one.data(), zero.data()});
    for (unsigned i = 0; i < 64; ++i) {
      const unsigned lane = i % 16, place = i / 16, want = i * 37 % static_cast<unsigned>(levels);
      unsigned got = 0;
      if (bits == 8) got = page[i];
      if (bits == 4) got = (page[2 * lane + place / 2] >> (4 * (place % 2))) & 15u;
      if (bits < 4) got = (page[lane] >> (2 * place)) & 3u;
      if (bits == 3) got |= ((page[16 + i / 8] >> (i % 8)) & 1u) << 2;
      CHECK(got == want);
    }
  }
}

TEST_CASE("Keys stored before rotary embedding come back turned, and are coded without it") {
  const int64_t head_dim = 32, half = 16, first = 5 * kPageTokens + 3;
  const auto angle = [&](int64_t position, int64_t i) {
    return static_cast<double>(position) * std::pow(1e4, -static_cast<double>(i) / static_cast<double>(half));
  };
  std::vector<float> base(32), offset(32 * 64);
  for (int64_t i = 0; i < half; ++i) {
    base[static_cast<size_t>(i)] = static_cast<float>(std::cos(angle(first, i)));
    base[static_cast<size_t>(half + i)] = static_cast<float>(std::sin(angle(first, i)));
    for (int64_t t = 0; t < 64; ++t) {
      offset[static_cast<size_t>(i * 64 + t)] = static_cast<float>(std::cos(angle(t, i)));
      offset[static_cast<size_t>((half + i) * 64 + t)] = static_cast<float>(std::sin(angle(t, i)));
    }
  }
  // Before the embedding every channel is constant: two bits hold it exactly, whatever the positions.
  const KvFormat format = {1, head_dim, 2, 16, KeyScale::kPage};
  Rows rows(format);
  for (int64_t t = 0; t < 64; ++t) {
    for (int64_t i = 0; i < half; ++i) {
      const double a = 0.25 * static_cast<double>(i + 1), b = -a, x = angle(first + t, i);
      rows.k[static_cast<size_t>(t * head_dim + i)] = static_cast<float>(a * std::cos(x) - b * std::sin(x));
      rows.k[static_cast<size_t>(t * head_dim + half + i)] =
          static_cast<float>(b * std::cos(x) + a * std::sin(x));
    }
  }
  const KeyRotation rotation = {base.data(), offset.data()};
  const Rows turned = ReadPage(format, WritePage(format, rows, rotation, {}), rotation, {});
  const Rows unturned = ReadPage(format, WritePage(format, rows, {}, {}), {}, {});
  double error = 0, error_unturned = 0;
  for (size_t i = 0; i < rows.k.size(); ++i) {
    error = std::max(error, std::fabs(double{turned.k[i]} - rows.k[i]));
    error_unturned = std::max(error_unturned, std::fabs(double{unturned.k[i]} - rows.k[i]));
  }
  CHECK(error < 0.01);  // f16 minima of values up to 4
  CHECK(error_unturned > 0.3);
}

TEST_CASE("Equal values need no scale, and what is not finite stays visible") {
  const KvFormat format = {1, 64, 4, 4, KeyScale::kPage};
  Rows rows(format);
  for (int64_t t = 0; t < kPageTokens; ++t) rows.k[static_cast<size_t>(t * 64 + 7)] = -1.5f;
  std::fill_n(rows.v.begin() + 9 * 64, 64, 0.0f);
  rows.k[3] = std::numeric_limits<float>::infinity();
  rows.v[5 * 64 + 1] = std::nanf("");
  const Rows back = ReadPage(format, WritePage(format, rows, {}, {}), {}, {});
  for (int64_t t = 0; t < kPageTokens; ++t) {
    CHECK(back.k[static_cast<size_t>(t * 64 + 7)] == -1.5f);
    CHECK(std::isnan(back.k[static_cast<size_t>(t * 64 + 3)]));
    CHECK(std::isfinite(back.k[static_cast<size_t>(t * 64 + 4)]));
    CHECK(std::isnan(back.v[static_cast<size_t>(t * 64)]) == (t == 5));
    CHECK((t != 9 || back.v[static_cast<size_t>(t * 64 + 11)] == 0));
  }
}

TEST_CASE("Keys outside their static scale are clamped to its ends and counted") {
  const KvFormat format = {1, 16, 4, 4, KeyScale::kChannel};
  Rows rows(format);
  std::fill(rows.k.begin(), rows.k.end(), 1.0f);
  rows.k[16] = 15.4f;    // inside by less than half a step
  rows.k[17] = 16.0f;    // a step above
  rows.k[40] = -100.0f;  // far below
  const std::vector<float> one(16, 1.0f), zero(16, 0.0f);
  std::vector<uint8_t> page(static_cast<size_t>(KvPageLayout(format).page_bytes));
  const ChannelScales channels = {one.data(), zero.data()};
  CHECK(QuantizePageHead(format, 0, rows.k.data(), rows.v.data(), {}, channels, page.data()) == 2);
  const Rows back = ReadPage(format, page, {}, channels);
  CHECK(back.k[16] == 15.0f);
  CHECK(back.k[17] == 15.0f);
  CHECK(back.k[40] == 0.0f);
}

TEST_CASE("A page takes the bytes that its bits and scales need") {
  const auto bytes = [](int64_t head_dim, int k, int v, KeyScale scale) {
    return KvPageLayout({1, head_dim, k, v, scale}).page_bytes;
  };
  const int64_t values = 64 * 64;
  CHECK(bytes(64, 16, 16, KeyScale::kPage) == 4 * values);
  CHECK(bytes(64, 4, 4, KeyScale::kToken) == values + 2 * 4 * 64);  // 4.5 bits a value
  CHECK(bytes(64, 4, 4, KeyScale::kPage) == values + 2 * 4 * 64);
  CHECK(bytes(64, 4, 4, KeyScale::kChannel) == values + 4 * 64);
  CHECK(bytes(128, 3, 2, KeyScale::kPage) == 2 * values * 5 / 8 + 4 * 128 + 4 * 64);
}

}  // namespace spikefold::kernels
