#include <cmath>

#include "absl/strings/str_cat.h"
#include "kernels/matmul_f32_s8r_s8c/matmul_f32_s8r_s8c.h"
#include "kernels/matmul_f32_s8r_sxg/matmul_f32_s8r_sxg.h"
#include "kernels/quantized_check.h"

namespace spikefold::kernels::matmul_f32_s8r_sxg {
namespace {

Params ParamsOf(const QuantizedOperands& o, const void* packed, std::vector<float>& y,
                std::vector<int32_t>* sums) {
  y.assign(static_cast<size_t>(o.shape.m * o.shape.n), std::nanf(""));
  if (sums != nullptr) sums->assign(y.size() * static_cast<size_t>(o.shape.k / o.shape.group), 0);
  return {.m = o.shape.m,
          .n = o.shape.n,
          .k = o.shape.k,
          .group = o.shape.group,
          .x = o.x_codes.data(),
          .x_group = o.shape.x_group,
          .x_scale = o.x_scale.data(),
          .x_scale_stride = o.shape.one_x_scale ? 0 : 1,
          .x_zero = o.x_zero.empty() ? nullptr : o.x_zero.data(),
          .w_row_sum = o.w_row_sum.data(),
          .w = packed,
          .w_scale = o.unit.empty() ? nullptr : o.unit.data(),
          .tail = o.Tail(),
          .y = y.data(),
          .group_sums = sums == nullptr ? nullptr : sums->data()};
}

// Row `row` of a call as a call of its own.
Params OneRow(const Params& params, int64_t row) {
  Params p = RowOf(params, row);
  p.x_scale += row * (p.x_group > 0 ? p.k / p.x_group : p.x_scale_stride);
  if (p.x_zero != nullptr) p.x_zero += row;
  p.group_sums = nullptr;
  return p;
}

// With multiples: without the sums of groups, which may take another way, and as INT8 weights, the same bits.
bool CompareWhole(const std::string& name, const QuantizedOperands& o, Params params,
                  const std::vector<float>& expected, ThreadPool& pool, CheckReport& report) {
  std::vector<float> y(expected.size());
  params.y = y.data();
  params.group_sums = nullptr;
  if (!Run(params, pool).ok()) return false;
  report.CompareExact(absl::StrCat(name, " without sums"), y, expected);
  namespace s8c = matmul_f32_s8r_s8c;
  const std::vector<int8_t> codes = o.WholeCodes();
  std::vector<uint8_t> packed(s8c::PackedBytes(params.n, params.k));
  s8c::Pack(codes.data(), params.n, params.k, packed.data());
  std::vector<float> channels(expected.size());
  const s8c::Params p{.m = params.m,
                      .n = params.n,
                      .k = params.k,
                      .x = params.x,
                      .x_scale = params.x_scale,
                      .x_scale_stride = params.x_scale_stride,
                      .w = packed.data(),
                      .w_scale = params.w_scale,
                      .tail = params.tail,
                      .y = channels.data()};
  if (!s8c::Run(p, pool).ok()) return false;
  report.CompareExact(absl::StrCat(name, " as INT8"), channels, expected);
  return true;
}

}  // namespace

CheckReport Check(ThreadPool& pool, Fault fault) {
  CheckReport report;
  uint64_t seed = 2000;
  std::vector<QuantizedCase> cases = GroupCases();
  for (const QuantizedCase& c : MultipleCases()) cases.push_back(c);
  for (const QuantizedCase& c : cases) {
    QuantizedOperands o(c, seed += 20);
    std::vector<float> expected, y;
    std::vector<int32_t> expected_sums, sums;
    if (!Reference(ParamsOf(o, nullptr, expected, &expected_sums), o.Groups()).ok()) return {};
    if (fault == Fault::kOneElement) o.codes.back() = static_cast<int8_t>(o.codes.back() ^ 1);
    std::vector<uint8_t> packed(GroupPackedBytes(LayoutOf(o.Groups())));
    PackGroups(o.Groups(), packed.data());
    const Params params = ParamsOf(o, packed.data(), y, &sums);
    if (!Run(params, pool).ok()) return {};
    const std::string name = CaseName(c);
    report.CompareExact(absl::StrCat(name, " sums"), sums, expected_sums);
    // Roundings: a group's sum and scales, the sum over groups, the zero point, and the tail.
    const int64_t groups = c.k / c.group;
    const double float_terms = static_cast<double>(c.num_kept + c.num_super + groups) + 7;
    report.Compare(name, y, std::vector<double>(expected.begin(), expected.end()),
                   Tolerances(o, o.CodeRows(), expected, float_terms));
    if (c.multiples && !CompareWhole(name, o, params, y, pool, report)) return {};
    const auto one_row = [&](int64_t row) { return OneRow(params, row); };
    if (!CompareRows(name, params, y, one_row, pool, report)) return {};
  }
  return report;
}

namespace {

// Few shapes unless `all`.
void TimeForm(const QuantizedCase& form, bool all, Bench& bench) {
  for (const BenchShape& s : GroupBenchShapes(form, all)) {
    const QuantizedOperands o(WithShape(form, s), 1);
    const auto pack = [&](void* to) { PackGroups(o.Groups(), to); };
    std::vector<float> y;
    TimeLinear(s, o, GroupPackedBytes(LayoutOf(o.Groups())), pack, ParamsOf(o, nullptr, y, nullptr), bench);
  }
}

}  // namespace

void Benchmark(Bench& bench) {
  TimeForm({.group = 32, .bits = 4}, true, bench);
  TimeForm({.group = 32, .bits = 4, .w_zeros = true}, false, bench);
  TimeForm({.group = 64, .bits = 4, .w_zeros = true}, true, bench);
  TimeForm({.group = 64, .bits = 4, .w_zeros = true, .multiples = true}, true, bench);
  TimeForm({.group = 64, .bits = 2, .w_zeros = true}, false, bench);
  TimeForm({.group = 64, .bits = 3}, false, bench);
  TimeForm({.group = 64, .bits = 8}, false, bench);
  TimeForm({.group = 64, .bits = 4, .x_group = 64}, false, bench);
  TimeForm({.group = 64, .bits = 4, .x_zeros = true}, false, bench);
}

}  // namespace spikefold::kernels::matmul_f32_s8r_sxg
