// Design: kernels/cuda/wide_rows.cuh.
#include "kernels/cuda/wide_rows.cuh"
#include "kernels/matmul_f32_f32_s8c/matmul_f32_f32_s8c_cuda.h"

namespace spikefold::kernels::matmul_f32_f32_s8c {
namespace {

namespace half = cuda::half;

// Rows of 8-bit codes, with scales [n, groups].
struct CodeRows {
  static constexpr float kMaxCode = 128;
  __device__ static int64_t Place(int64_t column) { return column; }
  __device__ static int64_t Groups(const cuda::Linear& w, int64_t k) {
    return w.group == 0 ? 1 : cuda::CeilDiv(k, w.group);
  }
  template <typename Use>
  __device__ static void EachScale(const cuda::Linear& w, int64_t k, int64_t n0, int rows, Use use) {
    const int64_t groups = Groups(w, k);
    for (int64_t i = threadIdx.x; i < rows * groups; i += cuda::wide::kUnpackThreads) {
      use(static_cast<int>(i / groups), w.w_scale[n0 * groups + i]);
    }
  }
  // A warp a channel, 8 codes a lane: a warp's stores are whole sectors.
  __device__ static void Fill(const cuda::Linear& w, int64_t k, int64_t n0, int rows, const uint32_t* largest,
                              uint16_t* to) {
    constexpr int kAtOnce = 8, kStep = cuda::kWarp * kAtOnce;
    const int lane = static_cast<int>(threadIdx.x) % cuda::kWarp;
    for (int row = static_cast<int>(threadIdx.x) / cuda::kWarp; row < rows; row += cuda::wide::kUnpackWarps) {
      const int8_t* const codes = static_cast<const int8_t*>(w.w) + (n0 + row) * w.w_stride;
      const float* const scales = w.w_scale + (n0 + row) * Groups(w, k);
      const float inverse = half::InverseScaleOf(largest[row]);
      const auto convert = [&](auto scale_at) {
#pragma unroll 8
        for (int at = lane * kAtOnce; at < static_cast<int>(k); at += kStep) {
          const uint2 words = *reinterpret_cast<const uint2*>(codes + at);
          const float by = scale_at(at) * inverse;
          *reinterpret_cast<uint4*>(to + row * k + at) = make_uint4(
              Pair<0>(words.x, by), Pair<2>(words.x, by), Pair<0>(words.y, by), Pair<2>(words.y, by));
        }
      };
      if (w.group == 0) {
        const float scale = scales[0];
        convert([&](int) { return scale; });
      } else {
        const auto group = static_cast<uint32_t>(w.group);
        convert([&](int at) { return scales[static_cast<uint32_t>(at) / group]; });
      }
    }
  }

 private:
  // Codes `first` and `first` + 1 of a word, times `by`. A byte below the leading bits of 2^23 is a float
  // without a conversion.
  template <int first>
  __device__ static uint32_t Pair(uint32_t word, float by) {
    constexpr uint32_t kBits = 0x4b000000u;      // of 2^23
    constexpr float kOffset = 8388608.0f + 128;  // codes plus 128 are not negative
    const uint32_t raised = word ^ 0x80808080u;
    const auto value = [&](uint32_t place) {
      return (__uint_as_float(__byte_perm(raised, kBits, 0x7440 | place)) - kOffset) * by;
    };
    return half::F16(value(first), value(first + 1), false);
  }
};

}  // namespace

size_t WideScratchBytes(const cuda::SimtParams& p) { return cuda::wide::ScratchBytes(p); }

absl::Status RunWide(const cuda::SimtParams& p, void* scratch, const cuda::DeviceInfo& device,
                     const cuda::Stream& stream) {
  return cuda::wide::Run<CodeRows>("matmul_f32_f32_s8c", p, scratch, device, stream);
}

}  // namespace spikefold::kernels::matmul_f32_f32_s8c
