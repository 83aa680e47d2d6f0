#include "kernels/cuda/block.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/gatedmul_f32_f32/gatedmul_f32_f32.cuh"

namespace spikefold::kernels::gatedmul_f32_f32 {
namespace {

constexpr int kThreads = 128, kValues = 4;  // of a thread

__global__ void __launch_bounds__(kThreads) gatedmul_f32_f32_sm80(Params p) {
  cuda::LetNextStart();
  cuda::WaitForInputs();
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kValues;
  if (i + kValues <= p.count) {  // device memory begins at whole vectors
    *reinterpret_cast<float4*>(p.y + i) = GatedFour(p, i);
    return;
  }
  for (int64_t j = i; j < p.count; ++j) p.y[j] = Gated(p.activation, p.gate[j], p.up[j]);
}

}  // namespace

absl::Status RunCuda(const Params& p, const cuda::Stream& stream) {
  if (p.count == 0) return absl::OkStatus();
  const auto blocks = static_cast<unsigned>(cuda::CeilDiv(p.count, kThreads * kValues));
  return cuda::Launch("gatedmul_f32_f32", gatedmul_f32_f32_sm80,
                      {.grid = dim3(blocks), .block = dim3(kThreads), .overlaps = true}, stream, p);
}

}  // namespace spikefold::kernels::gatedmul_f32_f32
