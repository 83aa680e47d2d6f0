// Kernels whose results must be the CPU's bit for bit.
#include <cmath>

#include "absl/strings/str_cat.h"
#include "formats/base/dtype.h"
#include "formats/base/thread_pool.h"
#include "kernels/embed_f32/embed_f32_cuda.h"
#include "kernels/kernel_check.h"
#include "kernels/matmul_f32_s8r_s8c/matmul_f32_s8r_s8c.h"
#include "kernels/matmul_f32_s8r_s8c/matmul_f32_s8r_s8c_cuda.h"
#include "kernels/quantize_s8r_f32/quantize_s8r_f32.h"
#include "kernels/quantize_s8r_f32/quantize_s8r_f32_cuda.h"
#include "kernels/quantized_case.h"
#include "tests/kernels/cuda/cuda_kit.h"
#include "tests/kernels/cuda/integer_kit.h"

namespace spikefold::kernels {
namespace {

using cuda::Array;
using cuda::Ok;
using cuda::TheStream;
namespace s8c = matmul_f32_s8r_s8c;
namespace quantize = quantize_s8r_f32;

enum class Target { kSm80, kHopper, kFewHopper };
std::vector<Target> Targets() {
  return TheDevice().sm == 90 ? std::vector<Target>{Target::kSm80, Target::kHopper}
                              : std::vector<Target>{Target::kSm80};
}

// The same product on the CPU and the GPU; with `flip`, one code of the GPU's weight is wrong.
void RunBoth(const QuantizedCase& c, uint64_t seed, bool flip, Target target, CheckReport& report,
             bool flip_kept = false, const cuda::few::Plan& plan = {}, const cuda::pingpong::Plan& tiles = {},
             bool keeps_sums = true) {
  static ThreadPool pool(4);
  const QuantizedOperands o(c, seed);
  std::vector<uint8_t> packed(s8c::PackedBytes(c.n, c.k));
  s8c::Pack(o.codes.data(), c.n, c.k, packed.data());
  std::vector<float> expected(static_cast<size_t>(c.m * c.n));
  std::vector<int32_t> expected_sums(expected.size());
  OutlierTail tail = o.Tail();
  Ok(s8c::Run({.m = c.m,
               .n = c.n,
               .k = c.k,
               .x = o.x_codes.data(),
               .x_scale = o.x_scale.data(),
               .w = packed.data(),
               .w_scale = o.w_scale.data(),
               .tail = tail,
               .y = expected.data(),
               .sums = expected_sums.data()},
              pool));

  std::vector<int8_t> codes = Padded(o.codes, c.n, c.k);
  if (flip) codes[static_cast<size_t>((c.n - 1) * s8c::RowBytes(c.k) + c.k - 1)] ^= 1;
  const Array<int8_t> w(codes), x(Padded(o.x_codes, c.m, c.k));
  const Array<float> x_scale(o.x_scale), w_scale(o.w_scale), kept_x(o.kept_x), bias(o.bias), y(c.m * c.n);
  const Array<uint16_t> kept_w(Transposed(o.kept_w, c.n, c.num_kept));
  std::vector<uint16_t> rows = KeptRows(o.kept_w, c.n, c.num_kept);
  if (flip_kept) rows[rows.size() - 64] = FloatToBf16(Bf16ToFloat(rows[rows.size() - 64]) + 0.25f);
  const Array<uint16_t> kept_rows_x(KeptRows(o.kept_x, c.m, c.num_kept)), kept_rows_w(rows);
  const Array<int32_t> sums(c.m * c.n);
  s8c::CudaParams params = {.m = c.m,
                            .k = c.k,
                            .x = x.data(),
                            .x_scale = x_scale.data(),
                            .num_kept = c.num_kept,
                            .kept_x = kept_x.data(),
                            .kept_rows = kept_rows_x.data(),
                            .linears = {.count = 1}};
  params.linears.linear[0] = {.n = c.n,
                              .w = w.data(),
                              .w_stride = s8c::RowBytes(c.k),
                              .w_scale = w_scale.data(),
                              .kept_w = c.num_kept > 0 ? kept_w.data() : nullptr,
                              .kept_stride = c.n,
                              .kept_rows = kept_rows_w.data(),
                              .bias = o.bias.empty() ? nullptr : bias.data(),
                              .y = y.data(),
                              .sums = keeps_sums ? sums.data() : nullptr};
  const bool hopper = target == Target::kHopper, few = target == Target::kFewHopper;
  if (few) REQUIRE(s8c::FitsFewHopper(params, TheDevice()));
  Ok(few      ? s8c::RunFewHopper(params, plan, TheDevice(), TheStream())
     : hopper ? s8c::RunHopper(params, tiles, TheDevice(), TheStream())
              : s8c::RunCuda(params, TheStream()));
  const std::string name = absl::StrCat(
      CaseName(c), hopper ? absl::StrCat(" on sm_90a, tile ", tiles.tile_m, "x", tiles.tile_n) : "",
      few ? absl::StrCat(" groups=", plan.groups, " splits=", plan.splits) : "");
  if (keeps_sums) report.CompareExact(absl::StrCat(name, " sums"), sums.Read(), expected_sums);
  if (!hopper || c.num_kept == 0) {
    report.CompareExact(name, y.Read(), expected);
  } else {
    report.Compare(name, y.Read(), std::vector<double>(expected.begin(), expected.end()),
                   KeptTolerance(o, expected));
  }
}

std::vector<QuantizedCase> MatmulCases() {
  std::vector<QuantizedCase> cases;
  for (QuantizedCase c : ChannelCases()) {
    c.num_super = 0;  // added by another kernel
    c.one_x_scale = c.x_zeros = false;
    cases.push_back(c);
  }
  cases.push_back({.m = 600, .n = 1536, .k = 576, .num_kept = 16, .bias = true});  // 64x64 and 128x128 tiles
  cases.push_back({.m = 1024, .n = 4096, .k = 1100, .num_kept = 64});
  cases.push_back({.m = 130, .n = 300, .k = 4096, .extremes = true});
  cases.push_back({.m = 1, .n = 43, .k = 4100, .bias = true});  // one row that lies in shared memory
  cases.push_back({.m = 1, .n = 300, .k = 14336, .extremes = true});
  cases.push_back({.m = 700, .n = 8192, .k = 640, .num_kept = 37, .bias = true});  // several tiles a block
  return cases;
}

TEST_CASE("A tensor core adds 16 kept columns at once and keeps two bits below the last place",
          "[gpu][matmul]") {
  if (TheDevice().sm != 90) return;
  constexpr int64_t kM = 64, kN = 64, kK = 128, kKept = 64;
  // Outputs are 1, and as many products of 2^-exponent, in columns that lie `apart`; behind them one of 4.
  const auto output = [&](int count, int apart, int exponent, bool larger = false) {
    std::vector<int8_t> x_codes(kM * kK), w_codes(kN * kK);
    x_codes[0] = w_codes[0] = 1;
    std::vector<uint16_t> x_rows(kM * kKept), w_rows(kN * kKept);
    for (int i = 0; i < count; ++i) {
      x_rows[static_cast<size_t>(i * apart)] = FloatToBf16(0x1p-12f);
      w_rows[static_cast<size_t>(i * apart)] = FloatToBf16(std::ldexp(1.0f, 12 - exponent));
    }
    if (larger) x_rows[15] = w_rows[15] = FloatToBf16(2);
    const std::vector<float> ones(kN, 1.0f);
    const Array<int8_t> x(x_codes), w(w_codes);
    const Array<uint16_t> kept_x(x_rows), kept_w(w_rows);
    const Array<float> x_scale(ones), w_scale(ones), y(kM * kN);
    s8c::CudaParams params = {.m = kM,
                              .k = kK,
                              .x = x.data(),
                              .x_scale = x_scale.data(),
                              .num_kept = kKept,
                              .kept_rows = kept_x.data(),
                              .linears = {.count = 1}};
    params.linears.linear[0] = {.n = kN,
                                .w = w.data(),
                                .w_stride = kK,
                                .w_scale = w_scale.data(),
                                .kept_w = kept_w.data(),
                                .kept_stride = kN,
                                .kept_rows = kept_w.data(),
                                .y = y.data()};
    Ok(s8c::RunHopper(params, {64, 64}, TheDevice(), TheStream()));
    return y.Read()[0];
  };
  CHECK(output(1, 1, 23) == 1 + 0x1p-23f);
  CHECK(output(4, 5, 25) == 1 + 0x1p-23f);  // columns 0 to 15 together: by eight or fewer all would be lost
  CHECK(output(8, 2, 26) == 1);             // a third bit below is dropped
  CHECK(output(1, 1, 24) == 1);             // truncated
  CHECK(output(3, 1, 24) == 1 + 0x1p-23f);  // not rounded to even, which would be 2^-22
  CHECK(output(8, 1, 24, true) == 5);       // the same below a product
  CHECK(output(4, 1, 23, true) == 5 + 0x1p-21f);
  CHECK(output(2, 16, 24) == 1);  // 16 by 16
}

TEST_CASE("One wrong kept column is found on the tensor cores", "[gpu][matmul][canary]") {
  for (const Target target : Targets()) {
    if (target != Target::kHopper) continue;
    CheckReport report;
    RunBoth({.m = 100, .n = 300, .k = 576, .num_kept = 64, .bias = true}, 5, false, target, report, true);
    CHECK(report.worst > 1);
  }
}

TEST_CASE("Products of codes equal the CPU's bit for bit, kept columns on the tensor cores to rounding",
          "[gpu][matmul]") {
  CheckReport report;
  uint64_t seed = 1;
  for (const QuantizedCase& c : MatmulCases()) {
    for (const Target target : Targets()) RunBoth(c, seed += 7, false, target, report);
  }
  INFO(report.detail);
  CHECK(report.ok());
}

TEST_CASE("Every tile of many rows equals the CPU's product", "[gpu][matmul]") {
  if (TheDevice().sm != 90) return;
  CheckReport report;
  for (const cuda::pingpong::Plan& tiles : cuda::pingpong::kAllTiles) {
    for (const QuantizedCase& c : {
             QuantizedCase{.m = 333, .n = 1001, .k = 1100, .num_kept = 37, .bias = true},
             QuantizedCase{.m = 2001, .n = 2602, .k = 272},  // several tiles a block
             QuantizedCase{.m = 2001, .n = 2602, .k = 140, .num_kept = 70, .bias = true},
             QuantizedCase{.m = 333, .n = 500, .k = 1100, .num_kept = 900},  // more than a ring holds
         }) {
      for (const bool keeps_sums : {true, false}) {
        RunBoth(c, 77, false, Target::kHopper, report, false, {}, tiles, keeps_sums);
      }
    }
  }
  INFO(report.detail);
  CHECK(report.ok());
}

// Each product shared out in every way that it has steps for.
void RunFewBoth(const QuantizedCase& c, uint64_t seed, bool flip, CheckReport& report,
                bool flip_kept = false) {
  RunBoth(c, seed, flip, Target::kFewHopper, report, flip_kept);
  for (const int groups : {1, 2}) {
    for (const int splits : {1, 2, 4}) {
      if ((c.k + 127) / 128 < splits) continue;
      RunBoth(c, seed, flip, Target::kFewHopper, report, flip_kept,
              {.groups = groups, .splits = splits, .stages = 2 + groups + splits % 4});
    }
  }
}

TEST_CASE("Few rows on Hopper equal the CPU's bit for bit, kept columns too", "[gpu][matmul]") {
  if (TheDevice().sm != 90) return;
  CheckReport report;
  uint64_t seed = 500;
  for (const QuantizedCase& c : MatmulCases()) {
    if (c.m <= cuda::few::kMaxRows) RunFewBoth(c, seed += 7, false, report);
  }
  for (const int64_t m : {9, 16, 17, 31, 32, 33, 48, 63, 64}) {
    RunFewBoth({.m = m, .n = 264, .k = 1040, .num_kept = m % 3 * 50, .bias = m % 2 == 0}, seed += 7, false,
               report);
  }
  RunFewBoth({.m = 64, .n = 130, .k = 4096, .extremes = true}, seed, false, report);
  RunFewBoth({.m = 40, .n = 4097, .k = 2048, .num_kept = 64, .bias = true}, seed, false, report);
  INFO(report.detail);
  CHECK(report.ok());
  CheckReport code, kept;
  RunFewBoth({.m = 20, .n = 65, .k = 600}, 5, true, code);
  CHECK(code.worst > 1);
  RunFewBoth({.m = 50, .n = 100, .k = 300, .num_kept = 64}, 5, false, kept, true);
  CHECK(kept.worst > 1);
}

TEST_CASE("One wrong code of a weight is found", "[gpu][matmul][canary]") {
  for (const QuantizedCase& c : {QuantizedCase{.m = 3, .n = 65, .k = 129}, {.m = 512, .n = 4096, .k = 576}}) {
    for (const Target target : Targets()) {
      CheckReport report;
      RunBoth(c, 5, true, target, report);
      CHECK(report.num_values > 0);
      CHECK(report.worst > 1);
    }
  }
}

TEST_CASE("The linears of a site share a launch, each with its own width, bias and kept columns",
          "[gpu][matmul]") {
  // Three weights of different width against one input: the same as three launches.
  const auto [m, k, kept] =
      GENERATE(table<int64_t, int64_t, int64_t>({{37, 200, 5}, {1, 2064, 0}, {9000, 200, 5}}));
  const int64_t widths[3] = {100, 64, 17};
  const QuantizedOperands first({.m = m, .n = widths[0], .k = k, .num_kept = kept, .bias = true}, 3);
  const Array<int8_t> x(Padded(first.x_codes, m, k));
  const Array<float> x_scale(first.x_scale), kept_x(first.kept_x);
  const Array<uint16_t> kept_rows_x(KeptRows(first.kept_x, m, kept));
  s8c::CudaParams together = {.m = m,
                              .k = k,
                              .x = x.data(),
                              .x_scale = x_scale.data(),
                              .num_kept = kept,
                              .kept_x = kept_x.data(),
                              .kept_rows = kept_rows_x.data(),
                              .linears = {.count = 3}};
  std::vector<std::unique_ptr<Array<int8_t>>> w;
  std::vector<std::unique_ptr<Array<float>>> scales, biases, ys;
  std::vector<std::unique_ptr<Array<uint16_t>>> kept_w, kept_rows;
  for (int i = 0; i < 3; ++i) {
    const QuantizedOperands o({.m = m, .n = widths[i], .k = k, .num_kept = kept, .bias = true},
                              static_cast<uint64_t>(10 + i));
    w.push_back(std::make_unique<Array<int8_t>>(Padded(o.codes, widths[i], k)));
    scales.push_back(std::make_unique<Array<float>>(o.w_scale));
    biases.push_back(std::make_unique<Array<float>>(o.bias));
    kept_w.push_back(std::make_unique<Array<uint16_t>>(Transposed(o.kept_w, widths[i], kept)));
    kept_rows.push_back(std::make_unique<Array<uint16_t>>(KeptRows(o.kept_w, widths[i], kept)));
    ys.push_back(std::make_unique<Array<float>>(m * widths[i]));
    together.linears.linear[i] = {.n = widths[i],
                                  .w = w.back()->data(),
                                  .w_stride = s8c::RowBytes(k),
                                  .w_scale = scales.back()->data(),
                                  .kept_w = i == 1 ? nullptr : kept_w.back()->data(),
                                  .kept_stride = widths[i],
                                  .kept_rows = kept_rows.back()->data(),
                                  .bias = i == 2 ? nullptr : biases.back()->data(),
                                  .y = ys.back()->data()};
  }
  const auto compare = [&](const auto& run) {
    for (size_t i = 0; i < 3; ++i) {  // no leftovers
      ys[i] = std::make_unique<Array<float>>(m * widths[i]);
      together.linears.linear[i].y = ys[i]->data();
    }
    run(together);
    for (int i = 0; i < 3; ++i) {
      const Array<float> y(m * widths[i]);
      const std::vector<float> with_others = ys[static_cast<size_t>(i)]->Read();
      s8c::CudaParams alone = together;
      alone.linears.count = 1;
      alone.linears.linear[0] = together.linears.linear[i];
      alone.linears.linear[0].y = y.data();
      run(alone);
      CheckReport report;
      report.CompareExact(absl::StrCat("linear ", i), with_others, y.Read());
      INFO(report.detail);
      CHECK(report.ok());
    }
  };
  compare([](const s8c::CudaParams& p) { Ok(s8c::RunCuda(p, TheStream())); });
  if (TheDevice().sm != 90) return;
  if (m <= cuda::few::kMaxRows) {
    compare([](const s8c::CudaParams& p) { Ok(s8c::RunFewHopper(p, {}, TheDevice(), TheStream())); });
  }
  for (const cuda::pingpong::Plan& tiles : cuda::pingpong::kAllTiles) {
    compare([&](const s8c::CudaParams& p) { Ok(s8c::RunHopper(p, tiles, TheDevice(), TheStream())); });
  }
}

TEST_CASE("A hundred repetitions give the same bits", "[gpu][matmul]") {
  const QuantizedCase c{.m = 200, .n = 500, .k = 700, .num_kept = 16, .bias = true};
  CheckReport report;
  for (const Target target : Targets()) {
    for (int i = 0; i < 100; ++i) RunBoth(c, 9, false, target, report);
  }
  if (TheDevice().sm == 90) {
    for (int i = 0; i < 30; ++i) {
      RunFewBoth({.m = 50, .n = 500, .k = 700, .num_kept = 16, .bias = true}, 9, false, report);
    }
  }
  CHECK(report.ok());
}

struct QuantizeCase {
  int64_t m, k;
  int code_max = 127;
  float static_scale = 0;
  std::vector<int32_t> kept, super;
  float threshold = 0;
  int64_t room = 0;
  bool symmetric = true;
  int64_t group = 0;
  int static_zero = 0;
};

void Quantize(const QuantizeCase& c, CheckReport& report, bool flip = false) {
  std::vector<float> x = RandomFloats(c.m * c.k, static_cast<uint64_t>(c.m * 31 + c.k));
  for (int64_t m = 0; m < c.m; m += 3)
    x[static_cast<size_t>(m * c.k + m % c.k)] *= 40;     // some rows with an outlier
  if (c.m > 2) std::fill_n(x.begin() + c.k, c.k, 0.0f);  // a row of zeros
  const size_t m = static_cast<size_t>(c.m), k = static_cast<size_t>(c.k);
  const size_t num_kept = c.kept.size(), num_super = c.super.size();
  std::vector<int8_t> q(m * k);
  const int64_t groups = c.group > 0 ? c.k / c.group : 1;
  const bool wide_zero = !c.symmetric && c.code_max == 127;
  std::vector<float> scale(m * static_cast<size_t>(groups)), kept_x(m * num_kept), super_x(m * num_super);
  std::vector<int32_t> zero(wide_zero ? m : 0);
  std::vector<int32_t> spikes(static_cast<size_t>(c.room));
  int64_t num_spikes = 0, missed = 0, saturated = 0;
  Ok(quantize::Reference({.m = c.m,
                          .k = c.k,
                          .x = x.data(),
                          .bits = c.code_max == 7 ? 4 : 8,
                          .symmetric = c.symmetric,
                          .group = c.group,
                          .static_scale = c.static_scale,
                          .static_zero = c.static_zero,
                          .num_kept = static_cast<int64_t>(num_kept),
                          .kept = c.kept.data(),
                          .num_super = static_cast<int64_t>(num_super),
                          .super = c.super.data(),
                          .spike_threshold = c.threshold,
                          .max_spike_rows = c.room,
                          .q = q.data(),
                          .scale = scale.data(),
                          .zero = wide_zero ? zero.data() : nullptr,
                          .kept_x = kept_x.data(),
                          .super_x = super_x.data(),
                          .spike_rows = spikes.data(),
                          .num_spike_rows = &num_spikes,
                          .num_missed = &missed,
                          .num_saturated = &saturated}));
  if (flip) x.back() = -x.back() + 0.5f;

  std::vector<uint8_t> is_kept(k, 0);
  for (const int32_t column : c.kept) is_kept[static_cast<size_t>(column)] = 1;
  const int64_t stride = s8c::RowBytes(c.k);
  const Array<int32_t> d_zero(static_cast<int64_t>(zero.size()));
  const Array<float> d_x(x), d_scale(c.m * groups), d_kept_x(c.m * static_cast<int64_t>(num_kept)),
      d_super_x(c.m * static_cast<int64_t>(num_super)), d_amax(c.m);
  const Array<uint8_t> d_is_kept(is_kept), d_is_spike(c.m);
  const Array<int32_t> d_kept(c.kept), d_super(c.super), d_spikes(c.room), d_num(std::vector<int32_t>{0});
  const Array<int8_t> d_q(c.m * stride);
  const Array<uint64_t> counters(std::vector<uint64_t>{0, 0, 0});
  Ok(quantize::RunCuda({.m = c.m,
                        .k = c.k,
                        .q_stride = stride,
                        .x = d_x.data(),
                        .code_max = c.code_max,
                        .static_scale = c.static_scale,
                        .bits = c.code_max == 7 ? 4 : 8,
                        .symmetric = c.symmetric,
                        .group = c.group,
                        .static_zero = c.static_zero,
                        .zero = wide_zero ? d_zero.data() : nullptr,
                        .is_kept = c.kept.empty() ? nullptr : d_is_kept.data(),
                        .num_kept = static_cast<int64_t>(num_kept),
                        .kept = d_kept.data(),
                        .num_super = static_cast<int64_t>(num_super),
                        .super = d_super.data(),
                        .spike_threshold = c.threshold,
                        .max_spike_rows = c.room,
                        .q = d_q.data(),
                        .scale = d_scale.data(),
                        .kept_x = d_kept_x.data(),
                        .super_x = d_super_x.data(),
                        .amax = d_amax.data(),
                        .is_spike = d_is_spike.data(),
                        .spike_rows = d_spikes.data(),
                        .num_spike_rows = d_num.data(),
                        .counters = reinterpret_cast<quantize::CudaCounters*>(counters.data())},
                       TheStream()));
  const std::string name = absl::StrCat("M=", c.m, " K=", c.k, " kept=", num_kept, " static=", c.static_scale,
                                        " threshold=", c.threshold);
  report.CompareExact(absl::StrCat(name, " codes"), d_q.Read(), Padded(q, c.m, c.k));
  report.CompareExact(absl::StrCat(name, " scales"), d_scale.Read(), scale);
  if (wide_zero) report.CompareExact(absl::StrCat(name, " zeros"), d_zero.Read(), zero);
  report.CompareExact(absl::StrCat(name, " kept"), d_kept_x.Read(), kept_x);
  report.CompareExact(absl::StrCat(name, " super"), d_super_x.Read(), super_x);
  const std::vector<uint64_t> counts = counters.Read();
  if (c.threshold > 0) {
    CHECK(d_num.Read()[0] == num_spikes);
    std::vector<int32_t> list = d_spikes.Read();
    list.resize(static_cast<size_t>(num_spikes));
    spikes.resize(static_cast<size_t>(num_spikes));
    CHECK(list == spikes);
  }
  CHECK(counts == std::vector<uint64_t>{static_cast<uint64_t>(num_spikes), static_cast<uint64_t>(missed),
                                        static_cast<uint64_t>(saturated)});
}

TEST_CASE("Codes, scales, kept columns and spike rows equal the CPU's bit for bit", "[gpu][quantize]") {
  CheckReport report;
  for (const QuantizeCase& c : std::vector<QuantizeCase>{
           {.m = 1, .k = 1},
           {.m = 5, .k = 257},
           {.m = 64, .k = 576, .kept = {0, 3, 255, 575}},
           {.m = 33, .k = 1536, .static_scale = 0.02f, .kept = {7}},
           {.m = 9, .k = 100, .code_max = 7},
           {.m = 70, .k = 300, .kept = {1, 2}, .super = {5, 1, 299}, .threshold = 8, .room = 4},
           {.m = 70, .k = 300, .static_scale = 0.05f, .threshold = 8, .room = 100},
           {.m = 3, .k = 8192, .super = {8191}},
           {.m = 20, .k = 576, .kept = {0, 575}, .symmetric = false},
           {.m = 20, .k = 100, .code_max = 7, .symmetric = false},
           {.m = 9, .k = 300, .static_scale = 0.02f, .kept = {9}, .symmetric = false, .static_zero = -40},
           {.m = 9, .k = 300, .code_max = 7, .static_scale = 0.3f, .symmetric = false, .static_zero = 3},
           {.m = 30, .k = 576, .kept = {64}, .group = 64},
           {.m = 70, .k = 384, .code_max = 7, .threshold = 8, .room = 4, .group = 32},
           {.m = 5, .k = 256, .code_max = 7, .symmetric = false, .group = 128},
           {.m = 70, .k = 300, .threshold = 8, .room = 4, .symmetric = false},
       }) {
    Quantize(c, report);
  }
  INFO(report.detail);
  CHECK(report.ok());
  for (const bool symmetric : {true, false}) {
    CheckReport canary;
    Quantize({.m = 4, .k = 64, .symmetric = symmetric}, canary, true);
    CHECK(canary.worst > 1);
  }
}

TEST_CASE("Embedding rows equal the CPU's, kept columns and super weights put back", "[gpu][embed]") {
  const int64_t k = GENERATE(70, 5000), n = 50, stride = s8c::RowBytes(k);
  CAPTURE(k);
  const std::vector<int8_t> codes = RandomCodes(n * k, -127, 127, 1);
  const std::vector<float> scale = RandomFloats(n, 2), table = RandomFloats(n * k, 3);
  const std::vector<int32_t> tokens = {3, 49, 0, 3}, kept = {2, 69}, slots = {1}, rows = {49},
                             columns = {10, 40};
  const std::vector<float> values = {123.5f};
  std::vector<uint16_t> kept_w;
  for (const float v : RandomFloats(n * 2, 4)) kept_w.push_back(FloatToBf16(v));
  const Array<int8_t> d_codes(Padded(codes, n, k));
  const Array<float> d_scale(scale), d_table(table), d_values(values), y(4 * k);
  const Array<int32_t> d_tokens(tokens), d_kept(kept), d_slots(slots), d_rows(rows), d_columns(columns);
  const Array<uint16_t> d_kept_w(Transposed(kept_w, n, 2));
  embed_f32::CudaParams p = {.m = 4,
                             .k = k,
                             .tokens = d_tokens.data(),
                             .scale = 1.5f,
                             .codes = d_codes.data(),
                             .code_stride = stride,
                             .code_scale = d_scale.data(),
                             .num_kept = 2,
                             .kept_stride = n,
                             .kept = d_kept.data(),
                             .kept_w = d_kept_w.data(),
                             .num_super = 1,
                             .super_column = d_columns.data(),
                             .super_slot = d_slots.data(),
                             .super_row = d_rows.data(),
                             .super_value = d_values.data(),
                             .y = y.data()};
  Ok(embed_f32::RunCuda(p, TheStream()));
  std::vector<float> expected;
  for (const int32_t t : tokens) {
    for (int64_t i = 0; i < k; ++i) {
      float v = static_cast<float>(codes[static_cast<size_t>(t * k + i)]) * scale[static_cast<size_t>(t)];
      if (i == 2) v = Bf16ToFloat(kept_w[static_cast<size_t>(2 * t)]);
      if (i == 69) v = Bf16ToFloat(kept_w[static_cast<size_t>(2 * t + 1)]);
      if (t == 49 && i == 40) v = 123.5f;
      expected.push_back(v * 1.5f);
    }
  }
  CHECK(y.Read() == expected);
  p.codes = nullptr;
  p.table = d_table.data();
  p.num_kept = p.num_super = 0;
  Ok(embed_f32::RunCuda(p, TheStream()));
  expected.clear();
  for (const int32_t t : tokens) {
    for (int64_t i = 0; i < k; ++i) expected.push_back(table[static_cast<size_t>(t * k + i)] * 1.5f);
  }
  CHECK(y.Read() == expected);
  std::vector<uint16_t> halves;
  for (const float v : table) halves.push_back(FloatToBf16(v));
  const Array<uint16_t> d_halves(halves);
  p.table = nullptr;
  p.bf16_table = d_halves.data();
  Ok(embed_f32::RunCuda(p, TheStream()));
  expected.clear();
  for (const int32_t t : tokens) {
    for (int64_t i = 0; i < k; ++i) {
      expected.push_back(Bf16ToFloat(halves[static_cast<size_t>(t * k + i)]) * 1.5f);
    }
  }
  CHECK(y.Read() == expected);
}

}  // namespace
}  // namespace spikefold::kernels
