#include <cublasLt.h>
#include <cuda_bf16.h>
#include <dlfcn.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "benchmarks/cuda_peers.h"
#include "formats/base/status.h"
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/memory.h"

namespace spikefold::benchmarks {
namespace {

namespace cuda = kernels::cuda;
constexpr size_t kWorkspace = size_t{256} << 20;
constexpr int kProposals = 32;

// The functions of cuBLASLt that are used here.
struct Lt {
  decltype(&cublasLtCreate) create;
  decltype(&cublasLtMatmul) matmul;
  decltype(&cublasLtMatmulDescCreate) desc_create;
  decltype(&cublasLtMatmulDescSetAttribute) desc_set;
  decltype(&cublasLtMatrixLayoutCreate) layout_create;
  decltype(&cublasLtMatmulPreferenceCreate) preference_create;
  decltype(&cublasLtMatmulPreferenceSetAttribute) preference_set;
  decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic;
  cublasLtHandle_t handle = nullptr;
};

template <typename Function>
bool Find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  return function != nullptr;
}

absl::StatusOr<const Lt*> LoadLt() {
  static Lt lt;
  if (lt.handle != nullptr) return &lt;
  void* library = dlopen("libcublasLt.so.13", RTLD_NOW);
  if (library == nullptr) return absl::UnimplementedError(absl::StrCat("cuBLASLt: ", dlerror()));
  const bool all = Find(library, "cublasLtCreate", lt.create) && Find(library, "cublasLtMatmul", lt.matmul) &&
                   Find(library, "cublasLtMatmulDescCreate", lt.desc_create) &&
                   Find(library, "cublasLtMatmulDescSetAttribute", lt.desc_set) &&
                   Find(library, "cublasLtMatrixLayoutCreate", lt.layout_create) &&
                   Find(library, "cublasLtMatmulPreferenceCreate", lt.preference_create) &&
                   Find(library, "cublasLtMatmulPreferenceSetAttribute", lt.preference_set) &&
                   Find(library, "cublasLtMatmulAlgoGetHeuristic", lt.heuristic);
  if (!all || lt.create(&lt.handle) != CUBLAS_STATUS_SUCCESS) {
    return absl::UnimplementedError("cuBLASLt: not usable");
  }
  return &lt;
}

class LtPeer : public Peer {
 public:
  LtPeer(const Lt& lt, PeerKind kind) : lt_(lt), kind_(kind) {}

  absl::Status Prepare(int64_t m, int64_t n, int64_t k, const PeerBuffers& b, const cuda::Stream& stream) {
    const bool s8 = kind_ == PeerKind::kS8, bf16 = kind_ == PeerKind::kBf16;
    const cudaDataType_t in = bf16 ? CUDA_R_16BF : s8 ? CUDA_R_8I : CUDA_R_8F_E4M3;
    const cudaDataType_t out = s8 ? CUDA_R_32I : CUDA_R_16BF;
    lt_.desc_create(&desc_, s8 ? CUBLAS_COMPUTE_32I : CUBLAS_COMPUTE_32F, s8 ? CUDA_R_32I : CUDA_R_32F);
    const cublasOperation_t transposed = CUBLAS_OP_T, plain = CUBLAS_OP_N;
    lt_.desc_set(desc_, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof(transposed));
    lt_.desc_set(desc_, CUBLASLT_MATMUL_DESC_TRANSB, &plain, sizeof(plain));
    if (kind_ == PeerKind::kFp8Rows) {
      const int32_t rows = CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
      lt_.desc_set(desc_, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, &rows, sizeof(rows));
      lt_.desc_set(desc_, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, &rows, sizeof(rows));
      SetScales(b);
    }
    // Column-major: W is A, stored K x N and transposed; X is B; Y is N x M.
    lt_.layout_create(&a_, in, static_cast<uint64_t>(k), static_cast<uint64_t>(n), k);
    lt_.layout_create(&b_, in, static_cast<uint64_t>(k), static_cast<uint64_t>(m), k);
    lt_.layout_create(&d_, out, static_cast<uint64_t>(n), static_cast<uint64_t>(m), n);
    SF_RETURN_IF_ERROR(workspace_.Reserve(kWorkspace));
    cublasLtMatmulPreference_t preference = nullptr;
    lt_.preference_create(&preference);
    lt_.preference_set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &kWorkspace, sizeof(kWorkspace));
    cublasLtMatmulHeuristicResult_t found[kProposals];
    int count = 0;
    lt_.heuristic(lt_.handle, desc_, a_, b_, d_, d_, preference, kProposals, found, &count);
    double best = 1e30;
    cuda::Timer timer(stream);
    for (int i = 0; i < count; ++i) {
      if (found[i].state != CUBLAS_STATUS_SUCCESS) continue;
      const auto algo = found[i].algo;
      double seconds = 1e30;
      for (int round = 0; round < 3; ++round) {
        SF_RETURN_IF_ERROR(timer.Start());
        bool ok = true;
        for (int repeat = 0; repeat < 3; ++repeat) ok = ok && Matmul(b, algo, stream).ok();
        SF_ASSIGN_OR_RETURN(const double taken, timer.Stop());
        if (ok) seconds = std::min(seconds, taken);
      }
      if (seconds >= best) continue;
      best = seconds;
      algo_ = algo;
    }
    return best < 1e30 ? absl::OkStatus()
                       : absl::UnimplementedError("cuBLASLt: no algorithm for this product");
  }

  absl::Status Run(const PeerBuffers& b, const cuda::Stream& stream) override {
    return Matmul(b, algo_, stream);
  }

 private:
  void SetScales(const PeerBuffers& b) {
    lt_.desc_set(desc_, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &b.w_scale, sizeof(b.w_scale));
    lt_.desc_set(desc_, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &b.x_scale, sizeof(b.x_scale));
  }
  absl::Status Matmul(const PeerBuffers& b, const cublasLtMatmulAlgo_t& algo, const cuda::Stream& stream) {
    const float one = 1, zero = 0;
    const int32_t one_s32 = 1, zero_s32 = 0;
    const bool s8 = kind_ == PeerKind::kS8;
    const void* alpha = s8 ? static_cast<const void*>(&one_s32) : &one;
    const void* beta = s8 ? static_cast<const void*>(&zero_s32) : &zero;
    const cublasStatus_t status =
        lt_.matmul(lt_.handle, desc_, alpha, b.w, a_, b.x, b_, beta, b.y, d_, b.y, d_, &algo,
                   workspace_.as<void>(), kWorkspace, cuda::Handle(stream));
    if (status == CUBLAS_STATUS_SUCCESS) return absl::OkStatus();
    return absl::InternalError(absl::StrCat("cuBLASLt: status ", static_cast<int>(status)));
  }

  const Lt& lt_;
  const PeerKind kind_;
  cublasLtMatmulDesc_t desc_ = nullptr;
  cublasLtMatrixLayout_t a_ = nullptr, b_ = nullptr, d_ = nullptr;
  cublasLtMatmulAlgo_t algo_{};
  cuda::DeviceMemory workspace_;
};

constexpr int kThreads = 256;

__device__ uint32_t Hash(uint64_t v) {
  v = (v ^ (v >> 30)) * 0xbf58476d1ce4e5b9ull;
  v = (v ^ (v >> 27)) * 0x94d049bb133111ebull;
  return static_cast<uint32_t>(v ^ (v >> 31));
}

enum class Content { kBytes, kFp8, kBf16, kFloats };
template <Content content>
__global__ void FillKernel(void* to, int64_t count, float scale, uint64_t seed) {
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < count;
       i += static_cast<int64_t>(gridDim.x) * kThreads) {
    const uint32_t h = Hash(static_cast<uint64_t>(i) * 0x9e3779b97f4a7c15ull + seed);
    const float unit = static_cast<float>(h >> 8) * 0x1p-24f;
    if constexpr (content == Content::kBytes) {
      const uint8_t byte = static_cast<uint8_t>(h);
      static_cast<uint8_t*>(to)[i] = byte == 0x80 ? 1 : byte;
    } else if constexpr (content == Content::kFp8) {
      const uint8_t byte = static_cast<uint8_t>(h);
      static_cast<uint8_t*>(to)[i] = (byte & 0x7f) == 0x7f ? 1 : byte;
    } else if constexpr (content == Content::kBf16) {
      static_cast<__nv_bfloat16*>(to)[i] = __float2bfloat16_rn(4 * unit - 2);
    } else {
      static_cast<float*>(to)[i] = scale * (0.5f + unit);
    }
  }
}

template <Content content>
absl::Status FillWith(void* to, int64_t count, float scale, uint64_t seed, const cuda::Stream& stream) {
  return cuda::Launch("fill", FillKernel<content>, {.grid = dim3(1024), .block = dim3(kThreads)}, stream, to,
                      count, scale, seed);
}

__global__ void __launch_bounds__(kThreads)
    RescaleKernel(const int32_t* sums, const float* x_scale, const float* w_scale, int64_t n, uint16_t* y) {
  const int64_t m = blockIdx.y, column = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * 4;
  if (column >= n) return;
  const int4 s = *reinterpret_cast<const int4*>(sums + m * n + column);
  const float4 w = *reinterpret_cast<const float4*>(w_scale + column);
  const float x = x_scale[m];
  __nv_bfloat162 out[2] = {
      __floats2bfloat162_rn(static_cast<float>(s.x) * x * w.x, static_cast<float>(s.y) * x * w.y),
      __floats2bfloat162_rn(static_cast<float>(s.z) * x * w.z, static_cast<float>(s.w) * x * w.w)};
  *reinterpret_cast<uint2*>(y + m * n + column) = *reinterpret_cast<const uint2*>(out);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Peer>> Peer::Make(PeerKind kind, int64_t m, int64_t n, int64_t k,
                                                 const PeerBuffers& buffers, const cuda::Stream& stream) {
  SF_ASSIGN_OR_RETURN(const Lt* lt, LoadLt());
  auto peer = std::make_unique<LtPeer>(*lt, kind);
  SF_RETURN_IF_ERROR(peer->Prepare(m, n, k, buffers, stream));
  return peer;
}

absl::Status Rescale(const int32_t* sums, const float* x_scale, const float* w_scale, int64_t m, int64_t n,
                     uint16_t* y, const cuda::Stream& stream) {
  const dim3 grid(static_cast<unsigned>(cuda::CeilDiv(n, 4 * kThreads)), static_cast<unsigned>(m));
  return cuda::Launch("rescale", RescaleKernel, {.grid = grid, .block = dim3(kThreads)}, stream, sums,
                      x_scale, w_scale, n, y);
}

absl::Status FillBytes(void* to, int64_t count, uint64_t seed, const cuda::Stream& stream) {
  return FillWith<Content::kBytes>(to, count, 1, seed, stream);
}
absl::Status FillFp8(void* to, int64_t count, uint64_t seed, const cuda::Stream& stream) {
  return FillWith<Content::kFp8>(to, count, 1, seed, stream);
}
absl::Status FillBf16(uint16_t* to, int64_t count, uint64_t seed, const cuda::Stream& stream) {
  return FillWith<Content::kBf16>(to, count, 1, seed, stream);
}
absl::Status FillFloats(float* to, int64_t count, float scale, uint64_t seed, const cuda::Stream& stream) {
  return FillWith<Content::kFloats>(to, count, scale, seed, stream);
}

Graph::~Graph() {
  if (exec_ != nullptr) (void)cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(exec_));
}

absl::Status Graph::Begin(const cuda::Stream& stream) {
  return cuda::ToStatus(cudaStreamBeginCapture(cuda::Handle(stream), cudaStreamCaptureModeThreadLocal),
                        "capture");
}

absl::Status Graph::End(const cuda::Stream& stream) {
  cudaGraph_t graph = nullptr;
  SF_RETURN_IF_ERROR(cuda::ToStatus(cudaStreamEndCapture(cuda::Handle(stream), &graph), "capture"));
  cudaGraphExec_t exec = nullptr;
  const absl::Status status = cuda::ToStatus(cudaGraphInstantiate(&exec, graph, 0), "graph");
  (void)cudaGraphDestroy(graph);
  exec_ = exec;
  return status;
}

absl::Status Graph::Run(const cuda::Stream& stream) {
  return cuda::ToStatus(cudaGraphLaunch(static_cast<cudaGraphExec_t>(exec_), cuda::Handle(stream)), "graph");
}

}  // namespace spikefold::benchmarks
