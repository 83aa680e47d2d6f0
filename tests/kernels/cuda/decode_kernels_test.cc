// Kernels that decode: few rows with 8-bit codes, attention of one token.
#include <cmath>

#include "absl/strings/str_cat.h"
#include "kernels/attention_f32_f32/attention_f32_f32.h"
#include "kernels/attention_f32_f32/attention_f32_f32_decode_cuda.h"
#include "kernels/kernel_check.h"
#include "kernels/matmul_f32_f32_s8c/matmul_f32_f32_s8c_cuda.h"
#include "tests/kernels/cuda/cuda_kit.h"

namespace spikefold::kernels {
namespace {

using cuda::Array;
using cuda::Ok;
using cuda::TheStream;

// One to four rows times 8-bit codes; a spike in some chunk takes digits from its neighbours, not from
// others.
void RunDigits(int64_t m, int64_t n, int64_t k, bool flip, CheckReport& report) {
  const int64_t stride = (k + 15) / 16 * 16;
  std::vector<float> x = RandomFloats(m * k, 21), scale = RandomFloats(n, 22), bias = RandomFloats(n, 23);
  x[static_cast<size_t>((m - 1) * k + k / 2)] = 3000;
  std::fill_n(x.begin(), std::min<int64_t>(k, 64), 0.0f);  // a chunk of zeros
  std::vector<int8_t> codes(static_cast<size_t>(n * stride), 0);
  const std::vector<float> random = RandomFloats(n * k, 24);
  for (int64_t i = 0; i < n * k; ++i) {
    const double code = std::clamp(static_cast<double>(random[static_cast<size_t>(i)]) * 80, -127.0, 127.0);
    codes[static_cast<size_t>(i / k * stride + i % k)] = static_cast<int8_t>(code);
  }
  std::vector<double> expected, tolerance;
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      double sum = 0, size = 0, lost = 0;
      for (int64_t c = 0; c < k; ++c) {
        const double value = double{x[static_cast<size_t>(i * k + c)]};
        const double by = double{scale[static_cast<size_t>(j)]} * codes[static_cast<size_t>(j * stride + c)];
        double largest = 0;
        for (int64_t near = c / 64 * 64; near < std::min(k, c / 64 * 64 + 64); ++near) {
          largest = std::max(largest, std::abs(double{x[static_cast<size_t>(i * k + near)]}));
        }
        sum += value * by;
        size += std::abs(value * by);
        lost += largest * std::abs(by);
      }
      expected.push_back(sum + double{bias[static_cast<size_t>(j)]});
      tolerance.push_back(lost * 0x1p-22 + size * 0x1p-21 + std::abs(expected.back()) * 0x1p-23);
    }
  }
  if (flip)
    codes[static_cast<size_t>(stride + 3)] = static_cast<int8_t>(codes[static_cast<size_t>(stride + 3)] ^ 1);
  if (flip) x[3] = 1;
  const Array<int8_t> w(codes);
  const Array<float> d_x(x), d_scale(scale), d_bias(bias), y(m * n);
  cuda::SimtParams p = {.m = m, .k = k, .x = d_x.data(), .linears = {.count = 1}};
  p.linears.linear[0] = {.n = n,
                         .w = w.data(),
                         .w_stride = stride,
                         .w_scale = d_scale.data(),
                         .bias = d_bias.data(),
                         .y = y.data()};
  Ok(matmul_f32_f32_s8c::RunCuda(p, TheStream()));
  report.Compare(absl::StrCat("M=", m, " N=", n, " K=", k), y.Read(), expected, tolerance);
}

TEST_CASE("Products of few rows in digits with 8-bit codes hold their bound", "[gpu][matmul][decode]") {
  CheckReport report;
  for (const int64_t m : {1, 2, 3, 4}) {
    for (const int64_t k : {16, 100, 576, 1536}) RunDigits(m, 50, k, false, report);
  }
  RunDigits(1, 40, 14336, false, report);
  RunDigits(2, 9000, 128, false, report);  // more tiles than blocks
  INFO(report.detail);
  CHECK(report.ok());
  CheckReport flipped;
  RunDigits(1, 50, 576, true, flipped);
  CHECK(flipped.worst > 2);
}

TEST_CASE("What is not finite stays so through digits", "[gpu][matmul][decode]") {
  const Array<int8_t> w(std::vector<int8_t>(16 * 64, 1));
  const Array<float> scale(std::vector<float>(16, 1.0f)), y(16);
  for (const float bad : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    std::vector<float> x(64, 1.0f);
    x[40] = bad;
    const Array<float> d_x(x);
    cuda::SimtParams p = {.m = 1, .k = 64, .x = d_x.data(), .linears = {.count = 1}};
    p.linears.linear[0] = {.n = 16, .w = w.data(), .w_stride = 64, .w_scale = scale.data(), .y = y.data()};
    Ok(matmul_f32_f32_s8c::RunCuda(p, TheStream()));
    for (const float value : y.Read()) CHECK_FALSE(std::isfinite(value));
  }
}

struct DecodeCase {
  int64_t heads, kv, d;
  std::vector<int64_t> first;  // of each sequence
  int64_t window = 0;
  int64_t splits = 0;  // 0: as many as needed
};

std::vector<float> Turned(std::vector<float> x, int64_t heads, int64_t d, const std::vector<float>& cos,
                          const std::vector<float>& sin) {
  const size_t half = static_cast<size_t>(d / 2);
  for (size_t h = 0; h < static_cast<size_t>(heads); ++h) {
    for (size_t i = 0; i < half; ++i) {
      float &a = x[h * 2 * half + i], &b = x[h * 2 * half + half + i];
      const float c = cos[i], s = sin[i], first = a * c - b * s;
      b = b * c + a * s;
      a = first;
    }
  }
  return x;
}

TEST_CASE("Attention of a token of each sequence appends its row and equals the reference",
          "[gpu][attention][decode]") {
  namespace attention = attention_f32_f32;
  CheckReport report;
  for (const DecodeCase& c : std::vector<DecodeCase>{{9, 3, 64, {0}},
                                                     {9, 3, 64, {100}},
                                                     {9, 3, 64, {127}},
                                                     {9, 3, 64, {128, 0, 127}},
                                                     {32, 8, 128, {100}},  // few blocks: in fewer registers
                                                     {32, 8, 128, {400}, 130},
                                                     {4, 4, 128, {77, 2}},
                                                     {32, 8, 128, {1000}},
                                                     {32, 8, 128, {700, 1000, 3}, 0, 16},
                                                     {32, 8, 128, {1000, 200}, 130},
                                                     {4, 1, 256, {300, 301}},
                                                     {4, 4, 48, {77, 2}},
                                                     {14, 2, 64, {500, 5, 255}, 7},
                                                     {3, 3, 256, {129}}}) {
    const int64_t m = static_cast<int64_t>(c.first.size()), width = c.kv * c.d;
    const int64_t longest = *std::max_element(c.first.begin(), c.first.end()) + 1;
    const std::vector<float> q = RandomFloats(m * c.heads * c.d, 1), new_k = RandomFloats(m * width, 2),
                             new_v = RandomFloats(m * width, 3);
    std::vector<float> cos(static_cast<size_t>(longest * c.d / 2)), sin(cos.size());
    for (size_t i = 0; i < cos.size(); ++i) {
      cos[i] = static_cast<float>(std::cos(0.37 * static_cast<double>(i)));
      sin[i] = static_cast<float>(std::sin(0.37 * static_cast<double>(i)));
    }
    // Each sequence has a cache of its own size: layer 0, which nobody may touch, and layer 1.
    std::vector<std::vector<float>> k, v;
    std::vector<Array<float>> d_k, d_v;
    std::vector<attention::DecodeCache> caches;
    for (int64_t i = 0; i < m; ++i) {
      const int64_t layer = (c.first[static_cast<size_t>(i)] + 1 + i) * width;
      const uint64_t seed = static_cast<uint64_t>(4 + 2 * i);
      k.push_back(RandomFloats(2 * layer, seed));
      v.push_back(RandomFloats(2 * layer, seed + 1));
      for (std::vector<float>* const rows : {&k.back(), &v.back()}) {  // the new row is not there yet
        const auto row = rows->begin() + layer + c.first[static_cast<size_t>(i)] * width;
        std::fill(row, row + width, std::numeric_limits<float>::quiet_NaN());
      }
      d_k.emplace_back(k.back());
      d_v.emplace_back(v.back());
      caches.push_back({d_k.back().data(), d_v.back().data(), layer});
    }
    const Array<float> d_q(q), d_new_k(new_k), d_new_v(new_v), d_cos(cos), d_sin(sin), o(m * c.heads * c.d);
    const Array<attention::DecodeCache> d_caches(caches);
    const Array<int32_t> positions(std::vector<int32_t>(c.first.begin(), c.first.end()));
    const int64_t needed = (longest + attention::kSplitKeys - 1) / attention::kSplitKeys;
    const int64_t splits = c.splits > 0 ? c.splits : needed;
    const Array<float> partial(m * c.heads * splits * (c.d + 2));
    const Array<uint32_t> finished(std::vector<uint32_t>(static_cast<size_t>(m * c.kv), 0));
    const float scale = 1 / std::sqrt(static_cast<float>(c.d));
    std::vector<float> first_out;
    for (int repeat = 0; repeat < 3; ++repeat) {  // the counters are ready for the next token
      Ok(attention::RunDecode({.m = m,
                               .num_heads = c.heads,
                               .num_kv_heads = c.kv,
                               .head_dim = c.d,
                               .q = d_q.data(),
                               .new_k = d_new_k.data(),
                               .new_v = d_new_v.data(),
                               .cos = d_cos.data(),
                               .sin = d_sin.data(),
                               .positions = positions.data(),
                               .caches = d_caches.data(),
                               .layer = 1,
                               .scale = scale,
                               .window = c.window,
                               .splits = splits,
                               .partial = partial.data(),
                               .finished = finished.data(),
                               .o = o.data()},
                              TheStream()));
      if (repeat == 0) first_out = o.Read();
    }
    const std::vector<float> out = o.Read();
    CHECK(out == first_out);
    for (int64_t i = 0; i < m; ++i) {
      const size_t at = static_cast<size_t>(i);
      const int64_t first = c.first[at], layer = caches[at].layer_floats, row = layer + first * width;
      const auto angles = [&](const std::vector<float>& table) {
        return std::vector<float>(table.begin() + first * (c.d / 2), table.begin() + (first + 1) * (c.d / 2));
      };
      const auto part = [&](const std::vector<float>& all, int64_t size) {
        return std::vector<float>(all.begin() + i * size, all.begin() + (i + 1) * size);
      };
      const int64_t q_width = c.heads * c.d;
      const std::vector<float> own_v = part(new_v, width),
                               turned_k = Turned(part(new_k, width), c.kv, c.d, angles(cos), angles(sin)),
                               turned_q = Turned(part(q, q_width), c.heads, c.d, angles(cos), angles(sin));
      std::copy(turned_k.begin(), turned_k.end(), k[at].begin() + row);
      std::copy(own_v.begin(), own_v.end(), v[at].begin() + row);
      std::vector<float> expected(static_cast<size_t>(q_width));
      Ok(attention::Reference({.m = 1,
                               .num_heads = c.heads,
                               .num_kv_heads = c.kv,
                               .head_dim = c.d,
                               .q = turned_q.data(),
                               .k = k[at].data() + layer,
                               .v = v[at].data() + layer,
                               .first = first,
                               .scale = scale,
                               .window = c.window,
                               .o = expected.data()}));
      const std::string name = absl::StrCat("heads=", c.heads, "/", c.kv, " d=", c.d, " sequence=", i,
                                            " first=", first, " window=", c.window);
      const double tolerance = 0x1p-24 * static_cast<double>(c.d + first + 65) * 4;
      report.Compare(name, part(out, q_width), std::vector<double>(expected.begin(), expected.end()),
                     std::vector<double>(expected.size(), tolerance));
      report.CompareExact(absl::StrCat(name, " v"), d_v[at].Read(), v[at]);
      report.Compare(absl::StrCat(name, " k"), d_k[at].Read(),
                     std::vector<double>(k[at].begin(), k[at].end()),
                     std::vector<double>(k[at].size(), 0x1p-20));
    }
  }
  INFO(report.detail);
  CHECK(report.ok());
}

}  // namespace
}  // namespace spikefold::kernels
