#include "kernels/matmul_f32_f32_s8c/matmul_f32_f32_s8c.h"

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "formats/base/status.h"
#include "kernels/cpu/cpu_features.h"
#include "kernels/cpu/tiles.h"
#include "kernels/matmul_f32_f32_s8c/matmul_f32_f32_s8c_isa.h"

namespace spikefold::kernels::matmul_f32_f32_s8c {
namespace {

constexpr char kName[] = "matmul_f32_f32_s8c";

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

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
  return CheckTail(kName, p.tail);
}

void TilesPlain(const Call& c, int64_t m_begin, int64_t m_end, int64_t p_begin, int64_t p_end) {
  const Params& p = c.params;
  for (int64_t panel = p_begin; panel < p_end; ++panel) {
    const uint8_t* w = static_cast<const uint8_t*>(p.w) + panel * c.k4 * kPanel * 4;
    const int64_t n0 = panel * kPanel, count = std::min(kPanel, p.n - n0);
    for (int64_t m = m_begin; m < m_end; ++m) {
      float acc[kPanel] = {};
      for (int64_t k = 0; k < p.k; ++k) {
        const float x = c.x[m * c.x_stride + k];
        const uint8_t* lane = w + k / 4 * (kPanel * 4) + k % 4;
        for (int64_t j = 0; j < kPanel; ++j) acc[j] += x * static_cast<float>(lane[4 * j] - 128);
      }
      float* y = p.y + m * p.n + n0;
      for (int64_t j = 0; j < count; ++j) y[j] = acc[j] * p.w_scale[n0 + j];
      AddTail(p.tail, c.tail, m, n0, count, y);
    }
  }
}

absl::Status Run(const Params& p, ThreadPool& pool) {
  SF_RETURN_IF_ERROR(Supports(p));
  const TailOperands tail(p.tail, p.m, p.n);
  Call call{.params = p, .tail = tail, .k4 = CeilDiv(p.k, 4), .x = p.x, .x_stride = p.k};
  std::vector<float> padded;  // rows whose last step of four would end outside x
  if (p.k % 4 != 0) {
    call.x_stride = 4 * call.k4;
    padded.resize(static_cast<size_t>(p.m * call.x_stride));
    for (int64_t m = 0; m < p.m; ++m) std::copy_n(p.x + m * p.k, p.k, padded.data() + m * call.x_stride);
    call.x = padded.data();
  }
  const TileGrid grid{.m = p.m,
                      .num_panels = CeilDiv(p.n, kPanel),
                      .panel_bytes = call.k4 * 4 * kPanel,
                      .panel_ops = call.k4 * 4 * kPanel};
  TileFunction* const tiles = ChooseTarget(ActiveIsa());
  ForEachTile(pool, grid, [&](int64_t m_begin, int64_t m_end, int64_t p_begin, int64_t p_end) {
    tiles(call, m_begin, m_end, p_begin, p_end);
    AddSuperWeights(p.tail, m_begin, m_end, p_begin * kPanel, std::min(p_end * kPanel, p.n), p.n, p.y);
  });
  return absl::OkStatus();
}

}  // namespace spikefold::kernels::matmul_f32_f32_s8c
