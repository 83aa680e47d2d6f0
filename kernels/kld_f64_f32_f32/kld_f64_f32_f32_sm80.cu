#include "kernels/argmax_s32_f32/argmax_s32_f32.cuh"
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/kld_f64_f32_f32/kld_f64_f32_f32_cuda.h"
#include "kernels/kld_f64_f32_f32/kld_f64_f32_f32_curvature.h"

namespace spikefold::kernels::kld_f64_f32_f32 {
namespace {

constexpr int kThreads = 512, kValues = 4;  // of a thread at a time

// term(i) for all i of a row, each by one thread.
template <typename Term>
__device__ void ForRow(int n, Term term) {
#pragma unroll kValues
  for (int i = static_cast<int>(threadIdx.x); i < n; i += kThreads) term(i);
}
__device__ double SumOfBlock(double value) { return cuda::BlockReduce(value, cuda::Sum()); }
// What found.top is made of.
__device__ int TopOf(const argmax_s32_f32::Found& found) {
  return static_cast<int>(~static_cast<uint32_t>(found.top));
}
__global__ void __launch_bounds__(kThreads) kld_f64_f32_f32_sm80(CudaParams params) {
  cuda::LetNextStart();
  cuda::WaitForInputs();
  const int n = static_cast<int>(params.n);
  const float* const p = params.p + blockIdx.x * params.n;
  const float* const q = params.q + blockIdx.x * params.n;
  TargetRow& out = params.out[blockIdx.x];
  argmax_s32_f32::Largest largest_p, largest_q;
  ForRow(n, [&](int i) {
    largest_p.Add(p[i], static_cast<uint32_t>(i));
    largest_q.Add(q[i], static_cast<uint32_t>(i));
  });
  const argmax_s32_f32::Found found_p = largest_p.OfBlock(), found_q = largest_q.OfBlock();
  if (found_p.odd != 0 || found_q.odd != 0) {
    if (threadIdx.x == 0) out = {};
    return;
  }
  const int top_p = TopOf(found_p), top_q = TopOf(found_q);
  const float max_p = p[top_p], max_q = q[top_q];
  double sum_p = 0, sum_q = 0;
  ForRow(n, [&](int i) {
    sum_p += static_cast<double>(expf(p[i] - max_p));
    sum_q += static_cast<double>(expf(q[i] - max_q));
  });
  sum_p = SumOfBlock(sum_p);
  sum_q = SumOfBlock(sum_q);
  // ln P - ln Q = (a - b) - difference, in two floats: a and b are what is left of p and q.
  const double log_p = log(sum_p), log_q = log(sum_q), difference = log_p - log_q;
  const float high = static_cast<float>(difference);
  const float low = static_cast<float>(difference - static_cast<double>(high));
  const float ratio = static_cast<float>(sum_p / sum_q), rare = static_cast<float>(kRareLogP + log_p);
  const auto same = [](float c) { return c; };
  const auto fma = [](float g, float y, float c) { return fmaf(g, y, c); };
  double kld = 0, kld_rare = 0;
  ForRow(n, [&](int i) {
    const float a = p[i] - max_p, b = q[i] - max_q;
    const float x = ((a - b) - high) - low, e_p = expf(a);
    const float near = e_p * (x * x) * CurvatureOf(x, same, fma), far = fmaf(e_p, x - 1, expf(b) * ratio);
    kld += static_cast<double>(fabsf(x) < 1 ? near : far);
    if (a <= rare) kld_rare += static_cast<double>(e_p * x);
  });
  kld = SumOfBlock(kld);
  kld_rare = SumOfBlock(kld_rare);
  if (threadIdx.x != 0) return;
  const int32_t target = params.target[blockIdx.x];
  out.row = {.lse_p = log_p + static_cast<double>(max_p),
             .lse_q = log_q + static_cast<double>(max_q),
             .kld = kld / sum_p,
             .kld_rare = kld_rare / sum_p,
             .top_p = top_p,
             .top_q = top_q,
             .finite = true};
  out.p = p[target];
  out.q = q[target];
}

}  // namespace

absl::Status RunCuda(const CudaParams& params, const cuda::Stream& stream) {
  if (params.m == 0) return absl::OkStatus();
  return cuda::Launch(
      "kld_f64_f32_f32", kld_f64_f32_f32_sm80,
      {.grid = dim3(static_cast<unsigned>(params.m)), .block = dim3(kThreads), .overlaps = true}, stream,
      params);
}

}  // namespace spikefold::kernels::kld_f64_f32_f32
