// A warp's part of attention_f32_f32_ukv_decode_sm80.cu.
#pragma once

#include <type_traits>

#include "kernels/attention_f32_f32_ukv/attention_f32_f32_ukv.cuh"
#include "kernels/attention_f32_f32_ukv/ukv_codes.cuh"
#include "kernels/cuda/exp2.cuh"
#include "kernels/cuda/ldst.cuh"
#include "kernels/cuda/mma.cuh"

namespace spikefold::kernels::attention_f32_f32_ukv {

constexpr int kMaxWarps = 12, kHeads = 4, kUnitRows = 16;
// Parts of pages, keys or values, that a warp holds: at 8 bits more warps serve better than a third part.
template <int kBits>
inline constexpr int kSlotsFor = kBits == 4 ? 3 : 2;
constexpr float kLog2E = 1.4426950408889634f;

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
// Queries and turns. The slots behind them begin at a multiple of 128 bytes: where each cache line came to
// lie across two rows of shared memory, multiprocessors fell behind each other and 8-bit pages read at 3.0
// TB/s instead of 3.8.
__host__ __device__ constexpr int64_t FixedBytes(int dim, bool turned) {
  return (4 * kHeads * QueryStride(dim) + TurnBytes(dim, turned) + 127) / 128 * 128;
}

// Two floats in two f16: high halves, or what they leave.
__device__ inline uint32_t Part(float a, float b, bool low) {
  const __half2 high = __floats2half2_rn(a, b);
  const float2 rounded = __half22float2(high);
  const uint32_t rest = Bits(__floats2half2_rn(a - rounded.x, b - rounded.y));
  return low ? rest : Bits(high);  // a choice, not a branch: lanes of a warp differ
}

// A head's part of a page, in bytes: what KvPageLayout says of these forms. Keys, their scales, values, their
// scales.
template <int kBits, int kDim, KeyScale kScale>
struct PartLayout {
  static constexpr int kCodes = 8 * kBits * kDim;  // of keys, and of values
  static constexpr int kKeyScales = kBits == 16 ? 0 : 4 * (kScale == KeyScale::kToken ? 64 : kDim);
  static constexpr int kValueScales = kBits == 16 ? 0 : 4 * 64;
  static constexpr int kValuesAt = kCodes + kKeyScales;
  static bool Is(const KvPageLayout& l) {
    return l.k_codes == 0 && l.k_scales == kCodes && l.v_codes == kValuesAt &&
           l.v_scales == kValuesAt + kCodes && l.head_bytes >= l.v_scales + kValueScales;
  }
};

template <int kBits, int kDim, bool kTurned, KeyScale kScale>
class Decoder {
  using C = UkvCodes<kBits>;
  static constexpr int kUnroll = kBits == 16 ? 1 : 2;  // registers
  static constexpr int kSlots = kSlotsFor<kBits>;
  using PageLayout = PartLayout<kBits, kDim, kScale>;
  using Keys = std::false_type;  // parts of a page
  using Values = std::true_type;
  static constexpr int kSteps = kDim / 16, kRuns = kDim / 64, kHalf = kDim / 2;

 public:
  __device__ __forceinline__ Decoder(const CudaParams& p, const CudaKvLayer& layer, char* shared, int kv_head)
      : p_(p),
        c_(layer),
        kv_head_(kv_head),
        queries_(reinterpret_cast<float*>(shared)),
        turns_(reinterpret_cast<uint2*>(queries_ + kHeads * QueryStride(kDim))),
        lane_(static_cast<int>(threadIdx.x) % 32),
        g_(lane_ / 4),
        t_(lane_ % 4),
        low_(g_ >= kHeads),
        swizzle_(kRuns > 1 ? (kBits == 4 ? t_ / 2 : t_) * 32 : 0) {
    const int warp = static_cast<int>(threadIdx.x) / 32;
    slot_bytes_ = static_cast<int>(SlotBytes(c_.layout, kDim, kTurned));
    if (C::kAlternates && (g_ >> 1 & 1) != 0) order_ = {order_.second, order_.first};
    ring_ = shared + FixedBytes(kDim, kTurned) + int64_t{warp} * kSlots * slot_bytes_;
  }

  // By the block: queries in units of log2; the turns of 64 places.
  __device__ __forceinline__ void Stage(const float* q, int heads) {
    for (int i = static_cast<int>(threadIdx.x); i < kHeads * kDim; i += static_cast<int>(blockDim.x)) {
      const int h = i / kDim, column = i % kDim;
      queries_[h * QueryStride(kDim) + column] =
          h < heads ? q[h * kDim + column] * (p_.scale * kLog2E) : 0.0f;
    }
  }
  __device__ __forceinline__ void StageTurns() {
    if constexpr (kTurned) {
      // [tile, row half][step][pair of channels][lane]: {cos of two channels, sin}. A thread takes eight
      // channels of a place, which are four lanes'; all of its loads are under way at once.
      constexpr int kEights = kHalf / 8;
#pragma unroll 2
      for (int i = static_cast<int>(threadIdx.x); i < 64 * kEights; i += static_cast<int>(blockDim.x)) {
        const int eight = i % kEights, g = i / kEights % 8, row = i / kEights / 8;
        const int64_t at = C::Place(row / 2, g + row % 2 * 8) * kHalf + 8 * eight;
        float cos[8], sin[8];
        LoadEight(c_.cos + at, cos);
        LoadEight(c_.sin + at, sin);
        uint32_t turn[8];
#pragma unroll
        for (int t = 0; t < 4; ++t) {
          const int first = C::Channel(0, t), second = C::Channel(1, t);
          turn[2 * t] = Bits(__floats2half2_rn(cos[first], cos[second]));
          turn[2 * t + 1] = Bits(__floats2half2_rn(sin[first], sin[second]));
        }
        uint4* const to = reinterpret_cast<uint4*>(turns_ + (row * kEights + eight) * 32 + 4 * g);
        to[0] = make_uint4(turn[0], turn[1], turn[2], turn[3]);
        to[1] = make_uint4(turn[4], turn[5], turn[6], turn[7]);
      }
    }
  }

  // Pages page0, page0 + step, ... below `end`. The first parts are on their way while before() runs.
  template <typename Before>
  __device__ __forceinline__ void Pages(int page0, int step, int end, int seen_from, Before before) {
    const auto slots = static_cast<unsigned>(c_.page_slots), step_slots = static_cast<unsigned>(step) % slots;
    int to_copy = page0;
    unsigned place = static_cast<unsigned>(page0) % slots;
    const auto issue = [&](auto values, char* to) {
      if (to_copy < end) {
        Copy<values.value>(c_.pages + place * c_.layout.page_bytes + kv_head_ * c_.layout.head_bytes, to_copy,
                           to);
        if constexpr (values.value) {
          to_copy += step;
          place += step_slots;
          if (place >= slots) place -= slots;
        }
      }
      cuda::CommitCopies();
    };
    char* const last = ring_ + (kSlots - 1) * slot_bytes_;
    char *slot = ring_, *before_it = last;
    issue(Keys(), slot);
    if constexpr (kSlots == 3) issue(Values(), slot + slot_bytes_);
    before();
    InUnits([](float unit) { return 1 / unit; });  // pages add up in units of their operands
    const auto next = [&](auto to_issue) {
      cuda::WaitCopies<kSlots - 2>();
      __syncwarp();  // the slot is full for all lanes, and all are done with the one before
      issue(to_issue, before_it);
      before_it = slot;
      slot = slot == last ? ring_ : slot + slot_bytes_;
      return before_it;
    };
    using BesideKeys = std::conditional_t<kSlots == 3, Keys, Values>;  // what the ring has room for then
    using BesideValues = std::conditional_t<kSlots == 3, Values, Keys>;
    for (int page = page0; page < end; page += step) {
      const int begin = PageBegin(c_, page);
      const bool whole = begin >= seen_from;
      float score[4][4];
      Scores(next(BesideKeys()), score);
      Weigh<4>(score, [&](int tile, int row) { return whole || begin + C::Place(tile, row) >= seen_from; });
      AddValues(next(BesideValues()), score);
    }
    cuda::WaitCopies<0>();
    InUnits([](float unit) { return unit; });
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
#pragma unroll 4
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
  template <typename By>
  __device__ __forceinline__ void InUnits(By by) {
#pragma unroll
    for (int j = 0; j < kSteps; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) out_[j][e] *= by(C::Unit(j % 4));
    }
  }

  // The row along k of half e of a left operand's registers: 2t, 2t + 1, 2t + 8, 2t + 9.
  __device__ __forceinline__ int RowOfPair(int e) const { return 2 * t_ + e % 2 + e / 2 * 8; }

  // The keys or the values of a page, of which this head's part lies at `part`, into a slot. 16-byte pieces
  // of values that lanes of a later load would meet in one bank are moved apart: which piece of a position's,
  // by bits of the position.
  template <bool kValues>
  __device__ __forceinline__ void Copy(const uint8_t* part, int page, char* slot) const {
    constexpr int kPieces = PageLayout::kCodes / 16;      // of codes
    constexpr int kPosition = kRuns * C::kRunBytes / 16;  // of a position's values
    constexpr int kScalePieces = (kValues ? PageLayout::kValueScales : PageLayout::kKeyScales) / 16;
    const uint8_t* const from = part + (kValues ? PageLayout::kValuesAt : 0) + lane_ * 16;
    const uint32_t to = cuda::SharedAddress(slot);
#pragma unroll
    for (int j = 0; j < kPieces / 32; ++j) {
      const int turn = kRuns > 1 ? (j * 32 / kPosition >> C::kSwizzleShift & C::kSwizzleMask) << 1 : 0;
      const int piece = 32 * j + (kValues ? lane_ ^ turn : lane_);
      cuda::CopyAsync16(to + static_cast<uint32_t>(piece) * 16, from + 512 * j, true);
    }
    if (lane_ < kScalePieces) {
      cuda::CopyAsync16(to + static_cast<uint32_t>(PageLayout::kCodes + 16 * lane_),
                        from + PageLayout::kCodes, true);
    }
    if constexpr (kTurned && !kValues) {
      constexpr int kParts = kHalf / 4;
      const float* const turn =
          (lane_ < kParts ? c_.cos : c_.sin) + int64_t{PageBegin(c_, page)} * kHalf + lane_ % kParts * 4;
      if (lane_ < 2 * kParts) {
        cuda::CopyAsync16(to + static_cast<uint32_t>(PageLayout::kValuesAt + 16 * lane_), turn, true);
      }
    }
  }

  // Operand registers of step s from this lane's four channels of a head's row in shared memory.
  __device__ __forceinline__ void Query(const float* queries, float by, int s, uint32_t (&q)[2]) const {
    const float* x = queries + (g_ % kHeads) * QueryStride(kDim) + 16 * s + t_;
    q[0] = Part(x[0] * by, x[4] * by, low_);
    q[1] = Part(x[8] * by, x[12] * by, low_);
  }

  __device__ __forceinline__ static void LoadEight(const float* x, float (&v)[8]) {
#pragma unroll
    for (int i = 0; i < 8; i += 4) {
      const float4 four = *reinterpret_cast<const float4*>(x + i);
      v[i] = four.x, v[i + 1] = four.y, v[i + 2] = four.z, v[i + 3] = four.w;
    }
  }
  // Four values of this lane's channels, of 16 from x on.
  __device__ __forceinline__ void LoadFour(const float* x, float (&v)[4]) const {
#pragma unroll
    for (int e = 0; e < 4; e += 2) {
      if constexpr (C::kPairs) {
        const float2 both = *reinterpret_cast<const float2*>(x + C::Channel(e, t_));
        v[e] = both.x, v[e + 1] = both.y;
      } else {
        v[e] = x[C::Channel(e, t_)], v[e + 1] = x[C::Channel(e + 1, t_)];
      }
    }
  }
  // Two f16 of them, e = 2 * pair and the next.
  __device__ __forceinline__ uint32_t LoadTwo(const uint16_t* x, int pair) const {
    if constexpr (C::kPairs) return *reinterpret_cast<const uint32_t*>(x + C::Channel(2 * pair, t_));
    return LowHalves(x[C::Channel(2 * pair, t_)], x[C::Channel(2 * pair + 1, t_)]);
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
    for (int e = 0; e < 4; ++e) {
      C::Load(keys + (16 * s + C::Channel(e, t_)) * C::kRunBytes + C::Offset(g_), w[e]);
    }
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
    float turned_unit = 1;
    if constexpr (kTurned) {
      turned_unit = TurnedScores(keys, score);
    } else {
#pragma unroll kUnroll
      for (int s = 0; s < kSteps; ++s) {
        uint32_t w[4][C::kWords], q[2];
        LoadKeys(keys, s, w);
        if constexpr (kBits < 16) {
          float x[4];
          LoadFour(queries_ + (g_ % kHeads) * QueryStride(kDim) + 16 * s, x);
          if constexpr (kScale == KeyScale::kToken) {
#pragma unroll
            for (int e = 0; e < 4; ++e) constant += x[e];
          } else {
            const auto* scales = reinterpret_cast<const uint16_t*>(keys + PageLayout::kCodes) + 16 * s;
#pragma unroll
            for (int pair = 0; pair < 2; ++pair) {
              const float2 scale = __half22float2(Halves(LoadTwo(scales, pair)));
              const float2 min = __half22float2(Halves(LoadTwo(scales + kDim, pair)));
              constant = fmaf(x[2 * pair + 1], min.y, fmaf(x[2 * pair], min.x, constant));
              x[2 * pair] *= scale.x;
              x[2 * pair + 1] *= scale.y;
            }
          }
          q[0] = Part(x[0], x[1], low_);
          q[1] = Part(x[2], x[3], low_);
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
    constexpr bool kByToken = kBits < 16 && kScale == KeyScale::kToken;
    const auto* scales = reinterpret_cast<const uint16_t*>(keys + PageLayout::kCodes);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        float s = score[i][e] + __shfl_xor_sync(0xffffffffu, score[i][e], 2);  // both halves of the query
        s *= kTurned ? turned_unit : C::Unit(i);
        if constexpr (kByToken) {
          const int place = C::Place(i, g_ + e / 2 * 8);
          s = fmaf(s, HalfBits(scales[place]), constants[e % 2] * HalfBits(scales[64 + place]));
        } else if constexpr (!kTurned && kBits < 16) {
          s += constants[e % 2];
        }
        score[i][e] = s;
      }
    }
  }

  // The power of two, as an f16, that puts the largest scale of a page's keys into [2^14, 2^15), or 2^15.
  __device__ __forceinline__ uint32_t KeyUnit(const char* keys) const {
    const auto* scales = reinterpret_cast<const uint32_t*>(keys + PageLayout::kCodes);
    constexpr int kOfLane = kDim / 64;
    uint32_t largest = 0;
#pragma unroll
    for (int i = 0; i < kOfLane; ++i) largest = __vmaxu2(largest, scales[kOfLane * lane_ + i]);
    largest = __reduce_max_sync(0xffffffffu, max(largest & 0xffff, largest >> 16));
    return min(44 - static_cast<int>(largest >> 10), 30) << 10;
  }

  // Channels i and i + kDim/2 together: they turn each other. In f16, where codes stay subnormal numbers and
  // their scales make up for it; returns what scores are then to be multiplied by.
  __device__ __forceinline__ float TurnedScores(const char* keys, float (&score)[4][4]) {
    const float* const cos = reinterpret_cast<const float*>(keys + PageLayout::kValuesAt);
    const float* const sin = cos + kHalf;
    const float* const x = queries_ + (g_ % kHeads) * QueryStride(kDim);
    const uint32_t unit_bits = KeyUnit(keys);
    const __half unit = __ushort_as_half(static_cast<uint16_t>(unit_bits));
    static_assert(C::Unit(0) == 0x1p24f || kBits == 16);
    const float back = __uint_as_float((166 - (unit_bits >> 10)) << 23);  // 2^24 / unit
    const __half2 of_scales = __half2half2(unit),
                  of_minima = __float2half2_rn(__uint_as_float((88 + (unit_bits >> 10)) << 23));
#pragma unroll 1
    for (int s = 0; s < kSteps / 2; ++s) {
      float cos_of[4], sin_of[4], near[4], far[4];
      LoadFour(cos + 16 * s, cos_of);
      LoadFour(sin + 16 * s, sin_of);
      LoadFour(x + 16 * s, near);
      LoadFour(x + 16 * s + kHalf, far);
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const float a = near[e], b = far[e];
        near[e] = fmaf(b, sin_of[e], a * cos_of[e]);
        far[e] = fmaf(-a, sin_of[e], b * cos_of[e]);
      }
      __half2 scale[2][2][2], min[2][2];  // [near, far][pair], of tiles of either unit
#pragma unroll
      for (int side = 0; side < 2; ++side) {
#pragma unroll
        for (int pair = 0; pair < 2; ++pair) {
          const auto* scales =
              reinterpret_cast<const uint16_t*>(keys + PageLayout::kCodes) + 16 * s + side * kHalf;
          scale[side][pair][0] = __hmul2(Halves(LoadTwo(scales, pair)), of_scales);
          scale[side][pair][1] = __hmul2(scale[side][pair][0], __float2half2_rn(C::Unit(1) / C::Unit(0)));
          min[side][pair] = __hmul2(Halves(LoadTwo(scales + kDim, pair)), of_minima);
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
        constexpr bool kUnits = C::Unit(0) != C::Unit(1);
#pragma unroll
        for (int e = 0; e < 4; ++e) {  // e % 2: row half, e / 2: pair
          const uint2 turn = turns_[(((2 * i + e % 2) * (kSteps / 2) + s) * 2 + e / 2) * 32 + lane_];
          const __half2 c = Halves(turn.x), n = Halves(turn.y);
          const int of = kUnits ? i % 2 : 0;
          const __half2 k_near = __hfma2(Halves(a[e]), scale[0][e / 2][of], min[0][e / 2]);
          const __half2 k_far = __hfma2(Halves(b[e]), scale[1][e / 2][of], min[1][e / 2]);
          a[e] = Bits(__hfma2(__hneg2(k_far), n, __hmul2(k_near, c)));
          b[e] = Bits(__hfma2(k_near, n, __hmul2(k_far, c)));
        }
        cuda::MmaF16(score[i], a, q_near[0], q_near[1]);
        cuda::MmaF16(score[i], b, q_far[0], q_far[1]);
      }
    }
    return back;
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
      shrink[e] = cuda::Exp2(max_[e] - base[e]);
      max_[e] = max[e];
      total_[e] *= shrink[e];
      minima_[e] *= shrink[e];
    }
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        score[i][e] = cuda::Exp2(score[i][e] - base[e % 2]);
        total_[e % 2] += score[i][e];
      }
    }
    if (!__any_sync(0xffffffffu, shrink[0] != 1 || shrink[1] != 1)) return;  // most pages
#pragma unroll
    for (int j = 0; j < kSteps; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) out_[j][e] *= shrink[e % 2];
    }
  }

  __device__ __forceinline__ void AddValues(const char* values, float (&weight)[4][4]) {
    const auto* scales = reinterpret_cast<const uint16_t*>(values + PageLayout::kCodes);
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
          LoadValues(values, place, r, w[e]);
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
  // Run r of the values at `place`, which this lane's t chooses.
  __device__ __forceinline__ void LoadValues(const char* values, int place, int r,
                                             uint32_t (&w)[C::kWords]) const {
    const char* const row = values + place * (kRuns * C::kRunBytes);
    if constexpr (kBits == 16) {  // the words of a run lie in other pieces
#pragma unroll
      for (int i = 0; i < C::kWords; ++i) {
        const int at = (r * C::kRunBytes + C::Offset(g_) + 32 * i) ^ swizzle_;
        w[i] = *reinterpret_cast<const uint32_t*>(row + at);
      }
    } else {
      C::Load(row + ((r * C::kRunBytes + C::Offset(g_)) ^ swizzle_), w);
    }
  }

  const CudaParams& p_;
  const CudaKvLayer& c_;
  const int kv_head_;
  float* const queries_;  // [kHeads][QueryStride]
  uint2* const turns_;
  const int lane_, g_, t_;
  const bool low_;  // this lane's column of the right operand is of low halves
  RowOrder order_;
  const int swizzle_;  // of the bytes of a position that this lane reads
  int slot_bytes_ = 0;
  char* ring_ = nullptr;
  float out_[kSteps][4] = {};
  float max_[2] = {-INFINITY, -INFINITY}, total_[2] = {0, 0}, minima_[2] = {0, 0};
};

}  // namespace spikefold::kernels::attention_f32_f32_ukv
