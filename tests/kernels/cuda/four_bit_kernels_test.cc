// Products of float rows with 4-bit codes in tiles (W4A16), on every path.
#include <cmath>
#include <memory>
#include <optional>

#include "absl/strings/str_cat.h"
#include "formats/base/dtype.h"
#include "formats/base/status.h"
#include "formats/base/thread_pool.h"
#include "kernels/cuda/pingpong_plan.h"
#include "kernels/kernel_check.h"
#include "kernels/matmul_f32_f32_s4g/matmul_f32_f32_s4g_cuda.h"
#include "kernels/quantized_case.h"
#include "tests/kernels/cuda/cuda_kit.h"

namespace spikefold::kernels {
namespace {

using cuda::Array;
using cuda::Ok;
using cuda::TheStream;
namespace s4g = matmul_f32_f32_s4g;

// Which kernel, and so how x is rounded. kAny: sm_80's.
enum class Path { kAny, kClusters, kFew, kMany };
std::vector<Path> Paths() {
  if (cuda::QueryDevice()->sm != 90) return {Path::kAny};
  return {Path::kAny, Path::kClusters, Path::kFew, Path::kMany};
}
absl::Status Run(const cuda::SimtParams& p, Path path, const cuda::few::Plan& plan = {},
                 const cuda::pingpong::Plan& tiles = {}) {
  if (path == Path::kAny) return s4g::RunCuda(p, TheStream());
  if (path == Path::kClusters) return s4g::RunHopper(p, TheStream());
  const bool many = path == Path::kMany;
  const Array<char> scratch(
      static_cast<int64_t>(many ? s4g::ManyScratchBytes(p) : s4g::ScratchBytes(p.m, p.k)));
  SF_RETURN_IF_ERROR(many ? s4g::RunMany(p, scratch.data(), *cuda::QueryDevice(), TheStream(), tiles)
                          : s4g::RunFew(p, scratch.data(), plan, *cuda::QueryDevice(), TheStream()));
  return TheStream().Sync();  // scratch goes
}

// How clusters take a row: 16 at a time, one or two that are left over in digits, 3 or 4 in two f16 parts.
int64_t RowsBeside(int64_t row, int64_t rows) { return std::min<int64_t>(rows - row / 16 * 16, 16); }
bool HasDigits(Path path, int64_t row, int64_t rows) {
  return path == Path::kClusters ? RowsBeside(row, rows) <= 2 : path == Path::kAny && rows <= 4;
}
bool HasTwoParts(int64_t row, int64_t rows) { return RowsBeside(row, rows) <= 4; }

// Y of a case in double, and what each value may be off by. A rounding to p bits is off by 2^-p of the value
// at most, to either side: by Hoeffding's inequality a sum of such errors exceeds 6 times 2^-p times the root
// of the sum of the terms' squares once in 3e7 sums, and it never exceeds 2^-p of the sum of their sizes. In
// clusters codes and zero points are multiplied apart, by a tensor core that cuts what it adds to 24 bits of
// the largest: 17 numbers at a time, 4 times for 64 columns, for codes and for sums of x, 2 * 4 * 17 * 2^-24.
void ExpectProduct(const QuantizedOperands& o, Path path, std::vector<double>& expected,
                   std::vector<double>& tolerance) {
  const QuantizedCase& c = o.shape;
  constexpr int kOffset = 8;  // of codes as they are multiplied in clusters
  const int64_t groups = c.k / c.group;
  for (int64_t m = 0; m < c.m; ++m) {
    double largest = 0;
    for (int64_t k = 0; k < c.k; ++k) {
      largest = std::max(largest, std::abs(static_cast<double>(o.x[static_cast<size_t>(m * c.k + k)])));
    }
    for (int64_t n = 0; n < c.n; ++n) {
      double sum = 0, size = 0, squares = 0, stored = 0, scales = 0, sizes = 0, widest = 0;
      std::vector<double> of_groups(static_cast<size_t>(groups)), of_zeros(of_groups);
      for (int64_t k = 0; k < c.k; ++k) {
        const double x = o.x[static_cast<size_t>(m * c.k + k)], term = x * o.Weight(n, k);
        const auto group = static_cast<size_t>(n * groups + k / c.group);
        const double scale = o.w_scale[group];
        sum += term;
        size += std::abs(term);
        squares += term * term;
        of_groups[static_cast<size_t>(k / c.group)] += term;
        const int code = o.codes[static_cast<size_t>(n * c.k + k)] + kOffset;
        const int zero = o.w_zero.empty() ? kOffset : o.w_zero[group] + kOffset;
        if (zero != kOffset) of_zeros[static_cast<size_t>(k / c.group)] += x * scale * zero;
        stored += std::abs(x * scale * (code + zero));
        scales += std::abs(scale) * 8;
        sizes += std::abs(x);
        widest = std::max(widest, std::abs(scale) * 16);
      }
      if (!o.bias.empty()) sum += static_cast<double>(o.bias[static_cast<size_t>(n)]);
      expected.push_back(sum);
      if (HasDigits(path, m, c.m)) {
        const float* const x = o.x.data() + m * c.k;
        tolerance.push_back(
            cuda::DigitTolerance(
                c.k, 64, [&](int64_t k) { return x[k]; }, [&](int64_t k) { return o.Weight(n, k); }) +
            std::abs(sum) * 0x1p-22);
        continue;
      }
      const bool two_parts = path == Path::kClusters && HasTwoParts(m, c.m);
      const double bits = path == Path::kAny ? 0x1p-17 : two_parts ? 0x1p-22 : 0x1p-11;
      const double rounding = bits * std::min(size, 6 * std::sqrt(squares));
      const double clusters = path == Path::kAny ? 0 : stored * 0x1p-17 + largest * scales * 0x1p-40;
      // Weights are f16 too, under a power of two for each channel; of few rows their scales are as well.
      double group_size = 0, group_squares = 0;
      for (const auto* terms : {&of_groups, &of_zeros}) {  // zero points times scales are rounded alike
        for (const double group : *terms) {
          group_size += std::abs(group);
          group_squares += group * group;
        }
      }
      const double rounded_scales = bits * std::min(group_size, 6 * std::sqrt(group_squares));
      const double weights = path == Path::kMany  ? rounding + sizes * widest * 0x1p-39
                             : path == Path::kFew ? rounding + rounded_scales + sizes * widest * 0x1p-18
                                                  : 0;
      const double sums = size * 4 * std::sqrt(static_cast<double>(c.k)) * 0x1p-24;
      tolerance.push_back((path == Path::kAny ? size * bits : rounding) + clusters + weights + sums +
                          std::abs(sum) * 0x1p-22);
    }
  }
}

struct Change {
  bool flip = false;  // one nibble
  float spike = 0;    // put into two channels of each row
  bool tail = false;  // kept columns and super weights beside the codes
};

// Their x are bf16 values, so that every kernel has them exactly. Two super weights lie in one place.
struct Tail {
  Tail() = default;
  Tail(QuantizedOperands& o, Path path, std::vector<double>& expected, std::vector<double>& tolerance)
      : n(o.shape.n),
        kept({0, 9, 63, static_cast<int32_t>(o.shape.k - 1)}),
        columns({4, 50}),
        slot({1, 0, 1, 1}),
        row({7, 7, static_cast<int32_t>(o.shape.n - 1), 7}),
        value({3.0f, -0.75f, 1.25f, 0.5f}) {
    for (const float v : RandomFloats(static_cast<int64_t>(kept.size()) * n, 9)) {
      kept_w.push_back(FloatToBf16(v));
    }
    const int64_t k = o.shape.k;
    const auto x = [&](int64_t m, int32_t column) -> float& {
      return o.x[static_cast<size_t>(m * k + column)];
    };
    for (int64_t m = 0; m < o.shape.m; ++m) {
      for (const auto* list : {&kept, &columns}) {
        for (const int32_t column : *list) x(m, column) = Bf16ToFloat(FloatToBf16(x(m, column)));
      }
    }
    ExpectProduct(o, path, expected, tolerance);
    const double bits = path == Path::kMany ? 0x1p-10 : 0x1p-20;
    for (int64_t m = 0; m < o.shape.m; ++m) {
      const auto add = [&](int64_t channel, int32_t column, float weight) {
        const double term = static_cast<double>(x(m, column)) * static_cast<double>(weight);
        expected[static_cast<size_t>(m * n + channel)] += term;
        tolerance[static_cast<size_t>(m * n + channel)] += std::abs(term) * bits;
      };
      for (size_t c = 0; c < kept.size(); ++c) {
        for (int64_t channel = 0; channel < n; ++channel) {
          add(channel, kept[c],
              Bf16ToFloat(kept_w[c * static_cast<size_t>(n) + static_cast<size_t>(channel)]));
        }
      }
      for (size_t s = 0; s < row.size(); ++s) add(row[s], columns[static_cast<size_t>(slot[s])], value[s]);
    }
  }
  int64_t n = 0;
  std::vector<int32_t> kept, columns, slot, row;
  std::vector<float> value;
  std::vector<uint16_t> kept_w;  // [r, n]
};
void RunTiles(const QuantizedCase& c, uint64_t seed, const Change& change, CheckReport& report,
              Path path = Path::kAny, const cuda::few::Plan& plan = {},
              const cuda::pingpong::Plan& tiles = {}) {
  QuantizedOperands o(c, seed);
  for (int64_t m = 0; m < c.m && change.spike != 0; ++m) {
    o.x[static_cast<size_t>(m * c.k + 37)] = change.spike + static_cast<float>(m);
    o.x[static_cast<size_t>(m * c.k + c.k / 2 + m)] = -change.spike / 3;
  }
  std::vector<double> expected, tolerance;
  std::optional<Tail> tail;
  if (change.tail) {
    tail.emplace(o, path, expected, tolerance);
  } else {
    ExpectProduct(o, path, expected, tolerance);
  }
  s4g::Packed packed = s4g::Pack(
      {.n = c.n, .k = c.k, .group = c.group, .codes = o.codes, .scales = o.w_scale, .zeros = o.w_zero});
  if (change.flip) packed.codes[packed.codes.size() / 3] ^= 1;
  const Array<uint32_t> w(packed.codes);
  const Array<float> scales(packed.scales), units(packed.units), x(o.x), bias(o.bias), y(c.m * c.n);
  const Array<uint8_t> zeros(packed.zeros);
  cuda::SimtParams p = {.m = c.m, .k = c.k, .x = x.data(), .linears = {.count = 1}};
  p.linears.linear[0] = {.n = c.n,
                         .w = w.data(),
                         .w_scale = scales.data(),
                         .w_zero = packed.zeros.empty() ? nullptr : zeros.data(),
                         .w_unit = units.data(),
                         .group = c.group,
                         .bias = o.bias.empty() ? nullptr : bias.data(),
                         .y = y.data()};
  const Tail lists = tail.value_or(Tail());
  const Array<int32_t> kept(lists.kept), columns(lists.columns), slot(lists.slot), row(lists.row);
  const Array<uint16_t> kept_w(lists.kept_w);
  const Array<float> value(lists.value);
  if (tail) {
    p.tail = {.num_kept = static_cast<int64_t>(tail->kept.size()),
              .kept = kept.data(),
              .super_column = columns.data()};
    p.super[0] = {.num = static_cast<int64_t>(tail->row.size()),
                  .slot = slot.data(),
                  .row = row.data(),
                  .value = value.data()};
    p.linears.linear[0].kept_w = kept_w.data();
    p.linears.linear[0].kept_stride = c.n;
  }
  Ok(Run(p, path, plan, tiles));
  constexpr const char* kNames[] = {"", " in clusters", " few", " many"};
  report.Compare(absl::StrCat(CaseName(c), kNames[static_cast<int>(path)], " groups=", plan.groups,
                              " splits=", plan.splits, " tile=", tiles.tile_m, "x", tiles.tile_n),
                 y.Read(), expected, tolerance);
}

TEST_CASE("Products with 4-bit codes in tiles hold their bound", "[gpu][matmul][decode]") {
  CheckReport report;
  uint64_t seed = 3;
  for (const Path path : Paths()) {
    const auto run = [&](const QuantizedCase& c) { RunTiles(c, ++seed, {}, report, path); };
    for (const int64_t m : {1, 2, 3, 4, 5, 8, 9, 15, 16, 17, 33, 64, 70}) {
      for (const bool zeros : {false, true}) {
        run({.m = m, .n = 50, .k = 576, .group = 64, .bits = 4, .w_zeros = zeros, .bias = m % 2 == 0});
      }
    }
    for (const int64_t m : {1, 6, 12, 20}) {
      run({.m = m, .n = 100, .k = 4096, .group = 128, .bits = 4, .w_zeros = true});
      run({.m = m, .n = 33, .k = 64, .group = 64, .bits = 4});
    }
    run({.m = 1, .n = 17000, .k = 256, .group = 64, .bits = 4});
    run({.m = 2, .n = 8500, .k = 256, .group = 64, .bits = 4});
    run({.m = 1, .n = 64, .k = 14336, .group = 64, .bits = 4, .extremes = true});
  }
  if (cuda::IsHopper()) {  // blocks of several pairs of tiles, warps that share K, several rounds
    for (const int64_t m : {2, 5, 16, 32}) {
      for (const Path path : {Path::kClusters, Path::kFew}) {
        RunTiles({.m = m, .n = 4100, .k = 1024, .group = 64, .bits = 4}, ++seed, {}, report, path);
        RunTiles({.m = m, .n = 500, .k = 14336, .group = 128, .bits = 4, .w_zeros = true}, ++seed, {}, report,
                 path);
      }
    }
    // More sums than a block has room for at once: clusters take two turns and three, with 8 blocks (the last
    // one's K is shorter, and in the last turn some have nothing to finish) and with one.
    for (const auto& [n, k] :
         {std::pair<int64_t, int64_t>{6144, 28672}, {2000, 33280}, {300000, 64}, {600000, 192}}) {
      RunTiles({.m = 16, .n = n, .k = k, .group = 64, .bits = 4}, ++seed, {}, report, Path::kClusters);
    }
  }
  INFO(report.detail);
  CHECK(report.ok());
}

TEST_CASE("Linears of one launch get what each gets alone, with zero points and without",
          "[gpu][matmul][decode]") {
  if (!cuda::IsHopper()) return;
  constexpr int64_t kK = 1088;
  const std::vector<int64_t> widths = {50, 96, 33, 16};
  for (const int64_t m : {1, 2, 4, 7, 16, 20, 70}) {
    const Path path = m > 16 ? Path::kFew : Path::kClusters;
    const Array<float> x(RandomFloats(m * kK, 3));
    std::vector<std::unique_ptr<Array<uint32_t>>> w;
    std::vector<std::unique_ptr<Array<float>>> scales, units, y, y_alone;
    std::vector<std::unique_ptr<Array<uint8_t>>> zeros;
    cuda::SimtParams together = {.m = m, .k = kK, .x = x.data()};
    for (size_t i = 0; i < widths.size(); ++i) {
      const QuantizedOperands o(
          {.m = m, .n = widths[i], .k = kK, .group = 64, .bits = 4, .w_zeros = i % 2 == 1}, i + 1);
      const s4g::Packed packed = s4g::Pack(
          {.n = widths[i], .k = kK, .group = 64, .codes = o.codes, .scales = o.w_scale, .zeros = o.w_zero});
      w.push_back(std::make_unique<Array<uint32_t>>(packed.codes));
      scales.push_back(std::make_unique<Array<float>>(packed.scales));
      units.push_back(std::make_unique<Array<float>>(packed.units));
      zeros.push_back(std::make_unique<Array<uint8_t>>(packed.zeros));
      y.push_back(std::make_unique<Array<float>>(m * widths[i]));
      y_alone.push_back(std::make_unique<Array<float>>(m * widths[i]));
      cuda::SimtParams alone = {.m = m, .k = kK, .x = x.data(), .linears = {.count = 1}};
      alone.linears.linear[0] = {.n = widths[i],
                                 .w = w.back()->data(),
                                 .w_scale = scales.back()->data(),
                                 .w_zero = packed.zeros.empty() ? nullptr : zeros.back()->data(),
                                 .w_unit = units.back()->data(),
                                 .group = 64,
                                 .y = y_alone.back()->data()};
      Ok(Run(alone, path));
      cuda::Linear& linear = together.linears.linear[together.linears.count++];
      linear = alone.linears.linear[0];
      linear.y = y.back()->data();
    }
    Ok(Run(together, path));
    for (size_t i = 0; i < widths.size(); ++i) {
      const std::vector<float> got = y[i]->Read(), expected = y_alone[i]->Read();
      float largest = 0;
      for (const float v : expected) largest = std::max(largest, std::abs(v));
      INFO(m << " rows, linear " << i);
      CHECK(largest > 0);
      for (size_t j = 0; j < got.size(); ++j) {  // shared out otherwise: sums in another order
        const float bound = m <= 2 ? 1e-6f : 1e-4f;
        if (!(std::abs(got[j] - expected[j]) <= bound * largest)) FAIL_CHECK(got[j] << " " << expected[j]);
      }
    }
  }
}

TEST_CASE("Kept columns and super weights stand beside 4-bit codes in tiles", "[gpu][matmul][decode]") {
  CheckReport report;
  uint64_t seed = 70;
  for (const Path path : Paths()) {
    for (const int64_t m : {1, 2, 4, 7, 16, 18, 33, 150}) {
      for (const bool zeros : {false, true}) {
        RunTiles({.m = m, .n = 50, .k = 576, .group = 64, .bits = 4, .w_zeros = zeros, .bias = m == 7},
                 ++seed, {.tail = true}, report, path);
      }
    }
  }
  if (cuda::IsHopper()) {  // blocks that share K
    RunTiles({.m = 20, .n = 50, .k = 4096, .group = 64, .bits = 4, .w_zeros = true, .bias = true}, ++seed,
             {.tail = true}, report, Path::kFew);
  }
  INFO(report.detail);
  CHECK(report.ok());
}

TEST_CASE("Many rows and channels times 4-bit codes hold their bound", "[gpu][matmul][decode]") {
  if (!cuda::IsHopper()) return;
  CheckReport report;
  for (const int64_t m : {128, 300}) {
    for (const int64_t n : {255, 4100}) {
      RunTiles({.m = m, .n = n, .k = 640, .group = 128, .bits = 4, .w_zeros = true, .bias = m == 300}, 11, {},
               report, Path::kMany);
    }
  }
  for (const cuda::pingpong::Plan& tiles : cuda::pingpong::kAllTiles) {
    RunTiles({.m = 140, .n = 700, .k = 256, .group = 64, .bits = 4, .bias = true}, 12, {}, report,
             Path::kMany, {}, tiles);
    // More tiles than multiprocessors.
    RunTiles({.m = 9 * tiles.tile_m - 50, .n = 16 * tiles.tile_n - 60, .k = 64, .group = 64, .bits = 4}, 13,
             {}, report, Path::kMany, {}, tiles);
  }
  INFO(report.detail);
  CHECK(report.ok());
}

// Channels [begin, begin + n) of a packed linear as one of its own; begin is a multiple of a tile's 16.
struct Channels {
  int64_t begin = 0, n = 0;
};
std::vector<std::vector<float>> RunChannels(const s4g::Packed& packed, int64_t k, const Array<float>& x,
                                            int64_t m, const std::vector<Channels>& parts) {
  const Array<uint32_t> w(packed.codes);
  const Array<float> scales(packed.scales), units(packed.units);
  const Array<uint8_t> zeros(packed.zeros);
  std::vector<std::unique_ptr<Array<float>>> y;
  cuda::SimtParams p = {.m = m, .k = k, .x = x.data()};
  for (const Channels& c : parts) {
    y.push_back(std::make_unique<Array<float>>(m * c.n));
    const int64_t tile = c.begin / s4g::kTileRows * (k / s4g::kTileColumns);
    p.linears.linear[p.linears.count++] = {.n = c.n,
                                           .w = w.data() + tile * 128,
                                           .w_scale = scales.data() + tile * 16,
                                           .w_zero = zeros.data() + tile * 16,
                                           .w_unit = units.data() + c.begin,
                                           .group = 64,
                                           .y = y.back()->data()};
  }
  Ok(Run(p, Path::kMany));
  std::vector<std::vector<float>> out;
  for (const auto& array : y) out.push_back(array->Read());
  return out;
}

TEST_CASE("Many rows get the same from channels alone, beside others and in stripes",
          "[gpu][matmul][decode]") {
  if (!cuda::IsHopper()) return;
  constexpr int64_t kRows = 200, kN = 5000, kK = 14336;  // 128 MiB of f16 are 4608 channels
  std::vector<int8_t> codes(kN * kK), zeros(kN * kK / 64);
  std::vector<float> scales(zeros.size());
  uint32_t state = 1;
  const auto random = [&] { return (state = state * 1664525u + 1013904223u) >> 28; };
  for (int8_t& code : codes) code = static_cast<int8_t>(random()) - 8;
  for (int8_t& zero : zeros) zero = static_cast<int8_t>(random()) - 8;
  for (float& scale : scales) scale = static_cast<float>(random() + 1) * 0.01f;
  ThreadPool pool(2);
  const s4g::Packed packed =
      s4g::Pack({.n = kN, .k = kK, .group = 64, .codes = codes, .scales = scales, .zeros = zeros}, &pool);
  const Array<float> x(RandomFloats(kRows * kK, 5));
  const std::vector<float> whole = RunChannels(packed, kK, x, kRows, {{0, kN}})[0];
  const auto expect = [&](const std::vector<float>& got, const Channels& c) {
    int64_t wrong = 0;
    for (int64_t m = 0; m < kRows; ++m) {
      for (int64_t n = 0; n < c.n; ++n) {
        wrong += got[static_cast<size_t>(m * c.n + n)] != whole[static_cast<size_t>(m * kN + c.begin + n)];
      }
    }
    INFO(c.begin << " and " << c.n << " channels from there");
    CHECK(wrong == 0);
  };
  for (const Channels c : {Channels{4608, 392}, Channels{16, 1000}, Channels{4400, 333}}) {
    expect(RunChannels(packed, kK, x, kRows, {c})[0], c);
  }
  const std::vector<Channels> beside = {{0, 50}, {64, 3001}, {1024, 3976}};
  const auto parts = RunChannels(packed, kK, x, kRows, beside);
  for (size_t i = 0; i < beside.size(); ++i) expect(parts[i], beside[i]);
}

TEST_CASE("Every way to share out 4-bit codes in tiles holds the bound", "[gpu][matmul][decode]") {
  if (!cuda::IsHopper()) return;
  CheckReport report;
  uint64_t seed = 40;
  for (const int64_t m : {3, 30, 130}) {
    for (const int rows : {32, 64, 128}) {
      for (const int groups : {1, 2}) {
        if (rows == 128 && groups != 2) continue;
        for (const int splits : {1, 2, 3, 4, 6}) {
          const bool zeros = (groups + splits) % 2 == 0;
          RunTiles({.m = m, .n = 330, .k = 1088, .group = 64, .bits = 4, .w_zeros = zeros, .bias = zeros},
                   ++seed, {}, report, Path::kFew,
                   {.groups = groups, .splits = splits, .stages = 3, .rows = rows});
        }
      }
    }
  }
  INFO(report.detail);
  CHECK(report.ok());
  const cuda::SimtParams nothing = {.m = 1, .k = 64, .linears = {.count = 1}};
  CHECK(absl::IsInvalidArgument(Run(nothing, Path::kFew, {.groups = 1, .splits = 5})));
  CHECK(absl::IsInvalidArgument(Run(nothing, Path::kFew, {.groups = 3, .splits = 1})));
  CHECK(absl::IsInvalidArgument(Run(nothing, Path::kFew, {.groups = 1, .splits = 1, .rows = 128})));
  CHECK(absl::IsInvalidArgument(Run(nothing, Path::kFew, {.groups = 2, .splits = 1, .rows = 48})));
  CHECK(absl::IsInvalidArgument(Run(nothing, Path::kFew, {.groups = 2, .splits = 1, .stages = 1})));
}

TEST_CASE("A spike of thousands leaves the other channels of its row their precision",
          "[gpu][matmul][decode]") {
  CheckReport report;
  for (const Path path : Paths()) {
    for (const int64_t m : {1, 4, 8, 16, 20}) {
      for (const float spike : {5000.0f, 1e6f}) {
        RunTiles({.m = m, .n = 100, .k = 4096, .group = 64, .bits = 4, .w_zeros = m == 8},
                 static_cast<uint64_t>(m), {.spike = spike}, report, path);
      }
    }
  }
  INFO(report.detail);
  CHECK(report.ok());
}

TEST_CASE("Values beyond the range of f16 are scaled, what is not finite stays in its row",
          "[gpu][matmul][decode]") {
  if (!cuda::IsHopper()) return;
  constexpr int64_t kRows = 9, kN = 32, kK = 128;
  const s4g::Packed packed = s4g::Pack({.n = kN,
                                        .k = kK,
                                        .group = 64,
                                        .codes = std::vector<int8_t>(kN * kK, 1),
                                        .scales = std::vector<float>(kN * kK / 64, 0.5f)});
  std::vector<float> x(kRows * kK, 0.0f);
  const float values[kRows] = {1e30f, 1e-30f, INFINITY, 3.0f, -65536.0f, NAN, 0.0f, 1e-38f, -1e38f};
  for (int64_t m = 0; m < kRows; ++m) x[static_cast<size_t>(m * kK + 5)] = values[m];
  const Array<uint32_t> w(packed.codes);
  const Array<float> scales(packed.scales), units(packed.units), d_x(x), y(kRows * kN);
  cuda::SimtParams p = {.m = kRows, .k = kK, .x = d_x.data(), .linears = {.count = 1}};
  p.linears.linear[0] = {
      .n = kN, .w = w.data(), .w_scale = scales.data(), .w_unit = units.data(), .group = 64, .y = y.data()};
  struct Way {
    Path path;
    int64_t at_once;
  };
  for (const Way way : {Way{Path::kClusters, kRows}, Way{Path::kClusters, 1}, Way{Path::kClusters, 2},
                        Way{Path::kFew, kRows}, Way{Path::kMany, kRows}}) {
    for (int64_t done = 0; done < kRows; done += way.at_once) {
      cuda::SimtParams part = p;
      part.m = std::min(way.at_once, kRows - done);
      part.x += done * kK;
      part.linears.linear[0].y += done * kN;
      Ok(Run(part, way.path));
    }
    const std::vector<float> got = y.Read();
    const float least = way.at_once <= 2 ? 0x1p-127f : 0.0f;  // digits end there
    for (int64_t m = 0; m < kRows; ++m) {
      INFO("row " << m << ", " << way.at_once << " at once");
      for (int64_t n = 0; n < kN; ++n) {
        const float v = got[static_cast<size_t>(m * kN + n)];
        if (std::isfinite(values[m])) {
          CHECK(std::abs(v - 0.5f * values[m]) <= std::abs(values[m]) * 0x1p-11f + least);
        } else {
          CHECK_FALSE(std::isfinite(v));
        }
      }
    }
  }
}

TEST_CASE("One wrong nibble of a tile is found", "[gpu][matmul][decode][canary]") {
  for (const Path path : Paths()) {
    for (const int64_t m : {1, 8, 40}) {
      CheckReport report;
      RunTiles({.m = m, .n = 50, .k = 576, .group = 64, .bits = 4}, 5, {.flip = true}, report, path);
      CHECK(report.num_values > 0);
      CHECK(report.worst > 2);
    }
  }
}

}  // namespace
}  // namespace spikefold::kernels
