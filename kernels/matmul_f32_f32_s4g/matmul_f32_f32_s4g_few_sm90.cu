// Design: W is the left operand of wgmma, 64 channels a warpgroup, x the right one, up to 128 rows a block,
// in f16 that a small kernel before makes once for all blocks. 4-bit codes come through a ring, all of a
// block's by one instruction a stage, and become the operand in registers: as the bits of subnormal f16
// numbers, times their scales as f16 under a power of two for each channel (Packed::units), while those
// before are multiplied. All of K adds up in the accumulators. Where the channels alone do not fill the chip,
// the blocks of a cluster share out K and add their sums in the order of their ranks.
#include <cuda_fp16.h>

#include <algorithm>
#include <type_traits>

#include "formats/base/status.h"
#include "kernels/cuda/few_rows_wgmma.cuh"
#include "kernels/cuda/half_units.cuh"
#include "kernels/cuda/simt_matmul.cuh"
#include "kernels/matmul_f32_f32_s4g/matmul_f32_f32_s4g_cuda.h"

namespace spikefold::kernels::matmul_f32_f32_s4g {
namespace {

using cuda::half::F16;
using cuda::half::InverseScaleOf;
using cuda::half::ScaleOf;
namespace few = cuda::few;
using few::kChannels;
using few::kWarpgroup;

constexpr char kName[] = "matmul_f32_f32_s4g";
constexpr int kTileBytes = 512, kScaleBytes = 64, kZeroBytes = 16;      // of a tile
constexpr int kTilesOfGroup = kChannels / static_cast<int>(kTileRows);  // of a warpgroup, one a warp
constexpr uint32_t kPlainZeros = 0x0808;                                // where there are no zero points

// x as f16, row by row: of 16 columns 4 t + 2 h + i goes to place 8 h + 2 t + i, as the codes have it.
constexpr int kRowThreads = 512;
__global__ void __launch_bounds__(kRowThreads)
    matmul_f32_f32_s4g_rows(const float* x, int64_t k, uint32_t* to, float* scale) {
  cuda::LetNextStart();
  cuda::WaitForInputs();
  const float* const row = x + blockIdx.x * k;
  uint32_t* const out = to + blockIdx.x * (k / 2);
  constexpr int kStep = kRowThreads * 4;
  const int first = static_cast<int>(threadIdx.x) * 4;
  const auto load = [&](int64_t at) { return *reinterpret_cast<const float4*>(row + at); };
  const auto size = [](float v) { return __float_as_uint(v) & 0x7fffffffu; };
  uint32_t largest = 0;
#pragma unroll 4
  for (int64_t at = first; at < k; at += kStep) {
    const float4 v = load(at);
    largest = max(largest, max(max(size(v.x), size(v.y)), max(size(v.z), size(v.w))));
  }
  largest = cuda::BlockReduce(largest, [](uint32_t a, uint32_t b) { return max(a, b); });
  const float inverse = InverseScaleOf(largest);
#pragma unroll 4
  for (int64_t at = first; at < k; at += kStep) {
    const float4 v = load(at);
    uint32_t* const place = out + at / 16 * 8 + at % 16 / 4;
    place[0] = F16(v.x * inverse, v.y * inverse, false);
    place[4] = F16(v.z * inverse, v.w * inverse, false);
  }
  if (threadIdx.x == 0) scale[blockIdx.x] = ScaleOf(largest);
}

struct Maps {
  CUtensorMap x;
  struct Weights {  // rows of tiles
    CUtensorMap codes, scales, zeros;
  } w[cuda::kMaxLinears];
};
struct Work {
  cuda::SimtParams p;
  const float* x_scale = nullptr;  // [m]
  int stages = 0;
};

// A stage holds kUnits tiles along K: x [unit][row][64 columns], then of each of the block's tiles along the
// channels codes [unit][512], scales [unit][8][2], zero points [unit][8][2].
template <int kRows, int kWarpgroups>
struct Layout {
  static constexpr int kUnits = 2;
  static constexpr int kTiles = kWarpgroups * kTilesOfGroup, kXUnit = kRows * few::kStep;
  static constexpr int kCodes = kUnits * kXUnit, kScales = kCodes + kTiles * kUnits * kTileBytes;
  static constexpr int kZeros = kScales + kTiles * kUnits * kScaleBytes;
  static constexpr int kStage = (kZeros + kTiles * kUnits * kZeroBytes + 1023) / 1024 * 1024;
  static constexpr int kBytes = kCodes + kTiles * kUnits * (kTileBytes + kScaleBytes);  // zero points aside
  static constexpr int kAllZeros = kTiles * kUnits * kZeroBytes;
  // A quarter of a multiprocessor has 16,384 registers for every fourth warp: two blocks of up to 64 rows
  // fit, or one of more rows.
  static constexpr int kThreads = kWarpgroups * kWarpgroup + cuda::kWarp;
  static constexpr int kRegisters = kRows > 64 ? 168 : 96;
  static constexpr int kPitch = kWarpgroups * kChannels + 4;  // of rows of sums: lanes meet in no bank
  static constexpr int kSharedBytes = kRows > 64 ? 224 << 10 : few::kSharedBytes;
};

// What a thread knows of its two channels, g and g + 8 of a tile.
struct Channels {
  __device__ Channels(const cuda::Linear& w, int n) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float unit = n + 8 * i < w.n ? w.w_unit[n + 8 * i] : 1.0f;
      // A code's bits are 2^-24 of it as f16, those of channel g + 8 sixteen times that.
      to_f16[i] = 1 / unit * (i == 0 ? 0x1p24f : 0x1p20f);
    }
  }
  float to_f16[2];
};

// The left operand of 64 channels x 16 columns: codes times their scales, less zero points times these. Every
// operation of 16-bit floats is one that the tensor cores wait for.
struct Scaling {
  __device__ Scaling(uint32_t zeros, float2 scale, const Channels& of) {
    const uint32_t low_bits = (zeros & 0xff) * 0x00010001u, high_bits = (zeros >> 8) * 0x00100010u;
    by_low = __float2half2_rn(scale.x * of.to_f16[0]);
    by_high = __float2half2_rn(scale.y * of.to_f16[1]);
    less_low = __hneg2(__hmul2(*reinterpret_cast<const __half2*>(&low_bits), by_low));
    less_high = __hneg2(__hmul2(*reinterpret_cast<const __half2*>(&high_bits), by_high));
  }
  __device__ void Operand(uint32_t word, uint32_t (&a)[4]) const {
    const auto weight = [](uint32_t bits, __half2 by, __half2 less) {
      const __half2 v = __hfma2(*reinterpret_cast<const __half2*>(&bits), by, less);
      return *reinterpret_cast<const uint32_t*>(&v);
    };
    a[0] = weight(word & 0x000f000fu, by_low, less_low);
    a[1] = weight(word & 0x00f000f0u, by_high, less_high);
    a[2] = weight(word >> 8 & 0x000f000fu, by_low, less_low);
    a[3] = weight(word >> 8 & 0x00f000f0u, by_high, less_high);
  }
  __half2 by_low, by_high, less_low, less_high;
};

template <int kRows, int kWarpgroups>
__global__ void __launch_bounds__((Layout<kRows, kWarpgroups>::kThreads))
    __maxnreg__((Layout<kRows, kWarpgroups>::kRegisters))
        matmul_f32_f32_s4g_few_sm90(const __grid_constant__ Maps maps, const __grid_constant__ Work work) {
  using L = Layout<kRows, kWarpgroups>;
  constexpr int kQuads = kRows / 8, kBlock = kWarpgroups * kChannels, kUnits = L::kUnits;
  constexpr int kConsumers = kWarpgroups * kWarpgroup;
  extern __shared__ __align__(1024) char shared[];
  const cuda::SimtParams& p = work.p;
  const int warp = static_cast<int>(threadIdx.x) / cuda::kWarp;
  const int lane = static_cast<int>(threadIdx.x) % cuda::kWarp;
  const int splits = static_cast<int>(gridDim.y), rank = static_cast<int>(blockIdx.y);
  const int m0 = static_cast<int>(blockIdx.z) * kRows;
  int64_t index = blockIdx.x;
  const int which = cuda::simt::LinearAt(p.linears, kBlock, index);
  const cuda::Linear& w = p.linears.linear[which];
  const int n0 = static_cast<int>(index) * kBlock;
  const int all_tiles = static_cast<int>(p.k / kTileColumns), first = all_tiles * rank / splits;
  const int tiles = all_tiles * (rank + 1) / splits - first, steps = (tiles + kUnits - 1) / kUnits;

  const uint32_t base = cuda::SharedAddress(shared);
  const cuda::Ring ring = {base + work.stages * L::kStage, work.stages};
  if (threadIdx.x == 0) {
    ring.Init(1, kWarpgroups * 4);
    cuda::FenceBarrierInit();
  }
  __syncthreads();
  cuda::LetNextStart();

  if (warp == kWarpgroups * 4) {
    if (lane == 0) {
      const Maps::Weights& w_maps = maps.w[which];
      const bool has_zeros = w.w_zero != nullptr;
      const int row_tile = n0 / static_cast<int>(kTileRows);
      // Of a last unit that is not there zeros come, or what is another block's.
      const auto load_w = [&](int t, int s) {
        const uint32_t to = base + s * L::kStage;
        const int tile = first + t * kUnits;
        cuda::ArriveExpecting(ring.Full(s), L::kBytes + (has_zeros ? L::kAllZeros : 0));
        cuda::LoadBox(to + L::kCodes, w_maps.codes, ring.Full(s), tile * (kTileBytes / 8), row_tile);
        cuda::LoadBox(to + L::kScales, w_maps.scales, ring.Full(s), tile * (kScaleBytes / 8), row_tile);
        if (has_zeros) {
          cuda::LoadBox(to + L::kZeros, w_maps.zeros, ring.Full(s), tile * (kZeroBytes / 8), row_tile);
        }
      };
      const auto load_x = [&](int t, int s) {
        for (int unit = 0; unit < kUnits; ++unit) {
          cuda::LoadBox(base + s * L::kStage + unit * L::kXUnit, maps.x, ring.Full(s),
                        (first + t * kUnits + unit) * static_cast<int>(kTileColumns), m0);
        }
      };
      const int ahead = min(steps, work.stages);
      for (int t = 0; t < ahead; ++t) load_w(t, t);  // does not depend on the kernel before
      cuda::WaitForInputs();
      for (int t = 0; t < ahead; ++t) load_x(t, t);
      cuda::Refill(ring, steps, [&](int t, int s) {
        load_w(t, s);
        load_x(t, s);
      });
    }
    __syncwarp();
    if (splits > 1) {
      cuda::ClusterArriveRelaxed();
      cuda::ClusterWait();
      cuda::ClusterArriveRelaxed();
      cuda::ClusterWait();
    }
    return;
  }

  const int g = lane / 4, channel = warp * static_cast<int>(kTileRows) + g;  // and channel + 8
  const Channels channels(w, n0 + channel);
  // Of each quad channel (0, 1), channel + 8 (2, 3); rows RowOf(.., 0) and (.., 1).
  float sum[4 * kQuads] = {};
  uint32_t a[kUnits][4][4];
  cuda::RingPlace place;
  const auto start = [&](uint32_t(&operand)[4][4], int unit, bool adds) {
    const char* const at = shared + place.stage * L::kStage;
    const int tile = warp * kUnits + unit;
    const uint4 v = *reinterpret_cast<const uint4*>(at + L::kCodes + tile * kTileBytes + lane * 16);
    uint32_t zeros = kPlainZeros;
    if (w.w_zero != nullptr) {
      zeros = *reinterpret_cast<const uint16_t*>(at + L::kZeros + tile * kZeroBytes + g * 2);
    }
    const Scaling scaling(
        zeros, *reinterpret_cast<const float2*>(at + L::kScales + tile * kScaleBytes + g * 8), channels);
    scaling.Operand(v.x, operand[0]);
    scaling.Operand(v.y, operand[1]);
    scaling.Operand(v.z, operand[2]);
    scaling.Operand(v.w, operand[3]);
    const uint64_t x = cuda::OperandDescriptor(base + place.stage * L::kStage + unit * L::kXUnit);
#pragma unroll
    for (int j = 0; j < 4; ++j) cuda::HoldRegisters(operand[j]);
    cuda::WarpgroupFence();
#pragma unroll
    for (int j = 0; j < 4; ++j) cuda::WgmmaF16(sum, operand[j], x + 2 * j, adds || j > 0);
    cuda::WarpgroupCommit();
  };
  const auto release = [&](int s) {
    __syncwarp();  // all lanes have read theirs
    if (lane == 0) cuda::Arrive(ring.Empty(s));
  };
  int before = 0;  // the stage before this one
  const int whole = tiles / kUnits;
  for (int t = 0; t < whole; ++t) {
    cuda::WaitBarrierGuarded(ring.Full(place.stage), place.phase);
#pragma unroll
    for (int unit = 0; unit < kUnits; ++unit) {
      start(a[unit], unit, t > 0 || unit > 0);
      cuda::WarpgroupWait<1>();  // the unit before; its operand may be made anew
      if (unit == 0 && t > 0) release(before);
    }
    before = place.stage;
    place.Next(work.stages);
  }
  if (whole < steps) {  // one more unit
    cuda::WaitBarrierGuarded(ring.Full(place.stage), place.phase);
    start(a[0], 0, whole > 0);
  }
  cuda::WarpgroupWait<0>();
  cuda::HoldRegisters(sum);
  float4 total[kQuads];
#pragma unroll
  for (int i = 0; i < kQuads; ++i) {
    total[i] = make_float4(sum[4 * i], sum[4 * i + 1], sum[4 * i + 2], sum[4 * i + 3]);
  }

  // Where the ring was: sums for the other blocks of a cluster, [group][quad][thread], and behind them what
  // this block finishes, [row][channel]. Nobody reads the ring any more.
  cuda::NamedBarrier(1, kConsumers);
  if (splits > 1) {
    float4* const own = reinterpret_cast<float4*>(shared) + warp / 4 * kQuads * kWarpgroup +
                        static_cast<int>(threadIdx.x) % kWarpgroup;
#pragma unroll
    for (int i = 0; i < kQuads; ++i) own[i * kWarpgroup] = total[i];
    cuda::ClusterArrive();
    cuda::ClusterWait();
    cuda::AwaitValue(few::Gather(splits, cuda::SharedAddress(own), rank, total));
    cuda::ClusterArriveRelaxed();  // the others may go when all have read
  }
  float* const out = reinterpret_cast<float*>(shared) + (splits > 1 ? kRows * kBlock : 0);
#pragma unroll
  for (int i = 0; i < kQuads; ++i) {
    if (i * splits + rank >= kQuads) break;
    float* const at = out + (i * 8 + lane % 4 * 2) * L::kPitch + channel;
    at[0] = total[i].x;
    at[L::kPitch] = total[i].y;
    at[8] = total[i].z;
    at[L::kPitch + 8] = total[i].w;
  }
  cuda::NamedBarrier(1, kConsumers);
  cuda::WaitForInputs();
  // A thread has one channel. All of it in registers would be code that no cache of instructions holds.
  const int column = static_cast<int>(threadIdx.x) % kBlock, n = n0 + column;
  const int rows = (kQuads - rank + splits - 1) / splits * 8;
  const float unit = n < w.n ? w.w_unit[n] : 0;
#pragma unroll 2
  for (int i = static_cast<int>(threadIdx.x) / kBlock; i < rows && n < w.n; i += kConsumers / kBlock) {
    const int m = m0 + (i / 8 * splits + rank) * 8 + i % 8;
    if (m >= p.m) break;  // later ones are larger
    // Twice a power of two, that of the channel first: the sum under both may be beyond float32.
    cuda::simt::Finish<int8_t>(p, which, m, n, out[i * L::kPitch + column] * unit * work.x_scale[m]);
  }
  if (splits > 1) cuda::ClusterWait();
}

template <int kRows, int kWarpgroups>
absl::Status LaunchRows(const CUtensorMap& x, Work work, const few::Plan& plan, const cuda::Stream& stream) {
  using L = Layout<kRows, kWarpgroups>;
  Maps maps{.x = x};
  const int64_t tiles = work.p.k / kTileColumns;
  for (int i = 0; i < work.p.linears.count; ++i) {
    const cuda::Linear& w = work.p.linears.linear[i];
    const auto map = [&](const void* data, int64_t tile_bytes) {
      return cuda::MakeTensorMap({.element = cuda::Element::kWord64,
                                  .data = data,
                                  .rows = cuda::CeilDiv(w.n, kTileRows),
                                  .columns = tiles * tile_bytes / 8,
                                  .stride = tiles * tile_bytes,
                                  .box_rows = L::kTiles,
                                  .box_bytes = L::kUnits * tile_bytes});
    };
    SF_ASSIGN_OR_RETURN(maps.w[i].codes, map(w.w, kTileBytes));
    SF_ASSIGN_OR_RETURN(maps.w[i].scales, map(w.w_scale, kScaleBytes));
    if (w.w_zero != nullptr) {
      SF_ASSIGN_OR_RETURN(maps.w[i].zeros, map(w.w_zero, kZeroBytes));
    }
  }
  constexpr int kBlock = kWarpgroups * kChannels, kMaxStages = 12;
  // Sums lie where the ring was; those of a block that shares K twice, but a part the second time.
  const int64_t kept_rows = cuda::CeilDiv(kRows / 8, plan.splits) * 8;
  const int64_t sum_bytes = (plan.splits > 1 ? kRows * kBlock * 4 : 0) + kept_rows * L::kPitch * 4;
  const int least_stages = static_cast<int>(cuda::CeilDiv(sum_bytes, L::kStage));
  const int stages =
      plan.stages > 0 ? plan.stages : std::clamp((L::kSharedBytes - 1024) / (L::kStage + 16), 2, kMaxStages);
  work.stages = std::max(stages, least_stages);
  const auto splits = static_cast<unsigned>(plan.splits);
  return cuda::Launch(kName, matmul_f32_f32_s4g_few_sm90<kRows, kWarpgroups>,
                      {.grid = dim3(static_cast<unsigned>(few::Tiles(work.p.linears, kBlock)), splits,
                                    static_cast<unsigned>(cuda::CeilDiv(work.p.m, kRows))),
                       .block = dim3(L::kThreads),
                       .shared_bytes = work.stages * (L::kStage + 16),
                       .overlaps = true,
                       .cluster_y = splits},
                      stream, maps, work);
}

int64_t BlocksOf(const cuda::SimtParams& p, int rows, int groups) {
  return few::Tiles(p.linears, groups * kChannels) * cuda::CeilDiv(p.m, rows);
}
int RowsOf(int64_t m) { return m <= 32 ? 32 : m <= 64 ? 64 : 128; }  // of a block

// As measured on an H200 with K of 4096 and 14336 (cuda_bench --plans w4a16). A cluster has as many blocks as
// there is room for, each with at least 16 tiles of K.
few::Plan PlanOf(const cuda::SimtParams& p, int rows, const cuda::DeviceInfo& device) {
  constexpr int kLeastTiles = 16;
  const int64_t tiles = p.k / kTileColumns;
  // Half again as many blocks as multiprocessors, where those have room for two: the next kernel's begin
  // beside them. Of blocks that have one to themselves clusters of three and more leave some over.
  const auto room = [&](int splits) {
    return rows <= 64 ? device.num_sms * 3 / 2 : splits <= 2 ? device.num_sms : device.num_sms * 10 / 11;
  };
  const auto shared_out = [&](int groups) {
    few::Plan plan = {.groups = groups, .splits = 1, .stages = 0};
    for (const int splits : {2, 3, 4, 6}) {
      const bool fit = BlocksOf(p, rows, groups) * splits <= room(splits);
      if (fit && tiles >= kLeastTiles * splits) plan.splits = splits;
    }
    return plan;
  };
  const few::Plan plan = shared_out(2);
  const int64_t blocks = BlocksOf(p, rows, 2) * plan.splits;
  return rows <= 64 && plan.splits > 1 && blocks <= device.num_sms ? shared_out(1) : plan;
}

}  // namespace

absl::Status RunFew(const cuda::SimtParams& p, void* scratch, const few::Plan& given,
                    const cuda::DeviceInfo& device, const cuda::Stream& stream) {
  if (p.m == 0) return absl::OkStatus();
  const int row_box = given.rows > 0 ? given.rows : RowsOf(p.m);
  const few::Plan plan = given.groups > 0 ? given : PlanOf(p, row_box, device);
  SF_RETURN_IF_ERROR(few::CheckSplits(kName, plan));
  const bool has_rows = row_box == 32 || row_box == 64 || row_box == 128;
  const bool has_groups = plan.groups == 2 || (row_box <= 64 && plan.groups == 1);
  if (!has_rows || !has_groups || plan.stages == 1) {
    return absl::InvalidArgumentError(absl::StrCat(kName, ": a block of ", plan.groups, " warpgroups, ",
                                                   row_box, " rows and ", plan.stages, " stages"));
  }
  auto* const rows = static_cast<uint32_t*>(scratch);
  auto* const scale = reinterpret_cast<float*>(rows + p.m * (p.k / 2));
  SF_RETURN_IF_ERROR(
      cuda::Launch(kName, matmul_f32_f32_s4g_rows,
                   {.grid = dim3(static_cast<unsigned>(p.m)), .block = dim3(kRowThreads), .overlaps = true},
                   stream, p.x, p.k, rows, scale));
  SF_ASSIGN_OR_RETURN(const CUtensorMap x, cuda::MapOfRows(cuda::Element::kBf16, rows, p.m, p.k, row_box));
  const Work work = {.p = p, .x_scale = scale};
  const auto launch = [&](auto of_rows) {
    constexpr int kRows = of_rows;
    if constexpr (kRows <= 64) {
      if (plan.groups == 1) return LaunchRows<kRows, 1>(x, work, plan, stream);
    }
    return LaunchRows<kRows, 2>(x, work, plan, stream);
  };
  switch (row_box) {
    case 32:
      return launch(std::integral_constant<int, 32>());
    case 64:
      return launch(std::integral_constant<int, 64>());
    default:
      return launch(std::integral_constant<int, 128>());
  }
}

}  // namespace spikefold::kernels::matmul_f32_f32_s4g
