// Products of 4-bit codes in two integer levels, whose results must be those of INT8 codes on the CPU.
#include <cmath>

#include "absl/strings/str_cat.h"
#include "formats/base/thread_pool.h"
#include "kernels/kernel_check.h"
#include "kernels/matmul_f32_f32_sxg/matmul_f32_f32_sxg.h"
#include "kernels/matmul_f32_f32_sxg/matmul_f32_f32_sxg_cuda.h"
#include "kernels/matmul_f32_s8r_s8c/matmul_f32_s8r_s8c.h"
#include "kernels/matmul_f32_s8r_u4h/matmul_f32_s8r_u4h_cuda.h"
#include "kernels/quantized_case.h"
#include "tests/kernels/cuda/cuda_kit.h"
#include "tests/kernels/cuda/integer_kit.h"

namespace spikefold::kernels {
namespace {

using cuda::Array;
using cuda::Ok;
using cuda::TheStream;
namespace s8c = matmul_f32_s8r_s8c;
namespace u4h = matmul_f32_s8r_u4h;

// A weight of a case in groups of at most 4 bits with whole factors: as large as its codes allow, or less.
struct TwoLevels {
  TwoLevels(const QuantizedOperands& o, uint64_t seed) {
    const QuantizedCase& c = o.shape;
    const std::vector<int8_t> codes = Effective(o), wishes = RandomCodes(c.n * c.k / c.group, 1, 16, seed);
    scale = RandomFloats(c.n, seed + 1);
    for (float& s : scale) s = 0.001f * (std::abs(s) + 0.1f);
    for (int64_t g = 0; g < c.n * c.k / c.group; ++g) {
      int largest = 1;
      for (int64_t k = g * c.group; k < (g + 1) * c.group; ++k) {
        largest = std::max<int>(largest, std::abs(codes[static_cast<size_t>(k)]));
      }
      const int wish = c.extremes ? 16 : wishes[static_cast<size_t>(g)];
      factors.push_back(static_cast<uint8_t>(std::min(wish, 127 / largest)));
      group_scale.push_back(static_cast<float>(factors.back()) *
                            scale[static_cast<size_t>(g / (c.k / c.group))]);
    }
    for (size_t i = 0; i < codes.size(); ++i) {
      whole.push_back(static_cast<int8_t>(codes[i] * factors[i / static_cast<size_t>(c.group)]));
    }
    packed = u4h::Pack(
        {.n = c.n, .k = c.k, .group = c.group, .codes = o.codes, .factors = factors, .zeros = o.w_zero});
  }
  std::vector<uint8_t> factors;    // [n, k / group]
  std::vector<float> scale;        // [n]
  std::vector<float> group_scale;  // [n, k / group]
  std::vector<int8_t> whole;       // [n, k]
  std::vector<uint8_t> packed;
};

enum class Fault { kNone, kCode, kFactor, kScale, kKept };

// The product on the CPU, from INT8 codes, and on the GPU; with `fault`, one value of the GPU's is wrong.
void RunBoth(const QuantizedCase& c, uint64_t seed, CheckReport& report, Fault fault = Fault::kNone,
             const cuda::few::Plan& plan = {}, const cuda::pingpong::Plan& tiles = {}) {
  static ThreadPool pool(4);
  const QuantizedOperands o(c, seed);
  TwoLevels w(o, seed + 100);
  std::vector<uint8_t> packed(s8c::PackedBytes(c.n, c.k));
  s8c::Pack(w.whole.data(), c.n, c.k, packed.data());
  std::vector<float> expected(static_cast<size_t>(c.m * c.n));
  std::vector<int32_t> expected_sums(expected.size());
  Ok(s8c::Run({.m = c.m,
               .n = c.n,
               .k = c.k,
               .x = o.x_codes.data(),
               .x_scale = o.x_scale.data(),
               .w = packed.data(),
               .w_scale = w.scale.data(),
               .tail = o.Tail(),
               .y = expected.data(),
               .sums = expected_sums.data()},
              pool));

  const int64_t last = (c.k - 1) / u4h::kTileColumns * ((c.n + u4h::kTileRows - 1) / u4h::kTileRows) +
                       (c.n - 1) / u4h::kTileRows;
  const u4h::Place place = u4h::PlaceOf((c.n - 1) % u4h::kTileRows, (c.k - 1) % u4h::kTileColumns);
  uint8_t* const tile = w.packed.data() + last * u4h::kTileBytes;
  std::vector<uint16_t> kept_rows = KeptRows(o.kept_w, c.n, c.num_kept);
  if (fault == Fault::kCode) tile[place.code] ^= static_cast<uint8_t>(1 << place.shift);
  if (fault == Fault::kFactor) tile[place.factor] = static_cast<uint8_t>(tile[place.factor] % 16 + 1);
  if (fault == Fault::kScale) w.scale.back() *= 1.001f;
  if (fault == Fault::kKept) kept_rows[kept_rows.size() - 64] ^= 0x100;
  const Array<uint8_t> codes(w.packed);
  const Array<int8_t> x(Padded(o.x_codes, c.m, c.k));
  const Array<float> x_scale(o.x_scale), w_scale(w.scale), kept_x(o.kept_x), bias(o.bias), y(c.m * c.n),
      super_x(o.super_x), super_value(o.super_value);
  const Array<uint16_t> kept_w(Transposed(o.kept_w, c.n, c.num_kept));
  const Array<uint16_t> kept_rows_x(KeptRows(o.kept_x, c.m, c.num_kept)), kept_rows_w(kept_rows);
  const Array<int32_t> sums(c.m * c.n), super_slot(o.super_slot), super_row(o.super_row);
  u4h::Params params = {.m = c.m,
                        .k = c.k,
                        .x = x.data(),
                        .x_scale = x_scale.data(),
                        .num_kept = c.num_kept,
                        .kept_x = kept_x.data(),
                        .kept_rows = kept_rows_x.data(),
                        .linears = {.count = 1}};
  params.linears.linear[0] = {.n = c.n,
                              .w = codes.data(),
                              .w_scale = w_scale.data(),
                              .kept_w = c.num_kept > 0 ? kept_w.data() : nullptr,
                              .kept_stride = c.n,
                              .kept_rows = kept_rows_w.data(),
                              .bias = o.bias.empty() ? nullptr : bias.data(),
                              .y = y.data(),
                              .sums = sums.data()};
  const bool many = tiles.tile_m > 0;
  Ok(many              ? u4h::RunMany(params, tiles, TheDevice(), TheStream())
     : plan.groups > 0 ? u4h::RunFew(params, plan, TheDevice(), TheStream())
                       : u4h::RunHopper(params, TheDevice(), TheStream()));
  Ok(cuda::AddSuperWeights({.m = c.m,
                            .n = c.n,
                            .num_super = c.num_super,
                            .x_stride = c.num_super,
                            .x = super_x.data(),
                            .slot = super_slot.data(),
                            .row = super_row.data(),
                            .value = super_value.data(),
                            .y = y.data()},
                           TheStream()));
  const std::string name = absl::StrCat(CaseName(c), " tiles=", tiles.tile_m, "x", tiles.tile_n,
                                        " groups=", plan.groups, " splits=", plan.splits);
  report.CompareExact(absl::StrCat(name, " sums"), sums.Read(), expected_sums);
  if (c.num_kept == 0 || (!many && u4h::FitsFew(params, TheDevice()))) {
    report.CompareExact(name, y.Read(), expected);
  } else {
    report.Compare(name, y.Read(), std::vector<double>(expected.begin(), expected.end()),
                   KeptTolerance(o, expected));
  }
}

TEST_CASE("Products of codes in two levels equal those of INT8 codes on the CPU bit for bit",
          "[gpu][matmul]") {
  if (TheDevice().sm != 90) return;
  CheckReport report;
  uint64_t seed = 40;
  constexpr int64_t kN[] = {264, 1, 64, 65, 200, 500}, kK[] = {1152, 64, 192, 128, 640};
  constexpr int64_t kKept[] = {0, 1, 64, 70, 128};
  size_t i = 0;
  for (const int64_t m : {1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 40, 63, 64, 65, 100, 127, 128, 129, 300}) {
    for (int j = 0; j < 4; ++j, ++i) {
      const int64_t k = kK[i % 5];
      RunBoth({.m = m,
               .n = kN[i % 6],
               .k = k,
               .group = k % 192 == 0 && i % 2 == 0 ? 192 : 64,
               .bits = i % 7 == 3 ? 3 : 4,
               .w_zeros = i % 4 > 1,
               .num_kept = std::min(kKept[(i / 2) % 5], k),
               .num_super = i % 3 == 1 ? 2 : 0,
               .bias = i % 2 == 1,
               .extremes = i % 9 == 5},
              seed += 150, report);
    }
  }
  RunBoth({.m = 16, .n = 4096, .k = 4096, .group = 128, .bits = 4, .w_zeros = true}, 1, report);
  RunBoth({.m = 64, .n = 8500, .k = 1024, .group = 64, .bits = 4, .bias = true}, 2, report);
  RunBoth({.m = 64, .n = 70, .k = 14336, .group = 64, .bits = 4, .extremes = true}, 3, report);
  RunBoth({.m = 1000, .n = 2048, .k = 640, .group = 64, .bits = 4, .w_zeros = true, .num_kept = 64}, 4,
          report);
  RunBoth({.m = 700, .n = 8192, .k = 640, .group = 64, .bits = 4, .bias = true}, 5, report);
  RunBoth({.m = 70, .n = 300, .k = 320, .group = 64, .bits = 4, .num_kept = 200, .bias = true}, 6, report);
  INFO(report.detail);
  CHECK(report.ok());
}

TEST_CASE("Every way to share out codes in two levels gives the same bits", "[gpu][matmul]") {
  if (TheDevice().sm != 90) return;
  CheckReport report;
  uint64_t seed = 70;
  for (const int64_t m : {5, 16, 30, 64}) {
    for (const int groups : {1, 2, 4}) {
      for (const int splits : {1, 2, 3, 4, 6}) {
        const QuantizedCase c = {.m = m,
                                 .n = 520,
                                 .k = 1152,
                                 .group = 64,
                                 .bits = 4,
                                 .w_zeros = true,
                                 .num_kept = m % 4 * 64,
                                 .bias = true};
        RunBoth(c, seed += 150, report, Fault::kNone, {.groups = groups, .splits = splits, .stages = 3});
      }
    }
  }
  INFO(report.detail);
  CHECK(report.ok());
}

TEST_CASE("Every tile of codes in two levels gives the same bits", "[gpu][matmul]") {
  if (TheDevice().sm != 90) return;
  CheckReport report;
  uint64_t seed = 3000;
  // Beside the first and the last, blocks take several tiles; all end inside a tile.
  const QuantizedCase cases[] = {
      {.m = 5, .n = 300, .k = 448, .group = 64, .bits = 4, .bias = true},
      {.m = 900, .n = 4400, .k = 192, .group = 64, .bits = 4, .w_zeros = true, .bias = true},
      {.m = 910, .n = 4330, .k = 64, .group = 64, .bits = 4, .extremes = true},
      {.m = 710, .n = 3001, .k = 1408, .group = 128, .bits = 4, .w_zeros = true},
      {.m = 520, .n = 4300, .k = 320, .group = 64, .bits = 4, .num_kept = 64, .bias = true},
      {.m = 530, .n = 4230, .k = 320, .group = 64, .bits = 4, .w_zeros = true, .num_kept = 300},
      {.m = 300, .n = 200, .k = 14336, .group = 64, .bits = 4, .num_kept = 128, .extremes = true},
  };
  for (const cuda::pingpong::Plan& tiles : u4h::kManyTiles) {
    for (const QuantizedCase& c : cases) RunBoth(c, seed += 150, report, Fault::kNone, {}, tiles);
  }
  INFO(report.detail);
  CHECK(report.ok());
}

TEST_CASE("Tiles of codes in two levels that there are none of are refused", "[gpu][matmul]") {
  if (TheDevice().sm != 90) return;
  const absl::Status status = u4h::RunMany({.m = 1}, {96, 64}, TheDevice(), TheStream());
  CHECK(status.message() == "matmul_f32_s8r_u4h: no tiles of 96 x 64");
}

TEST_CASE("One wrong code, factor, scale or kept column of two levels is found", "[gpu][matmul][canary]") {
  if (TheDevice().sm != 90) return;
  for (const int64_t m : {16, 64, 200}) {
    for (const Fault fault : {Fault::kCode, Fault::kFactor, Fault::kScale, Fault::kKept}) {
      CheckReport report;
      RunBoth({.m = m, .n = 200, .k = 320, .group = 64, .bits = 4, .w_zeros = true, .num_kept = 64}, 9,
              report, fault);
      CHECK(report.worst > 1);
    }
  }
  for (const cuda::pingpong::Plan& tiles : u4h::kManyTiles) {
    CheckReport report;
    RunBoth({.m = 300, .n = 500, .k = 192, .group = 64, .bits = 4}, 10, report, Fault::kCode, {}, tiles);
    CHECK(report.worst > 1);
  }
}

TEST_CASE("Linears in two levels share a launch", "[gpu][matmul]") {
  if (TheDevice().sm != 90) return;
  for (const int64_t m : {20, 150, 1100}) {
    const QuantizedOperands a({.m = m, .n = 200, .k = 256, .group = 64, .bits = 4}, 1);
    const QuantizedOperands b({.m = m, .n = 72, .k = 256, .group = 64, .bits = 4, .w_zeros = true}, 2);
    const TwoLevels wa(a, 3), wb(b, 4);
    const Array<uint8_t> codes_a(wa.packed), codes_b(wb.packed);
    const Array<float> scale_a(wa.scale), scale_b(wb.scale), x_scale(a.x_scale);
    const Array<float> y_a(m * 200), y_b(m * 72), single_a(m * 200), single_b(m * 72);
    const Array<int8_t> x(a.x_codes);
    const u4h::Params base = {.m = m, .k = 256, .x = x.data(), .x_scale = x_scale.data()};
    const auto linear = [](int64_t n, const Array<uint8_t>& w, const Array<float>& scale,
                           const Array<float>& y) {
      return cuda::Linear{.n = n, .w = w.data(), .w_scale = scale.data(), .y = y.data()};
    };
    u4h::Params both = base, only_a = base, only_b = base;
    both.linears = {.count = 2,
                    .linear = {linear(200, codes_a, scale_a, y_a), linear(72, codes_b, scale_b, y_b)}};
    only_a.linears = {.count = 1, .linear = {linear(200, codes_a, scale_a, single_a)}};
    only_b.linears = {.count = 1, .linear = {linear(72, codes_b, scale_b, single_b)}};
    for (const u4h::Params& p : {both, only_a, only_b}) Ok(u4h::RunHopper(p, TheDevice(), TheStream()));
    CHECK(y_a.Read() == single_a.Read());
    CHECK(y_b.Read() == single_b.Read());
  }
}

TEST_CASE("Linears in two levels of which one keeps columns share a launch in every tile", "[gpu][matmul]") {
  if (TheDevice().sm != 90) return;
  constexpr int64_t kM = 700, kK = 256, kN[] = {1500, 3700};  // several tiles a block, of both
  const QuantizedOperands a({.m = kM, .n = kN[0], .k = kK, .group = 64, .bits = 4, .num_kept = 200}, 1);
  const QuantizedOperands b({.m = kM, .n = kN[1], .k = kK, .group = 64, .bits = 4, .w_zeros = true}, 2);
  const TwoLevels wa(a, 3), wb(b, 4);
  const Array<uint8_t> codes_a(wa.packed), codes_b(wb.packed);
  const Array<float> scale_a(wa.scale), scale_b(wb.scale), x_scale(a.x_scale), kept_x(a.kept_x);
  const Array<int8_t> x(a.x_codes);
  const Array<uint16_t> kept_rows_x(KeptRows(a.kept_x, kM, 200)), kept_rows_w(KeptRows(a.kept_w, kN[0], 200));
  const Array<uint16_t> kept_w(Transposed(a.kept_w, kN[0], 200));
  for (const cuda::pingpong::Plan& tiles : u4h::kManyTiles) {
    CAPTURE(tiles.tile_m, tiles.tile_n);
    const Array<float> y_a(kM * kN[0]), y_b(kM * kN[1]), single_a(kM * kN[0]), single_b(kM * kN[1]);
    const auto params = [&](float* to_a, float* to_b) {
      u4h::Params p = {.m = kM,
                       .k = kK,
                       .x = x.data(),
                       .x_scale = x_scale.data(),
                       .num_kept = 200,
                       .kept_x = kept_x.data(),
                       .kept_rows = kept_rows_x.data()};
      const auto add = [&](const cuda::Linear& linear) { p.linears.linear[p.linears.count++] = linear; };
      if (to_a != nullptr) {
        add({.n = kN[0],
             .w = codes_a.data(),
             .w_scale = scale_a.data(),
             .kept_w = kept_w.data(),
             .kept_stride = kN[0],
             .kept_rows = kept_rows_w.data(),
             .y = to_a});
      }
      if (to_b != nullptr) add({.n = kN[1], .w = codes_b.data(), .w_scale = scale_b.data(), .y = to_b});
      return p;
    };
    for (const u4h::Params& p : {params(y_a.data(), y_b.data()), params(single_a.data(), nullptr),
                                 params(nullptr, single_b.data())}) {
      Ok(u4h::RunMany(p, tiles, TheDevice(), TheStream()));
    }
    CHECK(y_a.Read() == single_a.Read());
    CHECK(y_b.Read() == single_b.Read());
  }
}

TEST_CASE("Float rows times codes in two levels equal the CPU's bit for bit", "[gpu][matmul]") {
  CheckReport report;
  ThreadPool pool(4);
  for (const QuantizedCase& c :
       {QuantizedCase{.m = 5, .n = 70, .k = 192, .group = 64, .bits = 4, .w_zeros = true, .bias = true},
        QuantizedCase{.m = 70, .n = 200, .k = 640, .group = 128, .bits = 4}}) {
    QuantizedOperands o(c, 60);
    const TwoLevels w(o, 61);
    o.w_scale = w.group_scale;
    const GroupWeights groups = o.Groups();
    std::vector<uint8_t> packed(GroupPackedBytes(LayoutOf(groups)));
    PackGroups(groups, packed.data());
    std::vector<float> expected(static_cast<size_t>(c.m * c.n));
    Ok(matmul_f32_f32_sxg::Run({.m = c.m,
                                .n = c.n,
                                .k = c.k,
                                .group = c.group,
                                .x = o.x.data(),
                                .w = packed.data(),
                                .tail = {.bias = o.Tail().bias},
                                .y = expected.data()},
                               pool));
    const Array<uint8_t> codes(w.packed);
    const Array<float> x(o.x), scale(w.scale), bias(o.bias), y(c.m * c.n);
    cuda::SimtParams p = {.m = c.m, .k = c.k, .x = x.data(), .linears = {.count = 1}};
    p.linears.linear[0] = {.n = c.n,
                           .w = codes.data(),
                           .w_scale = scale.data(),
                           .group = c.group,
                           .bias = o.bias.empty() ? nullptr : bias.data(),
                           .y = y.data()};
    Ok(matmul_f32_f32_sxg::RunTwoLevels(p, TheStream()));
    report.CompareExact(CaseName(c), y.Read(), expected);
  }
  INFO(report.detail);
  CHECK(report.ok());
}

}  // namespace
}  // namespace spikefold::kernels
