// Design: W, on the left of wgmma, comes as nibbles that a warpgroup makes INT8 codes of in registers, half
// of a stage's columns of 64 channels at a time: of the up to four sets of registers all but one are being
// multiplied while that one is unpacked. x is the right operand; outputs are scaled in registers and leave
// transposed, 8 channels of a row at a time.
// Unpacking 64 channels takes about as long as multiplying 128 rows with them does, so that how two
// warpgroups share tiles depends on their rows. 256 x 128 is made by both, 64 channels each, from the fewest
// bytes; its outputs leave through the copy engine. 256 x 64 they take by turns, as in
// kernels/cuda/pingpong_tiles.cuh: one stores while the other multiplies, not quite as fast as two. Of
// smaller tiles each has its own, with a ring of its own, and neither waits for the other: by turns one would
// unpack while the other may not. Kept columns follow in the same ring, x in one stage and W in the next.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "formats/base/status.h"
#include "kernels/cuda/pingpong_tiles.cuh"
#include "kernels/matmul_f32_s8r_u4h/matmul_f32_s8r_u4h_tiles.cuh"

namespace spikefold::kernels::matmul_f32_s8r_u4h {
namespace {

namespace pingpong = cuda::pingpong;
using pingpong::kConsumers, pingpong::kKeptStep, pingpong::kStep, pingpong::kThreads, pingpong::kWarpgroup;

constexpr int kChannels = static_cast<int>(kTileRows);  // of an instruction
constexpr char kName[] = "matmul_f32_s8r_u4h";
static_assert(kStep == kTileColumns && kKeptStep == matmul_f32_s8r_s8c::kKeptStep);

struct Maps {
  CUtensorMap x, kept_x, kept_w[cuda::kMaxLinears], y[cuda::kMaxLinears];
};
struct Work {
  int m = 0, steps = 0, tiles_m = 0, tiles = 0;
  int kept_steps = 0;  // of linears that keep columns
  const float* x_scale = nullptr;
  bool boxes = false;  // outputs of tiles that are made together leave through the copy engine
  cuda::LinearGroup linears;
};

// Of kTileM rows of x and kTileN channels.
template <int kTileM, int kTileN>
struct Layout {
  static constexpr bool kTurns = kTileM == 256 && kTileN == 64;
  static constexpr bool kOwn = kTileM < 256;           // each warpgroup has its tiles, and a ring
  static constexpr bool kTogether = !kTurns && !kOwn;  // a tile is of both
  static constexpr int kRings = kOwn ? kConsumers : 1;
  static constexpr int kXBytes = kTileM * kStep, kTiles = kTileN / kChannels;  // of codes
  static constexpr int kStage = (kXBytes + kTiles * static_cast<int>(kTileBytes) + 1023) / 1024 * 1024;
  // Outputs leave kOutRows rows and 32 channels a box; a consumer makes the boxes of all its 64 channels, a
  // part, while those before are read.
  static constexpr int kOutRows = 32, kOutBox = kOutRows * 128, kPart = kChannels / 32 * kOutBox, kParts = 2;
  static_assert(!kTogether || kConsumers * kParts * kPart <= kXBytes);
  static constexpr int kScalesOf = (kTileM + 2 * kTileN) * 4;  // of each consumer: x_scale, w_scale, bias
  static constexpr int kRest = kConsumers * kScalesOf + kRings * cuda::Ring::Bytes(16);
  static constexpr int kStages = std::min(16, (pingpong::kMaxShared - kRest) / (kRings * kStage));
  static constexpr int kScales = kRings * kStages * kStage;
  static constexpr int kBarriers = kScales + kConsumers * kScalesOf;  // full, then empty
  static constexpr int kBytes = kBarriers + kRings * cuda::Ring::Bytes(kStages);
  static_assert(kStages >= 4 && kTileN * kStep <= kStage);  // kept columns of W
};

// What a thread brings of a tile's scales and bias: asked for while the tile before is on its way out.
template <int kTileM, int kTileN>
struct Scales {
  static constexpr int kX = (kTileM + kWarpgroup - 1) / kWarpgroup;
  static_assert(kTileN <= kWarpgroup);
  float x[kX], w, bias;
  __device__ void Load(int thread, const Work& work, const cuda::Tile& tile) {
    const cuda::Linear& linear = work.linears.linear[tile.linear];
#pragma unroll
    for (int i = 0; i < kX; ++i) {
      const int row = tile.m0 + thread + i * kWarpgroup;
      x[i] = row < work.m ? work.x_scale[row] : 0.0f;
    }
    const int channel = tile.n0 + thread;
    const bool inside = channel < linear.n;
    w = inside ? linear.w_scale[channel] : 0.0f;
    bias = inside && linear.bias != nullptr ? linear.bias[channel] : -0.0f;  // -0 changes nothing
  }
  __device__ void Put(int thread, float* to_x, float* to_w, float* to_bias) const {
#pragma unroll
    for (int i = 0; i < kX; ++i) {
      if (kTileM % kWarpgroup == 0 || thread < kTileM) to_x[thread + i * kWarpgroup] = x[i];
    }
    if (thread < kTileN) {
      to_w[thread] = w;
      to_bias[thread] = bias;
    }
  }
};

template <int kTileM, int kTileN>
__global__ void __launch_bounds__(kThreads, 1)
    matmul_f32_s8r_u4h_sm90(const __grid_constant__ Maps maps, const __grid_constant__ Work work) {
  using L = Layout<kTileM, kTileN>;
  constexpr int kBlocks =
      L::kTogether ? L::kTiles / kConsumers : L::kTiles;  // of 64 channels, of a warpgroup
  constexpr int kAccumulators = kTileM / 2;  // of a thread and block: 64 x kTileM outputs over 128 threads
  constexpr int kSets = 2 * kBlocks;
  extern __shared__ __align__(1024) char shared[];
  const uint32_t base = cuda::SharedAddress(shared);
  const auto ring_of = [&](int which) -> cuda::Ring {
    return {base + L::kBarriers + which * cuda::Ring::Bytes(L::kStages), L::kStages};
  };
  const int group = static_cast<int>(threadIdx.x) / kWarpgroup;
  const int blocks = static_cast<int>(gridDim.x);

  if (threadIdx.x == 0) {
    for (int i = 0; i < L::kRings; ++i) {
      ring_of(i).Init(1, (L::kTogether ? kConsumers : 1) * 4);  // each warp reads codes
    }
    cuda::FenceBarrierInit();
  }
  __syncthreads();
  const auto tile_at = [&](int at) { return cuda::TileAt<kTileM, kTileN>(work.linears, work.tiles_m, at); };
  const auto kept_steps_of = [&](const cuda::Linear& w) { return w.kept_w != nullptr ? work.kept_steps : 0; };

  if (group == 0) {
    cuda::GiveRegisters<pingpong::kProducerRegisters>();
    const int which = static_cast<int>(threadIdx.x) / cuda::kWarp;
    if (which < L::kRings && threadIdx.x % cuda::kWarp == 0) {
      const cuda::Ring ring = ring_of(which);
      const uint32_t stages = base + static_cast<uint32_t>(which * L::kStages * L::kStage);
      cuda::RingPlace place;
      // load(stage, barrier) of so many bytes.
      const auto fill = [&](int bytes, auto load) {
        const uint32_t full = ring.Full(place.stage);
        cuda::WaitBarrierGuarded(ring.Empty(place.stage), place.phase ^ 1);
        cuda::ArriveExpecting(full, bytes);
        load(stages + static_cast<uint32_t>(place.stage * L::kStage), full);
        place.Next(L::kStages);
      };
      for (int at = static_cast<int>(blockIdx.x) + which * blocks; at < work.tiles;
           at += L::kRings * blocks) {
        const cuda::Tile tile = tile_at(at);
        const cuda::Linear& w = work.linears.linear[tile.linear];
        const int stage_bytes = L::kXBytes + TileBytes<L::kTiles>(w, tile.n0);
        for (int t = 0; t < work.steps; ++t) {
          fill(stage_bytes, [&](uint32_t to, uint32_t full) {
            cuda::LoadBox(to, maps.x, full, t * kStep, tile.m0);
            LoadTiles<L::kTiles>(w, tile.n0, t, to + L::kXBytes, full);
          });
        }
        const int kept_steps = kept_steps_of(w);
        for (int t = 0; t < kept_steps; ++t) {
          fill(L::kXBytes, [&](uint32_t to, uint32_t full) {
            cuda::LoadBox(to, maps.kept_x, full, t * kKeptStep, tile.m0);
          });
          fill(kTileN * kStep, [&](uint32_t to, uint32_t full) {
            cuda::LoadBox(to, maps.kept_w[tile.linear], full, t * kKeptStep, tile.n0);
          });
        }
      }
    }
  } else {
    cuda::TakeRegisters<pingpong::kConsumerRegisters>();
    const int consumer = group - 1, thread = static_cast<int>(threadIdx.x) % kWarpgroup;
    const int lane = thread % cuda::kWarp, warp = thread / cuda::kWarp;
    const int first_channel = L::kTogether ? consumer * kChannels : 0, which = L::kOwn ? consumer : 0;
    const cuda::Ring ring = ring_of(which);
    char* const stages = shared + which * L::kStages * L::kStage;
    const uint32_t stages_at = base + static_cast<uint32_t>(which * L::kStages * L::kStage);
    float* const x_scale = reinterpret_cast<float*>(shared + L::kScales + consumer * L::kScalesOf);
    float *const w_scale = x_scale + kTileM, *const bias = w_scale + kTileN;
    const auto barrier = [&] { cuda::NamedBarrier(4 + consumer, kWarpgroup); };
    const auto release = [&](int stage) {
      if (lane == 0) cuda::Arrive(ring.Empty(stage));
    };
    constexpr int kStride = L::kTogether ? 1 : kConsumers;  // of a warpgroup's tiles, in grids
    Scales<kTileM, kTileN> scales;
    const int first = static_cast<int>(blockIdx.x) + (L::kTogether ? 0 : consumer * blocks);
    const auto ask = [&](int tile) {
      if (tile < work.tiles) scales.Load(thread, work, tile_at(tile));
    };
    ask(first);
    cuda::RingPlace place;
    bool mine = !L::kTurns || consumer == 0;
    for (int at = static_cast<int>(blockIdx.x) + which * blocks; at < work.tiles;
         at += L::kRings * blocks, mine = !L::kTurns || !mine) {
      const cuda::Tile tile = tile_at(at);
      const cuda::Linear& w = work.linears.linear[tile.linear];
      const int kept_steps = kept_steps_of(w);
      if (!mine) {
        place.Skip(work.steps + 2 * kept_steps, L::kStages);
        continue;
      }
      barrier();  // the scales of the tile before have been used
      scales.Put(thread, x_scale, w_scale, bias);
      barrier();

      // A turn begins when the other warpgroup has seen all of its stages full: who waits for a phase of a
      // barrier must not come before the phase before has ended.
      if (L::kTurns && at >= blocks) cuda::NamedBarrier(2 + consumer, kConsumers * kWarpgroup);
      const auto end_turn = [&] {
        if (L::kTurns && at + blocks < work.tiles) {
          cuda::NamedBarrierArrive(3 - consumer, kConsumers * kWarpgroup);
        }
      };
      uint32_t acc[kBlocks][kAccumulators];  // sums, then outputs
      Operands operands[kSets];
      int previous = -1;
      for (int t = 0; t < work.steps; ++t) {
        cuda::WaitBarrier(ring.Full(place.stage), place.phase);
        const char* const tiles =
            stages + place.stage * L::kStage + L::kXBytes + first_channel / kChannels * kTileBytes;
        const uint64_t x = cuda::OperandDescriptor(stages_at + place.stage * L::kStage);
        // At once, as one warp of each scheduler unpacks at a time and nothing else would hide the loads.
        Half codes[kSets];
#pragma unroll
        for (int set = 0; set < kSets; ++set) {
          codes[set] = LoadHalf(tiles + set % kBlocks * kTileBytes, set / kBlocks);
        }
#pragma unroll
        for (int set = 0; set < kSets; ++set) {
          cuda::WarpgroupWait<kSets - 1>();  // the set's registers are free
          if (set + 1 == kSets && previous >= 0) release(previous);
          MultiplyHalf<false>(acc[set % kBlocks], operands[set], codes[set], set / kBlocks, x,
                              t > 0 || set >= kBlocks);
          cuda::WarpgroupCommit();
        }
        previous = place.stage;
        place.Next(L::kStages);
      }
      if (kept_steps == 0) end_turn();
      cuda::WarpgroupWait<0>();
      ask(at + kStride * blocks);
      // The stage that was multiplied last is given back when outputs have left through it.
      const bool boxes = L::kTogether && work.boxes;
      int held = previous;
      if (!boxes) release(previous);

      // Accumulator 4 i + e of block b: channel n + 64 b + 8 (e / 2) of the tile, row m + 8 i + e % 2.
      const int n = first_channel + warp * 16 + lane / 4, m = 2 * (lane % 4);
      const auto store = [&](auto* matrix, auto value) {
        const int64_t step = 8 * w.n;
        const int rows = work.m - tile.m0 - m, channels = static_cast<int>(w.n) - tile.n0 - n;
        matrix += (tile.m0 + m) * w.n + tile.n0 + n;
#pragma unroll
        for (int b = 0; b < kBlocks; ++b) {
          auto *to = matrix + b * kChannels, *next = to + w.n;
          const int rows_of[2] = {b * kChannels < channels ? rows : 0,
                                  b * kChannels + 8 < channels ? rows : 0};
#pragma unroll
          for (int i = 0; i < kAccumulators; i += 4, to += step, next += step) {
#pragma unroll
            for (int e = 0; e < 4; ++e) {
              if (2 * i + e % 2 < rows_of[e / 2]) (e % 2 == 0 ? to : next)[e / 2 * 8] = value(b, i + e);
            }
          }
        }
      };
      if (w.sums != nullptr) store(w.sums, [&](int b, int i) { return static_cast<int32_t>(acc[b][i]); });
      const auto of_channels = [&](const float* values, float(&to)[kBlocks][2]) {
#pragma unroll
        for (int b = 0; b < kBlocks; ++b) {
          for (int j = 0; j < 2; ++j) to[b][j] = values[n + b * kChannels + 8 * j];
        }
      };
      float channel_scale[kBlocks][2], add[kBlocks][2];
      of_channels(w_scale, channel_scale);
#pragma unroll
      for (int i = 0; i < kAccumulators; i += 4) {
        const float2 by = *reinterpret_cast<const float2*>(x_scale + m + 2 * i);
#pragma unroll
        for (int b = 0; b < kBlocks; ++b) {
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            const float sum = static_cast<float>(static_cast<int32_t>(acc[b][i + e]));
            acc[b][i + e] = __float_as_uint(sum * (e % 2 == 0 ? by.x : by.y) * channel_scale[b][e / 2]);
          }
        }
        if (i % 16 == 12) cuda::CompilerFence();
      }
      for (int t = 0; t < kept_steps; ++t) {
        const int x_stage = place.stage;
        cuda::WaitBarrier(ring.Full(x_stage), place.phase);
        place.Next(L::kStages);
        cuda::WaitBarrier(ring.Full(place.stage), place.phase);
        if (t + 1 == kept_steps) end_turn();
        const uint64_t x = cuda::OperandDescriptor(stages_at + x_stage * L::kStage);
        const uint64_t kept_w =
            cuda::OperandDescriptor(stages_at + place.stage * L::kStage + first_channel * kStep);
        cuda::WarpgroupFence();
#pragma unroll
        for (int k = 0; k < kKeptStep / 16; ++k) {
#pragma unroll
          for (int b = 0; b < kBlocks; ++b) {
            cuda::WgmmaBf16(acc[b], kept_w + b * (kChannels * kStep / 16) + 2 * k, x + 2 * k, true);
          }
        }
        cuda::WarpgroupCommit();
        cuda::WarpgroupWait<0>();
        if (boxes) {
          release(held);
          held = x_stage;
        } else {
          release(x_stage);
        }
        release(place.stage);
        place.Next(L::kStages);
      }
      // The bias is added on the way out: registers that wgmma accumulates in are not written again.
      of_channels(bias, add);
      const auto value = [&](int b, int i) { return __uint_as_float(acc[b][i]) + add[b][i % 4 / 2]; };
      if (!boxes) {
        store(w.y, value);
        continue;
      }
      if constexpr (L::kTogether) {
        cuda::NamedBarrier(2, kConsumers * kWarpgroup);  // both have multiplied with the stage
        const int parts = held * L::kStage + consumer * L::kParts * L::kPart;
        // Of accumulator e, swizzled as the copy engine reads it.
        char* to[4];
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int row = m + e % 2, channel = n % 32 + e / 2 * 8;
          to[e] = shared + parts + warp / 2 * L::kOutBox + row * 128 + (channel * 4 ^ row * 16);
        }
#pragma unroll
        for (int row = 0; row < kTileM; row += L::kOutRows) {
          const int part = row / L::kOutRows % L::kParts * L::kPart;
          if (row >= L::kParts * L::kOutRows) {
            if (thread == 0) cuda::WaitStoresRead<L::kParts - 1>();
            barrier();
          }
#pragma unroll
          for (int i = 0; i < L::kOutRows; i += 8) {
#pragma unroll
            for (int e = 0; e < 4; ++e) {
              *reinterpret_cast<float*>(to[e] + part + i * 128) = value(0, (row + i) / 2 + e);
            }
          }
          cuda::FenceToCopyEngine();
          barrier();
          if (thread == 0) {
            for (int box = 0; box < L::kPart / L::kOutBox; ++box) {
              cuda::StoreBox(maps.y[tile.linear],
                             base + static_cast<uint32_t>(parts + part + box * L::kOutBox),
                             tile.n0 + first_channel + box * 32, tile.m0 + row);
            }
            cuda::CommitStores();
          }
        }
        if (thread == 0) cuda::WaitStoresRead();
        release(held);
      }
    }
    if (L::kTogether && thread == 0) cuda::WaitStores();
  }
}

template <int kTileM, int kTileN>
absl::Status LaunchTiles(const Params& p, const cuda::DeviceInfo& device, const cuda::Stream& stream) {
  const int64_t row_bytes = matmul_f32_s8r_s8c::RowBytes(p.k);
  const int64_t kept = matmul_f32_s8r_s8c::KeptColumns(p.num_kept);
  const auto kept_map = [&](const void* values, int64_t rows, int64_t box_rows) {
    return cuda::MapOfRows(cuda::Element::kBf16, values, rows, kept, box_rows);
  };
  Maps maps{};
  SF_ASSIGN_OR_RETURN(maps.x, cuda::MapOfRows(cuda::Element::kByte, p.x, p.m, row_bytes, kTileM));
  if (kept > 0) {
    SF_ASSIGN_OR_RETURN(maps.kept_x, kept_map(p.kept_rows, p.m, kTileM));
  }
  for (int i = 0; i < p.linears.count; ++i) {
    const cuda::Linear& w = p.linears.linear[i];
    if (w.kept_w == nullptr || kept == 0) continue;
    SF_ASSIGN_OR_RETURN(maps.kept_w[i], kept_map(w.kept_rows, w.n, kTileN));
  }
  bool boxes = Layout<kTileM, kTileN>::kTogether;
  for (int i = 0; i < p.linears.count; ++i) {
    const cuda::Linear& w = p.linears.linear[i];
    boxes = boxes && w.n % 4 == 0 && reinterpret_cast<uintptr_t>(w.y) % 16 == 0;
  }
  for (int i = 0; boxes && i < p.linears.count; ++i) {
    const cuda::Linear& w = p.linears.linear[i];
    SF_ASSIGN_OR_RETURN(
        maps.y[i], cuda::MapOfRows(cuda::Element::kFloat, w.y, p.m, w.n, Layout<kTileM, kTileN>::kOutRows));
  }
  const int64_t tiles = pingpong::Tiles(p.m, p.linears, {kTileM, kTileN});
  const Work work = {.m = static_cast<int>(p.m),
                     .steps = static_cast<int>(cuda::CeilDiv(row_bytes, kStep)),
                     .tiles_m = static_cast<int>(cuda::CeilDiv(p.m, kTileM)),
                     .tiles = static_cast<int>(tiles),
                     .kept_steps = static_cast<int>(kept / kKeptStep),
                     .x_scale = p.x_scale,
                     .boxes = boxes,
                     .linears = p.linears};
  return cuda::Launch(kName, matmul_f32_s8r_u4h_sm90<kTileM, kTileN>,
                      {.grid = dim3(static_cast<unsigned>(std::min<int64_t>(tiles, device.num_sms))),
                       .block = dim3(kThreads),
                       .shared_bytes = Layout<kTileM, kTileN>::kBytes},
                      stream, maps, work);
}

}  // namespace

absl::Status RunMany(const Params& p, const pingpong::Plan& tiles, const cuda::DeviceInfo& device,
                     const cuda::Stream& stream) {
  if (p.m == 0) return absl::OkStatus();
  const pingpong::Plan plan = tiles.tile_m > 0 ? tiles : PlanMany(p.m, p.k, p.linears, device.num_sms);
  const auto is = [&](int tile_m, int tile_n) { return plan.tile_m == tile_m && plan.tile_n == tile_n; };
  if (is(256, 128)) return LaunchTiles<256, 128>(p, device, stream);
  if (is(256, 64)) return LaunchTiles<256, 64>(p, device, stream);
  if (is(128, 128)) return LaunchTiles<128, 128>(p, device, stream);
  if (is(128, 64)) return LaunchTiles<128, 64>(p, device, stream);
  if (is(64, 64)) return LaunchTiles<64, 64>(p, device, stream);
  return absl::InvalidArgumentError(absl::StrCat(kName, ": no tiles of ", plan.tile_m, " x ", plan.tile_n));
}

}  // namespace spikefold::kernels::matmul_f32_s8r_u4h
