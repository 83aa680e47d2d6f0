// The paged key/value cache on a GPU: pages as the CPU codes them, attention as the reference has it.
#include <cmath>
#include <cstring>
#include <memory>

#include "absl/strings/str_cat.h"
#include "formats/base/dtype.h"
#include "kernels/attention_f32_f32_ukv/attention_f32_f32_ukv_check.h"
#include "kernels/attention_f32_f32_ukv/attention_f32_f32_ukv_cuda.h"
#include "tests/kernels/cuda/cuda_kit.h"

namespace spikefold::kernels {
namespace {

namespace ukv = attention_f32_f32_ukv;
using cuda::Array;
using cuda::Ok;
using cuda::TheStream;

// cos (or sin) of position * 10000^(-2i/d), [positions, d/2]: what the cases turn by.
std::vector<float> TurnTable(int64_t positions, int64_t d, bool sine) {
  std::vector<float> out;
  for (int64_t t = 0; t < positions; ++t) {
    for (int64_t i = 0; i < d / 2; ++i) {
      const double angle =
          static_cast<double>(t) * std::pow(1e4, -2.0 * static_cast<double>(i) / static_cast<double>(d));
      out.push_back(static_cast<float>(sine ? std::sin(angle) : std::cos(angle)));
    }
  }
  return out;
}

template <typename T>
std::vector<T> Repeated(const std::vector<T>& x, int64_t times) {
  std::vector<T> out;
  for (int64_t i = 0; i < times; ++i) out.insert(out.end(), x.begin(), x.end());
  return out;
}

// A reference call's cache on the device, `sequences` times.
class DeviceCase {
 public:
  DeviceCase(const ukv::Params& p, int64_t sequences) : p_(p), sequences_(sequences) {
    const KvPageLayout layout(p.format);
    const int64_t width = p.num_kv_heads * p.head_dim, positions = p.first + p.m;
    const int64_t pinned = std::min(p.num_pinned, positions);
    const int64_t begin = std::min(p.num_pinned + kPageTokens * p.first_row_page, positions);
    const int64_t ring = (positions - begin + 2 * kPageTokens) / kPageTokens * kPageTokens;
    int64_t num_pages = 0;
    const auto coded_from = [&](int64_t n) { return p.num_pinned + kPageTokens * (n + 1) - 1 + p.recent; };
    while (num_pages < p.first_row_page || coded_from(num_pages) < positions) ++num_pages;
    std::vector<uint8_t> pages;
    for (int64_t n = 0; n < num_pages; ++n)
      pages.insert(pages.end(), p.pages[n], p.pages[n] + layout.page_bytes);
    pages_ = std::make_unique<Array<uint8_t>>(Repeated(pages, sequences));
    const auto rows = [&](const uint16_t* from, int64_t count, int64_t at, int64_t room) {
      std::vector<uint16_t> out(static_cast<size_t>(room * width), 0x7e00u);  // NaN where nothing was written
      for (int64_t i = 0; i < count; ++i) {
        std::copy_n(from + i * width, width, out.begin() + (at + i) % room * width);
      }
      return std::make_unique<Array<uint16_t>>(Repeated(out, sequences));
    };
    pinned_k_ = rows(p.pinned_k, pinned, 0, std::max<int64_t>(pinned, 1));
    pinned_v_ = rows(p.pinned_v, pinned, 0, std::max<int64_t>(pinned, 1));
    rows_k_ = rows(p.rows_k, positions - begin, begin - p.num_pinned, ring);
    rows_v_ = rows(p.rows_v, positions - begin, begin - p.num_pinned, ring);
    const size_t q = static_cast<size_t>(p.m * p.num_heads * p.head_dim);
    q_ = std::make_unique<Array<float>>(Repeated(std::vector<float>(p.q, p.q + q), sequences));
    cos_ = std::make_unique<Array<float>>(TurnTable(positions + kPageTokens, p.head_dim, false));
    sin_ = std::make_unique<Array<float>>(TurnTable(positions + kPageTokens, p.head_dim, true));
    params_ = {.m = p.m,
               .num_heads = p.num_heads,
               .q = q_->data(),
               .layer = {.format = p.format,
                         .layout = layout,
                         .num_pinned = p.num_pinned,
                         .pinned_k = pinned_k_->data(),
                         .pinned_v = pinned_v_->data(),
                         .pages = pages_->data(),
                         .page_slots = std::max<int64_t>(num_pages, 1),
                         .rows_k = rows_k_->data(),
                         .rows_v = rows_v_->data(),
                         .ring_rows = ring,
                         .recent = p.recent,
                         .cos = cos_->data(),
                         .sin = sin_->data(),
                         .turned = p.page_base != nullptr,
                         .evict = p.evict},
               .at = {static_cast<int32_t>(p.first), static_cast<int32_t>(p.first_row_page)},
               .scale = p.scale,
               .window = p.window,
               .sequences = sequences,
               .page_stride = num_pages * layout.page_bytes,
               .row_stride = ring * width,
               .pinned_stride = std::max<int64_t>(pinned, 1) * width};
    if (p.format.k_bits < 16 && p.format.key_scale == KeyScale::kChannel) {
      channel_scale_ =
          std::make_unique<Array<float>>(std::vector<float>(p.channels.scale, p.channels.scale + width));
      channel_min_ =
          std::make_unique<Array<float>>(std::vector<float>(p.channels.min, p.channels.min + width));
      params_.layer.channels = {channel_scale_->data(), channel_min_->data()};
    }
  }
  bool decodes() const { return ukv::CanDecode(params_); }

  // Three times; every sequence's and every repetition's bits are equal.
  absl::Status Run(bool decode, int64_t splits) {
    const int64_t values = p_.m * p_.num_heads * p_.head_dim;
    const Array<float> partial(
        ukv::PartialFloats(sequences_ * p_.m, p_.num_heads, p_.head_dim, std::max<int64_t>(splits, 1)));
    const Array<uint32_t> finished(
        std::vector<uint32_t>(static_cast<size_t>(ukv::NumCounters(sequences_ * p_.m, p_.num_heads)), 0));
    ukv::CudaParams p = params_;
    p.splits = splits;
    p.partial = partial.data();
    p.finished = finished.data();
    for (int repeat = 0; repeat < 3; ++repeat) {
      const Array<float> o(sequences_ * values);
      p.o = o.data();
      const absl::Status status = decode ? ukv::RunDecode(p, TheStream()) : ukv::RunCuda(p, TheStream());
      if (!status.ok()) return status;
      const std::vector<float> got = o.Read();
      if (repeat == 0) std::copy_n(got.begin(), values, p_.o);
      for (int64_t s = 0; s < sequences_; ++s) {
        if (std::memcmp(got.data() + s * values, p_.o, static_cast<size_t>(values) * 4) != 0) {
          return absl::DataLossError("another result of the same operands");
        }
      }
    }
    return absl::OkStatus();
  }

 private:
  const ukv::Params& p_;
  const int64_t sequences_;
  std::unique_ptr<Array<uint8_t>> pages_;
  std::unique_ptr<Array<uint16_t>> pinned_k_, pinned_v_, rows_k_, rows_v_;
  std::unique_ptr<Array<float>> q_, cos_, sin_, channel_scale_, channel_min_;
  ukv::CudaParams params_;
};

CheckReport CheckTiles(Fault fault) {
  CheckReport report;
  for (const int64_t splits : {1, 3}) {
    uint64_t seed = 1;
    for (const ukv::Shape& shape : ukv::CheckedShapes()) {
      const auto run = [&](const ukv::Params& p) { return DeviceCase(p, 1).Run(false, splits); };
      ukv::CheckShape(shape, seed += 10, run, {}, fault, report);
    }
  }
  return report;
}

TEST_CASE("Attention over pages on the GPU equals the reference in every form of the cache", "[gpu][paged]") {
  const CheckReport report = CheckTiles(Fault::kNone);
  INFO(report.detail);
  CHECK(report.ok());
}

TEST_CASE("One wrong code of a page is found on the GPU", "[gpu][paged][canary]") {
  const CheckReport report = CheckTiles(Fault::kOneElement);
  CHECK(report.num_values > 0);
  CHECK(report.worst > 2);
}

constexpr KeyScale kToken = KeyScale::kToken, kPage = KeyScale::kPage, kChannel = KeyScale::kChannel;
constexpr ukv::Shape kDecoded[] = {
    {1, 0, 4, 1, 64, 4, 4},
    {1, 70, 4, 1, 64, 4, 4},
    {1, 700, 4, 1, 128, 4, 4, kPage, false, 1, 16},
    {1, 700, 8, 2, 128, 8, 8, kPage, false, 1, 16},
    {1, 700, 8, 2, 128, 16, 16, kPage, false, 1, 16},
    {1, 333, 9, 3, 64, 8, 8, kToken, false, 4, 17},
    {1, 333, 7, 1, 64, 4, 4, kToken, false, 20, 64},
    {1, 700, 3, 3, 64, 4, 4, kPage, true, 1, 16},
    {1, 700, 8, 2, 128, 4, 4, kPage, true, 4, 16},
    {1, 700, 8, 2, 128, 8, 8, kPage, true, 4, 16},
    {1, 500, 10, 2, 64, 8, 8, kPage, true, 2, 30},
    {1, 500, 10, 2, 128, 4, 4, kToken, false, 2, 30},
    {1, 900, 4, 2, 128, 4, 4, kPage, false, 3, 16, 200},
    {1, 900, 4, 2, 64, 8, 8, kPage, true, 3, 16, 130},
    {1, 900, 4, 2, 64, 16, 16, kPage, false, 40, 100, 850},
};

CheckReport CheckDecode(Fault fault) {
  CheckReport report;
  for (const int64_t splits : {1, 2, 7}) {
    uint64_t seed = 5;
    for (const ukv::Shape& shape : kDecoded) {
      const auto run = [&](const ukv::Params& p) {
        DeviceCase on_device(p, splits == 2 ? 3 : 1);
        if (!on_device.decodes()) return absl::InternalError("no kernel");
        return on_device.Run(true, splits);
      };
      // Turned keys are f16; weights times scales of values are sums of two f16, the second may be subnormal.
      const ukv::Slack slack = {.key = shape.turned ? 0x1p-9 : 0x1p-20, .value = 0x1p-15};
      ukv::CheckShape(shape, seed += 10, run, slack, fault, report);
    }
  }
  return report;
}

TEST_CASE("Attention of one token over pages on tensor cores equals the reference", "[gpu][paged][decode]") {
  const CheckReport report = CheckDecode(Fault::kNone);
  INFO(report.detail);
  CHECK(report.ok());
}

TEST_CASE("One wrong code of a page is found on tensor cores", "[gpu][paged][decode][canary]") {
  const CheckReport report = CheckDecode(Fault::kOneElement);
  CHECK(report.num_values > 0);
  CHECK(report.worst > 2);
}

struct Appended {
  KvFormat format;
  bool turned = false;
  int64_t pinned = 0, recent = 1;
};

TEST_CASE("Pages coded on the GPU are the CPU's byte for byte, and their rows come back", "[gpu][paged]") {
  std::vector<Appended> cases;
  for (const int bits : {2, 3, 4, 8, 16}) {
    cases.push_back({{2, 64, bits, bits, kPage}, bits < 16, 1, 16});
    cases.push_back({{1, 80, bits, bits, kToken}, false, 3, 1});
    if (bits < 16) cases.push_back({{3, 128, bits, bits, kChannel}, true, 0, 40});
  }
  cases.push_back({{2, 5, 4, 3, kPage}, false, 0, 2});
  cases.push_back({{1, 256, 3, 8, kPage}, true, 1, 16});
  for (const Appended& c : cases) {
    const KvFormat& f = c.format;
    const KvPageLayout layout(f);
    const int64_t positions = 420, width = f.num_kv_heads * f.head_dim, half = f.head_dim / 2;
    std::vector<float> k = RandomFloats(positions * width, 1), v = RandomFloats(positions * width, 2);
    for (size_t i = 0; i < k.size(); ++i) k[i] = 3 * k[i] + static_cast<float>(i % 7);
    std::fill_n(v.begin() + 100 * width, width, 0.25f);  // a row of equal values
    const std::vector<float> low = RandomFloats(width, 3);
    std::vector<float> scale, min;
    for (const float x : low) {
      scale.push_back((12 + x) / static_cast<float>((1 << std::min(f.k_bits, 8)) - 1));
      min.push_back(x - 6);
    }
    const Array<float> d_k(k), d_v(v), d_scale(scale), d_min(min);
    const Array<float> cos(TurnTable(positions, f.head_dim, false)),
        sin(TurnTable(positions, f.head_dim, true));
    const int64_t ring = 320, slots = 7;
    const Array<uint16_t> pinned_k(std::max<int64_t>(1, c.pinned * width)),
        pinned_v(std::max<int64_t>(1, c.pinned * width)), rows_k(ring * width), rows_v(ring * width);
    const Array<uint8_t> pages(std::vector<uint8_t>(static_cast<size_t>(slots * layout.page_bytes), 0));
    const Array<unsigned long long> clamped(std::vector<unsigned long long>{0});
    const CudaKvLayer layer = {.format = f,
                               .layout = layout,
                               .num_pinned = c.pinned,
                               .pinned_k = pinned_k.data(),
                               .pinned_v = pinned_v.data(),
                               .pages = pages.data(),
                               .page_slots = slots,
                               .rows_k = rows_k.data(),
                               .rows_v = rows_v.data(),
                               .ring_rows = ring,
                               .recent = c.recent,
                               .channels = {d_scale.data(), d_min.data()},
                               .cos = cos.data(),
                               .sin = sin.data(),
                               .turned = c.turned};
    int64_t first = 0, coded = 0;
    for (const int64_t rows : {130, 1, 1, 60, 190, 3, 30, 5}) {
      Ok(AppendRows({.m = rows,
                     .k = d_k.data() + first * width,
                     .v = d_v.data() + first * width,
                     .layer = layer,
                     .at = {static_cast<int32_t>(first), static_cast<int32_t>(coded)},
                     .clamped = clamped.data()},
                    TheStream()));
      first += rows;
      coded = std::max<int64_t>(0, first - c.recent - c.pinned) / kPageTokens;
    }
    REQUIRE(first == positions);
    for (auto* rows : {&k, &v}) {
      for (float& x : *rows) x = F16ToFloat(FloatToF16(x));
    }
    const std::vector<float> host_cos = cos.Read(), host_sin = sin.Read();
    std::vector<float> offset(static_cast<size_t>(2 * half * kPageTokens));
    for (int64_t t = 0; t < kPageTokens; ++t) {
      for (int64_t i = 0; i < half; ++i) {
        offset[static_cast<size_t>(i * kPageTokens + t)] = host_cos[static_cast<size_t>(t * half + i)];
        offset[static_cast<size_t>((half + i) * kPageTokens + t)] =
            host_sin[static_cast<size_t>(t * half + i)];
      }
    }
    const std::vector<uint8_t> got = pages.Read();
    unsigned long long expected_clamped = 0;
    CHECK(coded > 4);
    for (int64_t n = 0; n < coded; ++n) {
      const int64_t begin = c.pinned + kPageTokens * n;
      std::vector<float> base(host_cos.begin() + begin * half, host_cos.begin() + (begin + 1) * half);
      base.insert(base.end(), host_sin.begin() + begin * half, host_sin.begin() + (begin + 1) * half);
      const KeyRotation rotation = c.turned ? KeyRotation{base.data(), offset.data()} : KeyRotation{};
      std::vector<uint8_t> page(static_cast<size_t>(layout.page_bytes), 0);
      for (int64_t h = 0; h < f.num_kv_heads; ++h) {
        expected_clamped += static_cast<unsigned long long>(
            QuantizePageHead(f, h, k.data() + begin * width, v.data() + begin * width, rotation,
                             {scale.data(), min.data()}, page.data()));
      }
      INFO("k" << f.k_bits << " v" << f.v_bits << " scale " << static_cast<int>(f.key_scale) << " d "
               << f.head_dim << " page " << n);
      CHECK(std::memcmp(page.data(), got.data() + n % slots * layout.page_bytes, page.size()) == 0);
      if (n + 1 < coded) continue;
      Ok(RestoreRows(layer, n, 20, TheStream()));
      const std::vector<uint16_t> back_k = rows_k.Read(), back_v = rows_v.Read();
      std::vector<float> row_k(static_cast<size_t>(f.head_dim)), row_v = row_k;
      int64_t wrong = 0;
      for (int64_t row = 0; row < 20; ++row) {
        for (int64_t h = 0; h < f.num_kv_heads; ++h) {
          ReadPageRow(f, h, row, page.data(), rotation, {scale.data(), min.data()}, row_k.data(),
                      row_v.data());
          const int64_t at = ((begin - c.pinned + row) % ring * f.num_kv_heads + h) * f.head_dim;
          for (int64_t i = 0; i < f.head_dim; ++i) {
            wrong += back_k[static_cast<size_t>(at + i)] != FloatToF16(row_k[static_cast<size_t>(i)]);
            wrong += back_v[static_cast<size_t>(at + i)] != FloatToF16(row_v[static_cast<size_t>(i)]);
          }
        }
      }
      CHECK(wrong == 0);
    }
    if (f.key_scale == kChannel && f.k_bits < 16) CHECK(clamped.Read()[0] == expected_clamped);
  }
}

}  // namespace
}  // namespace spikefold::kernels
