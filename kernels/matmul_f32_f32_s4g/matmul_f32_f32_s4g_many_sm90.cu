// Design: kernels/cuda/wide_rows.cuh. Columns lie in the order that codes are unpacked in.
#include "kernels/cuda/wide_rows.cuh"
#include "kernels/matmul_f32_f32_s4g/matmul_f32_f32_s4g_cuda.h"

namespace spikefold::kernels::matmul_f32_f32_s4g {
namespace {

namespace half = cuda::half;
constexpr int kTileRow = static_cast<int>(kTileRows), kTileColumn = static_cast<int>(kTileColumns);
static_assert(cuda::wide::kUnpackRows == kTileRow);

struct Tiles {
  static constexpr float kMaxCode = 16;
  // Where column 16 j + 4 t + i of 64 lies: of the 16 values that a lane unpacks eight are neighbours, and so
  // are those of four lanes.
  __device__ static int64_t Place(int64_t column) {
    const int64_t in_tile = column % kTileColumn, j = in_tile / 16, t = in_tile % 16 / 4;
    return column - in_tile + j / 2 * 32 + t * 8 + j % 2 * 4 + in_tile % 4;
  }
  // [tile][8][2]: channels g and g + 8.
  __device__ static const float* Scales(const cuda::Linear& w, int64_t k, int64_t n0) {
    return w.w_scale + n0 * (k / kTileColumn);
  }
  template <typename Use>
  __device__ static void EachScale(const cuda::Linear& w, int64_t k, int64_t n0, int rows, Use use) {
    const float* const scales = Scales(w, k, n0);
    const int of = static_cast<int>(threadIdx.x) % kTileRow, row = of / 2 + of % 2 * 8;
    float most = 0;
    for (int64_t i = threadIdx.x; i < k / kTileColumn * kTileRow; i += cuda::wide::kUnpackThreads) {
      most = half::LargerSize(most, scales[i]);  // `of` stays
    }
    if (row < rows) use(row, most);
  }
  __device__ static void Fill(const cuda::Linear& w, int64_t k, int64_t n0, int rows, const uint32_t* largest,
                              uint16_t* to) {
    const int lane = static_cast<int>(threadIdx.x) % cuda::kWarp, g = lane / 4, t = lane % 4;
    const int64_t tiles = k / kTileColumn, row_tile = n0 / kTileRow;
    const float2* const scales = reinterpret_cast<const float2*>(Scales(w, k, n0));
    const float inverse[2] = {half::InverseScaleOf(largest[g]), half::InverseScaleOf(largest[g + 8])};
    for (int64_t tile = threadIdx.x / cuda::kWarp; tile < tiles; tile += cuda::wide::kUnpackWarps) {
      const int64_t at = row_tile * tiles + tile;
      const uint4 v = static_cast<const uint4*>(w.w)[at * cuda::kWarp + lane];
      const uint32_t words[4] = {v.x, v.y, v.z, v.w};
      const float2 scale = scales[tile * 8 + g];
      uint32_t zeros = 0x0808;
      if (w.w_zero != nullptr) zeros = reinterpret_cast<const uint16_t*>(w.w_zero)[at * 8 + g];
#pragma unroll
      for (int top = 0; top < 2; ++top) {
        const int row = g + 8 * top;
        if (row >= rows) break;
        const int zero = static_cast<int>(zeros >> (8 * top) & 0xff);
        const float by = (top == 0 ? scale.x : scale.y) * inverse[top];
        uint32_t out[8];
#pragma unroll
        for (int pair = 0; pair < 8; ++pair) {  // columns 2 h and 2 h + 1 of word j
          const int j = pair / 2, shift = 4 * top + 8 * (pair % 2);
          const auto value = [&](int i) {
            return static_cast<float>(static_cast<int>(words[j] >> (shift + 16 * i) & 0xf) - zero) * by;
          };
          out[pair] = half::F16(value(0), value(1), false);
        }
        uint4* const place = reinterpret_cast<uint4*>(to + row * k + tile * kTileColumn) + t;
        place[0] = make_uint4(out[0], out[1], out[2], out[3]);
        place[4] = make_uint4(out[4], out[5], out[6], out[7]);
      }
    }
  }
};

}  // namespace

size_t ManyScratchBytes(const cuda::SimtParams& p) { return cuda::wide::ScratchBytes(p); }

absl::Status RunMany(const cuda::SimtParams& p, void* scratch, const cuda::DeviceInfo& device,
                     const cuda::Stream& stream, const cuda::pingpong::Plan& tiles) {
  return cuda::wide::Run<Tiles>("matmul_f32_f32_s4g", p, scratch, device, stream, tiles);
}

}  // namespace spikefold::kernels::matmul_f32_f32_s4g
