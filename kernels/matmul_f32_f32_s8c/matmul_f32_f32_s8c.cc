#include "kernels/matmul_f32_f32_s8c/matmul_f32_f32_s8c.h"

#include <algorithm>
#include <bit>
#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"
#include "formats/base/status.h"
#include "formats/base/vector_clones.h"
#include "kernels/cpu/cpu_features.h"
#include "kernels/cpu/tiles.h"
#include "kernels/matmul_f32_f32_s8c/matmul_f32_f32_s8c_isa.h"

namespace spikefold::kernels::matmul_f32_f32_s8c {
namespace {

constexpr char kName[] = "matmul_f32_f32_s8c";

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct Target {
  TileFunction* tiles;
  bool bytes = false;      // reads x split into bytes
  int64_t row_block = 48;  // see TileGrid
};

Target ChooseTarget(Isa isa, int64_t k) {
  if (k > kMaxBytesK) isa = std::min(isa, Isa::kAvx512);
  if (isa >= Isa::kAvx512Amx) return {TilesAvx512Amx, true, 64};
  if (isa >= Isa::kAvx512Vnni) return {TilesAvx512Vnni, true};
  if (isa >= Isa::kAvx512) return {TilesAvx512};
  return {isa >= Isa::kAvx2 ? TilesAvx2 : TilesPlain};
}

// q[0, k) of a row x, and its unit.
SF_VECTOR_INLINE float RoundRow(const float* x, int64_t k, int32_t* q) {
  int32_t peak = 0;  // as bits: sizes compare like them, and NaN above all
  for (int64_t i = 0; i < k; ++i) {
    const int32_t size = std::bit_cast<int32_t>(x[i]) & 0x7fffffff;
    peak = size > peak ? size : peak;
  }
  // peak < 2^(exponent + 1); units below 2^-126, of values that are as good as zero, are not made.
  const int32_t exponent = std::max((peak >> 23) - 127, -104);
  const float unit = std::bit_cast<float>((exponent + 1 - 22 + 127) << 23);
  if (peak >= 0x7f800000) {
    std::fill_n(q, k, 0);
    return std::bit_cast<float>(0x7fc00000);
  }
  const float inverse = std::bit_cast<float>((22 - exponent - 1 + 127) << 23);
  constexpr float kRound =
      12582912.0f;  // 1.5 * 2^23: what lies beyond a whole number is rounded away, ties to even
  for (int64_t i = 0; i < k; ++i) {
    q[i] = std::bit_cast<int32_t>(x[i] * inverse + kRound) - std::bit_cast<int32_t>(kRound);
  }
  return unit;
}

// Rows [begin, end) of x in bytes.
SF_VECTOR_CLONES void SplitBytes(const Params& p, int64_t stride, int64_t begin, int64_t end, int32_t* q,
                                 int8_t* bytes, float* unit, int32_t* offset) {
  for (int64_t m = begin; m < end; ++m) {
    unit[m] = RoundRow(p.x + m * p.k, p.k, q);
    int8_t* out = bytes + m * kBytes * stride;
    int32_t sum[kBytes] = {};
    for (int64_t i = 0; i < stride; ++i) {
      const int8_t low = static_cast<int8_t>(q[i]);
      const int32_t rest = (q[i] - low) >> 8;
      const int8_t middle = static_cast<int8_t>(rest), high = static_cast<int8_t>((rest - middle) >> 8);
      out[i] = low;
      out[stride + i] = middle;
      out[2 * stride + i] = high;
      sum[0] += low;
      sum[1] += middle;
      sum[2] += high;
    }
    for (int d = 0; d < kBytes; ++d) offset[m * kBytes + d] = -128 * sum[d];
  }
}

struct SplitRows {
  std::unique_ptr<int8_t[]> bytes;  // [m, kBytes, stride]
  std::vector<float> unit;          // [m]
  std::vector<int32_t> offset;      // [m, kBytes]

  void Make(const Params& p, int64_t stride, ThreadPool& pool) {
    bytes.reset(new int8_t[static_cast<size_t>(p.m * kBytes * stride)]);  // every one is written
    unit.resize(static_cast<size_t>(p.m));
    offset.resize(static_cast<size_t>(p.m * kBytes));
    pool.ParallelFor(p.m, 8, [&](int64_t begin, int64_t end) {
      std::vector<int32_t> q(static_cast<size_t>(stride));  // zero behind k
      SplitBytes(p, stride, begin, end, q.data(), bytes.get(), unit.data(), offset.data());
    });
  }
};

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
  const Target target = ChooseTarget(ActiveIsa(), p.k);
  const TailOperands tail(p.tail, p.m, p.n);
  Call call{.params = p, .tail = tail, .k4 = CeilDiv(p.k, 4), .x = p.x, .x_stride = p.k};
  std::vector<float> padded;  // rows whose last step of four would end outside x
  SplitRows split;
  if (target.bytes) {
    split.Make(p, 4 * call.k4, pool);
    call.bytes = split.bytes.get();
    call.unit = split.unit.data();
    call.offset = split.offset.data();
  } else if (p.k % 4 != 0) {
    call.x_stride = 4 * call.k4;
    padded.resize(static_cast<size_t>(p.m * call.x_stride));
    for (int64_t m = 0; m < p.m; ++m) std::copy_n(p.x + m * p.k, p.k, padded.data() + m * call.x_stride);
    call.x = padded.data();
  }
  const TileGrid grid{.m = p.m,
                      .num_panels = CeilDiv(p.n, kPanel),
                      .panel_bytes = call.k4 * 4 * kPanel,
                      .panel_ops = call.k4 * 4 * kPanel,
                      .row_block = target.row_block};
  ForEachTile(pool, grid, [&](int64_t m_begin, int64_t m_end, int64_t p_begin, int64_t p_end) {
    target.tiles(call, m_begin, m_end, p_begin, p_end);
    AddSuperWeights(p.tail, m_begin, m_end, p_begin * kPanel, std::min(p_end * kPanel, p.n), p.n, p.y);
  });
  return absl::OkStatus();
}

}  // namespace spikefold::kernels::matmul_f32_f32_s8c
