#include "kernels/matmul_f32_f32_s4g/matmul_f32_f32_s4g.h"

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "formats/base/status.h"
#include "kernels/cpu/cpu_features.h"
#include "kernels/cpu/tiles.h"
#include "kernels/matmul_f32_f32_s4g/matmul_f32_f32_s4g_isa.h"

namespace spikefold::kernels::matmul_f32_f32_s4g {
namespace {

constexpr char kName[] = "matmul_f32_f32_s4g";

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
  if (p.group < 16 || p.group > 256 || p.group % 16 != 0) {
    return absl::UnimplementedError(
        absl::StrCat(kName, ": group=", p.group, " is not a multiple of 16 in [16, 256]; use 32, 64 or 128"));
  }
  if (p.k % p.group != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(kName, ": K=", p.k, " is not a multiple of group=", p.group));
  }
  return CheckTail(kName, p.tail);
}

void TilesPlain(const Call& c, int64_t m_begin, int64_t m_end, int64_t p_begin, int64_t p_end) {
  const Params& p = c.params;
  for (int64_t panel = p_begin; panel < p_end; ++panel) {
    const int64_t n0 = panel * kPanel, count = std::min(kPanel, p.n - n0);
    for (int64_t m = m_begin; m < m_end; ++m) {
      float acc[kPanel] = {};
      for (int64_t g = 0; g < c.num_groups; ++g) {
        const uint8_t* block = c.view.panels + panel * c.view.panel_bytes + g * c.view.group_bytes;
        const float* x = p.x + m * p.k + g * p.group;
        float sum[kPanel] = {};
        for (int64_t k = 0; k < p.group; ++k) {
          const uint8_t* bytes = block + c.view.scale_bytes + k / 8 * (kPanel * 4) + k % 4;
          const int shift = k % 8 < 4 ? 0 : 4;
          for (int64_t j = 0; j < kPanel; ++j) {
            sum[j] += x[k] * static_cast<float>(((bytes[4 * j] >> shift) & 15) - 8);
          }
        }
        float scales[kPanel];
        matmul_f32_s8r_s4g::LoadScales(c.view, block, scales);
        for (int64_t j = 0; j < kPanel; ++j) acc[j] += scales[j] * sum[j];
      }
      float* y = p.y + m * p.n + n0;
      std::copy_n(acc, count, y);
      AddTail(p.tail, c.tail, m, n0, count, y);
    }
  }
}

absl::Status Run(const Params& p, ThreadPool& pool) {
  SF_RETURN_IF_ERROR(Supports(p));
  const TailOperands tail(p.tail, p.m, p.n);
  const Call call{.params = p,
                  .tail = tail,
                  .view = matmul_f32_s8r_s4g::PackedView(p.w, p.k, p.group),
                  .num_groups = p.k / p.group};
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

}  // namespace spikefold::kernels::matmul_f32_f32_s4g
