// Design: W is the left operand of wgmma, 64 channels a warpgroup, x the right one (few_rows_wgmma.cuh), in
// f16 that a small kernel before makes once for all blocks. 4-bit codes come through a ring of bulk copies
// and become the operand in registers: as the bits of subnormal f16 numbers, less their zero points, all of
// it exact. A tile's sums become multiples of its scales in registers while the next tile is multiplied.
// Where the channels alone do not fill the chip, the blocks of a cluster share out K and add their sums in
// the order of their ranks.
#include <cuda_fp16.h>

#include <algorithm>

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

struct Work {
  cuda::SimtParams p;
  const float* x_scale = nullptr;  // [m]
  int stages = 0;
};

// A stage holds kUnits tiles along K: x [unit][row][64 columns], then of each of the block's tiles along the
// channels codes [unit][512], scales [unit][8][2], zero points [unit][8][2].
template <int kRows, int kWarpgroups>
struct Layout {
  static constexpr int kUnits = kRows == 64 ? 2 : 4;
  static constexpr int kTiles = kWarpgroups * kTilesOfGroup, kXUnit = kRows * few::kStep;
  static constexpr int kCodes = kUnits * kXUnit, kScales = kCodes + kTiles * kUnits * kTileBytes;
  static constexpr int kZeros = kScales + kTiles * kUnits * kScaleBytes;
  static constexpr int kStage = (kZeros + kTiles * kUnits * kZeroBytes + 1023) / 1024 * 1024;
  // Sums of so many tiles along K are under way; one where registers are short, then other warps multiply.
  static constexpr int kSums = kRows == 64 && kWarpgroups > 1 ? 1 : 2;
};

// Copies of a stage, by the lanes of a warp: the codes, the scales or the zero points of a tile each. A tile
// behind the last one is the last again; its sums are not used.
template <int kRows, int kWarpgroups>
struct Copies {
  using L = Layout<kRows, kWarpgroups>;
  static constexpr int kEach = (3 * L::kTiles + cuda::kWarp - 1) / cuda::kWarp;
  __device__ Copies(const cuda::Linear& w, int n0, int tiles, int first, int lane) {
    const int last = static_cast<int>((w.n + kTileRows - 1) / kTileRows) - 1;
    all_bytes = L::kTiles * (kTileBytes + kScaleBytes + (w.w_zero == nullptr ? 0 : kZeroBytes));
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int index = i * cuda::kWarp + lane, kind = index / L::kTiles, tile = index % L::kTiles;
      const int64_t row_tile = min(n0 / static_cast<int>(kTileRows) + tile, last);
      const bool copies = kind < (w.w_zero == nullptr ? 2 : 3);
      bytes[i] = !copies ? 0 : kind == 0 ? kTileBytes : kind == 1 ? kScaleBytes : kZeroBytes;
      from[i] = (kind == 0   ? static_cast<const char*>(w.w)
                 : kind == 1 ? reinterpret_cast<const char*>(w.w_scale)
                             : reinterpret_cast<const char*>(w.w_zero)) +
                (row_tile * tiles + first) * bytes[i];
      to[i] = (kind == 0 ? L::kCodes : kind == 1 ? L::kScales : L::kZeros) + tile * L::kUnits * bytes[i];
    }
  }
  __device__ void Start(int t, int units, uint32_t stage, uint32_t barrier) const {
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      if (bytes[i] == 0) continue;
      cuda::LoadBytes(stage + to[i], from[i] + static_cast<int64_t>(t) * L::kUnits * bytes[i],
                      units * bytes[i], barrier);
    }
  }
  const char* from[kEach];
  int to[kEach], bytes[kEach], all_bytes;
};

// The left operand of 64 channels x 16 columns; `zeros`: of channels g and g + 8, as their codes lie.
__device__ inline void Operand(uint32_t word, __half2 low, __half2 high, uint32_t (&a)[4]) {
  const auto less = [](uint32_t bits, __half2 zero) {
    const __half2 v = __hsub2(*reinterpret_cast<const __half2*>(&bits), zero);
    return *reinterpret_cast<const uint32_t*>(&v);
  };
  a[0] = less(word & 0x000f000fu, low);
  a[1] = less(word & 0x00f000f0u, high);
  a[2] = less(word >> 8 & 0x000f000fu, low);
  a[3] = less(word >> 8 & 0x00f000f0u, high);
}

template <int kRows, int kWarpgroups>
__global__ void __launch_bounds__(kWarpgroups* kWarpgroup + cuda::kWarp)
    __maxnreg__(few::kRegisters<kWarpgroups>)
        matmul_f32_f32_s4g_few_sm90(const __grid_constant__ CUtensorMap x_map,
                                    const __grid_constant__ Work work) {
  using L = Layout<kRows, kWarpgroups>;
  constexpr int kQuads = kRows / 8, kBlock = kWarpgroups * kChannels, kUnits = L::kUnits, kSums = L::kSums;
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
    const Copies<kRows, kWarpgroups> copies(w, n0, all_tiles, first, lane);
    const auto units_of = [&](int t) { return min(kUnits, tiles - t * kUnits); };
    const auto load_w = [&](int t, int s) {
      const int units = units_of(t);
      if (lane == 0) cuda::ArriveExpecting(ring.Full(s), units * (copies.all_bytes + L::kXUnit));
      __syncwarp();
      copies.Start(t, units, base + s * L::kStage, ring.Full(s));
    };
    const auto load_x = [&](int t, int s) {
      if (lane < units_of(t)) {
        cuda::LoadBox(base + s * L::kStage + lane * L::kXUnit, x_map, ring.Full(s),
                      (first + t * kUnits + lane) * static_cast<int>(kTileColumns), m0);
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
    __syncwarp();
    if (splits > 1) {
      cuda::ClusterArrive();
      cuda::ClusterWait();
      cuda::ClusterArrive();
      cuda::ClusterWait();
    }
    return;
  }

  const int g = lane / 4, channel = warp * static_cast<int>(kTileRows) + g;  // and channel + 8
  float4 total[kQuads] = {};  // channel (x, y), channel + 8 (z, w); rows RowOf(.., 0) and (.., 1)
  float sum[kSums][4 * kQuads] = {};
  float2 scale[kSums] = {};
  uint32_t a[kSums][4][4];
  cuda::RingPlace place;
  // Codes of channel + 8 are 16 times what they stand for.
  const auto start = [&](float(&to)[4 * kQuads], uint32_t(&operand)[4][4], float2& by, int unit) {
    const char* const at = shared + place.stage * L::kStage;
    const int tile = warp * kUnits + unit;
    const uint4 v = *reinterpret_cast<const uint4*>(at + L::kCodes + tile * kTileBytes + lane * 16);
    uint32_t zeros = kPlainZeros;
    if (w.w_zero != nullptr) {
      zeros = *reinterpret_cast<const uint16_t*>(at + L::kZeros + tile * kZeroBytes + g * 2);
    }
    const uint32_t low_bits = (zeros & 0xff) * 0x00010001u, high_bits = (zeros >> 8) * 0x00100010u;
    const __half2 low = *reinterpret_cast<const __half2*>(&low_bits);
    const __half2 high = *reinterpret_cast<const __half2*>(&high_bits);
    Operand(v.x, low, high, operand[0]);
    Operand(v.y, low, high, operand[1]);
    Operand(v.z, low, high, operand[2]);
    Operand(v.w, low, high, operand[3]);
    by = *reinterpret_cast<const float2*>(at + L::kScales + tile * kScaleBytes + g * 8);
    by.y *= 0.0625f;
    const uint64_t x = cuda::OperandDescriptor(base + place.stage * L::kStage + unit * L::kXUnit);
#pragma unroll
    for (int j = 0; j < 4; ++j) cuda::HoldRegisters(operand[j]);
    cuda::WarpgroupFence();
#pragma unroll
    for (int j = 0; j < 4; ++j) cuda::WgmmaF16(to, operand[j], x + 2 * j, j > 0);
    cuda::WarpgroupCommit();
  };
  const auto add = [&](float(&from)[4 * kQuads], float2 by) {
    cuda::HoldRegisters(from);
#pragma unroll
    for (int i = 0; i < kQuads; ++i) {
      total[i].x = fmaf(by.x, from[4 * i], total[i].x);
      total[i].y = fmaf(by.x, from[4 * i + 1], total[i].y);
      total[i].z = fmaf(by.y, from[4 * i + 2], total[i].z);
      total[i].w = fmaf(by.y, from[4 * i + 3], total[i].w);
    }
  };
  const auto release = [&](int s) {
    __syncwarp();  // all lanes have read theirs
    if (lane == 0) cuda::Arrive(ring.Empty(s));
  };
  int before = 0;  // the stage before this one
  for (int t = 0; t < steps; ++t) {
    cuda::WaitBarrierGuarded(ring.Full(place.stage), place.phase);
#pragma unroll
    for (int unit = 0; unit < kUnits; ++unit) {
      // Behind the last tile nothing was copied: what is there is multiplied, and not added.
      const int at = t * kUnits + unit;
      if constexpr (kSums == 2) {
        start(sum[unit % 2], a[unit % 2], scale[unit % 2], unit);
        cuda::WarpgroupWait<1>();
        if (unit == 0 && t > 0) release(before);
        if (at > 0 && at <= tiles) add(sum[(unit + 1) % 2], scale[(unit + 1) % 2]);
      } else {
        start(sum[0], a[0], scale[0], unit);
        cuda::WarpgroupWait<0>();
        if (unit + 1 == kUnits) release(place.stage);
        if (at < tiles) add(sum[0], scale[0]);
      }
    }
    before = place.stage;
    place.Next(work.stages);
  }
  if constexpr (kSums == 2) {
    cuda::WarpgroupWait<0>();
    if (steps * kUnits == tiles) add(sum[(kUnits - 1) % 2], scale[(kUnits - 1) % 2]);
  }

  if (splits > 1) {
    // Where the ring was: [group][quad][thread]. Nobody reads the ring any more.
    cuda::NamedBarrier(1, kWarpgroups * kWarpgroup);
    float4* const own = reinterpret_cast<float4*>(shared) + warp / 4 * kQuads * kWarpgroup +
                        static_cast<int>(threadIdx.x) % kWarpgroup;
#pragma unroll
    for (int i = 0; i < kQuads; ++i) own[i * kWarpgroup] = total[i];
    cuda::ClusterArrive();
    cuda::ClusterWait();
    few::Gather(splits, cuda::SharedAddress(own), rank, total);
    cuda::ClusterArrive();  // the others may go when all have read
  }
  cuda::WaitForInputs();
#pragma unroll
  for (int i = 0; i < kQuads; ++i) {
    if (i * splits + rank >= kQuads) break;
    const float y[4] = {total[i].x, total[i].y, total[i].z, total[i].w};
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int m = m0 + few::RowOf(i, rank, splits, e % 2), n = n0 + channel + e / 2 * 8;
      if (m >= p.m || n >= w.n) continue;
      // Twice a power of two: both at once may be beyond float32.
      cuda::simt::Finish<int8_t>(p, which, m, n, y[e] * 0x1p24f * work.x_scale[m]);
    }
  }
  if (splits > 1) cuda::ClusterWait();
}

template <int kRows, int kWarpgroups>
absl::Status LaunchRows(const CUtensorMap& x, Work work, const few::Plan& plan, const cuda::Stream& stream) {
  using L = Layout<kRows, kWarpgroups>;
  constexpr int kBlock = kWarpgroups * kChannels;
  // The sums of a block that shares K lie where the ring was.
  constexpr int kLeastStages = (kRows * kBlock * 4 + L::kStage - 1) / L::kStage;
  work.stages = std::max(plan.stages, plan.splits > 1 ? kLeastStages : 1);
  const auto splits = static_cast<unsigned>(plan.splits);
  return cuda::Launch(kName, matmul_f32_f32_s4g_few_sm90<kRows, kWarpgroups>,
                      {.grid = dim3(static_cast<unsigned>(few::Tiles(work.p.linears, kBlock)), splits,
                                    static_cast<unsigned>(cuda::CeilDiv(work.p.m, kRows))),
                       .block = dim3(kWarpgroups * kWarpgroup + cuda::kWarp),
                       .shared_bytes = work.stages * (L::kStage + 16),
                       .overlaps = true,
                       .cluster_y = splits},
                      stream, x, work);
}

int RowsOf(const cuda::SimtParams& p) { return p.m <= 32 ? 32 : 64; }

// As measured on an H200 with K of 4096 and 14336 (cuda_bench --plans w4a16). A cluster has as many blocks as
// there is room for, each with at least 16 tiles of K.
few::Plan PlanOf(const cuda::SimtParams& p, const cuda::DeviceInfo& device) {
  constexpr int kLeastTiles = 16, kMaxStages = 12;
  const int rows = RowsOf(p);
  const int64_t tiles = p.k / kTileColumns, row_blocks = cuda::CeilDiv(p.m, rows);
  // Half again as many blocks as multiprocessors, which have room for two: the next kernel's begin beside
  // them.
  const auto shared_out = [&](int groups) {
    const int64_t blocks = few::Tiles(p.linears, groups * kChannels) * row_blocks;
    few::Plan plan = {.groups = groups, .splits = 1};
    for (const int splits : {2, 3, 4, 6}) {
      const bool fit = 2 * blocks * splits <= 3 * device.num_sms;
      if (fit && tiles >= kLeastTiles * splits) plan.splits = splits;
    }
    return plan;
  };
  few::Plan plan = shared_out(2);
  const int64_t blocks = few::Tiles(p.linears, 2 * kChannels) * row_blocks * plan.splits;
  if (plan.splits > 1 && blocks <= device.num_sms) plan = shared_out(1);
  const bool one = plan.groups == 1;
  const int stage = 16 + (rows == 32 ? one ? Layout<32, 1>::kStage : Layout<32, 2>::kStage
                          : one      ? Layout<64, 1>::kStage
                                     : Layout<64, 2>::kStage);
  plan.stages = std::clamp((few::kSharedBytes - 1024) / stage, 2, kMaxStages);
  return plan;
}

}  // namespace

absl::Status RunFew(const cuda::SimtParams& p, void* scratch, const few::Plan& given,
                    const cuda::DeviceInfo& device, const cuda::Stream& stream) {
  if (p.m == 0) return absl::OkStatus();
  const few::Plan plan = given.groups > 0 ? given : PlanOf(p, device);
  SF_RETURN_IF_ERROR(few::CheckSplits(kName, plan));
  if (plan.groups > 2) {
    return absl::InvalidArgumentError(
        absl::StrCat(kName, ": a block of ", plan.groups, " warpgroups; 1 or 2"));
  }
  auto* const rows = static_cast<uint32_t*>(scratch);
  auto* const scale = reinterpret_cast<float*>(rows + p.m * (p.k / 2));
  SF_RETURN_IF_ERROR(
      cuda::Launch(kName, matmul_f32_f32_s4g_rows,
                   {.grid = dim3(static_cast<unsigned>(p.m)), .block = dim3(kRowThreads), .overlaps = true},
                   stream, p.x, p.k, rows, scale));
  SF_ASSIGN_OR_RETURN(const CUtensorMap x, cuda::MakeTensorMap({.element = cuda::Element::kBf16,
                                                                .data = rows,
                                                                .rows = p.m,
                                                                .columns = p.k,
                                                                .stride = p.k * 2,
                                                                .box_rows = RowsOf(p)}));
  const Work work = {.p = p, .x_scale = scale};
  if (RowsOf(p) == 32) {
    return plan.groups == 1 ? LaunchRows<32, 1>(x, work, plan, stream)
                            : LaunchRows<32, 2>(x, work, plan, stream);
  }
  return plan.groups == 1 ? LaunchRows<64, 1>(x, work, plan, stream)
                          : LaunchRows<64, 2>(x, work, plan, stream);
}

}  // namespace spikefold::kernels::matmul_f32_f32_s4g
