// Design: W is the left operand of wgmma, 64 channels a warpgroup, x the right one, both through a ring that
// the copy engine fills (few_rows_wgmma.cuh). A group's integer sum becomes a float and is added to those
// before it in the order of K, as on the CPU, so K is not shared out over blocks. Meanwhile the next group is
// multiplied, into other registers or by another warpgroup. Scales lie in the ring beside their codes.
#include "kernels/cuda/few_rows_wgmma.cuh"
#include "kernels/matmul_f32_s8r_sxg/matmul_f32_s8r_sxg_cuda.h"

namespace spikefold::kernels::matmul_f32_s8r_sxg {
namespace {

using Params = matmul_f32_s8r_s8c::CudaParams;
using cuda::few::kChannels;
using cuda::few::kKeptStep;
using cuda::few::kStep;
using cuda::few::kWarpgroup;

constexpr int kMaxParts = 4;  // groups of a stage

struct Work {
  int m = 0, steps = 0, stages = 0, num_kept = 0;
  int groups = 0;  // of a channel
  int span = 1;    // stages of a group that is no part of one
  const float* x_scale = nullptr;
  cuda::LinearGroup linears;
};

// A stage holds 128 bytes of K of a block's channels, then of the rows, then scales [part][channel].
template <int kRows, int kWarpgroups>
struct Layout {
  static constexpr int kWBytes = kWarpgroups * kChannels * kStep, kCodes = kWBytes + kRows * kStep;
  static constexpr int kStage = kCodes + kWarpgroups * kChannels * kMaxParts * 4;
};

// kParts: groups of a stage, 1 also where a group has several.
template <int kRows, int kWarpgroups, int kParts>
__global__ void __launch_bounds__(kWarpgroups* kWarpgroup +
                                  cuda::kWarp) __maxnreg__(cuda::few::kRegisters<kWarpgroups>)
    matmul_f32_s8r_sxg_sm90(const __grid_constant__ cuda::few::Maps maps, const __grid_constant__ Work work) {
  using L = Layout<kRows, kWarpgroups>;
  constexpr int kQuads = kRows / 8, kBlock = kWarpgroups * kChannels;
  extern __shared__ __align__(1024) char shared[];
  const int warp = static_cast<int>(threadIdx.x) / cuda::kWarp;
  const int lane = static_cast<int>(threadIdx.x) % cuda::kWarp;
  int64_t index = blockIdx.x;
  const int which = cuda::simt::LinearAt(work.linears, kBlock, index);
  const cuda::Linear& w = work.linears.linear[which];
  const int n0 = static_cast<int>(index) * kBlock, m0 = static_cast<int>(blockIdx.y) * kRows;
  const int kept = w.kept_w == nullptr ? 0 : work.num_kept;
  const int kept_stages = (kept + kKeptStep - 1) / kKeptStep;

  // The ring, the stages of kept columns (without scales), then barriers.
  const uint32_t base = cuda::SharedAddress(shared);
  const int kept_at = work.stages * L::kStage;
  const cuda::Ring ring = {base + kept_at + (work.num_kept + kKeptStep - 1) / kKeptStep * L::kCodes,
                           work.stages};
  const uint32_t kept_full = ring.End();

  if (threadIdx.x == 0) {
    ring.Init(1 + cuda::kWarp, kWarpgroups * 4);
    cuda::InitBarrier(kept_full, 1);
    cuda::FenceBarrierInit();
  }
  __syncthreads();
  cuda::LetNextStart();

  if (warp == kWarpgroups * 4) {
    const auto load_w = [&](int t, int s) {
      if (lane == 0) {
        cuda::ArriveExpecting(ring.Full(s), L::kCodes);
        cuda::LoadBox(base + s * L::kStage, maps.w[which], ring.Full(s), t * kStep, n0);
      }
      const uint32_t to = base + s * L::kStage + L::kCodes;
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
        const int group = kParts > 1 ? t * kParts + part : t / work.span;
#pragma unroll
        for (int c = 0; c < kBlock; c += cuda::kWarp) {
          const int n = n0 + c + lane;
          const bool inside = n < w.n && group < work.groups;
          const float* const from = w.w_scale + (inside ? static_cast<int64_t>(n) * work.groups + group : 0);
          cuda::CopyAsync4(to + (part * kBlock + c + lane) * 4, from, inside);
        }
      }
      cuda::ArriveAfterCopies(ring.Full(s));
    };
    const auto load_x = [&](int t, int s) {
      if (lane == 0) {
        cuda::LoadBox(base + s * L::kStage + L::kWBytes, maps.x, ring.Full(s), t * kStep, m0);
      }
    };
    const int ahead = min(work.steps, work.stages);
    for (int t = 0; t < ahead; ++t) load_w(t, t);  // does not depend on the kernel before
    cuda::WaitForInputs();
    for (int t = 0; t < ahead; ++t) load_x(t, t);
    if (kept > 0 && lane == 0) {
      cuda::few::LoadKeptStages(maps, which, n0, m0, kept_stages, base + kept_at, L::kCodes, L::kWBytes,
                                kept_full);
    }
    cuda::Refill(ring, work.steps, [&](int t, int s) {
      load_w(t, s);
      load_x(t, s);
    });
    return;
  }

  const int group = warp / 4, channel = warp * 16 + lane / 4;  // and channel + 8
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
  const auto start = [&](uint32_t(&acc)[4 * kQuads], int part, bool continues) {
    constexpr int kChain = kStep / 32 / kParts;
    const uint32_t at = base + place.stage * L::kStage;
    const uint64_t a = cuda::OperandDescriptor(at + group * kChannels * kStep) + 2 * kChain * part;
    const uint64_t b = cuda::OperandDescriptor(at + L::kWBytes) + 2 * kChain * part;
    cuda::WarpgroupFence();
#pragma unroll
    for (int k = 0; k < kChain; ++k) cuda::WgmmaS8(acc, a + 2 * k, b + 2 * k, continues || k > 0);
    cuda::WarpgroupCommit();
  };
  const auto scales_of = [&](int part) {
    const float* const scales = reinterpret_cast<const float*>(shared + place.stage * L::kStage + L::kCodes);
    return make_float2(scales[part * kBlock + channel], scales[part * kBlock + channel + 8]);
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
    __syncwarp();  // all lanes have their scales
    if (lane == 0) cuda::Arrive(ring.Empty(s));
  };

  uint32_t even[4 * kQuads];
  if constexpr (kParts == 1 || kWarpgroups > 1) {
    for (int t = 0; t < work.steps; ++t) {
      cuda::WaitBarrierGuarded(ring.Full(place.stage), place.phase);
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
        start(even, part, kParts == 1 && t % work.span > 0);
        const float2 scale = scales_of(part);
        cuda::WarpgroupWait<0>();
        if (part + 1 == kParts) release(place.stage);
        const bool ends =
            kParts > 1 ? t * kParts + part < work.groups : (t + 1) % work.span == 0 || t + 1 == work.steps;
        if (ends) add(even, scale);
      }
      place.Next(work.stages);
    }
  } else {
    uint32_t odd[4 * kQuads];
    cuda::WaitBarrierGuarded(ring.Full(0), 0);
    start(even, 0, false);
    float2 even_scale = scales_of(0);
    // Of the groups of a stage but the last one's.
    const auto inner = [&] {
#pragma unroll
      for (int part = 1; part + 1 < kParts; part += 2) {
        start(odd, part, false);
        const float2 odd_scale = scales_of(part);
        cuda::WarpgroupWait<1>();
        add(even, even_scale);
        start(even, part + 1, false);
        even_scale = scales_of(part + 1);
        cuda::WarpgroupWait<1>();
        add(odd, odd_scale);
      }
    };
    for (int t = 0; t + 1 < work.steps; ++t) {
      inner();
      start(odd, kParts - 1, false);
      const float2 odd_scale = scales_of(kParts - 1);
      cuda::WarpgroupWait<1>();
      add(even, even_scale);
      const int used = place.stage;
      place.Next(work.stages);
      cuda::WaitBarrierGuarded(ring.Full(place.stage), place.phase);
      start(even, 0, false);
      even_scale = scales_of(0);
      cuda::WarpgroupWait<1>();
      release(used);
      add(odd, odd_scale);
    }
    inner();
    start(odd, kParts - 1, false);
    const float2 odd_scale = scales_of(kParts - 1);
    cuda::WarpgroupWait<1>();
    add(even, even_scale);
    cuda::WarpgroupWait<0>();
    add(odd, odd_scale);
  }

#pragma unroll
  for (int i = 0; i < kQuads; ++i) {
#pragma unroll
    for (int e = 0; e < 4; ++e) y[i][e] = y[i][e] * x_scale[i][e % 2];
  }
  if (kept > 0) {
    cuda::WaitBarrierGuarded(kept_full, 0);
#pragma unroll 1
    for (int c = 0; c < kept; c += 8) {
      cuda::few::AddKept(shared + kept_at + c / kKeptStep * L::kCodes, L::kWBytes, c % kKeptStep / 8,
                         kept - c, channel, 0, 1, y);
    }
  }
#pragma unroll
  for (int i = 0; i < kQuads; ++i) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int m = m0 + cuda::few::RowOf(i, 0, 1, e % 2), n = n0 + channel + e / 2 * 8;
      if (m >= work.m || n >= w.n) continue;
      w.y[static_cast<int64_t>(m) * w.n + n] = w.bias != nullptr ? y[i][e] + w.bias[n] : y[i][e];
    }
  }
}

// Groups of a stage; 0: groups that this kernel does not take.
int PartsOf(int64_t group, int64_t k) {
  if (group == 32 || group == 64) return static_cast<int>(kStep / group);
  return group % kStep == 0 || group >= k ? 1 : 0;
}

cuda::few::Operands OperandsOf(const Params& p) {
  return {.m = p.m,
          .row_bytes = matmul_f32_s8r_s8c::RowBytes(p.k),
          .x = p.x,
          .x_scale = p.x_scale,
          .num_kept = p.num_kept,
          .kept_x = p.kept_rows,
          .linears = p.linears};
}

template <int kRows, int kWarpgroups, int kParts>
absl::Status LaunchParts(const Params& p, const cuda::Stream& stream) {
  using L = Layout<kRows, kWarpgroups>;
  constexpr int kBlock = kWarpgroups * kChannels;
  const cuda::few::Operands operands = OperandsOf(p);
  SF_ASSIGN_OR_RETURN(const cuda::few::Maps maps, cuda::few::MapsOf(operands, kRows, kBlock));
  const int64_t group = p.linears.linear[0].group;
  const int steps = static_cast<int>(cuda::CeilDiv(operands.row_bytes, kStep));
  const int kept_bytes = cuda::few::KeptStages(operands) * L::kCodes;
  // Where W has few channels one block a multiprocessor may take all of its shared memory.
  const int64_t tiles = cuda::few::Tiles(p.linears, kBlock), blocks = tiles * cuda::CeilDiv(p.m, kRows);
  const int64_t room = blocks <= cuda::NumSms() ? 2 * cuda::few::kSharedBytes : cuda::few::kSharedBytes;
  const int stages = std::clamp(static_cast<int>(room - 256 - kept_bytes) / L::kStage, 2, 12);
  const Work work = {.m = static_cast<int>(p.m),
                     .steps = steps,
                     .stages = stages,
                     .num_kept = static_cast<int>(p.num_kept),
                     .groups = static_cast<int>(cuda::CeilDiv(p.k, group)),
                     .span = group >= p.k ? steps : static_cast<int>(std::max<int64_t>(group / kStep, 1)),
                     .x_scale = p.x_scale,
                     .linears = p.linears};
  return cuda::Launch(
      "matmul_f32_s8r_sxg", matmul_f32_s8r_sxg_sm90<kRows, kWarpgroups, kParts>,
      {.grid = dim3(static_cast<unsigned>(tiles), static_cast<unsigned>(cuda::CeilDiv(p.m, kRows))),
       .block = dim3(kWarpgroups * kWarpgroup + cuda::kWarp),
       .shared_bytes = stages * L::kStage + kept_bytes + (2 * stages + 1) * 8,
       .overlaps = true},
      stream, maps, work);
}

template <int kRows, int kWarpgroups>
absl::Status LaunchRows(const Params& p, const cuda::Stream& stream) {
  switch (PartsOf(p.linears.linear[0].group, p.k)) {
    case 4:
      return LaunchParts<kRows, kWarpgroups, 4>(p, stream);
    case 2:
      return LaunchParts<kRows, kWarpgroups, 2>(p, stream);
    default:
      return LaunchParts<kRows, kWarpgroups, 1>(p, stream);
  }
}

}  // namespace

bool FitsHopper(const Params& p, const cuda::DeviceInfo& device) {
  if (device.sm != 90 || p.m < 1 || p.num_kept > cuda::few::kMaxKept) return false;
  for (int i = 0; i < p.linears.count; ++i) {
    const cuda::Linear& w = p.linears.linear[i];
    if (w.group != p.linears.linear[0].group || PartsOf(w.group, p.k) == 0) return false;
    if (w.kept_w != nullptr && p.num_kept > 0 && (p.kept_rows == nullptr || w.kept_rows == nullptr))
      return false;
  }
  return true;
}

absl::Status RunHopper(const Params& p, const cuda::Stream& stream) {
  if (p.m <= 16) return LaunchRows<16, 1>(p, stream);
  if (p.m <= 32) return LaunchRows<32, 1>(p, stream);
  const bool wide = p.m > 64 || cuda::few::Tiles(p.linears, 2 * kChannels) >= cuda::NumSms();
  return wide ? LaunchRows<64, 2>(p, stream) : LaunchRows<64, 1>(p, stream);
}

}  // namespace spikefold::kernels::matmul_f32_s8r_sxg
