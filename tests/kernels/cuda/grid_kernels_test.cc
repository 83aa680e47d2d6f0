// Products whose activations have zero points or scales in groups: the CPU's bit for bit.
#include "formats/base/thread_pool.h"
#include "kernels/kernel_check.h"
#include "kernels/matmul_f32_s8r_s8c/matmul_f32_s8r_s8c.h"
#include "kernels/matmul_f32_s8r_sxg/matmul_f32_s8r_sxg.h"
#include "kernels/matmul_f32_s8r_sxg/matmul_f32_s8r_sxg_grids_cuda.h"
#include "kernels/quantized_case.h"
#include "tests/kernels/cuda/cuda_kit.h"
#include "tests/kernels/cuda/integer_kit.h"

namespace spikefold::kernels {
namespace {

using cuda::Array;
using cuda::Ok;
using cuda::TheStream;
namespace s8c = matmul_f32_s8r_s8c;

// Zero points of x, scales of x in groups, or both: against the CPU's kernel of either weight.
void RunGrid(const QuantizedCase& c, uint64_t seed, bool flip, CheckReport& report) {
  ThreadPool pool(4);
  const QuantizedOperands o(c, seed);
  std::vector<float> expected(static_cast<size_t>(c.m * c.n));
  const int32_t* const zero = o.x_zero.empty() ? nullptr : o.x_zero.data();
  if (c.group > 0) {
    const GroupWeights groups = o.Groups();
    std::vector<uint8_t> packed(GroupPackedBytes(LayoutOf(groups)));
    PackGroups(groups, packed.data());
    Ok(matmul_f32_s8r_sxg::Run({.m = c.m,
                                .n = c.n,
                                .k = c.k,
                                .group = c.group,
                                .x = o.x_codes.data(),
                                .x_group = c.x_group,
                                .x_scale = o.x_scale.data(),
                                .x_zero = zero,
                                .w_row_sum = o.w_row_sum.data(),
                                .w = packed.data(),
                                .tail = o.Tail(),
                                .y = expected.data()},
                               pool));
  } else {
    std::vector<uint8_t> packed(s8c::PackedBytes(c.n, c.k));
    s8c::Pack(o.codes.data(), c.n, c.k, packed.data());
    Ok(s8c::Run({.m = c.m,
                 .n = c.n,
                 .k = c.k,
                 .x = o.x_codes.data(),
                 .x_scale = o.x_scale.data(),
                 .x_zero = zero,
                 .w_code_sum = o.w_code_sum.data(),
                 .w = packed.data(),
                 .w_scale = o.w_scale.data(),
                 .tail = o.Tail(),
                 .y = expected.data()},
                pool));
  }
  std::vector<int32_t> zeros = o.x_zero;
  if (flip && !zeros.empty()) zeros.back() += 1;
  const Array<int8_t> w(Padded(Effective(o), c.n, c.k)), x(Padded(o.x_codes, c.m, c.k));
  const Array<float> x_scale(o.x_scale), w_scale(o.w_scale), kept_x(o.kept_x), bias(o.bias), y(c.m * c.n),
      row_sum(o.w_row_sum);
  const Array<int32_t> x_zero(zeros), code_sum(o.w_code_sum);
  const Array<uint16_t> kept_w(Transposed(o.kept_w, c.n, c.num_kept));
  matmul_f32_s8r_sxg::GridParams params = {.base = {.m = c.m,
                                                    .k = c.k,
                                                    .x = x.data(),
                                                    .x_scale = x_scale.data(),
                                                    .num_kept = c.num_kept,
                                                    .kept_x = kept_x.data(),
                                                    .linears = {.count = 1}},
                                           .x_group = c.x_group,
                                           .x_zero = zero == nullptr ? nullptr : x_zero.data(),
                                           .code_sum = {code_sum.data()},
                                           .row_sum = {row_sum.data()}};
  params.base.linears.linear[0] = {.n = c.n,
                                   .w = w.data(),
                                   .w_stride = s8c::RowBytes(c.k),
                                   .w_scale = w_scale.data(),
                                   .group = c.group,
                                   .kept_w = c.num_kept > 0 ? kept_w.data() : nullptr,
                                   .kept_stride = c.n,
                                   .bias = o.bias.empty() ? nullptr : bias.data(),
                                   .y = y.data()};
  Ok(matmul_f32_s8r_sxg::RunGrids(params, TheStream()));
  report.CompareExact(CaseName(c), y.Read(), expected);
}

TEST_CASE("Products of rows with zero points or scales in groups equal the CPU's bit for bit",
          "[gpu][matmul]") {
  CheckReport report, flipped;
  uint64_t seed = 177;
  std::vector<QuantizedCase> cases = ChannelCases();
  for (const QuantizedCase& c : GroupCases()) cases.push_back(c);
  cases.push_back({.m = 70, .n = 130, .k = 576, .group = 64, .bits = 4, .x_group = 64});
  cases.push_back({.m = 70, .n = 130, .k = 576, .group = 32, .bits = 4, .w_zeros = true, .x_group = 64});
  int64_t count = 0;
  for (QuantizedCase c : cases) {
    const bool odd = c.group > 0 && c.group % 16 != 0 && c.group != c.k;
    if (odd || (c.bits == 8 && c.w_zeros) || (c.x_group == 0 && !c.x_zeros)) continue;
    c.num_super = 0;
    c.one_x_scale = false;
    ++count;
    RunGrid(c, seed += 11, false, report);
    if (c.x_zeros) RunGrid(c, seed, true, flipped);
  }
  CHECK(count > 15);
  INFO(report.detail);
  CHECK(report.ok());
  CHECK(flipped.worst > 1);
}

}  // namespace
}  // namespace spikefold::kernels
