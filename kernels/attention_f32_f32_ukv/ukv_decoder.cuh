// A warp's part of attention_f32_f32_ukv_decode_sm80.cu.
#pragma once

#include "kernels/attention_f32_f32_ukv/attention_f32_f32_ukv.cuh"
#include "kernels/attention_f32_f32_ukv/ukv_codes.cuh"
#include "kernels/cuda/ldst.cuh"
#include "kernels/cuda/mma.cuh"

namespace spikefold::kernels::attention_f32_f32_ukv {

constexpr int kMaxWarps = 8, kHeads = 4, kSlots = 3, kUnitRows = 16;
constexpr float kLog2E = 1.4426950408889634f;
constexpr float kCode = 0x1p24f;  // what a subnormal operand is multiplied by to be its code

__host__ __device__ constexpr int64_t QueryStride(int dim) { return dim + 4; }  // heads fall into other banks
// Floats that a warp leaves for the merge.
__host__ __device__ constexpr int64_t LeftFloats(int dim) { return kHeads * (dim + 2); }
__host__ __device__ inline int64_t SlotBytes(const KvPageLayout& l, int dim, bool turned) {
  const int64_t keys = l.v_codes + (turned ? dim * 4 : 0), values = l.head_bytes - l.v_codes;
  return ((keys > values ? keys : values) + 127) / 128 * 128;
}
__host__ __device__ constexpr int64_t TurnBytes(int dim, bool turned) {
  return turned ? 64 * (dim / 2) * 4 : 0;
}
// Queries, minima and scales of channels, and the turns.
__host__ __device__ constexpr int64_t FixedBytes(int dim, bool turned) {
  return 4 * (kHeads * QueryStride(dim) + 2 * dim) + TurnBytes(dim, turned);
}

// Two floats in two f16: high halves, or what they leave.
__device__ inline uint32_t Part(float a, float b, bool low) {
  const __half2 high = __floats2half2_rn(a, b);
  if (!low) return Bits(high);
  const float2 rounded = __half22float2(high);
  return Bits(__floats2half2_rn(a - rounded.x, b - rounded.y));
}

template <int kBits, int kDim, bool kTurned>
class Decoder {
  using C = UkvCodes<kBits>;
  static constexpr int kSteps = kDim / 16, kRuns = kDim / 64, kHalf = kDim / 2;
  static constexpr float kScore = C::kSubnormal && !kTurned ? kCode : 1.0f;
  static constexpr float kOut = C::kSubnormal ? kCode : 1.0f;

 public:
  __device__ __forceinline__ Decoder(const CudaParams& p, const CudaKvLayer& layer, char* shared, int kv_head)
      : p_(p),
        c_(layer),
        kv_head_(kv_head),
        queries_(reinterpret_cast<float*>(shared)),
        channel_(queries_ + kHeads * QueryStride(kDim)),
        turns_(reinterpret_cast<uint2*>(channel_ + 2 * kDim)),
        lane_(static_cast<int>(threadIdx.x) % 32),
        g_(lane_ / 4),
        t_(lane_ % 4),
        low_(g_ >= kHeads) {
    const int warp = static_cast<int>(threadIdx.x) / 32;
    slot_bytes_ = static_cast<int>(SlotBytes(c_.layout, kDim, kTurned));
    if (C::kAlternates && (g_ >> 1 & 1) != 0) order_ = {order_.second, order_.first};
    ring_ = shared + FixedBytes(kDim, kTurned) + int64_t{warp} * kSlots * slot_bytes_;
  }

  // By the block: queries in units of log2, static scales, the turns of 64 places.
  __device__ __forceinline__ void Stage(const float* q, int heads) {
    for (int i = static_cast<int>(threadIdx.x); i < kHeads * kDim; i += static_cast<int>(blockDim.x)) {
      const int h = i / kDim, column = i % kDim;
      queries_[h * QueryStride(kDim) + column] =
          h < heads ? q[h * kDim + column] * (p_.scale * kLog2E) : 0.0f;
    }
    if (kBits < 16 && c_.format.key_scale == KeyScale::kChannel) {
      for (int i = static_cast<int>(threadIdx.x); i < kDim; i += static_cast<int>(blockDim.x)) {
        channel_[i] = c_.channels.scale[kv_head_ * kDim + i];
        channel_[kDim + i] = c_.channels.min[kv_head_ * kDim + i];
      }
    }
  }
  __device__ __forceinline__ void StageTurns() {
    if constexpr (kTurned) {
      // [tile, row half][step][pair of channels][lane]: {cos of two channels, sin}
      for (int i = static_cast<int>(threadIdx.x); i < 64 * kHalf / 2; i += static_cast<int>(blockDim.x)) {
        const int lane = i % 32, pair = i / 32 % 2, step = i / 64 % (kSteps / 2), row = i / (32 * kSteps);
        const int place = C::Place(row / 2, lane / 4 + row % 2 * 8);
        const int channel = 16 * step + 8 * pair + lane % 4;
        const float *cos = c_.cos + place * kHalf, *sin = c_.sin + place * kHalf;
        turns_[i] = make_uint2(Bits(__floats2half2_rn(cos[channel], cos[channel + 4])),
                               Bits(__floats2half2_rn(sin[channel], sin[channel + 4])));
      }
    }
  }

  // Pages page0, page0 + step, ... below `end`; then rows.
  __device__ __forceinline__ void Pages(int page0, int step, int end, int seen_from) {
    const int count = page0 < end ? (end - page0 + step - 1) / step : 0;
    const auto issue = [&](int at) {
      if (at < 2 * count) Copy(page0 + at / 2 * step, at % 2 != 0, ring_ + at % kSlots * slot_bytes_);
      cuda::CommitCopies();
    };
    for (int at = 0; at + 1 < kSlots; ++at) issue(at);
    int slot = 0;
    const auto next = [&](int at) {
      cuda::WaitCopies<kSlots - 2>();
      __syncwarp();  // the slot is full for all lanes, and all are done with the one before
      issue(at + kSlots - 1);
      const char* full = ring_ + slot * slot_bytes_;
      slot = slot + 1 == kSlots ? 0 : slot + 1;
      return full;
    };
    for (int i = 0; i < count; ++i) {
      const int begin = PageBegin(c_, page0 + i * step);
      float score[4][4];
      Scores(next(2 * i), score);
      Weigh<4>(score, [&](int tile, int row) { return begin + C::Place(tile, row) >= seen_from; });
      Values(next(2 * i + 1), score);
    }
    cuda::WaitCopies<0>();
#pragma unroll
    for (int j = 0; j < kSteps; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) out_[j][e] *= kOut;
    }
  }

  // `count` f16 rows, 16 at most; at(i) is where row i of this head begins in k and v.
  template <typename At>
  __device__ __forceinline__ void Rows(const uint16_t* k, const uint16_t* v, int count, At at) {
    int64_t k_at[2], v_at[4];  // of this lane's rows of either operand
#pragma unroll
    for (int e = 0; e < 2; ++e) k_at[e] = at(min(g_ + 8 * e, count - 1));
#pragma unroll
    for (int e = 0; e < 4; ++e) v_at[e] = at(min(RowOfPair(e), count - 1));
    float score[1][4] = {};
#pragma unroll 2
    for (int s = 0; s < kSteps; ++s) {
      uint32_t q[2], a[4];
      Query(queries_, 1.0f, s, q);
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const uint16_t* from = k + k_at[e % 2] + 16 * s + e / 2 * 8 + t_;
        a[e] = g_ + e % 2 * 8 < count ? from[0] | static_cast<uint32_t>(from[4]) << 16 : 0u;
      }
      cuda::MmaF16(score[0], a, q[0], q[1]);
    }
#pragma unroll
    for (int e = 0; e < 4; ++e) score[0][e] += __shfl_xor_sync(0xffffffffu, score[0][e], 2);
    Weigh<1>(score, [&](int, int row) { return row < count; });
    uint32_t b[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      b[half] = cuda::Transposed(Part(score[0][2 * half], score[0][2 * half + 1], t_ >= 2));
    }
#pragma unroll
    for (int r = 0; r < kRuns; ++r) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        uint32_t w[4], a[4];
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const uint16_t* from = v + v_at[e] + 64 * r;
          const uint32_t low = from[C::Place(j, g_)], high = from[C::Place(j, g_ + 8)];
          w[e] = RowOfPair(e) < count ? low | high << 16 : 0u;
        }
        a[0] = LowHalves(w[0], w[1]);
        a[1] = HighHalves(w[0], w[1]);
        a[2] = LowHalves(w[2], w[3]);
        a[3] = HighHalves(w[2], w[3]);
        cuda::MmaF16(out_[4 * r + j], a, b[0], b[1]);
      }
    }
  }

  // Leaves [kHeads][kDim + 2]: values, maximum, total.
  __device__ __forceinline__ void Leave(float* to) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      for (int offset = 4; offset < 32; offset *= 2) {
        total_[e] += __shfl_xor_sync(0xffffffffu, total_[e], offset);
        minima_[e] += __shfl_xor_sync(0xffffffffu, minima_[e], offset);
      }
    }
#pragma unroll
    for (int j = 0; j < kSteps; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const float value = out_[j][e] + __shfl_xor_sync(0xffffffffu, out_[j][e], 2);  // both halves
        const int head = 2 * t_ + e % 2;
        const int channel = 64 * (j / 4) + C::Place(j % 4, g_ + e / 2 * 8);
        if (t_ < 2) to[head * (kDim + 2) + channel] = value + minima_[e % 2];
      }
    }
    if (lane_ >= 2) return;
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      to[(2 * t_ + e) * (kDim + 2) + kDim] = max_[e];
      to[(2 * t_ + e) * (kDim + 2) + kDim + 1] = total_[e];
    }
  }

 private:
  // The row along k of half e of a left operand's registers: 2t, 2t + 1, 2t + 8, 2t + 9.
  __device__ __forceinline__ int RowOfPair(int e) const { return 2 * t_ + e % 2 + e / 2 * 8; }

  // 16-byte parts of values: those that lanes of a load meet in one bank are moved apart.
  __device__ __forceinline__ static int Swizzled(int part) {
    constexpr int kParts = kRuns * C::kRunBytes / 16;  // of a position
    if constexpr (kRuns < 2) return part;
    return part ^ ((part / kParts >> C::kSwizzleShift & C::kSwizzleMask) << 1);
  }

  __device__ __forceinline__ void Copy(int page, bool values, char* slot) const {
    const uint8_t* const part = PageHead(c_, page, kv_head_);
    const uint32_t to = cuda::SharedAddress(slot);
    const int begin = values ? static_cast<int>(c_.layout.v_codes) : 0;
    const int parts =
        static_cast<int>(values ? c_.layout.head_bytes - c_.layout.v_codes : c_.layout.v_codes) / 16;
    const int codes = values ? 64 * kRuns * C::kRunBytes / 16 : 0;
#pragma unroll 4
    for (int i = lane_; i < parts; i += 32) {
      const int place = i < codes ? Swizzled(i) : i;
      cuda::CopyAsync16(to + static_cast<uint32_t>(place) * 16, part + begin + i * 16, true);
    }
    if constexpr (kTurned) {
      if (values) return;
      constexpr int kParts = kHalf / 4;
      const int64_t at = int64_t{PageBegin(c_, page)} * kHalf;
      for (int i = lane_; i < 2 * kParts; i += 32) {
        const float* from = (i < kParts ? c_.cos : c_.sin) + at + i % kParts * 4;
        cuda::CopyAsync16(to + static_cast<uint32_t>(parts + i) * 16, from, true);
      }
    }
  }

  // Operand registers of step s from this lane's four channels of a head's row in shared memory.
  __device__ __forceinline__ void Query(const float* queries, float by, int s, uint32_t (&q)[2]) const {
    const float* x = queries + (g_ % kHeads) * QueryStride(kDim) + 16 * s + t_;
    q[0] = Part(x[0] * by, x[4] * by, low_);
    q[1] = Part(x[8] * by, x[12] * by, low_);
  }

  // Scale and minimum of channel c of a page's keys.
  __device__ __forceinline__ float2 ScaleOf(const char* keys, int c) const {
    if (c_.format.key_scale == KeyScale::kChannel) return make_float2(channel_[c], channel_[kDim + c]);
    if (c_.format.key_scale == KeyScale::kToken) return make_float2(1, 0);
    const auto* scales = reinterpret_cast<const uint16_t*>(keys + c_.layout.k_scales);
    return make_float2(HalfBits(scales[c]), HalfBits(scales[kDim + c]));
  }

  // The value at a lane that belongs to head h, for the two heads of this lane's columns.
  __device__ __forceinline__ void ToColumns(float of_head, float (&out)[2]) const {
    of_head += __shfl_xor_sync(0xffffffffu, of_head, 1);
    of_head += __shfl_xor_sync(0xffffffffu, of_head, 2);
#pragma unroll
    for (int e = 0; e < 2; ++e) out[e] = __shfl_sync(0xffffffffu, of_head, (2 * (t_ & 1) + e) * 4);
  }

  __device__ __forceinline__ void LoadKeys(const char* keys, int s, uint32_t (&w)[4][C::kWords]) const {
#pragma unroll
    for (int e = 0; e < 4; ++e) C::Load(keys + (16 * s + 4 * e + t_) * C::kRunBytes + C::Offset(g_), w[e]);
  }
  // Left operand of tile i from four channels' words.
  __device__ __forceinline__ void Operand(const uint32_t (&w)[4][C::kWords], int i, uint32_t (&a)[4]) const {
    C::Split(w[0], w[1], i, order_, a[0], a[1]);
    C::Split(w[2], w[3], i, order_, a[2], a[3]);
  }

  __device__ __forceinline__ void Scores(const char* keys, float (&score)[4][4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int e = 0; e < 4; ++e) score[i][e] = 0;
    }
    float constant = 0;  // what the minima add to every score of this lane's head
    if constexpr (kTurned) {
      TurnedScores(keys, score);
    } else {
#pragma unroll
      for (int s = 0; s < kSteps; ++s) {
        uint32_t w[4][C::kWords], q[2];
        LoadKeys(keys, s, w);
        if constexpr (kBits < 16) {
          const float* x = queries_ + (g_ % kHeads) * QueryStride(kDim) + 16 * s + t_;
          float scaled[4];
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            const float2 scale = ScaleOf(keys, 16 * s + 4 * e + t_);
            scaled[e] = x[4 * e] * scale.x;
            constant = c_.format.key_scale == KeyScale::kToken ? constant + x[4 * e]
                                                               : fmaf(x[4 * e], scale.y, constant);
          }
          q[0] = Part(scaled[0], scaled[1], low_);
          q[1] = Part(scaled[2], scaled[3], low_);
        } else {
          Query(queries_, 1.0f, s, q);
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          uint32_t a[4];
          Operand(w, i, a);
          cuda::MmaF16(score[i], a, q[0], q[1]);
        }
      }
    }
    float constants[2];
    ToColumns(constant, constants);
    const bool by_token = kBits < 16 && !kTurned && c_.format.key_scale == KeyScale::kToken;
    const auto* scales = reinterpret_cast<const uint16_t*>(keys + c_.layout.k_scales);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        float s = score[i][e] + __shfl_xor_sync(0xffffffffu, score[i][e], 2);  // both halves of the query
        s *= kScore;
        if (by_token) {
          const int place = C::Place(i, g_ + e / 2 * 8);
          s = fmaf(s, HalfBits(scales[place]), constants[e % 2] * HalfBits(scales[64 + place]));
        } else if constexpr (!kTurned && kBits < 16) {
          s += constants[e % 2];
        }
        score[i][e] = s;
      }
    }
  }

  // Channels i and i + kDim/2 together: they turn each other.
  __device__ __forceinline__ void TurnedScores(const char* keys, float (&score)[4][4]) {
    const float* const cos = reinterpret_cast<const float*>(keys + c_.layout.v_codes);
    const float* const sin = cos + kHalf;
    const float* const x = queries_ + (g_ % kHeads) * QueryStride(kDim);
#pragma unroll 1
    for (int s = 0; s < kSteps / 2; ++s) {
      float near[4], far[4];
      uint32_t scale[2][2], min[2][2];  // [near, far][pair]
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int i = 16 * s + 4 * e + t_;
        near[e] = x[i] * cos[i] + x[i + kHalf] * sin[i];
        far[e] = x[i + kHalf] * cos[i] - x[i] * sin[i];
      }
#pragma unroll
      for (int side = 0; side < 2; ++side) {
#pragma unroll
        for (int pair = 0; pair < 2; ++pair) {
          const int i = 16 * s + 8 * pair + t_ + side * kHalf;
          const float2 a = ScaleOf(keys, i), b = ScaleOf(keys, i + 4);
          scale[side][pair] = Bits(__floats2half2_rn(a.x, b.x));
          min[side][pair] = Bits(__floats2half2_rn(a.y, b.y));
        }
      }
      const uint32_t q_near[2] = {Part(near[0], near[1], low_), Part(near[2], near[3], low_)};
      const uint32_t q_far[2] = {Part(far[0], far[1], low_), Part(far[2], far[3], low_)};
      uint32_t w_near[4][C::kWords], w_far[4][C::kWords];
      LoadKeys(keys, s, w_near);
      LoadKeys(keys, s + kSteps / 2, w_far);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        uint32_t a[4], b[4];
        Operand(w_near, i, a);
        Operand(w_far, i, b);
#pragma unroll
        for (int e = 0; e < 4; ++e) {  // e % 2: row half, e / 2: pair
          const uint2 turn = turns_[(((2 * i + e % 2) * (kSteps / 2) + s) * 2 + e / 2) * 32 + lane_];
          const __half2 c = Halves(turn.x), n = Halves(turn.y);
          const __half2 k_near = __hfma2(Real(a[e]), Halves(scale[0][e / 2]), Halves(min[0][e / 2]));
          const __half2 k_far = __hfma2(Real(b[e]), Halves(scale[1][e / 2]), Halves(min[1][e / 2]));
          a[e] = Bits(__hfma2(__hneg2(k_far), n, __hmul2(k_near, c)));
          b[e] = Bits(__hfma2(k_near, n, __hmul2(k_far, c)));
        }
        cuda::MmaF16(score[i], a, q_near[0], q_near[1]);
        cuda::MmaF16(score[i], b, q_far[0], q_far[1]);
      }
    }
  }

  // Scores -> weights relative to the maximum so far; what was summed up shrinks with it.
  template <int kTiles, typename Seen>
  __device__ __forceinline__ void Weigh(float (&score)[kTiles][4], Seen seen) {
    float max[2] = {max_[0], max_[1]};
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        if (!seen(i, g_ + e / 2 * 8)) score[i][e] = -INFINITY;
        max[e % 2] = fmaxf(max[e % 2], score[i][e]);
      }
    }
    float base[2], shrink[2];
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      for (int offset = 4; offset < 32; offset *= 2) {
        max[e] = fmaxf(max[e], __shfl_xor_sync(0xffffffffu, max[e], offset));
      }
      base[e] = max[e] == -INFINITY ? 0.0f : max[e];
      shrink[e] = exp2f(max_[e] - base[e]);
      max_[e] = max[e];
      total_[e] *= shrink[e];
      minima_[e] *= shrink[e];
    }
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        score[i][e] = exp2f(score[i][e] - base[e % 2]);
        total_[e % 2] += score[i][e];
      }
    }
#pragma unroll
    for (int j = 0; j < kSteps; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) out_[j][e] *= shrink[e % 2];
    }
  }

  __device__ __forceinline__ void Values(const char* values, float (&weight)[4][4]) {
    const auto* scales = reinterpret_cast<const uint16_t*>(values + (c_.layout.v_scales - c_.layout.v_codes));
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      uint32_t b[2];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float(&w)[4] = weight[i];
        if constexpr (kBits < 16) {
          const int place = C::Place(i, g_ + half * 8);
          const float scale = HalfBits(scales[place]), min = HalfBits(scales[64 + place]);
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            minima_[e] = fmaf(w[2 * half + e], min, minima_[e]);
            w[2 * half + e] *= scale;
          }
        }
        b[half] = cuda::Transposed(Part(w[2 * half], w[2 * half + 1], t_ >= 2));
      }
#pragma unroll
      for (int r = 0; r < kRuns; ++r) {
        uint32_t w[4][C::kWords];
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int place = C::Place(i, RowOfPair(e));
          LoadValues(values, (place * kRuns + r) * C::kRunBytes + C::Offset(g_), w[e]);
        }
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          uint32_t a[4];
          Operand(w, j, a);
          cuda::MmaF16(out_[4 * r + j], a, b[0], b[1]);
        }
      }
    }
  }
  __device__ __forceinline__ void LoadValues(const char* values, int byte, uint32_t (&w)[C::kWords]) const {
    if constexpr (kBits == 16) {  // the words of a run lie in other 16-byte parts
#pragma unroll
      for (int i = 0; i < C::kWords; ++i) {
        const int at = byte + 32 * i;
        w[i] = *reinterpret_cast<const uint32_t*>(values + Swizzled(at / 16) * 16 + at % 16);
      }
    } else {
      C::Load(values + Swizzled(byte / 16) * 16 + byte % 16, w);
    }
  }

  const CudaParams& p_;
  const CudaKvLayer& c_;
  const int kv_head_;
  float* const queries_;  // [kHeads][QueryStride]
  float* const channel_;  // static scales, then minima
  uint2* const turns_;
  const int lane_, g_, t_;
  const bool low_;  // this lane's column of the right operand is of low halves
  RowOrder order_;
  int slot_bytes_ = 0;
  char* ring_ = nullptr;
  float out_[kSteps][4] = {};
  float max_[2] = {-INFINITY, -INFINITY}, total_[2] = {0, 0}, minima_[2] = {0, 0};
};

}  // namespace spikefold::kernels::attention_f32_f32_ukv
