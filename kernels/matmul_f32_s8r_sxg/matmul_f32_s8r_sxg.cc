#include "kernels/matmul_f32_s8r_sxg/matmul_f32_s8r_sxg.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "absl/strings/str_cat.h"
#include "formats/base/status.h"
#include "kernels/cpu/cpu_features.h"
#include "kernels/cpu/tiles.h"
#include "kernels/matmul_f32_s8r_s8c/matmul_f32_s8r_s8c_isa.h"
#include "kernels/matmul_f32_s8r_sxg/matmul_f32_s8r_sxg_isa.h"

namespace spikefold::kernels::matmul_f32_s8r_sxg {
namespace {

namespace s8c = matmul_f32_s8r_s8c;

constexpr char kName[] = "matmul_f32_s8r_sxg";
constexpr int64_t kMostWholeK = 131072;  // beyond, sums would no longer fit in int32
constexpr int64_t kExpandRows = 16;      // making a panel into INT8 codes pays from here on
constexpr int64_t kExpandBlock = 96;     // rows that share a panel so made
constexpr int64_t kLine = 64;

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

TileFunction* ChooseTarget(Isa isa) {
  if (isa >= Isa::kAvx512Bf16) return TilesAvx512Bf16;
  if (isa >= Isa::kAvx512Vnni) return TilesAvx512Vnni;
  return isa >= Isa::kAvx2 ? TilesAvx2 : TilesPlain;
}

// Rows are contiguous: groups follow each other.
std::vector<int32_t> Offsets(const Params& p, const GroupView& view) {
  std::vector<int32_t> offset(static_cast<size_t>(p.m * view.num_groups));
  const int32_t times = view.has_zeros ? -1 : -(1 << (view.bits - 1));
  for (size_t i = 0; i < offset.size(); ++i) {
    const int8_t* x = p.x + static_cast<int64_t>(i) * p.group;
    int32_t sum = 0;
    for (int64_t k = 0; k < p.group; ++k) sum += x[k];
    offset[i] = times * sum;
  }
  return offset;
}

// Rows by matmul_f32_s8r_s8c's tiles.
void RunExpanded(const Call& call, ThreadPool& pool) {
  const Params& p = call.params;
  const int64_t groups = call.view.num_groups, k = groups * call.view.units * kUnit, panel_bytes = k * kPanel;
  std::vector<int32_t> offset(static_cast<size_t>(p.m));
  const int32_t times = 128 / (call.view.has_zeros ? 1 : 1 << (call.view.bits - 1));
  for (int64_t m = 0; m < p.m; ++m) {
    const int32_t* of_groups = call.offset + m * groups;
    offset[static_cast<size_t>(m)] = times * std::accumulate(of_groups, of_groups + groups, 0);
  }
  const s8c::Params params{.m = p.m,
                           .n = p.n,
                           .k = p.k,
                           .x_scale = p.x_scale,
                           .x_scale_stride = p.x_scale_stride,
                           .w_scale = p.w_scale,
                           .tail = p.tail,
                           .y = p.y};
  s8c::TileFunction* const tiles = s8c::ChooseTarget();
  const TileGrid grid{.m = p.m,
                      .num_panels = CeilDiv(p.n, kPanel),
                      .panel_bytes = panel_bytes,
                      .panel_ops = k * kPanel,
                      .row_block = kExpandBlock};
  ForEachTile(pool, grid, [&](int64_t m_begin, int64_t m_end, int64_t p_begin, int64_t p_end) {
    thread_local std::vector<uint8_t> made;
    made.resize(static_cast<size_t>(panel_bytes + kLine));
    const auto address = reinterpret_cast<uintptr_t>(made.data());
    uint8_t* const w = made.data() + (kLine - address % kLine) % kLine;
    for (int64_t panel = p_begin; panel < p_end; ++panel) {
      ExpandAvx512Vnni(call, panel, w);
      const s8c::Call rows{.params = params,
                           .tail = call.tail,
                           .w = w,
                           .first_panel = panel,
                           .k4 = k / 4,
                           .x = call.x,
                           .x_stride = call.x_stride,
                           .offset = offset.data()};
      tiles(rows, m_begin, m_end, panel, panel + 1);
    }
    AddSuperWeights(p.tail, m_begin, m_end, p_begin * kPanel, std::min(p_end * kPanel, p.n), p.n, p.y);
  });
}

}  // namespace

absl::Status Supports(const Params& p) {
  if (p.m < 1 || p.n < 1 || p.k < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat(kName, ": shape M=", p.m, " N=", p.n, " K=", p.k, " is empty; each must be at least 1"));
  }
  SF_RETURN_IF_ERROR(CheckGroupLayout(kName, {.n = p.n, .k = p.k, .group = p.group}));
  if (p.x_group != 0 && (p.x_group < 0 || p.x_group % p.group != 0 || p.k % p.x_group != 0)) {
    return absl::InvalidArgumentError(absl::StrCat(
        kName, ": x_group=", p.x_group, " is not a multiple of group=", p.group, " that divides K=", p.k));
  }
  if (p.x_zero != nullptr && (p.w_row_sum == nullptr || p.x_group != 0)) {
    return absl::InvalidArgumentError(
        absl::StrCat(kName, ": x_zero needs w_row_sum, and a scale a row: leave x_group at 0"));
  }
  if (p.w_scale != nullptr && (p.x_group != 0 || p.x_zero != nullptr)) {
    return absl::InvalidArgumentError(
        absl::StrCat(kName, ": w_scale goes with a scale a row and no zero point of x"));
  }
  if (p.w_scale != nullptr && p.k >= kMostWholeK) {
    return absl::UnimplementedError(
        absl::StrCat(kName, ": K=", p.k, " with w_scale is not below ", kMostWholeK));
  }
  return CheckTail(kName, p.tail);
}

void TilesPlain(const Call& c, int64_t m_begin, int64_t m_end, int64_t p_begin, int64_t p_end) {
  const Params& p = c.params;
  std::vector<int16_t> codes(static_cast<size_t>(c.view.units * kUnit * kPanel));
  std::vector<float> acc(static_cast<size_t>((m_end - m_begin) * kPanel));
  std::vector<int32_t> total(acc.size());  // with w_scale, instead of acc
  for (int64_t panel = p_begin; panel < p_end; ++panel) {
    const int64_t n0 = panel * kPanel, count = std::min(kPanel, p.n - n0);
    std::fill(acc.begin(), acc.end(), 0.0f);
    std::fill(total.begin(), total.end(), 0);
    for (int64_t g = 0; g < c.view.num_groups; ++g) {
      float scales[kPanel];
      c.view.LoadScales(panel, g, scales);
      c.view.LoadCodes(panel, g, codes.data());
      for (int64_t m = m_begin; m < m_end; ++m) {
        const int8_t* x = p.x + m * p.k + g * p.group;
        int32_t sum[kPanel] = {};
        for (int64_t k = 0; k < p.group; ++k) {
          const int16_t* w = codes.data() + k * kPanel;
          for (int64_t j = 0; j < kPanel; ++j) sum[j] += x[k] * w[j];
        }
        float* a = acc.data() + (m - m_begin) * kPanel;
        int32_t* t = total.data() + (m - m_begin) * kPanel;
        for (int64_t j = 0; j < count && p.w_scale != nullptr; ++j) {
          t[j] += static_cast<int32_t>(std::lround(scales[j] / p.w_scale[n0 + j])) * sum[j];
        }
        for (int64_t j = 0; j < kPanel && p.w_scale == nullptr; ++j) {
          float value = static_cast<float>(sum[j]);
          if (c.groups_per_x_scale > 0) value *= p.x_scale[m * c.x_scale_row + g / c.groups_per_x_scale];
          a[j] += scales[j] * value;
        }
        for (int64_t j = 0; j < count && p.group_sums != nullptr; ++j) {
          p.group_sums[(m * p.n + n0 + j) * c.view.num_groups + g] = sum[j];
        }
      }
    }
    for (int64_t m = m_begin; m < m_end; ++m) {
      const float* a = acc.data() + (m - m_begin) * kPanel;
      const int32_t* t = total.data() + (m - m_begin) * kPanel;
      float* y = p.y + m * p.n + n0;
      for (int64_t j = 0; j < count; ++j) {
        if (p.w_scale != nullptr) {
          y[j] = static_cast<float>(t[j]) * p.x_scale[m * c.x_scale_row] * p.w_scale[n0 + j];
          continue;
        }
        y[j] = a[j];
        if (p.x_zero != nullptr) y[j] -= static_cast<float>(p.x_zero[m]) * p.w_row_sum[n0 + j];
        if (c.groups_per_x_scale == 0) y[j] *= p.x_scale[m * c.x_scale_row];
      }
      AddTail(p.tail, c.tail, m, n0, count, y);
    }
  }
}

absl::Status Run(const Params& p, ThreadPool& pool) {
  SF_RETURN_IF_ERROR(Supports(p));
  const TailOperands tail(p.tail, p.m, p.n);
  Call call{.params = p, .tail = tail, .view = GroupView(p.w, p.k, p.group), .x = p.x, .x_stride = p.k};
  std::vector<int8_t> padded;  // rows whose last unit would end outside x: only where a group is a row
  if (p.k % kUnit != 0) {
    call.x_stride = CeilDiv(p.k, kUnit) * kUnit;
    padded.resize(static_cast<size_t>(p.m * call.x_stride));
    for (int64_t m = 0; m < p.m; ++m) std::copy_n(p.x + m * p.k, p.k, padded.data() + m * call.x_stride);
    call.x = padded.data();
  }
  const std::vector<int32_t> offset = Offsets(p, call.view);
  call.offset = offset.data();
  call.x_scale_row = p.x_group > 0 ? p.k / p.x_group : p.x_scale_stride;
  call.groups_per_x_scale = p.x_group / p.group;
  const bool expands = p.w_scale != nullptr && p.m >= kExpandRows && call.view.bits <= 4 &&
                       p.group_sums == nullptr && ActiveIsa() >= Isa::kAvx512Vnni;
  if (expands) {
    RunExpanded(call, pool);
    return absl::OkStatus();
  }
  const TileGrid grid{.m = p.m,
                      .num_panels = CeilDiv(p.n, kPanel),
                      .panel_bytes = call.view.panel_bytes,
                      .panel_ops = p.k * kPanel};
  TileFunction* const tiles = ChooseTarget(ActiveIsa());
  ForEachTile(pool, grid, [&](int64_t m_begin, int64_t m_end, int64_t p_begin, int64_t p_end) {
    tiles(call, m_begin, m_end, p_begin, p_end);
    AddSuperWeights(p.tail, m_begin, m_end, p_begin * kPanel, std::min(p_end * kPanel, p.n), p.n, p.y);
  });
  return absl::OkStatus();
}

}  // namespace spikefold::kernels::matmul_f32_s8r_sxg
