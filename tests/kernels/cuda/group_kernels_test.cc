// Products of codes in groups, whose results must be the CPU's bit for bit.
#include "absl/strings/str_cat.h"
#include "formats/base/thread_pool.h"
#include "kernels/kernel_check.h"
#include "kernels/matmul_f32_f32_sxg/matmul_f32_f32_sxg.h"
#include "kernels/matmul_f32_f32_sxg/matmul_f32_f32_sxg_cuda.h"
#include "kernels/matmul_f32_s8r_s4g/matmul_f32_s8r_s4g_cuda.h"
#include "kernels/matmul_f32_s8r_sxg/matmul_f32_s8r_sxg.h"
#include "kernels/matmul_f32_s8r_sxg/matmul_f32_s8r_sxg_cuda.h"
#include "kernels/quantized_case.h"
#include "tests/kernels/cuda/cuda_kit.h"
#include "tests/kernels/cuda/integer_kit.h"

namespace spikefold::kernels {
namespace {

using cuda::Array;
using cuda::Ok;
using cuda::TheStream;
namespace s8c = matmul_f32_s8r_s8c;

TEST_CASE("Products of codes in groups equal the CPU's bit for bit", "[gpu][matmul]") {
  CheckReport integers, floats, canary, tiles_canary;
  ThreadPool pool(4);
  uint64_t seed = 77;
  int64_t count = 0, num_hopper = 0, num_tiles = 0;
  std::vector<QuantizedCase> cases = GroupCases();
  for (const int64_t m : {1, 8, 16, 17, 32, 40, 64, 65, 150}) {
    const int64_t group = m % 3 == 0 ? 32 : m % 3 == 1 ? 64 : 128;
    cases.push_back({.m = m, .n = 264, .k = 1152, .group = group, .bits = 4, .num_kept = m % 2 * 70});
  }
  for (const int64_t m : {2, 16, 20, 32, 33, 35, 64, 100}) {
    const int64_t group = m % 3 == 0 ? 192 : m % 3 == 1 ? 64 : 128;
    cases.push_back(
        {.m = m, .n = 200, .k = 1152, .group = group, .bits = 4, .w_zeros = true, .num_kept = m % 4 * 64});
  }
  cases.push_back({.m = 30, .n = 40, .k = 192, .group = 64, .bits = 3, .w_zeros = true, .bias = true});
  cases.push_back({.m = 64, .n = 8500, .k = 1024, .group = 64, .bits = 4, .bias = true});  // wide tiles
  cases.push_back({.m = 64, .n = 8500, .k = 192, .group = 64, .bits = 4, .num_kept = 5});
  cases.push_back({.m = 33, .n = 70, .k = 4096, .group = 64, .bits = 8, .extremes = true});
  for (QuantizedCase c : cases) {
    if ((c.group % 16 != 0 && c.group != c.k) || c.x_group > 0 || (c.bits == 8 && c.w_zeros)) continue;
    c.num_super = 0;
    c.one_x_scale = c.x_zeros = false;
    ++count;
    const QuantizedOperands o(c, seed += 11);
    const GroupWeights groups = o.Groups();
    std::vector<uint8_t> packed(GroupPackedBytes(LayoutOf(groups)));
    PackGroups(groups, packed.data());
    std::vector<float> expected(static_cast<size_t>(c.m * c.n)), expected_float(expected.size());
    const OutlierTail tail = o.Tail();
    Ok(matmul_f32_s8r_sxg::Run({.m = c.m,
                                .n = c.n,
                                .k = c.k,
                                .group = c.group,
                                .x = o.x_codes.data(),
                                .x_scale = o.x_scale.data(),
                                .w = packed.data(),
                                .tail = tail,
                                .y = expected.data()},
                               pool));
    Ok(matmul_f32_f32_sxg::Run({.m = c.m,
                                .n = c.n,
                                .k = c.k,
                                .group = c.group,
                                .x = o.x.data(),
                                .w = packed.data(),
                                .tail = {.bias = tail.bias},
                                .y = expected_float.data()},
                               pool));
    const Array<int8_t> w(Padded(Effective(o), c.n, c.k)), x(Padded(o.x_codes, c.m, c.k));
    const Array<float> x_scale(o.x_scale), w_scale(o.w_scale), kept_x(o.kept_x), bias(o.bias), y(c.m * c.n),
        x_float(o.x);
    const Array<uint16_t> kept_w(Transposed(o.kept_w, c.n, c.num_kept));
    const Array<uint16_t> kept_rows_x(KeptRows(o.kept_x, c.m, c.num_kept));
    const Array<uint16_t> kept_rows_w(KeptRows(o.kept_w, c.n, c.num_kept));
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
                                .group = c.group,
                                .kept_w = c.num_kept > 0 ? kept_w.data() : nullptr,
                                .kept_stride = c.n,
                                .kept_rows = kept_rows_w.data(),
                                .bias = o.bias.empty() ? nullptr : bias.data(),
                                .y = y.data()};
    Ok(matmul_f32_s8r_sxg::RunCuda(params, TheStream()));
    integers.CompareExact(CaseName(c), y.Read(), expected);
    if (matmul_f32_s8r_sxg::FitsHopper(params, TheDevice())) {
      ++num_hopper;
      const Array<float> on_hopper(c.m * c.n);
      params.linears.linear[0].y = on_hopper.data();
      Ok(matmul_f32_s8r_sxg::RunHopper(params, TheStream()));
      integers.CompareExact(absl::StrCat(CaseName(c), " on sm_90a"), on_hopper.Read(), expected);
      std::vector<float> wrong = o.w_scale;
      wrong.back() *= 1.5f;
      const Array<float> wrong_scale(wrong);
      params.linears.linear[0].w_scale = wrong_scale.data();
      Ok(matmul_f32_s8r_sxg::RunHopper(params, TheStream()));
      canary.CompareExact(CaseName(c), on_hopper.Read(), expected);
      params.linears.linear[0].w_scale = w_scale.data();
      params.linears.linear[0].y = y.data();
    }
    cuda::SimtParams simt = {.m = c.m, .k = c.k, .x = x_float.data(), .linears = params.linears};
    simt.linears.linear[0].kept_w = nullptr;
    Ok(matmul_f32_f32_sxg::RunCuda(simt, TheStream()));
    floats.CompareExact(absl::StrCat(CaseName(c), " float"), y.Read(), expected_float);
    if (c.bits > 4 || !matmul_f32_s8r_s4g::Supports(c.k, c.group, TheDevice())) continue;
    ++num_tiles;
    matmul_f32_f32_s4g::Packed tiles = matmul_f32_f32_s4g::Pack(
        {.n = c.n, .k = c.k, .group = c.group, .codes = o.codes, .scales = o.w_scale, .zeros = o.w_zero});
    const Array<float> tile_scales(tiles.scales), of_tiles(c.m * c.n);
    const Array<uint8_t> tile_zeros(tiles.zeros);
    for (const bool flip : {false, true}) {
      if (flip) tiles.codes[tiles.codes.size() / 3] ^= 1;
      const Array<uint32_t> tile_codes(tiles.codes);
      cuda::Linear& linear = params.linears.linear[0];
      linear.w = tile_codes.data();
      linear.w_scale = tile_scales.data();
      linear.w_zero = tiles.zeros.empty() ? nullptr : tile_zeros.data();
      linear.y = of_tiles.data();
      Ok(matmul_f32_s8r_s4g::RunHopper(params, TheStream()));
      (flip ? tiles_canary : integers)
          .CompareExact(absl::StrCat(CaseName(c), " in tiles"), of_tiles.Read(), expected);
      simt.linears = params.linears;
      simt.linears.linear[0].kept_w = nullptr;
      Ok(matmul_f32_f32_sxg::RunTiles(simt, TheStream()));
      if (!flip)
        floats.CompareExact(absl::StrCat(CaseName(c), " float, tiles"), of_tiles.Read(), expected_float);
    }
  }
  CHECK(count > 20);
  INFO(integers.detail << "; " << floats.detail);
  CHECK(integers.ok());
  CHECK(floats.ok());
  if (TheDevice().sm == 90) {
    CHECK(num_hopper > 20);
    CHECK(canary.worst > 1);
    CHECK(num_tiles > 15);
    CHECK(tiles_canary.worst > 1);
  }
}

}  // namespace
}  // namespace spikefold::kernels
