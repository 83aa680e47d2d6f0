#include "kernels/matmul_f32_s8r_s8c/matmul_f32_s8r_s8c.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "absl/strings/str_cat.h"
#include "formats/base/status.h"
#include "formats/base/vector_clones.h"
#include "kernels/cpu/cpu_features.h"
#include "kernels/cpu/tiles.h"
#include "kernels/matmul_f32_s8r_s8c/matmul_f32_s8r_s8c_isa.h"

namespace spikefold::kernels::matmul_f32_s8r_s8c {
namespace {

constexpr char kName[] = "matmul_f32_s8r_s8c";
constexpr uint8_t kZero = 128;  // how code 0 is stored

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

SF_VECTOR_CLONES void Offsets(const Params& p, int32_t* offset) {
  for (int64_t m = 0; m < p.m; ++m) {
    const int8_t* x = p.x + m * p.k;
    int32_t sum = 0;
    for (int64_t k = 0; k < p.k; ++k) sum += x[k];
    offset[m] = -128 * sum;
  }
}

}  // namespace

TileFunction* ChooseTarget() {
  const Isa isa = ActiveIsa();
  if (isa >= Isa::kAvx512Amx) return TilesAvx512Amx;
  if (isa >= Isa::kAvx512Bf16) return TilesAvx512Bf16;
  if (isa >= Isa::kAvx512Vnni) return TilesAvx512Vnni;
  return isa >= Isa::kAvx2 ? TilesAvx2 : TilesPlain;
}

int64_t RowBlock() { return ActiveIsa() >= Isa::kAvx512Amx ? 64 : 48; }

size_t PackedBytes(int64_t n, int64_t k) {
  return static_cast<size_t>(CeilDiv(n, kPanel) * kPanel * CeilDiv(k, 4) * 4);
}

void Pack(const int8_t* codes, int64_t n, int64_t k, void* packed) {
  auto* out = static_cast<uint8_t*>(packed);
  const int64_t k4 = CeilDiv(k, 4);
  std::memset(out, kZero, PackedBytes(n, k));
  for (int64_t row = 0; row < n; ++row) {
    const int8_t* in = codes + row * k;
    uint8_t* lane = out + row / kPanel * (k4 * kPanel * 4) + row % kPanel * 4;
    int64_t i = 0;
    for (; i + 4 <= k; i += 4) {
      uint32_t four;
      std::memcpy(&four, in + i, 4);
      four ^= 0x80808080u;  // + 128 of each, modulo 256
      std::memcpy(lane + i * kPanel, &four, 4);
    }
    for (; i < k; ++i) lane[i / 4 * (kPanel * 4) + i % 4] = static_cast<uint8_t>(in[i] + kZero);
  }
}

void UnpackRow(const void* packed, int64_t, int64_t k, int64_t row, int8_t* out) {
  const uint8_t* lane =
      static_cast<const uint8_t*>(packed) + row / kPanel * (CeilDiv(k, 4) * kPanel * 4) + row % kPanel * 4;
  for (int64_t i = 0; i < k; ++i) out[i] = static_cast<int8_t>(lane[i / 4 * (kPanel * 4) + i % 4] - kZero);
}

absl::Status Supports(const Params& p) {
  if (p.m < 1 || p.n < 1 || p.k < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat(kName, ": shape M=", p.m, " N=", p.n, " K=", p.k, " is empty; each must be at least 1"));
  }
  const int64_t limit = p.x_zero == nullptr ? 131072 : 65536;  // beyond, sums would no longer fit in int32
  if (p.k >= limit) {
    return absl::UnimplementedError(absl::StrCat(kName, ": K=", p.k, " is not below ", limit));
  }
  if (p.x_zero != nullptr && p.w_code_sum == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(kName, ": x_zero without w_code_sum; set both"));
  }
  return CheckTail(kName, p.tail);
}

void TilesPlain(const Call& c, int64_t m_begin, int64_t m_end, int64_t p_begin, int64_t p_end) {
  const Params& p = c.params;
  for (int64_t panel = p_begin; panel < p_end; ++panel) {
    const uint8_t* w = c.w + (panel - c.first_panel) * c.k4 * kPanel * 4;
    const int64_t n0 = panel * kPanel, count = std::min(kPanel, p.n - n0);
    for (int64_t m = m_begin; m < m_end; ++m) {
      uint32_t sum[kPanel];  // wraps on the way, like vpdpbusd; the end result fits
      std::fill_n(sum, kPanel, static_cast<uint32_t>(c.offset[m]));
      for (int64_t i = 0; i < c.k4 * 4; ++i) {
        const int32_t x = c.x[m * c.x_stride + i];
        const uint8_t* lane = w + i / 4 * (kPanel * 4) + i % 4;
        for (int64_t j = 0; j < kPanel; ++j) sum[j] += static_cast<uint32_t>(x * lane[4 * j]);
      }
      float* y = p.y + m * p.n + n0;
      const float x_scale = p.x_scale[m * p.x_scale_stride];
      for (int64_t j = 0; j < count; ++j) {
        if (p.x_zero != nullptr) sum[j] -= static_cast<uint32_t>(p.x_zero[m] * p.w_code_sum[n0 + j]);
        const auto exact = static_cast<int32_t>(sum[j]);
        y[j] = static_cast<float>(exact) * x_scale * p.w_scale[n0 + j];
        if (p.sums != nullptr) p.sums[m * p.n + n0 + j] = exact;
      }
      AddTail(p.tail, c.tail, m, n0, count, y);
    }
  }
}

absl::Status Run(const Params& p, ThreadPool& pool) {
  SF_RETURN_IF_ERROR(Supports(p));
  const TailOperands tail(p.tail, p.m, p.n);
  Call call{.params = p,
            .tail = tail,
            .w = static_cast<const uint8_t*>(p.w),
            .k4 = CeilDiv(p.k, 4),
            .x = p.x,
            .x_stride = p.k};
  std::vector<int8_t> padded;  // rows whose last step of four would end outside x
  if (p.k % 4 != 0) {
    call.x_stride = 4 * call.k4;
    padded.resize(static_cast<size_t>(p.m * call.x_stride));
    for (int64_t m = 0; m < p.m; ++m) std::copy_n(p.x + m * p.k, p.k, padded.data() + m * call.x_stride);
    call.x = padded.data();
  }
  std::vector<int32_t> offset(static_cast<size_t>(p.m));
  Offsets(p, offset.data());
  call.offset = offset.data();
  const TileGrid grid{.m = p.m,
                      .num_panels = CeilDiv(p.n, kPanel),
                      .panel_bytes = call.k4 * 4 * kPanel,
                      .panel_ops = call.k4 * 4 * kPanel,
                      .row_block = RowBlock()};
  TileFunction* const tiles = ChooseTarget();
  ForEachTile(pool, grid, [&](int64_t m_begin, int64_t m_end, int64_t p_begin, int64_t p_end) {
    tiles(call, m_begin, m_end, p_begin, p_end);
    AddSuperWeights(p.tail, m_begin, m_end, p_begin * kPanel, std::min(p_end * kPanel, p.n), p.n, p.y);
  });
  return absl::OkStatus();
}

}  // namespace spikefold::kernels::matmul_f32_s8r_s8c
