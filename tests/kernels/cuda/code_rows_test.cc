// Products of float rows with 8-bit codes of rows (W8A16, and codes of other widths one byte each), on every
// path.
#include <cmath>
#include <limits>
#include <vector>

#include "absl/strings/str_cat.h"
#include "formats/base/dtype.h"
#include "formats/base/status.h"
#include "kernels/kernel_check.h"
#include "kernels/matmul_f32_f32_s8c/matmul_f32_f32_s8c_cuda.h"
#include "kernels/matmul_f32_f32_sxg/matmul_f32_f32_sxg_cuda.h"
#include "tests/kernels/cuda/cuda_kit.h"

namespace spikefold::kernels {
namespace {

using cuda::Array;
using cuda::Ok;
using cuda::TheStream;
namespace s8c = matmul_f32_f32_s8c;
using s8c::Path;

struct Case {
  int64_t m = 0, n = 0, k = 0, group = 0;
  int64_t other_group = 0;  // of the second linear, where it has another
  bool tail = false;        // kept columns, super weights, bias
  float spike = 0;          // put into a column of each row
};

absl::Status Run(const cuda::SimtParams& p, Path path) {
  const cuda::DeviceInfo device = *cuda::QueryDevice();
  if (path == Path::kRow) return s8c::RunRow(p, TheStream());
  if (path == Path::kDirect) {
    return p.linears.linear[0].group > 0 ? matmul_f32_f32_sxg::RunCuda(p, TheStream())
                                         : s8c::RunCuda(p, TheStream());
  }
  const Array<char> scratch(static_cast<int64_t>(s8c::ScratchBytes(path, p)));
  SF_RETURN_IF_ERROR(path == Path::kWide ? s8c::RunWide(p, scratch.data(), device, TheStream())
                                         : s8c::RunDigits(p, scratch.data(), device, TheStream()));
  return TheStream().Sync();  // scratch goes
}

// Two linears of one launch. By Hoeffding's inequality a sum of roundings to p bits of its terms exceeds 6
// times 2^-p times the root of the sum of their squares once in 3e7 sums. Digits are fixed-point: off by
// 2^-23 of the largest |x| of a row (or of 64 columns) each, at most.
void Check(const Case& c, Path path, bool flip, CheckReport& report) {
  constexpr int kLinears = 2;
  const auto group_of = [&](size_t i) { return i == 1 && c.other_group > 0 ? c.other_group : c.group; };
  const auto groups_of = [&](size_t i) { return group_of(i) == 0 ? 1 : c.k / group_of(i); };
  std::vector<float> x = RandomFloats(c.m * c.k, 1);
  const std::vector<int32_t> kept = {0, 9, static_cast<int32_t>(c.k - 1)}, columns = {4, 50},
                             slot = {1, 0, 1}, row = {7, 7, 7};
  const std::vector<float> value = {3.0f, -0.75f, 0.5f};
  for (int64_t m = 0; m < c.m; ++m) {
    float* const values = x.data() + m * c.k;
    if (c.spike != 0) values[37] = c.spike + static_cast<float>(m);
    // bf16, so that every path has them exactly.
    for (const auto* list : {&kept, &columns}) {
      for (const int32_t column : *list) values[column] = Bf16ToFloat(FloatToBf16(values[column]));
    }
  }
  const Array<float> d_x(x), d_value(value);
  const Array<int32_t> d_kept(kept), d_columns(columns), d_slot(slot), d_row(row);
  cuda::SimtParams p = {.m = c.m, .k = c.k, .x = d_x.data(), .linears = {.count = kLinears}};
  if (c.tail) {
    p.tail = {.num_kept = static_cast<int64_t>(kept.size()),
              .kept = d_kept.data(),
              .super_column = d_columns.data()};
  }
  std::vector<std::vector<int8_t>> codes;
  std::vector<std::vector<float>> scales, biases;
  std::vector<std::vector<uint16_t>> kept_ws;
  std::vector<Array<int8_t>> d_codes;
  std::vector<Array<float>> d_scales, d_biases, ys;
  std::vector<Array<uint16_t>> d_kept_ws;
  for (int i = 0; i < kLinears; ++i) {
    const int64_t n = i == 0 ? c.n : c.n / 2 + 3;
    const auto seed = static_cast<uint64_t>(10 * i);
    codes.push_back(RandomCodes(n * c.k, -128, 127, seed + 2));
    scales.push_back(RandomFloats(n * groups_of(static_cast<size_t>(i)), seed + 3));
    biases.push_back(RandomFloats(n, seed + 4));
    kept_ws.emplace_back();
    for (const float v : RandomFloats(static_cast<int64_t>(kept.size()) * n, seed + 5)) {
      kept_ws.back().push_back(FloatToBf16(v));
    }
    std::vector<int8_t> given = codes.back();
    if (flip) given[given.size() / 3] ^= 64;
    d_codes.emplace_back(given);
    d_scales.emplace_back(scales.back());
    d_biases.emplace_back(biases.back());
    d_kept_ws.emplace_back(kept_ws.back());
    ys.emplace_back(c.m * n);
    p.linears.linear[i] = {.n = n,
                           .w = d_codes.back().data(),
                           .w_stride = c.k,
                           .w_scale = d_scales.back().data(),
                           .group = group_of(static_cast<size_t>(i)),
                           .kept_w = c.tail ? d_kept_ws.back().data() : nullptr,
                           .kept_stride = n,
                           .bias = c.tail ? d_biases.back().data() : nullptr,
                           .y = ys.back().data()};
  }
  if (c.tail) {
    p.super[0] = {.num = static_cast<int64_t>(slot.size()),
                  .slot = d_slot.data(),
                  .row = d_row.data(),
                  .value = d_value.data()};
  }
  Ok(Run(p, path));
  for (int i = 0; i < kLinears; ++i) {
    const int64_t n = p.linears.linear[i].n;
    const auto of = static_cast<size_t>(i);
    const int64_t group = group_of(of), groups = groups_of(of);
    const auto weight = [&](int64_t j, int64_t k) {
      return double{scales[of][static_cast<size_t>(j * groups + (group == 0 ? 0 : k / group))]} *
             codes[of][static_cast<size_t>(j * c.k + k)];
    };
    std::vector<double> expected, tolerance;
    for (int64_t m = 0; m < c.m; ++m) {
      const float* const values = x.data() + m * c.k;
      double largest = 0;
      for (int64_t k = 0; k < c.k; ++k) largest = std::max(largest, std::abs(double{values[k]}));
      for (int64_t j = 0; j < n; ++j) {
        double sum = 0, size = 0, squares = 0, sizes = 0, weights = 0;
        for (int64_t k = 0; k < c.k; ++k) {
          const double w = weight(j, k);
          const double term = values[k] * w;
          sum += term;
          size += std::abs(term);
          squares += term * term;
          sizes += std::abs(w);
          weights = std::max(weights, std::abs(w));
        }
        double added = 0;
        const auto add = [&](int32_t column, double w) {
          added += values[column] * w;
          size += std::abs(values[column] * w);
          squares += values[column] * values[column] * w * w;
        };
        for (size_t r = 0; r < kept.size() && c.tail; ++r) {
          add(kept[r], Bf16ToFloat(kept_ws[of][r * static_cast<size_t>(n) + static_cast<size_t>(j)]));
        }
        for (size_t s = 0; s < row.size() && c.tail && i == 0; ++s) {
          if (row[s] == j) add(columns[static_cast<size_t>(slot[s])], double{value[s]});
        }
        if (c.tail) added += double{biases[of][static_cast<size_t>(j)]};
        expected.push_back(sum + added);
        if (path == Path::kRow) {
          tolerance.push_back(
              cuda::DigitTolerance(
                  c.k, 16, [&](int64_t k) { return values[k]; }, [&](int64_t k) { return weight(j, k); }) +
              std::abs(added) * 0x1p-22 + std::abs(expected.back()) * 0x1p-22);
          continue;
        }
        const double rounding = std::min(size, 6 * std::sqrt(squares));
        const double of_x = path == Path::kWide
                                ? 2 * 0x1p-11 * rounding + largest * (sizes + weights) * 0x1p-38
                            : path == Path::kDigits || c.m <= s8c::kDirectRows ? largest * sizes * 0x1p-23
                                                                               : 0;
        tolerance.push_back(of_x + size * 4 * std::sqrt(static_cast<double>(c.k)) * 0x1p-24 +
                            std::abs(expected.back()) * 0x1p-22);
      }
    }
    report.Compare(absl::StrCat("path ", static_cast<int>(path), ", ", c.m, " rows, ", n, " x ", c.k,
                                ", groups of ", group, c.tail ? ", tail" : ""),
                   ys[of].Read(), expected, tolerance);
  }
}

std::vector<Path> Paths() {
  if (cuda::QueryDevice()->sm != 90) return {Path::kDirect, Path::kDigits};
  return {Path::kDirect, Path::kDigits, Path::kWide};
}

TEST_CASE("Float rows times rows of 8-bit codes hold their bound on every path", "[gpu][matmul]") {
  CheckReport report, canary;
  for (const Path path : Paths()) {
    for (const int64_t m : {1, 4, 5, 22, 65, 128, 150}) {
      for (const int64_t group : {0, 32, 192}) {
        const Case c = {.m = m, .n = 70, .k = 576, .group = group, .tail = m % 2 == 0};
        Check(c, path, false, report);
        Check(c, path, true, canary);
      }
    }
    Check({.m = 40, .n = 130, .k = 4096}, path, false, report);
    Check({.m = 33, .n = 20, .k = 80, .spike = 9000}, path, false, report);
    Check({.m = 20, .n = 50, .k = 272, .group = 272, .tail = true, .spike = -700}, path, false, report);
  }
  INFO(report.detail);
  CHECK(report.ok());
  CHECK(canary.worst > 1);
}

// Channels of one round and of several, of two blocks a multiprocessor and of three; a last step that is not
// whole; groups that are no power of two.
TEST_CASE("One float row times rows of 8-bit codes holds its bound", "[gpu][matmul][decode]") {
  CheckReport report, canary;
  for (const int64_t group : {0, 16, 96, 512}) {
    for (const bool tail : {false, true}) {
      const Case c = {.m = 1,
                      .n = 77,
                      .k = group == 96    ? 2880
                           : group == 512 ? 14336
                                          : 4112,
                      .group = group,
                      .tail = tail};
      Check(c, Path::kRow, false, report);
      Check(c, Path::kRow, true, canary);
    }
  }
  Check({.m = 1, .n = 13001, .k = 2048}, Path::kRow, false, report);
  // Of both linears 23 pairs of channels a multiprocessor: for 16 warps two rounds, for 24 one.
  const int64_t three = 31 * cuda::NumSms();
  Check({.m = 1, .n = three, .k = 2048}, Path::kRow, false, report);
  Check({.m = 1, .n = three, .k = 2064, .group = 48, .other_group = 16}, Path::kRow, false, report);
  Check({.m = 1, .n = 5000, .k = 2048, .group = 64, .other_group = 128}, Path::kRow, false, report);
  Check({.m = 1, .n = 300, .k = 2048, .spike = 9000}, Path::kRow, false, report);
  INFO(report.detail);
  CHECK(report.ok());
  CHECK(canary.worst > 1);
}

TEST_CASE("8-bit codes of many channels are unpacked in parts", "[gpu][matmul]") {
  if (cuda::QueryDevice()->sm != 90) return;
  CheckReport report;
  Check({.m = 3, .n = 2100, .k = 32768}, Path::kWide, false, report);  // 128 MiB of f16 and more
  INFO(report.detail);
  CHECK(report.ok());
}

// A row that holds what is not finite does not spoil the others.
TEST_CASE("Rows of float that are not finite stay apart from 8-bit codes' others", "[gpu][matmul]") {
  const int64_t m = 6, n = 32, k = 64;
  std::vector<float> x = RandomFloats(m * k, 1);
  x[static_cast<size_t>(2 * k + 5)] = std::numeric_limits<float>::infinity();
  x[static_cast<size_t>(4 * k)] = std::numeric_limits<float>::quiet_NaN();
  const Array<float> d_x(x), scale(RandomFloats(n, 2)), y(m * n);
  const Array<int8_t> codes(RandomCodes(n * k, -127, 127, 3));
  cuda::SimtParams p = {.m = m, .k = k, .x = d_x.data(), .linears = {.count = 1}};
  p.linears.linear[0] = {.n = n, .w = codes.data(), .w_stride = k, .w_scale = scale.data(), .y = y.data()};
  for (const Path path : Paths()) {
    Ok(Run(p, path));
    const std::vector<float> got = y.Read();
    for (size_t i = 0; i < got.size(); ++i) {
      const size_t row = i / static_cast<size_t>(n);
      INFO("path " << static_cast<int>(path) << " row " << row);
      CHECK(std::isfinite(got[i]) == (row != 2 && row != 4));
    }
  }
}

TEST_CASE("One float row beside 8-bit codes may be as large and as small as floats are, or not finite",
          "[gpu][matmul][decode]") {
  constexpr int64_t kN = 20, kK = 2048;
  const Array<int8_t> codes(std::vector<int8_t>(kN * kK, 3));
  const Array<float> scale(std::vector<float>(kN, 0.5f)), y(kN);
  constexpr float kInfinite = std::numeric_limits<float>::infinity();
  for (const float value : {1e30f, -1e38f, 1e-30f, 1e-38f, 0.0f, kInfinite, -kInfinite,
                            std::numeric_limits<float>::quiet_NaN()}) {
    std::vector<float> x(kK, 0.0f);
    x[777] = value;
    const Array<float> d_x(x);
    cuda::SimtParams p = {.m = 1, .k = kK, .x = d_x.data(), .linears = {.count = 1}};
    p.linears.linear[0] = {
        .n = kN, .w = codes.data(), .w_stride = kK, .w_scale = scale.data(), .y = y.data()};
    CHECK(s8c::PathOf(p, *cuda::QueryDevice()) == Path::kRow);
    Ok(s8c::RunRow(p, TheStream()));
    for (const float got : y.Read()) {
      INFO(value << ": " << got);
      if (std::isfinite(value)) {  // digits end at 2^-127
        CHECK(std::abs(got - 1.5f * value) <= std::abs(value) * 0x1p-20f + 1.5f * 0x1p-127f);
      } else {
        CHECK_FALSE(std::isfinite(got));
      }
    }
  }
}

}  // namespace
}  // namespace spikefold::kernels
