// Design: kernels/cuda/cluster_rows.cuh, for one or two rows. x becomes three signed digits of 8 bits for
// each 64 columns (kernels/cuda/digit_rows.cuh), columns of mma.sync m16n8k32 on integers: three logical
// operations make eight codes into 16 times their signed values, no chunk waits for another's largest value,
// and a row takes 3 bytes a value where f16 operands, empty columns included, take 16.
#include <algorithm>

#include "kernels/cuda/digit_rows.cuh"
#include "kernels/cuda/ldst.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/streaming.cuh"
#include "kernels/matmul_f32_f32_s4g/matmul_f32_f32_s4g_units.cuh"

namespace spikefold::kernels::matmul_f32_f32_s4g {
namespace {

constexpr int kDigits = cuda::digits::kDigits;
constexpr int kRowParts = 2;    // of a row: the first two digits, and the last one
constexpr int kCodeUnit = 16;   // what a code is multiplied by
constexpr int kZeroOffset = 8;  // stored zero points are 0 to 15

// A lane holds the sums of one part of one row: of columns 2t and 2t + 1, which are 256 and 1 of them. Row r
// has columns 4r (digit 0), 4r + 1 (digit 1), 4r + 2 (empty) and 4r + 3 (digit 2).
template <int kRows>
struct DigitRows {
  using Params = cuda::SimtParams;
  using Codes = TileCodes;
  using Output = ClusterOutput;
  static constexpr int kWarps = 16, kRegisters = 80;
  static constexpr int kTiles = 1, kSums = 2, kColumns = 4, kParts = 1;
  static constexpr int kUnitBytes = matmul_f32_f32_s4g::kUnitBytes;
  // [row][digit][lane t][4 words: columns 16 j + 4 t on]; behind them of each part of a row its scale, and
  // the sum of its digits for zero points.
  static constexpr int kDigitBytes = cluster::kChunk, kMeta = kRows * kDigits * kDigitBytes;
  static constexpr int kMetaBytes = 8;
  static constexpr int kChunkBytes = kMeta + kRows * kRowParts * kMetaBytes;
  static constexpr int kLargestBytes = 0;
  static_assert(kRows <= kDigitRows && kChunkBytes % 16 == 0);

  // Half a warp makes 64 columns of a row into digits.
  struct X {
    static constexpr int kLanes = cluster::kChunk / 4, kApart = kWarps * cuda::kWarp / kLanes;
    static constexpr int kStaged = 4 * kRows;

    __device__ X(const Params& p, int first, int chunks)
        : row0(p.x + first * cluster::kChunk),
          k(p.k),
          chunks(chunks),
          all(chunks * static_cast<int>(p.m)),
          word(static_cast<int>(threadIdx.x) % kLanes),
          group(static_cast<int>(threadIdx.x) / kLanes),
          zeros(false) {
#pragma unroll
      for (int i = 0; i < cuda::kMaxLinears; ++i) {
        zeros = zeros || (i < p.linears.count && p.linears.linear[i].w_zero != nullptr);
      }
    }
    __device__ void Load() { Load(0); }
    __device__ void Load(int first) {
#pragma unroll
      for (int b = 0; b < kStaged; ++b) {
        const int i = first + b * kApart + group, row = RowOf(i);
        v[b] = make_uint4(0, 0, 0, 0);
        if (i < all) {
          v[b] = cuda::LoadCached16(row0 + row * k + (i - row * chunks) * cluster::kChunk + word * 4);
        }
      }
    }
    __device__ void Keep(char* shared, uint32_t*) {
#pragma unroll 1
      for (int first = 0; first < all; first += kApart * kStaged) {
        if (first > 0) Load(first);
#pragma unroll
        for (int b = 0; b < kStaged; ++b) {
          if (first + b * kApart >= all) break;
          Split(v[b], first + b * kApart + group, shared);
        }
      }
    }

   private:
    __device__ int RowOf(int i) const { return kRows > 1 && i >= chunks ? 1 : 0; }
    template <typename Combine, typename T>
    __device__ static T OfHalf(T value, Combine combine) {
#pragma unroll
      for (int offset = kLanes / 2; offset > 0; offset /= 2) {
        value = combine(value, __shfl_xor_sync(0xffffffffu, value, offset));
      }
      return value;
    }
    __device__ void Split(const uint4& bits, int i, char* shared) const {
      // In the order of a word's nibbles.
      const float x[4] = {__uint_as_float(bits.x), __uint_as_float(bits.z), __uint_as_float(bits.y),
                          __uint_as_float(bits.w)};
      uint32_t largest = 0;
#pragma unroll
      for (int b = 0; b < 4; ++b) largest = max(largest, __float_as_uint(x[b]) & 0x7fffffffu);
      largest = OfHalf(largest, [](uint32_t a, uint32_t b) { return max(a, b); });
      const cuda::digits::ChunkScale scale = cuda::digits::ScaleOf(largest);
      uint32_t digit[kDigits];
      cuda::digits::Split(x, scale.inverse, digit);
      int sums[kRowParts] = {};
      if (zeros) {
        const auto of = [&](int d) { return __dp4a(static_cast<int>(digit[d]), 0x01010101, 0); };
        sums[0] = OfHalf(256 * of(0) + of(1), cuda::Sum());
        sums[1] = OfHalf(of(2), cuda::Sum());
      }
      if (i >= all) return;
      const int row = RowOf(i);
      char* const chunk = shared + (i - row * chunks) * kChunkBytes;
      char* const to = chunk + row * (kDigits * kDigitBytes) + word % 4 * 16 + word / 4 * 4;
#pragma unroll
      for (int d = 0; d < kDigits; ++d) *reinterpret_cast<uint32_t*>(to + d * kDigitBytes) = digit[d];
      if (word < kRowParts) {
        *reinterpret_cast<int2*>(chunk + kMeta + (row * kRowParts + word) * kMetaBytes) =
            make_int2(__float_as_int(scale.scale), word == 0 ? sums[0] : sums[1]);
      }
    }

    const float* row0;
    int64_t k;
    int chunks, all, word, group;
    bool zeros;  // whether a linear has zero points
    uint4 v[kStaged];
  };

  // One item: in lanes t of 0 and 2 those of row t / 2.
  __device__ static void Sums(const float (&acc)[cluster::kRowTiles][kTiles][kSums], const uint32_t*,
                              int lane, float4 (&sum)[1]) {
    const float by = (lane % kRowParts == 0 ? 256.0f : 1.0f) / kCodeUnit;
    const auto both = [&](float part) {
      part *= by;
      return part + __shfl_xor_sync(0xffffffffu, part, 1);
    };
    sum[0] = make_float4(both(acc[0][0][0]), both(acc[0][0][1]), both(acc[1][0][0]), both(acc[1][0][1]));
  }
  __device__ static void Place(int, int lane, int& row, int& channel) {
    const int part = lane % 4, j = lane / 4 % 4;
    row = part % kRowParts == 0 ? part / kRowParts : kRows;
    channel = j * 8 + lane / 16 * 4;
  }

  // Eight codes of a word: four each of channels g and g + 8, around 0.
  __device__ static void Operand(uint32_t first, uint32_t second, uint32_t (&a)[4]) {
    constexpr uint32_t kSigns = 0x88888888u, kHigh = 0xf0f0f0f0u;
    a[0] = (first << 4 ^ kSigns) & kHigh;
    a[1] = (first ^ kSigns) & kHigh;
    a[2] = (second << 4 ^ kSigns) & kHigh;
    a[3] = (second ^ kSigns) & kHigh;
  }
  __device__ static void Multiply(bool zeros, int chunks, uint32_t unit, uint32_t x, int lane,
                                  float (&acc)[cluster::kRowTiles][kTiles][kSums]) {
    if (zeros) {
      MultiplyChunk<true, 0>(unit, x, lane, acc);
      if (chunks > 1) MultiplyChunk<true, 1>(unit, x, lane, acc);
    } else {
      MultiplyChunk<false, 0>(unit, x, lane, acc);
      if (chunks > 1) MultiplyChunk<false, 1>(unit, x, lane, acc);
    }
  }
  template <bool kHasZeros, int kWhich>
  __device__ static void MultiplyChunk(uint32_t unit, uint32_t x, int lane,
                                       float (&acc)[cluster::kRowTiles][kTiles][kSums]) {
    const int g = lane / 4, t = lane % 4;
    constexpr int kOf = cluster::kUnitChunks;
    x += kWhich * kChunkBytes;
    // With one row columns 4 to 7 are as 0 to 3; nobody reads their sums.
    const int row = kRows == 1 ? 0 : g / 4, digit = g % 4 == 3 ? 2 : g % 4;
    uint4 b = make_uint4(0, 0, 0, 0);
    if (g % 4 != 2) b = cuda::LoadShared16(x + (row * kDigits + digit) * kDigitBytes + t * 16);
    const float2 meta = cuda::LoadShared8(x + kMeta + t % (kRows * kRowParts) * kMetaBytes);
#pragma unroll
    for (int r = 0; r < cluster::kRowTiles; ++r) {
      const int of = r * kOf + kWhich;
      const uint4 codes = cuda::LoadShared16(unit + of * kTileBytes + lane * 16);
      const float2 scale = cuda::LoadShared8(unit + kScales + (of * 8 + g) * 8);
      uint32_t a[4];
      int32_t sum[4];
      Operand(codes.x, codes.y, a);
      cuda::MmaS8(sum, a, b.x, b.y, 0);
      Operand(codes.z, codes.w, a);
      cuda::MmaS8(sum, a, b.z, b.w);
      int32_t both[2] = {256 * sum[0] + sum[1], 256 * sum[2] + sum[3]};
      if constexpr (kHasZeros) {
        const auto zero = static_cast<int>(cuda::LoadShared2(unit + kZeros + (of * 8 + g) * 2));
        const int of_x = __float_as_int(meta.y) * kCodeUnit;
        both[0] -= ((zero & 0xff) - kZeroOffset) * of_x;
        both[1] -= ((zero >> 8) - kZeroOffset) * of_x;
      }
      acc[r][0][0] = fmaf(scale.x * meta.x, static_cast<float>(both[0]), acc[r][0][0]);
      acc[r][0][1] = fmaf(scale.y * meta.x, static_cast<float>(both[1]), acc[r][0][1]);
    }
  }

  // As measured on an H200 with 13 shapes, from 1536 x 576 to 57344 x 8192, K shared out in every way: what
  // is chosen takes 1 % longer than the fastest on average, and 5 % at most.
  static double Cost(const cluster::Plan& plan) {
    constexpr cluster::Costs kCosts = {.step = 0.035,
                                       .two_stages = 1.15,
                                       .x = 0.08,
                                       .exchange = 0.2,
                                       .of_split = 0.04,
                                       .of_pair = 0.08,
                                       .stage = 0.16};
    return cluster::CostOf(plan, kCosts, kRows);
  }
};

}  // namespace

bool FitsDigits(const cuda::SimtParams& p) {
  return p.m == 1 ? cluster::Fits<DigitRows<1>>(p) : p.m == 2 ? cluster::Fits<DigitRows<2>>(p) : false;
}
absl::Status RunDigits(const cuda::SimtParams& p, const cuda::Stream& stream) {
  constexpr char kName[] = "matmul_f32_f32_s4g";
  return p.m == 1 ? cluster::Run<DigitRows<1>>(kName, p, stream)
                  : cluster::Run<DigitRows<2>>(kName, p, stream);
}

}  // namespace spikefold::kernels::matmul_f32_f32_s4g
