#include "kernels/matmul_f32_s8r_s4g/matmul_f32_s8r_s4g.h"

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "formats/base/status.h"
#include "kernels/cpu/cpu_features.h"
#include "kernels/cpu/tiles.h"
#include "kernels/matmul_f32_s8r_s4g/matmul_f32_s8r_s4g_isa.h"

namespace spikefold::kernels::matmul_f32_s8r_s4g {
namespace {

constexpr char kName[] = "matmul_f32_s8r_s4g";

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

TileFunction* ChooseTarget(Isa isa) {
  if (isa >= Isa::kAvx512Bf16) return TilesAvx512Bf16;
  if (isa >= Isa::kAvx512Vnni) return TilesAvx512Vnni;
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
        const int8_t* x = p.x + m * p.k + g * p.group;
        int32_t sum[kPanel];
        std::fill_n(sum, kPanel, c.offset[m * c.num_groups + g]);
        for (int64_t i = 0; i < p.group / 2; ++i) {
          const int64_t low = i / 4 * 8 + i % 4;
          const uint8_t* bytes = block + c.view.scale_bytes + i / 4 * (kPanel * 4) + i % 4;
          for (int64_t j = 0; j < kPanel; ++j) {
            sum[j] += x[low] * (bytes[4 * j] & 15) + x[low + 4] * (bytes[4 * j] >> 4);
          }
        }
        float scales[kPanel];
        LoadScales(c.view, block, scales);
        for (int64_t j = 0; j < kPanel; ++j) acc[j] += scales[j] * static_cast<float>(sum[j]);
        for (int64_t j = 0; j < count && p.group_sums != nullptr; ++j) {
          p.group_sums[(m * p.n + n0 + j) * c.num_groups + g] = sum[j];
        }
      }
      float* y = p.y + m * p.n + n0;
      for (int64_t j = 0; j < count; ++j) y[j] = acc[j] * p.x_scale[m * p.x_scale_stride];
      AddTail(p.tail, c.tail, m, n0, count, y);
    }
  }
}

absl::Status Run(const Params& p, ThreadPool& pool) {
  SF_RETURN_IF_ERROR(Supports(p));
  const TailOperands tail(p.tail, p.m, p.n);
  Call call{.params = p, .tail = tail, .view = PackedView(p.w, p.k, p.group), .num_groups = p.k / p.group};
  std::vector<int32_t> offset(static_cast<size_t>(p.m * call.num_groups));
  for (int64_t i = 0; i < p.m * call.num_groups; ++i) {  // rows are contiguous: groups follow each other
    int32_t sum = 0;
    for (int64_t k = 0; k < p.group; ++k) sum += p.x[i * p.group + k];
    offset[static_cast<size_t>(i)] = -8 * sum;
  }
  call.offset = offset.data();
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

}  // namespace spikefold::kernels::matmul_f32_s8r_s4g
