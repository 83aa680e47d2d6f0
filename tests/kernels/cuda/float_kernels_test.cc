// Kernels in float32 against the CPU's float64 references.
#include <cmath>

#include "absl/strings/str_cat.h"
#include "formats/base/dtype.h"
#include "formats/base/hadamard.h"
#include "formats/base/thread_pool.h"
#include "kernels/attention_f32_f32/attention_f32_f32.h"
#include "kernels/attention_f32_f32/attention_f32_f32_cuda.h"
#include "kernels/cpu/cpu_features.h"
#include "kernels/cuda/pingpong_plan.h"
#include "kernels/gatedmul_f32_f32/gatedmul_f32_f32_cuda.h"
#include "kernels/hadamard_f32_f32/hadamard_f32_f32.h"
#include "kernels/hadamard_f32_f32/hadamard_f32_f32_cuda.h"
#include "kernels/kernel_check.h"
#include "kernels/matmul_f32_f32_bf16/matmul_f32_f32_bf16_cuda.h"
#include "kernels/matmul_f32_f32_f32/matmul_f32_f32_f32_cuda.h"
#include "kernels/matmul_f32_f32_s8c/matmul_f32_f32_s8c_cuda.h"
#include "kernels/norm_f32_f32/norm_f32_f32_cuda.h"
#include "kernels/rope_f32_f32/rope_f32_f32_cuda.h"
#include "tests/kernels/cuda/cuda_kit.h"

namespace spikefold::kernels {
namespace {

using cuda::Array;
using cuda::Ok;
using cuda::TheStream;
constexpr double kUnit = 0x1p-24;

void Compare(const std::string& name, const std::vector<float>& actual, const std::vector<double>& expected,
             const std::vector<double>& tolerance, CheckReport& report) {
  report.Compare(name, actual, expected, tolerance);
}

TEST_CASE("Norms and the adds before them hold their bound; the residual is exact", "[gpu][norm]") {
  CheckReport report;
  for (const auto& [m, k] : std::vector<std::pair<int64_t, int64_t>>{
           {1, 1}, {7, 576}, {3, 2047}, {2, 8192}, {70, 4096}, {2, 8196}, {70, 2050}}) {
    for (const bool sandwich : {false, true}) {
      const std::vector<float> h = RandomFloats(m * k, 1), b = RandomFloats(m * k, 2),
                               g1 = RandomFloats(k, 3), g2 = RandomFloats(k, 4);
      const Array<float> residual(h), branch(b), branch_gain(g1), gain(g2), y(m * k);
      Ok(norm_f32_f32::RunCuda({.m = m,
                                .k = k,
                                .residual = residual.data(),
                                .branch = branch.data(),
                                .branch_gain = sandwich ? branch_gain.data() : nullptr,
                                .gain = gain.data(),
                                .eps = 1e-5f,
                                .y = y.data()},
                               TheStream()));
      const std::vector<float> sum = residual.Read();
      std::vector<double> expected_sum, expected, tolerance_sum, tolerance;
      for (int64_t r = 0; r < m; ++r) {
        const auto inverse = [&](const float* x) {
          double squares = 0;
          for (int64_t i = 0; i < k; ++i) squares += double{x[i]} * x[i];
          return 1 / std::sqrt(squares / static_cast<double>(k) + double{1e-5f});
        };
        const double factor_b = sandwich ? inverse(b.data() + r * k) : 1;
        const double factor = inverse(sum.data() + r * k);
        for (int64_t i = 0; i < k; ++i) {
          const size_t at = static_cast<size_t>(r * k + i), c = static_cast<size_t>(i);
          const double add = sandwich ? b[at] * factor_b * g1[c] : b[at];
          expected_sum.push_back(h[at] + add);
          tolerance_sum.push_back(kUnit * (4 * std::abs(add) + std::abs(h[at] + add)));
          expected.push_back(sum[at] * factor * g2[c]);
          tolerance.push_back(4 * kUnit * std::abs(expected.back()) + 1e-30);
        }
      }
      Compare("residual", sum, expected_sum, tolerance_sum, report);
      Compare("norm", y.Read(), expected, tolerance, report);
    }
  }
  INFO(report.detail);
  CHECK(report.ok());
}

TEST_CASE("Gated products hold their bound, far tails included", "[gpu][gatedmul]") {
  CheckReport report;
  for (const auto activation :
       {gatedmul_f32_f32::Activation::kSilu, gatedmul_f32_f32::Activation::kGeluTanh}) {
    constexpr int64_t kCount = 1003;  // not whole vectors
    std::vector<float> g = RandomFloats(kCount, 1), u = RandomFloats(kCount, 2);
    for (size_t i = 0; i < 100; ++i) g[i] *= 30;
    g[0] = -200;
    g[1] = 200;
    g[2] = 0;
    const Array<float> gate(g), up(u), y(kCount);
    Ok(gatedmul_f32_f32::RunCuda(
        {.count = kCount, .activation = activation, .gate = gate.data(), .up = up.data(), .y = y.data()},
        TheStream()));
    std::vector<float> reference(kCount);
    Ok(gatedmul_f32_f32::Reference({.count = kCount,
                                    .activation = activation,
                                    .gate = g.data(),
                                    .up = u.data(),
                                    .y = reference.data()}));
    std::vector<double> tolerance;
    for (size_t i = 0; i < kCount; ++i) {
      tolerance.push_back(kUnit * std::abs(reference[i]) * (12 + 4 * std::abs(double{g[i]})) + 1e-30);
    }
    Compare("gated", y.Read(), {reference.begin(), reference.end()}, tolerance, report);
  }
  INFO(report.detail);
  CHECK(report.ok());
}

TEST_CASE("Rotations of every kind of factor hold their bound", "[gpu][hadamard]") {
  CheckReport report;
  for (const int64_t n :
       {int64_t{1}, int64_t{64}, int64_t{576}, int64_t{1536}, int64_t{2048}, int64_t{172}}) {
    for (const bool blocks : {false, true}) {
      const std::vector<int64_t> factors = HadamardFactors(n);
      REQUIRE(!factors.empty());
      const int64_t width = blocks ? 2 * n : n, m = n == 64 ? 66000 : 3;  // more rows than a grid is high
      const std::vector<float> in = RandomFloats(m * width, 1), scale = RandomFloats(width, 2);
      std::vector<float> expected = in;
      Ok(hadamard_f32_f32::Reference(
          {.m = m, .n = width, .factors = factors, .scale = scale.data(), .x = expected.data()}));
      hadamard_f32_f32::CudaRotation rotation;
      Ok(rotation.Set(factors, scale, TheStream()));
      const Array<float> x(in);
      Ok(hadamard_f32_f32::RunCuda({.m = m, .n = width, .plan = rotation.plan(), .x = x.data()},
                                   TheStream()));
      double terms = 2;
      for (const int64_t f : factors)
        terms += IsPowerOfTwo(f) ? std::log2(static_cast<double>(f)) : static_cast<double>(f);
      std::vector<double> tolerance(expected.size());
      for (int64_t at = 0; at < m * width; at += n) {
        double sum = 0;
        for (int64_t i = at; i < at + n; ++i) {
          sum += std::abs(double{in[static_cast<size_t>(i)]} * scale[static_cast<size_t>(i % width)]);
        }
        std::fill_n(tolerance.begin() + at, n, (terms + 1) * kUnit * sum);
      }
      Compare(absl::StrCat("n=", n, " width=", width), x.Read(), {expected.begin(), expected.end()},
              tolerance, report);
    }
  }
  INFO(report.detail);
  CHECK(report.ok());
}

TEST_CASE("Rotations equal those of the CPU's vector levels bit for bit", "[gpu][hadamard]") {
  if (ActiveIsa() < Isa::kAvx2) return;
  ThreadPool pool(2);
  CheckReport report;
  // All numbers of passes; tables that a thread holds and that a warp shares, paired and not, by single
  // columns and several.
  for (const int64_t n : {2,   8,   32,   64,   256, 512,  2048, 4096, 16384, 20,    36,
                          152, 640, 1296, 1536, 576, 1232, 4864, 9472, 11008, 14336, 28672}) {
    if (n * int64_t{sizeof(float)} > cuda::MaxSharedBytes()) continue;
    const int64_t m = 2, width = n <= 4096 ? 3 * n : n;
    const std::vector<int64_t> factors = HadamardFactors(n);
    const std::vector<float> scale = RandomFloats(width, 2);
    std::vector<float> expected = RandomFloats(m * width, 1);
    const Array<float> x(expected);
    Ok(hadamard_f32_f32::Run(
        {.m = m, .n = width, .factors = factors, .scale = scale.data(), .x = expected.data()}, pool));
    hadamard_f32_f32::CudaRotation rotation;
    Ok(rotation.Set(factors, scale, TheStream()));
    Ok(hadamard_f32_f32::RunCuda({.m = m, .n = width, .plan = rotation.plan(), .x = x.data()}, TheStream()));
    report.CompareExact(absl::StrCat("n=", n), x.Read(), expected);
  }
  INFO(report.detail);
  CHECK(report.ok());
}

TEST_CASE("Head norms, rotary embedding and the shared rotation hold their bound", "[gpu][rope]") {
  CheckReport report;
  for (const int64_t d : {int64_t{16}, int64_t{64}, int64_t{256}}) {
    const int64_t m = d == 16 ? 66000 : 5, heads = 3, kv = 1, half = d / 2;
    const std::vector<float> q = RandomFloats(m * heads * d, 1), k = RandomFloats(m * kv * d, 2),
                             gain = RandomFloats(d, 3), angle = RandomFloats(m * half, 4),
                             scale = RandomFloats(d, 5);
    std::vector<float> cos, sin;
    for (const float a : angle) {
      cos.push_back(std::cos(a));
      sin.push_back(std::sin(a));
    }
    hadamard_f32_f32::CudaRotation rotation;
    Ok(rotation.Set(HadamardFactors(d), scale, TheStream()));
    const Array<float> d_q(q), d_k(k), d_gain(gain), d_cos(cos), d_sin(sin);
    Ok(rope_f32_f32::RunCuda({.m = m,
                              .head_dim = d,
                              .q = {.num_heads = heads, .x = d_q.data(), .gain = d_gain.data()},
                              .k = {.num_heads = kv, .x = d_k.data()},
                              .eps = 1e-6f,
                              .cos = d_cos.data(),
                              .sin = d_sin.data(),
                              .rotation = rotation.plan()},
                             TheStream()));
    const auto expect = [&](std::vector<float> x, int64_t num_heads, bool norm) {
      std::vector<double> tolerance;
      for (int64_t row = 0; row < m * num_heads; ++row) {
        float* head = x.data() + row * d;
        double squares = 0, sum = 0;
        for (int64_t i = 0; i < d; ++i) squares += double{head[i]} * head[i];
        const double factor = norm ? 1 / std::sqrt(squares / static_cast<double>(d) + double{1e-6f}) : 1;
        std::vector<double> turned(static_cast<size_t>(d));
        for (int64_t i = 0; i < half; ++i) {
          const size_t at = static_cast<size_t>(row / num_heads * half + i), i0 = static_cast<size_t>(i);
          const double a = head[i] * factor * (norm ? gain[i0] : 1),
                       b = head[i + half] * factor * (norm ? gain[i0 + static_cast<size_t>(half)] : 1);
          turned[i0] = a * cos[at] - b * sin[at];
          turned[i0 + static_cast<size_t>(half)] = b * cos[at] + a * sin[at];
        }
        for (int64_t i = 0; i < d; ++i) {
          head[i] = static_cast<float>(turned[static_cast<size_t>(i)]);
          sum += std::abs(turned[static_cast<size_t>(i)] * scale[static_cast<size_t>(i)]);
        }
        tolerance.insert(tolerance.end(), static_cast<size_t>(d), 30 * kUnit * sum);
      }
      Ok(hadamard_f32_f32::Reference(
          {.m = m * num_heads, .n = d, .factors = HadamardFactors(d), .scale = scale.data(), .x = x.data()}));
      return std::make_pair(std::vector<double>(x.begin(), x.end()), tolerance);
    };
    const auto [eq, tq] = expect(q, heads, true);
    const auto [ek, tk] = expect(k, kv, false);
    Compare(absl::StrCat("q d=", d), d_q.Read(), eq, tq, report);
    Compare(absl::StrCat("k d=", d), d_k.Read(), ek, tk, report);
  }
  INFO(report.detail);
  CHECK(report.ok());
}

TEST_CASE("Rotary embedding alone holds its bound, on few rows and on many, in order and not",
          "[gpu][rope]") {
  CheckReport report;
  for (const int64_t d : {int64_t{12}, int64_t{64}, int64_t{256}}) {
    for (const auto& [m, backwards] : {std::pair(int64_t{3}, false), {3, true}, {40, false}, {40, true}}) {
      const int64_t heads = 13, kv = 4, half = d / 2;
      std::vector<int32_t> positions;
      for (int64_t i = 0; i < m; ++i) positions.push_back(static_cast<int32_t>(backwards ? m - 1 - i : i));
      const Array<int32_t> d_positions(positions);
      const std::vector<float> q = RandomFloats(m * heads * d, 1), k = RandomFloats(m * kv * d, 2),
                               cos = RandomFloats(m * half, 3), sin = RandomFloats(m * half, 4);
      const Array<float> d_q(q), d_k(k), d_cos(cos), d_sin(sin);
      Ok(rope_f32_f32::RunCuda({.m = m,
                                .head_dim = d,
                                .q = {.num_heads = heads, .x = d_q.data()},
                                .k = {.num_heads = kv, .x = d_k.data()},
                                .cos = d_cos.data(),
                                .sin = d_sin.data(),
                                .positions = backwards ? d_positions.data() : nullptr},
                               TheStream()));
      const auto check = [&](const char* name, const std::vector<float>& x, int64_t num_heads,
                             const Array<float>& turned) {
        std::vector<double> expected(x.size()), tolerance(x.size());
        for (size_t at = 0; at < x.size(); ++at) {
          const size_t width = static_cast<size_t>(d), pairs = static_cast<size_t>(half);
          const size_t row = at / width, i = at % width, other = i < pairs ? at + pairs : at - pairs;
          const size_t position = static_cast<size_t>(positions[row / static_cast<size_t>(num_heads)]);
          const size_t angle = position * pairs + i % pairs;
          const double own = double{x[at]} * cos[angle], across = double{x[other]} * sin[angle];
          expected[at] = i < pairs ? own - across : own + across;
          tolerance[at] = 2 * kUnit * (std::abs(own) + std::abs(across));
        }
        Compare(absl::StrCat(name, " d=", d, " M=", m), turned.Read(), expected, tolerance, report);
      };
      check("q", q, heads, d_q);
      check("k", k, kv, d_k);
    }
  }
  INFO(report.detail);
  CHECK(report.ok());
}

struct AttentionCase {
  int64_t m, heads, kv, d, first, window;
};

TEST_CASE("Attention holds its bound, and a row's result does not depend on the rows beside it",
          "[gpu][attention]") {
  CheckReport report;
  for (const AttentionCase& c : std::vector<AttentionCase>{{1, 2, 1, 16, 0, 0},
                                                           {70, 9, 3, 64, 0, 0},
                                                           {33, 4, 1, 256, 5, 0},
                                                           {40, 4, 2, 64, 100, 32},
                                                           {3, 2, 2, 80, 300, 7},
                                                           {65, 2, 1, 128, 0, 1},
                                                           {150, 4, 1, 96, 64, 0},
                                                           {600, 32, 8, 128, 70, 0},
                                                           {300, 48, 48, 64, 0, 100}}) {
    const int64_t positions = c.first + c.m;
    const std::vector<float> q = RandomFloats(c.m * c.heads * c.d, 1),
                             k = RandomFloats(positions * c.kv * c.d, 2),
                             v = RandomFloats(positions * c.kv * c.d, 3);
    std::vector<float> expected(q.size());
    const float scale = 1 / std::sqrt(static_cast<float>(c.d));
    Ok(attention_f32_f32::Reference({.m = c.m,
                                     .num_heads = c.heads,
                                     .num_kv_heads = c.kv,
                                     .head_dim = c.d,
                                     .q = q.data(),
                                     .k = k.data(),
                                     .v = v.data(),
                                     .first = c.first,
                                     .scale = scale,
                                     .window = c.window,
                                     .o = expected.data()}));
    const Array<float> d_q(q), d_k(k), d_v(v), o(c.m * c.heads * c.d);
    attention_f32_f32::CudaParams p = {.m = c.m,
                                       .num_heads = c.heads,
                                       .num_kv_heads = c.kv,
                                       .head_dim = c.d,
                                       .q = d_q.data(),
                                       .k = d_k.data(),
                                       .v = d_v.data(),
                                       .first = c.first,
                                       .scale = scale,
                                       .window = c.window,
                                       .o = o.data()};
    Ok(attention_f32_f32::RunCuda(p, TheStream()));
    const std::string name = absl::StrCat("M=", c.m, " d=", c.d, " first=", c.first, " window=", c.window);
    const std::vector<float> all = o.Read();
    // Values of 4 split into halves are exact to 2^-16; scores pass their error on.
    const double tolerance = kUnit * static_cast<double>(c.d + positions + 64) * 4 + 0x1p-15;
    Compare(name, all, {expected.begin(), expected.end()}, std::vector<double>(all.size(), tolerance),
            report);
    const Array<float> one(c.heads * c.d);
    for (const int64_t row : {int64_t{0}, c.m / 2, c.m - 1}) {
      attention_f32_f32::CudaParams alone = p;
      alone.m = 1;
      alone.first = c.first + row;
      alone.q = d_q.data() + row * c.heads * c.d;
      alone.o = one.data();
      const bool mma = c.m >= attention_f32_f32::kMmaRows && c.d % 16 == 0 && c.d <= 128;
      Ok(mma ? attention_f32_f32::RunMma(alone, TheStream())
             : attention_f32_f32::RunCuda(alone, TheStream()));
      const std::vector<float> beside(all.begin() + row * c.heads * c.d,
                                      all.begin() + (row + 1) * c.heads * c.d);
      report.CompareExact(absl::StrCat(name, " row ", row), one.Read(), beside);
    }
  }
  INFO(report.detail);
  CHECK(report.ok());
}

// Weights in float32, in bf16, or in bf16 on sm_90a: rows in two parts (whose second, `flip` loses), or
// rounded.
enum class FloatLinear { kF32, kBf16, kSplit, kRounded };
void RunFloatLinear(int64_t m, int64_t n, int64_t k, FloatLinear kind, CheckReport& report, bool flip = false,
                    const cuda::pingpong::Plan& tiles = {}) {
  const bool bf16 = kind != FloatLinear::kF32, hopper = bf16 && kind != FloatLinear::kBf16;
  std::vector<float> x = RandomFloats(m * k, 1);
  const std::vector<float> bias = RandomFloats(n, 3);
  std::vector<float> w = RandomFloats(n * k, 2);
  std::vector<uint16_t> rounded;
  for (float& v : w) {
    rounded.push_back(FloatToBf16(v));
    if (bf16) v = Bf16ToFloat(rounded.back());
  }
  if (flip) {
    for (float& v : x) v = Bf16ToFloat(FloatToBf16(v));
  }
  const Array<float> d_x(x), d_w(w), d_bias(bias), y(m * n);
  const Array<uint16_t> d_rounded(rounded);
  if (flip) x = RandomFloats(m * k, 1);
  if (kind == FloatLinear::kRounded) {
    for (float& v : x) v = Bf16ToFloat(FloatToBf16(v));
  }
  cuda::SimtParams p = {.m = m, .k = k, .x = d_x.data(), .linears = {.count = 1}};
  p.linears.linear[0] = {.n = n, .w = d_w.data(), .w_stride = k, .bias = d_bias.data(), .y = y.data()};
  if (bf16) {
    p.linears.linear[0].w = d_rounded.data();
    namespace of_bf16 = matmul_f32_f32_bf16;
    if (hopper) {
      const auto rows = kind == FloatLinear::kSplit ? of_bf16::Rows::kExact : of_bf16::Rows::kBf16;
      const Array<uint16_t> parts(m * k * static_cast<int64_t>(rows));
      Ok(of_bf16::RunHopper(p, rows, parts.data(), *cuda::QueryDevice(), TheStream(), tiles));
      Ok(TheStream().Sync());
    } else {
      Ok(of_bf16::RunCuda(p, TheStream()));
    }
  } else {
    Ok(matmul_f32_f32_f32::RunCuda(p, TheStream()));
  }
  std::vector<double> expected, tolerance;
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      double sum = bias[static_cast<size_t>(j)], size = std::abs(sum);
      for (int64_t c = 0; c < k; ++c) {
        const double term = double{x[static_cast<size_t>(i * k + c)]} * w[static_cast<size_t>(j * k + c)];
        sum += term;
        size += std::abs(term);
      }
      expected.push_back(sum);
      // The tensor cores cut off what lies below the largest term of a step; two parts leave 2^-17 of x.
      const double steps = static_cast<double>(k) / 16 + 1;
      tolerance.push_back(hopper ? size * (kUnit * 2 * steps + (kind == FloatLinear::kSplit ? 0x1p-17 : 0))
                                 : kUnit * size * 12);
    }
  }
  Compare(absl::StrCat("M=", m, " N=", n, " K=", k, bf16 ? " bf16" : "", hopper ? " on sm_90a" : ""),
          y.Read(), expected, tolerance, report);
}

TEST_CASE("Float linears hold their bound on few rows and many", "[gpu][matmul]") {
  CheckReport report;
  for (const FloatLinear kind : {FloatLinear::kF32, FloatLinear::kBf16}) {
    for (const int64_t m : {1, 3, 8, 9, 70, 300}) {
      RunFloatLinear(m, m == 300 ? 9000 : 129, 77, kind, report);
      if (m < 300) RunFloatLinear(m, 50, 1352, kind, report);
    }
    // Rows that lie in shared memory, one block or two of a multiprocessor, and that do not fit.
    for (const int64_t m : {1, 2, 4, 5, 8}) RunFloatLinear(m, 37, m == 4 ? 14336 : 4104, kind, report);
    RunFloatLinear(7, 20, 14336, kind, report);
  }
  INFO(report.detail);
  CHECK(report.ok());
}

TEST_CASE("Float rows times bf16 weights hold their bound on the tensor cores, and need both parts",
          "[gpu][matmul][hopper]") {
  if (cuda::QueryDevice()->sm != 90) return;
  CheckReport report, canary;
  for (const FloatLinear kind : {FloatLinear::kSplit, FloatLinear::kRounded}) {
    for (const int64_t m : {1, 9, 64, 65, 128, 129, 300}) {
      RunFloatLinear(m, m == 300 ? 9000 : 129, 88, kind, report);
      if (m < 300) RunFloatLinear(m, 50, 1352, kind, report);
      if (m < 100) RunFloatLinear(m, 264, 8, kind, report);
    }
  }
  for (const cuda::pingpong::Plan& tiles : cuda::pingpong::kAllTiles) {
    RunFloatLinear(140, 700, 264, FloatLinear::kSplit, report, false, tiles);
    RunFloatLinear(2000, 2600, 72, FloatLinear::kRounded, report, false, tiles);  // several tiles a block
  }
  INFO(report.detail);
  CHECK(report.ok());
  RunFloatLinear(70, 50, 136, FloatLinear::kSplit, canary, true);
  CHECK(canary.worst > 2);
}

TEST_CASE("Float rows times codes hold their bound; spike rows alone leave the others untouched",
          "[gpu][matmul]") {
  CheckReport report;
  const int64_t m = 40, n = 100, k = 96, stride = 96, r = 3;
  const std::vector<float> x = RandomFloats(m * k, 1), scale = RandomFloats(n, 2), bias = RandomFloats(n, 3);
  const std::vector<int8_t> codes = RandomCodes(n * k, -127, 127, 4);
  const std::vector<int32_t> kept = {0, 9, 95}, columns = {4, 50}, slots = {1, 0}, rows = {7, 7},
                             spikes = {2, 5, 39};
  const std::vector<float> values = {3.5f, -2.25f};
  std::vector<uint16_t> kept_w;  // [r, n]
  for (const float v : RandomFloats(r * n, 5)) kept_w.push_back(FloatToBf16(v));
  const Array<float> d_x(x), d_scale(scale), d_bias(bias), d_values(values), y(m * n);
  const Array<int8_t> d_codes(codes);
  const Array<uint16_t> d_kept_w(kept_w);
  const Array<int32_t> d_kept(kept), d_columns(columns), d_slots(slots), d_rows(rows), d_spikes(spikes),
      d_num(std::vector<int32_t>{3});
  cuda::SimtParams p = {.m = m,
                        .k = k,
                        .x = d_x.data(),
                        .tail = {.num_kept = r, .kept = d_kept.data(), .super_column = d_columns.data()},
                        .linears = {.count = 1}};
  p.super[0] = {.num = 2, .slot = d_slots.data(), .row = d_rows.data(), .value = d_values.data()};
  p.linears.linear[0] = {.n = n,
                         .w = d_codes.data(),
                         .w_stride = stride,
                         .w_scale = d_scale.data(),
                         .kept_w = d_kept_w.data(),
                         .kept_stride = n,
                         .bias = d_bias.data(),
                         .y = y.data()};
  const auto bf16 = [](float v) { return double{Bf16ToFloat(FloatToBf16(v))}; };
  std::vector<double> expected, tolerance;
  for (int64_t i = 0; i < m; ++i) {
    const float* row = x.data() + i * k;
    for (int64_t j = 0; j < n; ++j) {
      double sum = bias[static_cast<size_t>(j)], size = std::abs(sum);
      const auto add = [&](double term) {
        sum += term;
        size += std::abs(term);
      };
      for (int64_t c = 0; c < k; ++c)
        add(double{row[c]} * codes[static_cast<size_t>(j * k + c)] * scale[static_cast<size_t>(j)]);
      for (int64_t c = 0; c < r; ++c) {
        add(bf16(row[kept[static_cast<size_t>(c)]]) * Bf16ToFloat(kept_w[static_cast<size_t>(c * n + j)]));
      }
      if (j == 7) {
        add(3.5 * bf16(row[50]));
        add(-2.25 * bf16(row[4]));
      }
      expected.push_back(sum);
      tolerance.push_back(kUnit * size * 12);
    }
  }
  Ok(matmul_f32_f32_s8c::RunCuda(p, TheStream()));
  Compare("all rows", y.Read(), expected, tolerance, report);
  const std::vector<float> before(static_cast<size_t>(m * n), 7.0f);
  Ok(cuda::CopyIn(y.data(), before.data(), before.size() * sizeof(float), TheStream()));
  p.m = 4;
  p.rows = d_spikes.data();
  p.num_rows = d_num.data();
  Ok(matmul_f32_f32_s8c::RunCuda(p, TheStream()));
  for (int64_t i = 0; i < m; ++i) {
    if (i == 2 || i == 5 || i == 39) continue;
    std::fill_n(expected.begin() + i * n, n, 7.0);
    std::fill_n(tolerance.begin() + i * n, n, 0.0);
  }
  Compare("spike rows", y.Read(), expected, tolerance, report);
  INFO(report.detail);
  CHECK(report.ok());
}

}  // namespace
}  // namespace spikefold::kernels
