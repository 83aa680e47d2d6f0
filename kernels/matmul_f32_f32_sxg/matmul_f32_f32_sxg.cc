#include "kernels/matmul_f32_f32_sxg/matmul_f32_f32_sxg.h"

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "formats/base/status.h"
#include "kernels/cpu/cpu_features.h"
#include "kernels/cpu/tiles.h"
#include "kernels/matmul_f32_f32_sxg/matmul_f32_f32_sxg_isa.h"

namespace spikefold::kernels::matmul_f32_f32_sxg {
namespace {

constexpr char kName[] = "matmul_f32_f32_sxg";

TileFunction* ChooseTarget(Isa isa) {
  if (isa >= Isa::kAvx512) return TilesAvx512;
  return isa >= Isa::kAvx2 ? TilesAvx2 : TilesPlain;
}

}  // namespace

absl::Status Supports(const Params& p) {
  if (p.m < 1 || p.n < 1 || p.k < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat(kName, ": shape M=", p.m, " N=", p.n, " K=", p.k, " is empty; each must be at least 1"));
  }
  SF_RETURN_IF_ERROR(CheckGroupLayout(kName, {.n = p.n, .k = p.k, .group = p.group}));
  return CheckTail(kName, p.tail);
}

void TilesPlain(const Call& c, int64_t m_begin, int64_t m_end, int64_t p_begin, int64_t p_end) {
  const Params& p = c.params;
  std::vector<int16_t> codes(static_cast<size_t>(c.view.units * kUnit * kPanel));
  std::vector<float> acc(static_cast<size_t>((m_end - m_begin) * kPanel));
  for (int64_t panel = p_begin; panel < p_end; ++panel) {
    const int64_t n0 = panel * kPanel, count = std::min(kPanel, p.n - n0);
    std::fill(acc.begin(), acc.end(), 0.0f);
    for (int64_t g = 0; g < c.view.num_groups; ++g) {
      float scales[kPanel];
      c.view.LoadScales(panel, g, scales);
      c.view.LoadCodes(panel, g, codes.data());
      for (int64_t m = m_begin; m < m_end; ++m) {
        const float* x = p.x + m * p.k + g * p.group;
        float sum[kPanel] = {};
        for (int64_t k = 0; k < p.group; ++k) {
          const int16_t* w = codes.data() + k * kPanel;
          for (int64_t j = 0; j < kPanel; ++j) sum[j] += x[k] * static_cast<float>(w[j]);
        }
        float* a = acc.data() + (m - m_begin) * kPanel;
        for (int64_t j = 0; j < kPanel; ++j) a[j] += scales[j] * sum[j];
      }
    }
    for (int64_t m = m_begin; m < m_end; ++m) {
      float* y = p.y + m * p.n + n0;
      std::copy_n(acc.data() + (m - m_begin) * kPanel, count, y);
      AddTail(p.tail, c.tail, m, n0, count, y);
    }
  }
}

absl::Status Run(const Params& p, ThreadPool& pool) {
  SF_RETURN_IF_ERROR(Supports(p));
  const TailOperands tail(p.tail, p.m, p.n);
  Call call{.params = p, .tail = tail, .view = GroupView(p.w, p.k, p.group), .x = p.x, .x_stride = p.k};
  std::vector<float> padded;  // rows whose last unit would end outside x: only where a group is a row
  if (p.k % kUnit != 0) {
    call.x_stride = call.view.units * kUnit;
    padded.resize(static_cast<size_t>(p.m * call.x_stride));
    for (int64_t m = 0; m < p.m; ++m) std::copy_n(p.x + m * p.k, p.k, padded.data() + m * call.x_stride);
    call.x = padded.data();
  }
  const TileGrid grid{.m = p.m,
                      .num_panels = (p.n + kPanel - 1) / kPanel,
                      .panel_bytes = call.view.panel_bytes,
                      .panel_ops = p.k * kPanel};
  TileFunction* const tiles = ChooseTarget(ActiveIsa());
  ForEachTile(pool, grid, [&](int64_t m_begin, int64_t m_end, int64_t p_begin, int64_t p_end) {
    tiles(call, m_begin, m_end, p_begin, p_end);
    AddSuperWeights(p.tail, m_begin, m_end, p_begin * kPanel, std::min(p_end * kPanel, p.n), p.n, p.y);
  });
  return absl::OkStatus();
}

}  // namespace spikefold::kernels::matmul_f32_f32_sxg
