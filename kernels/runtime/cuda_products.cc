// CodeProductSum on a GPU: the product of matmul_f32_s8r_s8c, whose outputs are the CPU's bit for bit, and an
// add of what it gives.
#include <cstring>
#include <vector>

#include "formats/base/status.h"
#include "kernels/cuda/memory.h"
#include "kernels/matmul_f32_s8r_s8c/matmul_f32_s8r_s8c_cuda.h"
#include "kernels/norm_f32_f32/norm_f32_f32_cuda.h"
#include "kernels/runtime/cuda_ops.h"
#include "kernels/runtime/cuda_rounder.h"

namespace spikefold {
namespace {

namespace cuda = kernels::cuda;
namespace s8c = kernels::matmul_f32_s8r_s8c;

class CudaProductSum : public CodeProductSum {
 public:
  CudaProductSum(int64_t k, RounderHost& host, const cuda::DeviceInfo& device, const cuda::Stream& stream)
      : k_(k), host_(host), device_(device), stream_(stream) {}
  absl::Status Init() {
    const size_t bytes = static_cast<size_t>(k_ * k_) * sizeof(float);
    SF_RETURN_IF_ERROR(product_.Reserve(bytes));
    SF_RETURN_IF_ERROR(sum_.Reserve(bytes));
    SF_RETURN_IF_ERROR(left_.codes.Reserve(static_cast<size_t>(k_ * s8c::RowBytes(kCodeProductRows))));
    SF_RETURN_IF_ERROR(left_.scale.Reserve(static_cast<size_t>(k_) * sizeof(float)));
    return cuda::Fill(sum_.as<void>(), 0, bytes, stream_);
  }

  absl::Status Add(int64_t rows, const int8_t* a, const float* a_scale, const int8_t* b,
                   const float* b_scale) override {
    SF_RETURN_IF_ERROR(Upload(rows, a, a_scale, left_));
    if (a != b) SF_RETURN_IF_ERROR(Upload(rows, b, b_scale, right_));
    const Operand& right = a == b ? left_ : right_;
    s8c::CudaParams params = {.m = k_,
                              .k = rows,
                              .x = left_.codes.as<int8_t>(),
                              .x_scale = left_.scale.as<float>(),
                              .linears = {.count = 1}};
    params.linears.linear[0] = {.n = k_,
                                .w = right.codes.as<int8_t>(),
                                .w_stride = s8c::RowBytes(rows),
                                .w_scale = right.scale.as<float>(),
                                .y = product_.as<float>()};
    SF_RETURN_IF_ERROR(s8c::RunCuda(params, device_, stream_));
    SF_RETURN_IF_ERROR(kernels::norm_f32_f32::RunCuda(
        {.m = k_, .k = k_, .residual = sum_.as<float>(), .branch = product_.as<float>()}, stream_));
    return stream_.Sync();  // the operands have been read
  }

  absl::Status Read(int64_t first, int64_t count, float* to) const override {
    const size_t bytes = static_cast<size_t>(count * k_) * sizeof(float);
    SF_RETURN_IF_ERROR(cuda::CopyOut(to, sum_.as<float>() + first * k_, bytes, stream_));
    return stream_.Sync();
  }

  absl::StatusOr<std::unique_ptr<SiteRounder>> NewRounder() override {
    return NewCudaRounder(sum_.as<float>(), product_.as<float>(), k_, host_, device_, stream_);
  }

 private:
  struct Operand {
    cuda::DeviceMemory codes, scale;
    std::vector<int8_t> padded;  // rows as the kernel reads them, where they are not given so
  };
  absl::Status Upload(int64_t rows, const int8_t* codes, const float* scale, Operand& to) const {
    const int64_t stride = s8c::RowBytes(rows);
    if (stride != rows) {
      to.padded.assign(static_cast<size_t>(k_ * stride), 0);
      for (int64_t i = 0; i < k_; ++i) {
        std::memcpy(to.padded.data() + i * stride, codes + i * rows, static_cast<size_t>(rows));
      }
      codes = to.padded.data();
    }
    const size_t bytes = static_cast<size_t>(k_ * stride),
                 scale_bytes = static_cast<size_t>(k_) * sizeof(float);
    SF_RETURN_IF_ERROR(to.codes.Reserve(bytes));
    SF_RETURN_IF_ERROR(to.scale.Reserve(scale_bytes));
    SF_RETURN_IF_ERROR(cuda::CopyIn(to.codes.as<void>(), codes, bytes, stream_));
    return cuda::CopyIn(to.scale.as<void>(), scale, scale_bytes, stream_);
  }

  const int64_t k_;
  RounderHost& host_;
  const cuda::DeviceInfo& device_;
  const cuda::Stream& stream_;
  cuda::DeviceMemory product_, sum_;  // [k, k]
  Operand left_, right_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<CodeProductSum>> CudaOps::NewCodeProductSum(int64_t k) {
  auto sum = std::make_unique<CudaProductSum>(k, rounder_host_, device_, *stream_);
  const absl::Status status = sum->Init();
  if (absl::IsResourceExhausted(status)) return std::unique_ptr<CodeProductSum>();  // the host has room
  SF_RETURN_IF_ERROR(status);
  return sum;
}

}  // namespace spikefold
