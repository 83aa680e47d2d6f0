#include "kernels/cuda/block.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/hadamard_f32_f32/hadamard_f32_f32.cuh"
#include "kernels/rope_f32_f32/rope_f32_f32_cuda.h"

namespace spikefold::kernels::rope_f32_f32 {
namespace {

constexpr int kThreads = 64;
constexpr int kRowWarps = 8;
constexpr int64_t kManyRows = 16;  // fewer leave multiprocessors idle with a block each

__global__ void __launch_bounds__(kThreads) rope_f32_f32_sm80(const __grid_constant__ CudaParams p) {
  extern __shared__ __align__(16) float shared[];  // [RowFloats(head_dim)], then [head_dim]
  cuda::LetNextStart();
  cuda::WaitForInputs();
  const int d = static_cast<int>(p.head_dim), half = d / 2;
  const int64_t m = blockIdx.x, position = p.positions == nullptr ? m : p.positions[m];
  const bool is_query = blockIdx.y < p.q.num_heads;
  const CudaSide& side = is_query ? p.q : p.k;
  const int64_t head = is_query ? blockIdx.y : blockIdx.y - p.q.num_heads;
  float* x = side.x + (m * side.num_heads + head) * d;
  float* const turned = shared;
  float* const row = shared + hadamard_f32_f32::RowFloats(d);
  const hadamard_f32_f32::Places place = {p.rotation.num_factors > 0 ? 28 : 0};

  double squares = 0;
  for (int i = static_cast<int>(threadIdx.x); i < d; i += kThreads) {
    row[i] = x[i];
    squares += static_cast<double>(row[i]) * static_cast<double>(row[i]);
  }
  if (side.gain != nullptr) {
    const double mean = cuda::BlockReduce(squares, cuda::Sum()) / static_cast<double>(d);
    const float factor = static_cast<float>(1 / sqrt(mean + static_cast<double>(p.eps)));
    for (int i = static_cast<int>(threadIdx.x); i < d; i += kThreads) row[i] = row[i] * factor * side.gain[i];
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < half; i += kThreads) {
    const float a = row[i], b = row[i + half], c = p.cos[position * half + i], s = p.sin[position * half + i];
    turned[place(i)] = fmaf(-b, s, a * c);
    turned[place(i + half)] = fmaf(b, c, a * s);
  }
  __syncthreads();
  if (p.rotation.num_factors > 0) {
    const float* const scale = p.rotation.scale;
    hadamard_f32_f32::TransformRow(turned, d, p.rotation, [=](int i) { return turned[place(i)] * scale[i]; });
  }
  for (int i = static_cast<int>(threadIdx.x); i < d; i += kThreads) x[i] = turned[place(i)];
}

// The rotary embedding alone: a block a row, a warp a head, two pairs of values a lane.
__global__ void __launch_bounds__(kRowWarps* cuda::kWarp)
    rope_f32_f32_rows_sm80(const __grid_constant__ CudaParams p) {
  cuda::LetNextStart();
  cuda::WaitForInputs();
  const int64_t m = blockIdx.x, position = p.positions == nullptr ? m : p.positions[m];
  const int d = static_cast<int>(p.head_dim), half = d / 2;
  const int lane = static_cast<int>(threadIdx.x) % cuda::kWarp,
            warp = static_cast<int>(threadIdx.x) / cuda::kWarp;
  const int q_heads = static_cast<int>(p.q.num_heads), heads = q_heads + static_cast<int>(p.k.num_heads);
  for (int i = lane * 2; i < half; i += 2 * cuda::kWarp) {
    const float2 c = *reinterpret_cast<const float2*>(p.cos + position * half + i);
    const float2 s = *reinterpret_cast<const float2*>(p.sin + position * half + i);
    for (int head = warp; head < heads; head += kRowWarps) {
      float* const x = head < q_heads ? p.q.x + (m * q_heads + head) * d
                                      : p.k.x + (m * p.k.num_heads + head - q_heads) * d;
      float2* const low = reinterpret_cast<float2*>(x + i);
      float2* const high = reinterpret_cast<float2*>(x + i + half);
      const float2 a = *low, b = *high;
      *low = make_float2(fmaf(-b.x, s.x, a.x * c.x), fmaf(-b.y, s.y, a.y * c.y));
      *high = make_float2(fmaf(b.x, c.x, a.x * s.x), fmaf(b.y, c.y, a.y * s.y));
    }
  }
}

}  // namespace

absl::Status RunCuda(const CudaParams& p, const cuda::Stream& stream) {
  if (p.m == 0) return absl::OkStatus();
  const bool alone = p.q.gain == nullptr && p.k.gain == nullptr && p.rotation.num_factors == 0;
  if (alone && p.m >= kManyRows && p.head_dim % 4 == 0) {
    return cuda::Launch(
        "rope_f32_f32", rope_f32_f32_rows_sm80,
        {.grid = dim3(static_cast<unsigned>(p.m)), .block = dim3(kRowWarps * cuda::kWarp), .overlaps = true},
        stream, p);
  }
  const dim3 grid(static_cast<unsigned>(p.m), static_cast<unsigned>(p.q.num_heads + p.k.num_heads));
  return cuda::Launch(
      "rope_f32_f32", rope_f32_f32_sm80,
      {.grid = grid,
       .block = dim3(kThreads),
       .shared_bytes = int64_t{sizeof(float)} * (hadamard_f32_f32::RowFloats(p.head_dim) + p.head_dim),
       .overlaps = true},
      stream, p);
}

}  // namespace spikefold::kernels::rope_f32_f32
