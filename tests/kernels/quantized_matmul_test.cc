// What the conformance test does not say of the quantized matmuls and the quantizer: equality between
// instruction levels, packing, tails, single wrong elements, refusals.
#include <catch2/catch.hpp>
#include <cmath>

#include "formats/base/dtype.h"
#include "kernels/cpu/cpu_features.h"
#include "kernels/matmul_f32_f32_s8c/matmul_f32_f32_s8c.h"
#include "kernels/matmul_f32_f32_sxg/matmul_f32_f32_sxg.h"
#include "kernels/matmul_f32_s8r_s8c/matmul_f32_s8r_s8c.h"
#include "kernels/matmul_f32_s8r_sxg/matmul_f32_s8r_sxg.h"
#include "kernels/numeric.h"
#include "kernels/quantize_s8r_f32/quantize_s8r_f32.h"
#include "kernels/quantized_case.h"

namespace spikefold::kernels {
namespace {

constexpr QuantizedCase kChannelCase = {
    .m = 19, .n = 77, .k = 131, .num_kept = 17, .num_super = 2, .bias = true};
constexpr QuantizedCase kGroupCase = {
    .m = 19, .n = 77, .k = 192, .group = 32, .bits = 4, .num_kept = 17, .num_super = 2, .bias = true};

// Weights per channel; 2 to 8 bits in groups and by row, with zero points; activations with zero points or in
// groups; scales that are multiples, for few rows and for many.
std::vector<QuantizedCase> Shapes() {
  std::vector<QuantizedCase> shapes = {kChannelCase, kChannelCase, kGroupCase, kGroupCase, kGroupCase,
                                       kGroupCase,   kGroupCase,   kGroupCase, kGroupCase, kGroupCase};
  shapes[1].x_zeros = true;
  shapes[3].w_zeros = true;
  shapes[3].x_group = 64;
  shapes[4].bits = 3;
  shapes[4].x_zeros = true;
  shapes[5].bits = 2;
  shapes[5].w_zeros = true;
  shapes[5].group = shapes[5].k = 131;
  shapes[6].bits = 8;
  shapes[6].w_zeros = true;
  shapes[7].bits = 3;
  shapes[7].w_zeros = true;
  shapes[7].group = 16;
  shapes[8].multiples = shapes[9].multiples = true;
  shapes[8].w_zeros = true;
  shapes[9].m = 7;
  shapes[9].bits = 3;
  return shapes;
}

std::vector<uint8_t> PackWeights(const QuantizedOperands& o) {
  const QuantizedCase& c = o.shape;
  std::vector<uint8_t> packed(c.group > 0 ? GroupPackedBytes(LayoutOf(o.Groups()))
                                          : matmul_f32_s8r_s8c::PackedBytes(c.n, c.k));
  if (c.group > 0) {
    PackGroups(o.Groups(), packed.data());
  } else {
    matmul_f32_s8r_s8c::Pack(o.codes.data(), c.n, c.k, packed.data());
  }
  return packed;
}

// Through the kernel for these weights and float or integer activations.
std::vector<float> Run(bool float_x, const QuantizedOperands& o, ThreadPool& pool) {
  const QuantizedCase& c = o.shape;
  const std::vector<uint8_t> packed = PackWeights(o);
  const uint8_t* w = packed.data();
  const int32_t* x_zero = o.x_zero.empty() ? nullptr : o.x_zero.data();
  std::vector<float> y(static_cast<size_t>(c.m * c.n));
  absl::Status status;
  if (c.group == 0 && float_x) {
    status = matmul_f32_f32_s8c::Run({.m = c.m,
                                      .n = c.n,
                                      .k = c.k,
                                      .x = o.x.data(),
                                      .w = w,
                                      .w_scale = o.w_scale.data(),
                                      .tail = o.Tail(),
                                      .y = y.data()},
                                     pool);
  } else if (c.group == 0) {
    status = matmul_f32_s8r_s8c::Run({.m = c.m,
                                      .n = c.n,
                                      .k = c.k,
                                      .x = o.x_codes.data(),
                                      .x_scale = o.x_scale.data(),
                                      .x_zero = x_zero,
                                      .w_code_sum = o.w_code_sum.data(),
                                      .w = w,
                                      .w_scale = o.w_scale.data(),
                                      .tail = o.Tail(),
                                      .y = y.data()},
                                     pool);
  } else if (float_x) {
    status = matmul_f32_f32_sxg::Run({.m = c.m,
                                      .n = c.n,
                                      .k = c.k,
                                      .group = c.group,
                                      .x = o.x.data(),
                                      .w = w,
                                      .tail = o.Tail(),
                                      .y = y.data()},
                                     pool);
  } else {
    status = matmul_f32_s8r_sxg::Run({.m = c.m,
                                      .n = c.n,
                                      .k = c.k,
                                      .group = c.group,
                                      .x = o.x_codes.data(),
                                      .x_group = c.x_group,
                                      .x_scale = o.x_scale.data(),
                                      .x_zero = x_zero,
                                      .w_row_sum = o.w_row_sum.data(),
                                      .w = w,
                                      .w_scale = o.unit.empty() ? nullptr : o.unit.data(),
                                      .tail = o.Tail(),
                                      .y = y.data()},
                                     pool);
  }
  REQUIRE(status.ok());
  return y;
}

// Largest difference of the outputs of two sets of operands, in tolerances of the first.
double WorstRatio(bool float_x, const QuantizedOperands& right, const QuantizedOperands& wrong,
                  ThreadPool& pool) {
  const std::vector<float> expected = Run(float_x, right, pool), actual = Run(float_x, wrong, pool);
  const double terms = static_cast<double>(float_x ? right.shape.k + 19 : 19 + 6);
  const std::vector<double> tolerances =
      Tolerances(right, float_x ? right.FloatRows() : right.CodeRows(), expected, terms);
  double worst = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    worst = std::max(worst, std::fabs(double{actual[i]} - expected[i]) / tolerances[i]);
  }
  return worst;
}

struct IsaGuard {
  explicit IsaGuard(Isa isa) { REQUIRE(SetIsa(isa).ok()); }
  ~IsaGuard() { (void)SetIsa(DetectedIsa()); }
};

TEST_CASE("Outputs are bitwise the same at every vector level and for any number of threads",
          "[kernels][quantized]") {
  const QuantizedOperands o(GENERATE(from_range(Shapes())), 42);
  const bool float_x = GENERATE(false, true);
  CAPTURE(CaseName(o.shape), float_x);
  ThreadPool one(1), three(3);
  const std::vector<float> best = Run(float_x, o, one);
  CHECK(Run(float_x, o, three) == best);
  // Float rows times codes of a channel: sums in float32 below VNNI, of integers from there on.
  const bool two_kinds = float_x && o.shape.group == 0;
  std::vector<float> fused;
  for (const Isa isa : AvailableIsas()) {
    if (isa == Isa::kPlain && float_x) continue;  // the plain target does not fuse
    const IsaGuard guard(isa);
    INFO(std::string(IsaName(isa)));
    const std::vector<float> y = Run(float_x, o, three);
    if (!two_kinds || isa >= Isa::kAvx512Vnni) {
      CHECK(y == best);
    } else {
      if (fused.empty()) fused = y;
      CHECK(y == fused);
    }
  }
}

TEST_CASE("One wrong code, scale, zero point, kept weight, super weight or bias leaves the tolerance",
          "[kernels][quantized][canary]") {
  const QuantizedOperands right(GENERATE(from_range(Shapes())), 42);
  const bool float_x = GENERATE(false, true);
  CAPTURE(CaseName(right.shape), float_x);
  ThreadPool pool(2);
  CHECK(WorstRatio(float_x, right, right, pool) == 0);
  const auto worst_with = [&](auto fault) {
    QuantizedOperands wrong = right;
    fault(wrong);
    return WorstRatio(float_x, right, wrong, pool);
  };
  CHECK(worst_with([](auto& o) { o.codes[5] = static_cast<int8_t>(o.codes[5] ^ 1); }) > 2);
  if (float_x || !right.shape.multiples) {
    CHECK(worst_with([](auto& o) { o.w_scale.back() *= 1.01f; }) > 2);
  } else {
    CHECK(worst_with([](auto& o) { o.w_scale.back() += o.unit.back(); }) > 2);  // a factor
    CHECK(worst_with([](auto& o) { o.unit.back() *= 1.01f; }) > 2);
  }
  CHECK(worst_with([](auto& o) { o.kept_packed[3] ^= 0x00100000; }) > 2);   // one mantissa bit of a bf16
  CHECK(worst_with([](auto& o) { o.kept_packed.back() ^= 0x3f80; }) == 0);  // padding: column 18 of 17
  CHECK(worst_with([](auto& o) { o.super_value[1] *= 1.01f; }) > 2);
  CHECK(worst_with([](auto& o) { o.bias[76] += 0.01f; }) > 2);
  if (right.shape.w_zeros) {
    CHECK(worst_with([](auto& o) { o.w_zero.back() = static_cast<int8_t>(o.w_zero.back() ^ 1); }) > 2);
  }
  if (float_x) return;
  CHECK(worst_with([](auto& o) { o.x_codes[7] = static_cast<int8_t>(o.x_codes[7] ^ 1); }) > 2);
  CHECK(worst_with([](auto& o) { o.x_scale.back() *= 1.01f; }) > 2);
  if (!right.shape.x_zeros) return;
  CHECK(worst_with([](auto& o) { o.x_zero[3] += 1; }) > 2);
  if (right.shape.group == 0) CHECK(worst_with([](auto& o) { o.w_code_sum[70] += 1; }) > 2);
  if (right.shape.group > 0) CHECK(worst_with([](auto& o) { o.w_row_sum[70] *= 1.01f; }) > 2);
}

TEST_CASE("Kept columns packed at load give the same bits as those packed at the call",
          "[kernels][quantized]") {
  ThreadPool pool(1);
  QuantizedOperands o(kChannelCase, 42);
  const std::vector<float> packed = Run(false, o, pool);
  o.kept_packed.clear();
  CHECK(Run(false, o, pool) == packed);
}

TEST_CASE("Packed rows come back: codes exactly, groups as code times scale", "[kernels][quantized]") {
  const QuantizedOperands o8(kChannelCase, 7);
  const std::vector<uint8_t> packed8 = PackWeights(o8);
  std::vector<int8_t> row8(static_cast<size_t>(o8.shape.k));
  for (const int64_t row : {0, 31, 32, 76}) {
    matmul_f32_s8r_s8c::UnpackRow(packed8.data(), o8.shape.n, o8.shape.k, row, row8.data());
    CHECK(std::equal(row8.begin(), row8.end(), o8.codes.begin() + row * o8.shape.k));
  }
  QuantizedCase c = kGroupCase;
  c.mantissa_bits = GENERATE(7, 10, 23);
  c.bits = GENERATE(2, 3, 4, 8);
  c.w_zeros = GENERATE(false, true);
  c.k = GENERATE(192, 131);
  if (c.k == 131) c.group = c.k;
  const QuantizedOperands o(c, 8);
  const std::vector<uint8_t> packed = PackWeights(o);
  std::vector<float> got(static_cast<size_t>(c.k)), expected(got);
  for (const int64_t row : {0, 15, 31, 48, 76}) {
    UnpackGroupRow(packed.data(), c.k, c.group, row, got.data());
    for (int64_t k = 0; k < c.k; ++k) {
      expected[static_cast<size_t>(k)] = static_cast<float>(o.Weight(row, k));  // exact in double
    }
    CHECK(got == expected);
  }
}

TEST_CASE("Group scales are packed in 16 bits only when nothing is lost", "[kernels][quantized]") {
  const std::vector<float> f16 = {0.5f, 1.0009765625f}, bf16 = {0.5f, 1e30f}, f32 = {0.5f, 1.00001f};
  CHECK(NarrowestScaleType(f16.data(), 2) == ScaleType::kF16);
  const float big_bf16[] = {0.5f, Bf16ToFloat(FloatToBf16(1e30f))};
  CHECK(NarrowestScaleType(big_bf16, 2) == ScaleType::kBf16);
  CHECK(NarrowestScaleType(bf16.data(), 2) == ScaleType::kF32);
  CHECK(NarrowestScaleType(f32.data(), 2) == ScaleType::kF32);
  GroupLayout layout = {.n = 32, .k = 64, .group = 32, .bits = 4, .scales = ScaleType::kF16};
  CHECK(GroupPackedBytes(layout) == 64 + 32 * 64 / 2 + 32 * 2 * 2);
  layout.scales = ScaleType::kF32;
  CHECK(GroupPackedBytes(layout) == 64 + 32 * 64 / 2 + 32 * 2 * 4);
  layout.zeros = true;
  layout.bits = 3;
  CHECK(GroupPackedBytes(layout) == 64 + 32 * 64 * 3 / 8 + 32 * 2 * 4 + 32 * 2);
}

TEST_CASE("Shapes that a quantized kernel cannot compute are refused with the reason",
          "[kernels][quantized]") {
  const auto refused = [](const absl::Status& status, absl::StatusCode code, const char* message) {
    CHECK(status.code() == code);
    CHECK(status.message() == message);
  };
  using absl::StatusCode;
  refused(matmul_f32_s8r_s8c::Supports({.m = 1, .n = 0, .k = 4}), StatusCode::kInvalidArgument,
          "matmul_f32_s8r_s8c: shape M=1 N=0 K=4 is empty; each must be at least 1");
  refused(matmul_f32_s8r_s8c::Supports({.m = 1, .n = 1, .k = 131072}), StatusCode::kUnimplemented,
          "matmul_f32_s8r_s8c: K=131072 is not below 131072");
  refused(matmul_f32_s8r_sxg::Supports({.m = 1, .n = 1, .k = 100, .group = 20}), StatusCode::kUnimplemented,
          "matmul_f32_s8r_sxg: group=20 is not a multiple of 16 in [16, 256]; use 32, 64 or 128");
  refused(matmul_f32_f32_sxg::Supports({.m = 1, .n = 1, .k = 100, .group = 32}), StatusCode::kInvalidArgument,
          "matmul_f32_f32_sxg: K=100 is not a multiple of group=32");
  CHECK(matmul_f32_s8r_sxg::Supports({.m = 1, .n = 1, .k = 101, .group = 101}).ok());  // a row
  refused(matmul_f32_s8r_sxg::Supports({.m = 1, .n = 1, .k = 65537, .group = 65537}),
          StatusCode::kUnimplemented,
          "matmul_f32_s8r_sxg: group=65537 is not a multiple of 16 in [16, 256]; use 32, 64 or 128");
  refused(matmul_f32_s8r_sxg::Supports({.m = 1, .n = 1, .k = 96, .group = 32, .x_group = 48}),
          StatusCode::kInvalidArgument,
          "matmul_f32_s8r_sxg: x_group=48 is not a multiple of group=32 that divides K=96");
  const int32_t x_zero = 3;
  refused(matmul_f32_s8r_sxg::Supports({.m = 1, .n = 1, .k = 96, .group = 32, .x_zero = &x_zero}),
          StatusCode::kInvalidArgument,
          "matmul_f32_s8r_sxg: x_zero needs w_row_sum, and a scale a row: leave x_group at 0");
  const float scale = 1;
  refused(
      matmul_f32_s8r_sxg::Supports({.m = 1, .n = 1, .k = 96, .group = 32, .x_group = 96, .w_scale = &scale}),
      StatusCode::kInvalidArgument,
      "matmul_f32_s8r_sxg: w_scale goes with a scale a row and no zero point of x");
  refused(matmul_f32_s8r_sxg::Supports({.m = 1, .n = 1, .k = 131072, .group = 256, .w_scale = &scale}),
          StatusCode::kUnimplemented, "matmul_f32_s8r_sxg: K=131072 with w_scale is not below 131072");
  refused(matmul_f32_s8r_s8c::Supports({.m = 1, .n = 1, .k = 65536, .x_zero = &x_zero}),
          StatusCode::kUnimplemented, "matmul_f32_s8r_s8c: K=65536 is not below 65536");
  refused(CheckGroupLayout("w", {.n = 1, .k = 32, .group = 32, .bits = 5}), StatusCode::kUnimplemented,
          "w: weights of 5 bits; use 2, 3, 4 or 8");
  refused(matmul_f32_f32_s8c::Supports({.m = 1, .n = 1, .k = 1, .tail = {.num_kept = 3}}),
          StatusCode::kInvalidArgument,
          "matmul_f32_f32_s8c: 3 kept columns without buffers; set kept_x and kept_w or kept_packed");
  const int32_t column = 7;
  float kept_x = 0;
  refused(quantize_s8r_f32::Supports({.m = 1, .k = 7, .num_kept = 1, .kept = &column, .kept_x = &kept_x}),
          StatusCode::kInvalidArgument, "quantize_s8r_f32: kept column 7 is outside [0, 7)");
  refused(quantize_s8r_f32::Supports({.m = 1, .k = 7, .static_scale = -1}), StatusCode::kInvalidArgument,
          "quantize_s8r_f32: static_scale=-1 is not a positive normal number; 0 means per token");
  refused(quantize_s8r_f32::Supports({.m = 1, .k = 7, .bits = 5}), StatusCode::kUnimplemented,
          "quantize_s8r_f32: codes of 5 bits; use 8 or 4");
  refused(quantize_s8r_f32::Supports({.m = 1, .k = 96, .bits = 4, .group = 64}), StatusCode::kInvalidArgument,
          "quantize_s8r_f32: group=64 of K=96; it must divide K, and take neither a static scale nor 8-bit "
          "zero points");
  refused(quantize_s8r_f32::Supports({.m = 1, .k = 7, .symmetric = false}), StatusCode::kInvalidArgument,
          "quantize_s8r_f32: 8-bit zero points without a buffer; set zero");
  refused(quantize_s8r_f32::Supports({.m = 1, .k = 7, .static_scale = 1, .static_zero = 3}),
          StatusCode::kInvalidArgument,
          "quantize_s8r_f32: static_zero=3 is outside 0..0, or has no static_scale");
}

TEST_CASE("Rounding is to nearest, ties to even, and clamps", "[kernels][quantized]") {
  CHECK(RoundClamp(0.5f, -127, 127) == 0);
  CHECK(RoundClamp(1.5f, -127, 127) == 2);
  CHECK(RoundClamp(-2.5f, -127, 127) == -2);
  CHECK(RoundClamp(1e9f, -127, 127) == 127);
  CHECK(RoundClamp(-1e9f, -8, 7) == -8);
  CHECK(RoundClamp(std::nanf(""), -127, 127) == -127);
  CHECK(S8Scale(127) == 1);
  CHECK(S8Scale(0) == 1);
  CHECK(std::isfinite(1 / S8Scale(kMinAmax)));
  for (int low = kS4Min; low <= kS4Max; ++low) {
    for (int high = kS4Min; high <= kS4Max; ++high) {
      const uint8_t pair = PackNibbles(low, high);
      CHECK(LowNibble(pair) == low);
      CHECK(HighNibble(pair) == high);
    }
  }
}

}  // namespace
}  // namespace spikefold::kernels
