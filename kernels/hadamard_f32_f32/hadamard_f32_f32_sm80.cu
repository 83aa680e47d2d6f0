#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "formats/base/hadamard.h"
#include "formats/base/status.h"
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/hadamard_f32_f32/hadamard_f32_f32.cuh"

namespace spikefold::kernels::hadamard_f32_f32 {
namespace {

constexpr int kMostThreads = 512;
constexpr int64_t kMaxBlock = 32768;  // 128 KiB of shared memory

__global__ void __launch_bounds__(kMostThreads) hadamard_f32_f32_sm80(const __grid_constant__ CudaParams p) {
  extern __shared__ __align__(16) float shared[];  // [RowFloats(block)]
  cuda::LetNextStart();
  cuda::WaitForInputs();
  const int block = p.plan.block, threads = static_cast<int>(blockDim.x);
  const int64_t first = static_cast<int64_t>(blockIdx.y) * block;  // column
  float* x = p.x + static_cast<int64_t>(blockIdx.x) * p.n + first;
  const float* const scale = p.plan.scale + first;
  TransformRow(shared, block, p.plan, [=](int i) { return x[i] * scale[i]; });
  for (int i = static_cast<int>(threadIdx.x); i < block; i += threads) x[i] = shared[Places()(i)];
}

}  // namespace

absl::Status CudaRotation::Set(absl::Span<const int64_t> factors, absl::Span<const float> scale,
                               const cuda::Stream& stream) {
  if (factors.empty() || factors.size() > kMaxFactors) {
    return absl::InternalError(
        absl::StrCat("hadamard_f32_f32: ", factors.size(), " factors; 1 to ", kMaxFactors, " are needed"));
  }
  CudaPlan plan;
  std::vector<float> tables;
  std::vector<size_t> at;
  int64_t block = 1;
  for (size_t f = 0; f < factors.size(); ++f) {
    block *= factors[f];
    plan.order[f] = static_cast<int>(factors[f]);
    at.push_back(tables.size());
    if (f + 1 == factors.size()) continue;
    plan.paired[f] = IsPairedHadamard(factors[f]);
    const std::vector<float> table = HadamardFactorTable(factors[f]);
    tables.insert(tables.end(), table.begin(), table.end());
  }
  const int64_t most = std::min(kMaxBlock, cuda::MaxSharedBytes() / int64_t{sizeof(float)});
  if (block > most) {
    return absl::UnimplementedError(absl::StrCat("backend \"cuda\": a rotation in blocks of ", block,
                                                 "; at most ", most, " fit; use --backend cpu"));
  }
  SF_RETURN_IF_ERROR(tables_.Reserve(tables.size() * sizeof(float)));
  SF_RETURN_IF_ERROR(cuda::CopyIn(tables_.as<float>(), tables.data(), tables.size() * sizeof(float), stream));
  SF_RETURN_IF_ERROR(scale_.Reserve(scale.size() * sizeof(float)));
  SF_RETURN_IF_ERROR(cuda::CopyIn(scale_.as<float>(), scale.data(), scale.size() * sizeof(float), stream));
  for (size_t f = 0; f < factors.size(); ++f) plan.table[f] = tables_.as<float>() + at[f];
  plan.num_factors = static_cast<int>(factors.size());
  plan.block = static_cast<int>(block);
  plan.scale = scale_.as<float>();
  plan_ = plan;
  return absl::OkStatus();
}

absl::Status RunCuda(const CudaParams& p, const cuda::Stream& stream) {
  if (p.m == 0 || p.plan.num_factors == 0) return absl::OkStatus();
  const dim3 grid(static_cast<unsigned>(p.m), static_cast<unsigned>(p.n / p.plan.block));
  const int64_t threads = std::clamp<int64_t>(cuda::CeilDiv(p.plan.block, 16 * cuda::kWarp) * cuda::kWarp,
                                              2 * cuda::kWarp, kMostThreads);
  return cuda::Launch("hadamard_f32_f32", hadamard_f32_f32_sm80,
                      {.grid = grid,
                       .block = dim3(static_cast<unsigned>(threads)),
                       .shared_bytes = RowFloats(p.plan.block) * int64_t{sizeof(float)},
                       .overlaps = true},
                      stream, p);
}

}  // namespace spikefold::kernels::hadamard_f32_f32
