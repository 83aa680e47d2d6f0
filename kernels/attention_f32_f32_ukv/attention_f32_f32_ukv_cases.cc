#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "formats/base/dtype.h"
#include "kernels/attention_f32_f32_ukv/attention_f32_f32_ukv_check.h"
#include "kernels/attention_f32_f32_ukv/attention_f32_f32_ukv_isa.h"
#include "kernels/convert_f16_f32/convert_f16_f32.h"
#include "kernels/kernel_check.h"

namespace spikefold::kernels::attention_f32_f32_ukv {
namespace {

// Every width of codes and kind of scale; keys turned or not; pages met in both forms; groups 1 to 5; head
// dimensions that fill no run or several; windows and eviction with pinned rows inside and outside; pinned
// rows of no, one and several blocks; one row on some and on many spans.
constexpr KeyScale kToken = KeyScale::kToken, kPage = KeyScale::kPage, kChannel = KeyScale::kChannel;
constexpr Shape kChecked[] = {
    {1, 0, 2, 1, 64, 4, 4},
    {5, 0, 9, 3, 64, 8, 8, kToken, false, 1},
    {150, 0, 9, 3, 64, 4, 4, kPage, true, 1, 16},
    {200, 70, 4, 4, 96, 3, 2, kPage, false, 4, 32},
    {1, 700, 3, 1, 128, 2, 3, kToken, false, 1, 64},
    {2, 255, 5, 1, 80, 4, 8, kChannel, true, 2, 17},
    {70, 300, 2, 1, 64, 2, 2, kChannel, true, 70, 1},
    {100, 0, 3, 3, 8, 8, 4, kPage, true, 0, 1, 16},
    {3, 600, 4, 2, 40, 3, 4, kPage, true, 1, 20, 100},
    {9, 513, 4, 2, 64, 4, 2, kToken, false, 4, 16, 0, 128},
    {40, 560, 2, 2, 256, 4, 4, kPage, true, 1, 16, 0, 200},
    {7, 200, 3, 3, 5, 3, 8, kToken, false, 2},
    {2, 3300, 4, 2, 16, 4, 4, kPage, true, 130, 16},
    {1, 3200, 2, 1, 8, 16, 16, kPage, false, 3, 16, 900},
    {90, 400, 4, 2, 24, 16, 4, kPage, true, 1, 16, 100, 70},
    {30, 180, 2, 1, 64, 4, 16, kChannel, true, 2, 40, 50, 500},
};

std::string Name(const Shape& s) {
  const char* scale = s.scale == kToken ? "t" : s.scale == kPage ? "p" : "c";
  return absl::StrCat("M=", s.m, " first=", s.first, " H=", s.num_heads, "/", s.num_kv_heads,
                      " E=", s.head_dim, " k", s.k_bits, scale, s.turned ? "*" : "", " v", s.v_bits,
                      s.pinned > 0 ? absl::StrCat(" pinned=", s.pinned) : "",
                      s.window > 0 ? absl::StrCat(" window=", s.window) : "",
                      s.evict > 0 ? absl::StrCat(" evict=", s.evict) : "");
}

// cos and sin of position * 10000^(-2i/d) for `count` positions, in the order of Params' tables.
std::vector<float> Angles(int64_t first, int64_t count, int64_t head_dim, bool by_channel) {
  const int64_t half = head_dim / 2;
  std::vector<float> out(static_cast<size_t>(2 * half * count));
  for (int64_t t = 0; t < count; ++t) {
    for (int64_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(first + t) *
                           std::pow(1e4, -2.0 * static_cast<double>(i) / static_cast<double>(head_dim));
      const int64_t at = by_channel ? i * count + t : 2 * t * half + i;
      const int64_t to_sin = by_channel ? half * count : half;
      out[static_cast<size_t>(at)] = static_cast<float>(std::cos(angle));
      out[static_cast<size_t>(at + to_sin)] = static_cast<float>(std::sin(angle));
    }
  }
  return out;
}

struct Operands {
  Operands(const Shape& s, uint64_t seed)
      : format{s.num_kv_heads, s.head_dim, s.k_bits, s.v_bits, s.scale},
        width(s.num_kv_heads * s.head_dim),
        positions(s.first + s.m),
        q(RandomFloats(s.m * s.num_heads * s.head_dim, seed)),
        o(q.size(), std::nanf("")) {
    params = {.m = s.m,
              .num_heads = s.num_heads,
              .num_kv_heads = s.num_kv_heads,
              .head_dim = s.head_dim,
              .q = q.data(),
              .first = s.first,
              .scale = 1 / std::sqrt(static_cast<float>(s.head_dim)),
              .window = s.window,
              .format = format,
              .num_pinned = s.pinned,
              .recent = s.recent,
              .evict = s.evict,
              .o = o.data()};
    rows_k = RandomRows(seed + 1);
    rows_v = RandomRows(seed + 2);
    MakeScales(seed + 3);
    MakeRows();
    MakePages(s);
    if (s.evict > 0) {
      for (int64_t m = 0; m < s.m; ++m) {
        const std::vector<float> turn =
            Angles(std::max<int64_t>(0, s.first + m + 1 - s.pinned - s.evict), 1, s.head_dim, false);
        pinned_turn.insert(pinned_turn.end(), turn.begin(), turn.end());
      }
      params.pinned_turn = pinned_turn.data();
    }
  }

  std::vector<float> RandomRows(uint64_t seed) const {
    std::vector<float> rows = RandomFloats(positions * width, seed);
    for (float& x : rows) x = F16ToFloat(FloatToF16(x + 0.25f));
    return rows;
  }
  void MakeScales(uint64_t seed) {
    for (const float x : RandomFloats(width, seed)) {
      channel_min.push_back(-3 + 0.1f * x);
      channel_scale.push_back((6 + 0.1f * x) / static_cast<float>((1 << std::min(format.k_bits, 8)) - 1));
    }
    params.channels = {channel_scale.data(), channel_min.data()};
  }
  void MakeRows() {
    const int64_t num_pinned = std::min(params.num_pinned, positions);
    while (CodedFrom(params, params.first_row_page) <= params.first) ++params.first_row_page;
    const int64_t from = std::min(PageBegin(params, params.first_row_page), positions);
    const auto narrow = [&](const std::vector<float>& rows, int64_t begin, int64_t end) {
      std::vector<uint16_t> out(static_cast<size_t>((end - begin) * width));
      convert_f16_f32::Narrow(rows.data() + begin * width, (end - begin) * width, out.data());
      out.resize(out.size() + static_cast<size_t>(70 * width), 0x7e00u);  // what lies behind is not a number
      return out;
    };
    pinned_k = narrow(rows_k, 0, num_pinned);
    pinned_v = narrow(rows_v, 0, num_pinned);
    recent_k = narrow(rows_k, from, positions);
    recent_v = narrow(rows_v, from, positions);
    params.pinned_k = pinned_k.data();
    params.pinned_v = pinned_v.data();
    params.rows_k = recent_k.data();
    params.rows_v = recent_v.data();
  }
  void MakePages(const Shape& s) {
    const KvPageLayout layout(format);
    if (s.turned) offset = Angles(0, kPageTokens, s.head_dim, true);
    for (int64_t n = 0; CodedFrom(params, n) < positions; ++n) {
      const int64_t begin = PageBegin(params, n);
      page_bytes.emplace_back(static_cast<size_t>(layout.page_bytes), uint8_t{0});
      if (s.turned) base.push_back(Angles(begin, 1, s.head_dim, false));
      const KeyRotation rotation = s.turned ? KeyRotation{base.back().data(), offset.data()} : KeyRotation{};
      for (int64_t h = 0; h < s.num_kv_heads; ++h) {
        QuantizePageHead(format, h, rows_k.data() + begin * width, rows_v.data() + begin * width, rotation,
                         params.channels, page_bytes.back().data());
      }
    }
    for (const auto& page : page_bytes) pages.push_back(page.data());
    for (const auto& b : base) bases.push_back(b.data());
    params.pages = pages.data();
    if (s.turned) {
      params.page_base = bases.data();
      params.page_offset = offset.data();
    }
  }

  KvFormat format;
  int64_t width, positions;
  std::vector<float> q, o, rows_k, rows_v, channel_scale, channel_min, offset, pinned_turn;
  std::vector<uint16_t> pinned_k, pinned_v, recent_k, recent_v;
  std::vector<std::vector<uint8_t>> page_bytes;
  std::vector<std::vector<float>> base;
  std::vector<const uint8_t*> pages;
  std::vector<const float*> bases;
  Params params;
};

// |error| <= (error of a weight + roundings of the two sums) * largest |v|. A weight's error is twice that of
// a score, which has head_dim products of decoded and turned keys: a quarter more than the unrounded key, and
// a few more roundings.
std::vector<double> Tolerances(const Operands& a, const Slack& slack) {
  const Params& p = a.params;
  std::vector<double> tolerance;
  double largest_v = 0;
  for (const float v : a.rows_v) largest_v = std::max(largest_v, 1.25 * std::fabs(v));
  for (int64_t row = 0; row < p.m * p.num_heads; ++row) {
    const int64_t kv_head = row % p.num_heads / (p.num_heads / p.num_kv_heads);
    double largest = 0, largest_square = 0;
    for (int64_t j = 0; j <= p.first + row / p.num_heads; ++j) {
      double sum = 0, square = 0;
      for (int64_t i = 0; i < p.head_dim; ++i) {
        const float k = a.rows_k[static_cast<size_t>((j * p.num_kv_heads + kv_head) * p.head_dim + i)];
        const double product = double{p.q[row * p.head_dim + i]} * p.scale * k;
        sum += std::fabs(product);
        square += product * product;
      }
      largest = std::max(largest, 1.25 * sum);
      largest_square = std::max(largest_square, 1.25 * 1.25 * square);
    }
    const double weight = (2 * static_cast<double>(p.head_dim + 8) * largest + 4) * 0x1p-24 +
                          slack.key * std::sqrt(largest_square);
    const int64_t last = p.first + row / p.num_heads;
    const double keys = static_cast<double>(last + 1);
    tolerance.insert(tolerance.end(), static_cast<size_t>(p.head_dim),
                     (2 * weight + (2 * keys + 16) * 0x1p-24 + slack.value) * largest_v);
  }
  return tolerance;
}

// Every row as a call of its own.
absl::Status RowByRow(Params p, float* o) {
  ThreadPool alone(1);
  const int64_t width = p.num_heads * p.head_dim, m = p.m;
  p.m = 1;
  p.o = o;
  for (int64_t i = 0; i < m; ++i, ++p.first, p.q += width, p.o += width) {
    if (absl::Status status = Run(p, alone); !status.ok()) return status;
    if (p.evict > 0) p.pinned_turn += p.head_dim / 2 * 2;
  }
  return absl::OkStatus();
}

// Changes one code of a value in the last page that all rows read as codes; false if there is none.
bool Spoil(Operands& a) {
  const Params& p = a.params;
  const KvPageLayout layout(a.format);
  const int64_t page = p.first_row_page - 1;
  if (page < 0 || SightOf(p, p.first + p.m - 1).begin > PageBegin(p, page) + 63) return false;
  const int64_t run = layout.v_codes + 63 * layout.v_runs * layout.v_run;
  a.page_bytes[static_cast<size_t>(page)][static_cast<size_t>(run)] ^= 2;  // the first channel's code
  return true;
}

}  // namespace

CheckReport Check(ThreadPool& pool, Fault fault);  // kernel_list.cc
void Benchmark(Bench& bench);

absl::Span<const Shape> CheckedShapes() { return kChecked; }

bool CheckShape(const Shape& shape, uint64_t seed, absl::FunctionRef<absl::Status(const Params&)> run,
                const Slack& slack, Fault fault, CheckReport& report) {
  Operands a(shape, seed);
  std::vector<float> expected(a.o.size());
  Params reference = a.params;
  reference.o = expected.data();
  if (!Reference(reference).ok()) return false;
  if (fault == Fault::kOneElement && !Spoil(a)) return false;
  if (!run(a.params).ok()) std::fill(a.o.begin(), a.o.end(), std::nanf(""));
  report.Compare(Name(shape), a.o, std::vector<double>(expected.begin(), expected.end()),
                 Tolerances(a, slack));
  return true;
}

CheckReport Check(ThreadPool& pool, Fault fault) {
  CheckReport report;
  uint64_t seed = 1;
  for (const Shape& shape : kChecked) {
    const auto run = [&](const Params& p) {
      if (absl::Status status = Run(p, pool); !status.ok()) return status;
      std::vector<float> rows(static_cast<size_t>(p.m * p.num_heads * p.head_dim));
      if (absl::Status status = RowByRow(p, rows.data()); !status.ok()) return status;
      report.CompareExact(absl::StrCat(Name(shape), " row by row"), rows, {p.o, rows.size()});
      return absl::OkStatus();
    };
    CheckShape(shape, seed += 10, run, {}, fault, report);
  }
  return report;
}

void Benchmark(Bench& bench) {
  std::vector<Shape> shapes;
  for (const auto& [k, v] :
       {std::pair(16, 16), std::pair(8, 8), std::pair(4, 4), std::pair(3, 3), std::pair(2, 2)}) {
    shapes.push_back({1, 4095, 9, 3, 64, k, v, kPage, false, 1, 16});
  }
  shapes.push_back({1, 4095, 9, 3, 64, 4, 4, kPage, true, 1, 16});
  shapes.push_back({1, 4095, 9, 3, 64, 4, 4, kToken, false, 1, 16});
  shapes.push_back({1, 4095, 32, 8, 128, 4, 4, kPage, true, 1, 16});
  shapes.push_back({512, 0, 9, 3, 64, 4, 4, kPage, true, 1, 16});
  shapes.push_back({512, 1536, 32, 8, 128, 4, 4, kPage, true, 1, 16});
  for (const Shape& s : shapes) {
    Operands a(s, 1);
    const double keys =
        static_cast<double>(s.m) * (static_cast<double>(s.first) + (static_cast<double>(s.m) + 1) / 2);
    const double bits = static_cast<double>(s.k_bits + s.v_bits);
    bench.Time(Name(s), 4.0 * keys * static_cast<double>(s.num_heads * s.head_dim),
               bits / 8 * static_cast<double>((s.first + s.m) * s.num_kv_heads * s.head_dim),
               [&] { (void)Run(a.params, bench.pool()); });
  }
}

}  // namespace spikefold::kernels::attention_f32_f32_ukv
