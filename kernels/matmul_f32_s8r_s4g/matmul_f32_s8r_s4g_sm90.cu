// Design: W is the left operand of wgmma, 64 channels a warpgroup, x the right one (few_rows_wgmma.cuh).
// 4-bit codes come through a ring of bulk copies and become the operand in registers: eight of them take
// eight operations, zero points included. A group's integer sum becomes a float and is added to those before
// it in the order of K, as on the CPU, so K is not shared out over blocks. Meanwhile the next group is
// multiplied, into other registers or by another warpgroup.
#include "kernels/cuda/few_rows_wgmma.cuh"
#include "kernels/matmul_f32_s8r_s4g/matmul_f32_s8r_s4g_cuda.h"

namespace spikefold::kernels::matmul_f32_s8r_s4g {
namespace {

using Params = matmul_f32_s8r_s8c::CudaParams;
using cuda::few::kChannels;
using cuda::few::kKeptStep;
using cuda::few::kStep;
using cuda::few::kWarpgroup;
using matmul_f32_f32_s4g::kTileColumns;
using matmul_f32_f32_s4g::kTileRows;

constexpr int kUnits = kStep / static_cast<int>(kTileColumns);  // tiles along K of a stage
constexpr int kTileBytes = 512;                                 // of codes
constexpr int kTileScales = 16;
constexpr int kTilesOfGroup = kChannels / static_cast<int>(kTileRows);  // of a warpgroup, one a warp
constexpr int kCodeZero = 8;                                            // where there are no zero points

struct Work {
  int m = 0, k = 0, stages = 0, num_kept = 0;
  const float* x_scale = nullptr;
  const float* kept_x = nullptr;  // [m, num_kept], where shared memory has no room
  cuda::LinearGroup linears;
};

// A stage holds 128 columns: x [row], then of each tile of 16 channels codes [kUnits][512 bytes], scales
// [kUnits][8][2], zero points [kUnits][8][2].
template <int kRows, int kWarpgroups>
struct Layout {
  static constexpr int kTiles = kWarpgroups * kTilesOfGroup;
  static constexpr int kCodes = kRows * kStep, kScales = kCodes + kTiles * kUnits * kTileBytes;
  static constexpr int kZeros = kScales + kTiles * kUnits * kTileScales * 4;
  static constexpr int kStage = (kZeros + kTiles * kUnits * kTileScales + 1023) / 1024 * 1024;
  static constexpr int kKeptX = kWarpgroups * kChannels * kStep, kKept = kKeptX + kRows * kStep;
};

// Four codes of channel g and four of channel g + 8, each less its zero point (in every byte of `zeros`).
__device__ inline void Unpack(uint32_t word, uint2 zeros, uint32_t& low, uint32_t& high) {
  constexpr uint32_t kNibbles = 0x0f0f0f0fu, kSigns = 0x80808080u;  // no byte borrows from the next
  const uint32_t ordered = __byte_perm(word, 0, 0x3120);
  low = (((ordered & kNibbles) | kSigns) - zeros.x) ^ kSigns;
  high = (((ordered >> 4 & kNibbles) | kSigns) - zeros.y) ^ kSigns;
}

// kShort: each group is one tile along K.
template <int kRows, int kWarpgroups, bool kShort>
__global__ void __launch_bounds__(kWarpgroups* kWarpgroup +
                                  cuda::kWarp) __maxnreg__(cuda::few::kRegisters<kWarpgroups>)
    matmul_f32_s8r_s4g_sm90(const __grid_constant__ cuda::few::Maps maps, const __grid_constant__ Work work) {
  using L = Layout<kRows, kWarpgroups>;
  constexpr int kQuads = kRows / 8, kBlock = kWarpgroups * kChannels;
  extern __shared__ __align__(1024) char shared[];
  const int warp = static_cast<int>(threadIdx.x) / cuda::kWarp;
  const int lane = static_cast<int>(threadIdx.x) % cuda::kWarp;
  int64_t index = blockIdx.x;
  const int which = cuda::simt::LinearAt(work.linears, kBlock, index);
  const cuda::Linear& w = work.linears.linear[which];
  const int n0 = static_cast<int>(index) * kBlock, m0 = static_cast<int>(blockIdx.y) * kRows;
  const int tiles = work.k / static_cast<int>(kTileColumns), steps = (tiles + kUnits - 1) / kUnits;
  const int kept = w.kept_w == nullptr ? 0 : work.num_kept;
  const bool kept_fits = work.num_kept <= cuda::few::kMaxKept;
  const auto kept_stages = [&](int columns) { return kept_fits ? (columns + kKeptStep - 1) / kKeptStep : 0; };

  // The ring, the stages of kept columns, then barriers.
  const uint32_t base = cuda::SharedAddress(shared);
  const int kept_at = work.stages * L::kStage;
  const cuda::Ring ring = {base + kept_at + kept_stages(work.num_kept) * L::kKept, work.stages};
  const uint32_t kept_full = ring.End();

  if (threadIdx.x == 0) {
    ring.Init(1, kWarpgroups * 4);
    cuda::InitBarrier(kept_full, 1);
    cuda::FenceBarrierInit();
  }
  __syncthreads();
  cuda::LetNextStart();

  if (warp == kWarpgroups * 4) {
    // A lane copies the codes, the scales or the zero points of one tile; behind the last channel of the
    // last.
    const int kind = lane / L::kTiles, tile = lane % L::kTiles;
    const int row_tile =
        min(n0 / static_cast<int>(kTileRows) + tile, static_cast<int>((w.n + kTileRows - 1) / kTileRows) - 1);
    const int tile_bytes = kind == 0 ? kTileBytes : kind == 1 ? kTileScales * 4 : kTileScales;
    const char* const from = kind == 0   ? static_cast<const char*>(w.w)
                             : kind == 1 ? reinterpret_cast<const char*>(w.w_scale)
                                         : reinterpret_cast<const char*>(w.w_zero);
    const char* const begin = from + static_cast<int64_t>(row_tile) * tiles * tile_bytes;
    const bool copies = kind < (w.w_zero == nullptr ? 2 : 3);
    const int to = (kind == 0 ? L::kCodes : kind == 1 ? L::kScales : L::kZeros) + tile * kUnits * tile_bytes;
    const int all_bytes = L::kTiles * (kTileBytes + kTileScales * (w.w_zero == nullptr ? 4 : 5));
    const auto load_w = [&](int t, int s) {
      const int units = min(kUnits, tiles - t * kUnits);
      if (lane == 0) cuda::ArriveExpecting(ring.Full(s), units * all_bytes + kRows * kStep);
      __syncwarp();
      if (copies) {
        cuda::LoadBytes(base + s * L::kStage + to, begin + static_cast<int64_t>(t) * kUnits * tile_bytes,
                        units * tile_bytes, ring.Full(s));
      }
    };
    const auto load_x = [&](int t, int s) {
      if (lane == 0) cuda::LoadBox(base + s * L::kStage, maps.x, ring.Full(s), t * kStep, m0);
    };
    const int ahead = min(steps, work.stages);
    for (int t = 0; t < ahead; ++t) load_w(t, t);  // does not depend on the kernel before
    cuda::WaitForInputs();
    for (int t = 0; t < ahead; ++t) load_x(t, t);
    if (kept > 0 && kept_fits && lane == 0) {
      cuda::few::LoadKeptStages(maps, which, n0, m0, kept_stages(kept), base + kept_at, L::kKept, L::kKeptX,
                                kept_full);
    }
    cuda::Refill(ring, steps, [&](int t, int s) {
      load_w(t, s);
      load_x(t, s);
    });
    return;
  }

  const int g = lane / 4, channel = warp * static_cast<int>(kTileRows) + g;  // and channel + 8
  cuda::WaitForInputs();
  float x_scale[kQuads][2];
#pragma unroll
  for (int i = 0; i < kQuads; ++i) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int m = m0 + cuda::few::RowOf(i, 0, 1, e);
      x_scale[i][e] = m < work.m ? work.x_scale[m] : 0.0f;
    }
  }
  float y[kQuads][4] = {};  // AddKept() says which outputs
  cuda::RingPlace place;
  const auto start = [&](uint32_t(&acc)[4 * kQuads], uint32_t(&a)[2][4], int unit, bool continues) {
    const char* const at = shared + place.stage * L::kStage;
    const int tile = warp * kUnits + unit;
    const uint4 v = *reinterpret_cast<const uint4*>(at + L::kCodes + tile * kTileBytes + lane * 16);
    uint2 zeros = make_uint2(kCodeZero, kCodeZero);
    if (w.w_zero != nullptr) {
      const uchar2 zero = *reinterpret_cast<const uchar2*>(at + L::kZeros + tile * kTileScales + g * 2);
      zeros = make_uint2(zero.x, zero.y);
    }
    zeros.x *= 0x01010101u;
    zeros.y *= 0x01010101u;
    Unpack(v.x, zeros, a[0][0], a[0][1]);
    Unpack(v.y, zeros, a[0][2], a[0][3]);
    Unpack(v.z, zeros, a[1][0], a[1][1]);
    Unpack(v.w, zeros, a[1][2], a[1][3]);
    const uint64_t b = cuda::OperandDescriptor(base + place.stage * L::kStage) + 4 * unit;
    cuda::WarpgroupFence();
    cuda::WgmmaS8(acc, a[0], b, continues);
    cuda::WgmmaS8(acc, a[1], b + 2, true);
    cuda::WarpgroupCommit();
  };
  const auto scales_of = [&](int unit) {
    const char* const at = shared + place.stage * L::kStage + L::kScales;
    return *reinterpret_cast<const float2*>(at + ((warp * kUnits + unit) * kTileScales + g * 2) * 4);
  };
  // Two roundings, as on the CPU.
  const auto add = [&](uint32_t(&acc)[4 * kQuads], float2 scale) {
    cuda::HoldRegisters(acc);
#pragma unroll
    for (int i = 0; i < kQuads; ++i) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const float sum = static_cast<float>(static_cast<int32_t>(acc[4 * i + e]));
        y[i][e] = y[i][e] + (e < 2 ? scale.x : scale.y) * sum;
      }
    }
  };
  const auto release = [&](int s) {
    __syncwarp();  // all lanes have read theirs
    if (lane == 0) cuda::Arrive(ring.Empty(s));
  };

  uint32_t even[4 * kQuads], even_codes[2][4];
  if constexpr (!kShort || kWarpgroups > 1) {
    const int span = static_cast<int>(w.group / kTileColumns);
    int left = span;  // tiles of the group
    for (int t = 0; t < steps; ++t) {
      cuda::WaitBarrierGuarded(ring.Full(place.stage), place.phase);
#pragma unroll
      for (int unit = 0; unit < kUnits; ++unit) {
        start(even, even_codes, unit, !kShort && left < span);
        const float2 scale = scales_of(unit);
        cuda::WarpgroupWait<0>();
        if (unit + 1 == kUnits) release(place.stage);
        // Behind the last tile x is zero and the rest is not read.
        if (t * kUnits + unit < tiles && (kShort || --left == 0)) {
          add(even, scale);
          left = span;
        }
      }
      place.Next(work.stages);
    }
  } else {
    uint32_t odd[4 * kQuads], odd_codes[2][4];
    cuda::WaitBarrierGuarded(ring.Full(0), 0);
    start(even, even_codes, 0, false);
    float2 even_scale = scales_of(0);
    for (int t = 0; t + 1 < steps; ++t) {
      start(odd, odd_codes, 1, false);
      const float2 odd_scale = scales_of(1);
      cuda::WarpgroupWait<1>();
      add(even, even_scale);
      const int used = place.stage;
      place.Next(work.stages);
      cuda::WaitBarrierGuarded(ring.Full(place.stage), place.phase);
      start(even, even_codes, 0, false);
      even_scale = scales_of(0);
      cuda::WarpgroupWait<1>();
      release(used);
      add(odd, odd_scale);
    }
    start(odd, odd_codes, 1, false);
    cuda::WarpgroupWait<1>();
    add(even, even_scale);
    const float2 odd_scale = scales_of(1);
    cuda::WarpgroupWait<0>();
    if (tiles % kUnits == 0) add(odd, odd_scale);  // else x was zero there
  }

#pragma unroll
  for (int i = 0; i < kQuads; ++i) {
#pragma unroll
    for (int e = 0; e < 4; ++e) y[i][e] = y[i][e] * x_scale[i][e % 2];
  }
  if (kept > 0 && kept_fits) {
    cuda::WaitBarrierGuarded(kept_full, 0);
#pragma unroll 1
    for (int c = 0; c < kept; c += 8) {
      cuda::few::AddKept(shared + kept_at + c / kKeptStep * L::kKept, L::kKeptX, c % kKeptStep / 8, kept - c,
                         channel, 0, 1, y);
    }
  }
#pragma unroll
  for (int i = 0; i < kQuads; ++i) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int m = m0 + cuda::few::RowOf(i, 0, 1, e % 2), n = n0 + channel + e / 2 * 8;
      if (m >= work.m || n >= w.n) continue;
      float out = y[i][e];
      if (!kept_fits) {
#pragma unroll 1
        for (int c = 0; c < kept; ++c) {
          const unsigned bits = w.kept_w[c * w.kept_stride + n];
          out = fmaf(work.kept_x[static_cast<int64_t>(m) * kept + c], __uint_as_float(bits << 16), out);
        }
      }
      w.y[static_cast<int64_t>(m) * w.n + n] = w.bias != nullptr ? out + w.bias[n] : out;
    }
  }
}

template <int kRows, int kWarpgroups>
absl::Status LaunchRows(const Params& p, const cuda::Stream& stream) {
  using L = Layout<kRows, kWarpgroups>;
  constexpr int kBlock = kWarpgroups * kChannels;
  const bool kept_fits = p.num_kept <= cuda::few::kMaxKept;
  const cuda::few::Operands operands = {.m = p.m,
                                        .row_bytes = matmul_f32_s8r_s8c::RowBytes(p.k),
                                        .x = p.x,
                                        .x_scale = p.x_scale,
                                        .num_kept = kept_fits ? p.num_kept : 0,
                                        .kept_x = p.kept_rows,
                                        .linears = p.linears};
  SF_ASSIGN_OR_RETURN(const cuda::few::Maps maps, cuda::few::MapsOf(operands, kRows, kBlock, false));
  const int kept_bytes = cuda::few::KeptStages(operands) * L::kKept;
  // Where W has few channels one block a multiprocessor may take all of its shared memory.
  const int64_t tiles = cuda::few::Tiles(p.linears, kBlock), blocks = tiles * cuda::CeilDiv(p.m, kRows);
  const int room = (blocks <= cuda::NumSms() ? 2 : 1) * cuda::few::kSharedBytes - 512 - kept_bytes;
  const int stages = std::clamp(room / L::kStage, 2, 12);
  bool all_short = true;
  for (int i = 0; i < p.linears.count; ++i) {
    all_short = all_short && p.linears.linear[i].group == kTileColumns;
  }
  const Work work = {.m = static_cast<int>(p.m),
                     .k = static_cast<int>(p.k),
                     .stages = stages,
                     .num_kept = static_cast<int>(p.num_kept),
                     .x_scale = p.x_scale,
                     .kept_x = p.kept_x,
                     .linears = p.linears};
  const cuda::Shape shape = {
      .grid = dim3(static_cast<unsigned>(tiles), static_cast<unsigned>(cuda::CeilDiv(p.m, kRows))),
      .block = dim3(kWarpgroups * kWarpgroup + cuda::kWarp),
      .shared_bytes = stages * L::kStage + kept_bytes + (2 * stages + 1) * 8,
      .overlaps = true};
  return cuda::Launch("matmul_f32_s8r_s4g",
                      all_short ? matmul_f32_s8r_s4g_sm90<kRows, kWarpgroups, true>
                                : matmul_f32_s8r_s4g_sm90<kRows, kWarpgroups, false>,
                      shape, stream, maps, work);
}

}  // namespace

absl::Status RunHopper(const Params& p, const cuda::Stream& stream) {
  if (p.m == 0) return absl::OkStatus();
  if (p.m <= 16) return LaunchRows<16, 1>(p, stream);
  if (p.m <= 32) return LaunchRows<32, 1>(p, stream);
  const bool wide = p.m > 64 || cuda::few::Tiles(p.linears, 2 * kChannels) >= cuda::NumSms();
  return wide ? LaunchRows<64, 2>(p, stream) : LaunchRows<64, 1>(p, stream);
}

}  // namespace spikefold::kernels::matmul_f32_s8r_s4g
