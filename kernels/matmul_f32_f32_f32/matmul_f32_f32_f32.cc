#include "kernels/matmul_f32_f32_f32/matmul_f32_f32_f32.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "formats/base/status.h"
#include "kernels/cpu/cpu_features.h"
#include "kernels/cpu/tiles.h"
#include "kernels/matmul_f32_f32_f32/matmul_f32_f32_f32_isa.h"

namespace spikefold::kernels::matmul_f32_f32_f32 {
namespace {

constexpr char kName[] = "matmul_f32_f32_f32";

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

TileFunction* ChooseTiles() {
  if (ActiveIsa() >= Isa::kAvx512) return TilesAvx512;
  return ActiveIsa() >= Isa::kAvx2 ? TilesAvx2 : TilesPlain;
}

}  // namespace

int64_t PackedElements(int64_t n, int64_t k) { return CeilDiv(n, kPanel) * kPanel * k; }

void Pack(const float* w, int64_t n, int64_t k, float* packed) { PackRows(w, 0, n, n, k, packed); }

void PackRows(const float* rows, int64_t first_row, int64_t num_rows, int64_t n, int64_t k, float* packed) {
  constexpr int64_t kColumns = 16;  // a cache line of each source row at a time
  const int64_t end_row = first_row + num_rows;
  for (int64_t row = first_row; row < end_row;) {
    const int64_t panel = row / kPanel, lane = row % kPanel;
    const int64_t count = std::min(kPanel - lane, end_row - row);
    const bool last = row + count == n;
    for (int64_t k0 = 0; k0 < k; k0 += kColumns) {
      const int64_t k1 = std::min(k0 + kColumns, k);
      for (int64_t i = 0; i < count; ++i) {
        const float* in = rows + (row - first_row + i) * k;
        float* out = packed + panel * k * kPanel + lane + i;
        for (int64_t c = k0; c < k1; ++c) out[c * kPanel] = in[c];
      }
      for (int64_t i = lane + count; last && i < kPanel; ++i) {
        for (int64_t c = k0; c < k1; ++c) packed[(panel * k + c) * kPanel + i] = 0;
      }
    }
    row += count;
  }
}

void UnpackRow(const float* packed, int64_t, int64_t k, int64_t row, float* out) {
  const float* lane = packed + row / kPanel * k * kPanel + row % kPanel;
  for (int64_t i = 0; i < k; ++i) out[i] = lane[i * kPanel];
}

absl::Status Supports(const Params& p) {
  if (p.m < 1 || p.n < 1 || p.k < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat(kName, ": shape M=", p.m, " N=", p.n, " K=", p.k, " is empty; each must be at least 1"));
  }
  if (p.x == nullptr || p.w == nullptr || p.y == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(kName, ": x, w or y is null; set all three"));
  }
  if (p.m > 1 && (p.x_stride < p.k || p.y_stride < p.n)) {
    return absl::InvalidArgumentError(absl::StrCat(kName, ": x_stride=", p.x_stride, " y_stride=", p.y_stride,
                                                   "; allowed: at least K=", p.k, " and N=", p.n));
  }
  return absl::OkStatus();
}

void TilesPlain(const Params& p, int64_t m_begin, int64_t m_end, int64_t p_begin, int64_t p_end) {
  for (int64_t panel = p_begin; panel < p_end; ++panel) {
    const float* w = p.w + panel * p.k * kPanel;
    const int64_t n0 = panel * kPanel, count = std::min(kPanel, p.n - n0);
    for (int64_t m = m_begin; m < m_end; ++m) {
      const float* x = p.x + m * p.x_stride;
      float total[kPanel] = {};
      for (int64_t k0 = 0; k0 < p.k; k0 += kSumBlock) {
        float sum[kPanel] = {};
        for (int64_t k = k0; k < std::min(k0 + kSumBlock, p.k); ++k) {
          for (int64_t j = 0; j < kPanel; ++j) sum[j] += x[k] * w[k * kPanel + j];
        }
        for (int64_t j = 0; j < kPanel; ++j) total[j] += sum[j];
      }
      float* y = p.y + m * p.y_stride + n0;
      for (int64_t j = 0; j < count; ++j) y[j] = p.bias != nullptr ? total[j] + p.bias[n0 + j] : total[j];
    }
  }
}

absl::Status Run(const Params& p, ThreadPool& pool) {
  SF_RETURN_IF_ERROR(Supports(p));
  const TileGrid grid{.m = p.m,
                      .num_panels = CeilDiv(p.n, kPanel),
                      .panel_bytes = p.k * kPanel * 4,
                      .panel_ops = p.k * kPanel};
  TileFunction* tiles = ChooseTiles();
  ForEachTile(pool, grid, [&](int64_t m_begin, int64_t m_end, int64_t p_begin, int64_t p_end) {
    tiles(p, m_begin, m_end, p_begin, p_end);
  });
  return absl::OkStatus();
}

}  // namespace spikefold::kernels::matmul_f32_f32_f32
