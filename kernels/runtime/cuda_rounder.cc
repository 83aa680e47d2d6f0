#include "kernels/runtime/cuda_rounder.h"

#include <algorithm>
#include <vector>

#include "formats/base/status.h"
#include "kernels/cholesky_f64/cholesky_f64_cuda.h"
#include "kernels/cuda/memory.h"
#include "kernels/gptq_f32/gptq_f32_cuda.h"
#include "kernels/matmul_f32_f32_f32/matmul_f32_f32_f32_ordered_cuda.h"

namespace spikefold {
namespace {

namespace cuda = kernels::cuda;
namespace gptq = kernels::gptq_f32;
namespace f32 = kernels::matmul_f32_f32_f32;

constexpr int64_t kRowBytes = int64_t{2} << 30;  // of rows that are rounded together, at the most
constexpr int64_t kFitBytes = 64 << 20;          // of A, for which there are two buffers
constexpr int64_t kRowGrain = 128;               // a tile of the products
constexpr int64_t kFitRows = 32;                 // that are fitted together at the least
constexpr int64_t kLine = 4;                     // rows of operands begin at multiples of 16 bytes

size_t Bytes(int64_t count, size_t size) { return static_cast<size_t>(count) * size; }

class CudaRounder : public SiteRounder {
 public:
  CudaRounder(float* h, float* feedback, int64_t k, RounderHost& host, const cuda::Stream& stream)
      : h_(h), feedback_(feedback), k_(k), host_(host), stream_(stream) {}
  absl::Status Init() {
    SF_RETURN_IF_ERROR(curvature_.Reserve(Bytes(k_, sizeof(float))));
    SF_RETURN_IF_ERROR(kept_.Reserve(static_cast<size_t>(k_)));
    return gptq::Mirror(h_, k_, stream_);
  }

  absl::Status ReadDiagonal(float* to) override {
    SF_RETURN_IF_ERROR(gptq::Diagonal(h_, k_, 0, curvature_.as<float>(), nullptr, stream_));
    SF_RETURN_IF_ERROR(cuda::CopyOut(to, curvature_.as<void>(), Bytes(k_, sizeof(float)), stream_));
    return stream_.Sync();
  }

  absl::StatusOr<bool> Factor(absl::Span<const int32_t> order, double damping, double dead) override {
    m_ = static_cast<int64_t>(order.size());
    damping_ = damping;
    SF_RETURN_IF_ERROR(Upload(order_, order.data(), m_));
    SF_RETURN_IF_ERROR(
        gptq::Diagonal(h_, k_, static_cast<float>(damping), nullptr, curvature_.as<float>(), stream_));
    if (m_ == 0) return true;
    cuda::DeviceMemory a, failed;
    SF_RETURN_IF_ERROR(a.Reserve(Bytes(m_ * m_, sizeof(double))));
    SF_RETURN_IF_ERROR(failed.Reserve(sizeof(int)));
    SF_RETURN_IF_ERROR(cuda::Fill(failed.as<void>(), 0, sizeof(int), stream_));
    const gptq::FactorParams params = {.k = k_,
                                       .m = m_,
                                       .stride = m_,
                                       .h = h_,
                                       .order = order_.as<int32_t>(),
                                       .damping = damping,
                                       .dead = dead,
                                       .a = a.as<double>(),
                                       .feedback = feedback_,
                                       .feedback_stride = Stride()};
    SF_RETURN_IF_ERROR(gptq::LoadFactor(params, stream_));
    SF_RETURN_IF_ERROR(kernels::cholesky_f64::RunCuda(
        {.n = m_, .stride = m_, .a = a.as<double>(), .failed = failed.as<int>()}, stream_));
    SF_RETURN_IF_ERROR(gptq::StoreFeedback(params, stream_));
    int has_failed = 0;
    SF_RETURN_IF_ERROR(cuda::CopyOut(&has_failed, failed.as<void>(), sizeof(int), stream_));
    SF_RETURN_IF_ERROR(stream_.Sync());
    return has_failed == 0;
  }

  absl::StatusOr<int64_t> RowsAtOnce(int64_t n, int64_t width) override {
    const int64_t groups = k_ / width;
    const int64_t bytes_of_row =
        (4 * k_ + gptq::kBlock + 3 * groups) * static_cast<int64_t>(sizeof(float)) + k_;
    int64_t rows = std::min(n, std::max(kRowGrain, kRowBytes / bytes_of_row / kRowGrain * kRowGrain));
    for (;; rows = std::max(kRowGrain, rows / 2)) {
      const absl::Status status = Reserve(rows, groups);
      if (status.ok()) return rows;
      if (!absl::IsResourceExhausted(status) || rows <= kRowGrain) return status;
      Release();  // what there was room for: fewer rows need less of each
    }
  }

  absl::Status Load(const Rows& rows) override {
    const int64_t groups = k_ / rows.width, scales = rows.n * groups;
    SF_RETURN_IF_ERROR(Reserve(rows.n, groups));
    rows_ = {.n = rows.n,
             .k = k_,
             .width = rows.width,
             .groups = groups,
             .w = w_.as<float>(),
             .code = code_.as<float>(),
             .error = error_.as<float>(),
             .product = product_.as<float>(),
             .scale = scale_.as<float>(),
             .lo = lo_.as<float>(),
             .hi = hi_.as<float>(),
             .kept = kept_.as<uint8_t>()};
    std::vector<uint8_t> kept(static_cast<size_t>(k_));
    for (const int32_t column : rows.kept) kept[static_cast<size_t>(column)] = 1;
    SF_RETURN_IF_ERROR(Upload(kept_, kept.data(), k_));
    SF_RETURN_IF_ERROR(Upload(w_, rows.w, rows.n * k_));
    SF_RETURN_IF_ERROR(Upload(scale_, rows.scale, scales));
    SF_RETURN_IF_ERROR(Upload(lo_, rows.lo, scales));
    SF_RETURN_IF_ERROR(Upload(hi_, rows.hi, scales));
    if (!rows.super_column.empty()) {
      SF_RETURN_IF_ERROR(Upload(super_begin_, rows.super_begin.data(), rows.n + 1));
      SF_RETURN_IF_ERROR(Upload(super_column_, rows.super_column.data(), Count(rows.super_column)));
      rows_.super_begin = super_begin_.as<int32_t>();
      rows_.super_column = super_column_.as<int32_t>();
    }
    SF_RETURN_IF_ERROR(TimesHessian(w_.as<float>()));
    SF_RETURN_IF_ERROR(gptq::RowDots(rows_, w_.as<float>(), power_.as<double>(), stream_));
    SF_RETURN_IF_ERROR(gptq::ClearFixed(rows_, stream_));
    SF_RETURN_IF_ERROR(cuda::Fill(code_.as<void>(), 0, Bytes(rows.n * k_, sizeof(float)), stream_));
    return stream_.Sync();
  }

  // Errors of a block go to all later columns at once, where the host's panels collect those of all earlier
  // ones: the same additions in the same order.
  absl::Status Round() override {
    float* const target = error_.as<float>();  // whose place Errors() takes afterwards
    const int64_t stride = Stride();
    SF_RETURN_IF_ERROR(cuda::Fill(target, 0, Bytes(rows_.n * stride, sizeof(float)), stream_));
    for (int64_t first = 0; first < m_; first += gptq::kBlock) {
      const int64_t count = std::min<int64_t>(gptq::kBlock, m_ - first), next = first + count;
      SF_RETURN_IF_ERROR(gptq::RoundBlock({.rows = rows_,
                                           .first = first,
                                           .count = count,
                                           .order = order_.as<int32_t>(),
                                           .feedback = feedback_,
                                           .feedback_stride = stride,
                                           .target = target,
                                           .target_stride = stride,
                                           .left = left_.as<float>()},
                                          stream_));
      SF_RETURN_IF_ERROR(f32::RunOrderedCuda({.m = rows_.n,
                                              .n = m_ - next,
                                              .k = count,
                                              .x = left_.as<float>(),
                                              .x_stride = gptq::kBlock,
                                              .w = feedback_ + next * stride + first,
                                              .w_stride = stride,
                                              .y = target + next,
                                              .y_stride = stride,
                                              .adds = true},
                                             stream_));
    }
    return absl::OkStatus();
  }

  absl::Status Descend(int max_passes) override {
    SF_RETURN_IF_ERROR(gptq::Errors(rows_, stream_));
    SF_RETURN_IF_ERROR(TimesHessian(error_.as<float>()));
    return gptq::Descend({.rows = rows_,
                          .h = h_,
                          .curvature = curvature_.as<float>(),
                          .damping = static_cast<float>(damping_),
                          .max_passes = max_passes},
                         stream_);
  }

  absl::Status FitScales(Fit fit, const float* scale) override {
    const int64_t groups = rows_.groups, square = groups * groups;
    SF_RETURN_IF_ERROR(gptq::Errors(rows_, stream_));
    SF_RETURN_IF_ERROR(TimesHessian(error_.as<float>()));
    SF_RETURN_IF_ERROR(slope_.Reserve(Bytes(rows_.n * groups, sizeof(double))));
    SF_RETURN_IF_ERROR(gptq::GroupSums({.rows = rows_,
                                        .num_rows = rows_.n,
                                        .product = product_.as<float>(),
                                        .other = error_.as<float>(),
                                        .ridge = damping_,
                                        .to = slope_.as<double>(),
                                        .to_stride = groups},
                                       stream_));
    const int64_t most = kFitBytes / (square * static_cast<int64_t>(sizeof(double)));
    const int64_t rows = std::min(rows_.n, std::max(kFitRows, most / kFitRows * kFitRows));
    for (int i = 0; i < (rows < rows_.n ? 2 : 1); ++i) {
      SF_RETURN_IF_ERROR(curvatures_[i].Reserve(Bytes(rows * square, sizeof(double))));
      SF_RETURN_IF_ERROR(host_.fits[i].Reserve(Bytes(rows * (square + groups), sizeof(double))));
    }
    // The host fits one part's scales while the device sums the next one's.
    SF_RETURN_IF_ERROR(StartFit(0, std::min(rows, rows_.n), 0));
    int turn = 0;
    for (int64_t first = 0; first < rows_.n; first += rows, turn ^= 1) {
      SF_RETURN_IF_ERROR(stream_.Sync());
      const int64_t next = first + rows, count = std::min(rows, rows_.n - first);
      if (next < rows_.n) SF_RETURN_IF_ERROR(StartFit(next, std::min(rows, rows_.n - next), turn ^ 1));
      double* const a = host_.fits[turn].as<double>();
      fit(first, count, a, a + count * square);
    }
    return Upload(scale_, scale, rows_.n * groups);
  }

  absl::Status Store(const float* zero, int8_t* codes, double* error, double* power) override {
    SF_RETURN_IF_ERROR(gptq::Errors(rows_, stream_));
    SF_RETURN_IF_ERROR(TimesHessian(error_.as<float>()));
    SF_RETURN_IF_ERROR(gptq::RowDots(rows_, error_.as<float>(), dots_.as<double>(), stream_));
    SF_RETURN_IF_ERROR(cuda::CopyOut(error, dots_.as<void>(), Bytes(rows_.n, sizeof(double)), stream_));
    SF_RETURN_IF_ERROR(cuda::CopyOut(power, power_.as<void>(), Bytes(rows_.n, sizeof(double)), stream_));
    SF_RETURN_IF_ERROR(Upload(lo_, zero, rows_.n * rows_.groups));  // the bounds are spent
    SF_RETURN_IF_ERROR(gptq::StoreCodes(rows_, lo_.as<float>(), stored_.as<int8_t>(), stream_));
    SF_RETURN_IF_ERROR(cuda::CopyOut(codes, stored_.as<void>(), Bytes(rows_.n * k_, 1), stream_));
    return stream_.Sync();
  }

 private:
  static int64_t Count(absl::Span<const int32_t> values) { return static_cast<int64_t>(values.size()); }
  int64_t Stride() const { return (m_ + kLine - 1) / kLine * kLine; }  // <= k_

  template <typename T>
  absl::Status Upload(cuda::DeviceMemory& to, const T* values, int64_t count) {
    if (count == 0) return absl::OkStatus();
    SF_RETURN_IF_ERROR(to.Reserve(Bytes(count, sizeof(T))));
    return cuda::CopyIn(to.as<void>(), values, Bytes(count, sizeof(T)), stream_);
  }

  absl::Status Reserve(int64_t rows, int64_t groups) {
    for (cuda::DeviceMemory* m : {&w_, &code_, &error_, &product_}) {
      SF_RETURN_IF_ERROR(m->Reserve(Bytes(rows * k_, sizeof(float))));
    }
    for (cuda::DeviceMemory* m : {&scale_, &lo_, &hi_}) {
      SF_RETURN_IF_ERROR(m->Reserve(Bytes(rows * groups, sizeof(float))));
    }
    for (cuda::DeviceMemory* m : {&dots_, &power_})
      SF_RETURN_IF_ERROR(m->Reserve(Bytes(rows, sizeof(double))));
    SF_RETURN_IF_ERROR(left_.Reserve(Bytes(rows * gptq::kBlock, sizeof(float))));
    return stored_.Reserve(Bytes(rows * k_, 1));
  }

  void Release() {
    for (cuda::DeviceMemory* m :
         {&w_, &code_, &error_, &product_, &scale_, &lo_, &hi_, &dots_, &power_, &left_, &stored_}) {
      *m = cuda::DeviceMemory();
    }
  }

  // rows_.product = x H; x [n, k].
  absl::Status TimesHessian(const float* x) {
    return f32::RunOrderedCuda({.m = rows_.n,
                                .n = k_,
                                .k = k_,
                                .x = x,
                                .x_stride = k_,
                                .w = h_,
                                .w_stride = k_,
                                .y = product_.as<float>(),
                                .y_stride = k_},
                               stream_);
  }

  // A of rows [first, first + count), group by group, then their b, to the host.
  absl::Status StartFit(int64_t first, int64_t count, int turn) {
    const int64_t groups = rows_.groups, square = groups * groups;
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t column = g * rows_.width;
      SF_RETURN_IF_ERROR(f32::RunOrderedCuda({.m = count,
                                              .n = k_,
                                              .k = rows_.width,
                                              .x = code_.as<float>() + first * k_ + column,
                                              .x_stride = k_,
                                              .w = h_ + column,
                                              .w_stride = k_,
                                              .y = product_.as<float>(),
                                              .y_stride = k_},
                                             stream_));
      SF_RETURN_IF_ERROR(gptq::GroupSums({.rows = rows_,
                                          .first_row = first,
                                          .num_rows = count,
                                          .product = product_.as<float>(),
                                          .other = code_.as<float>(),
                                          .ridge = damping_,
                                          .ridge_group = g,
                                          .to = curvatures_[turn].as<double>() + g * groups,
                                          .to_stride = square},
                                         stream_));
    }
    double* const host = host_.fits[turn].as<double>();
    SF_RETURN_IF_ERROR(
        cuda::CopyOut(host, curvatures_[turn].as<void>(), Bytes(count * square, sizeof(double)), stream_));
    return cuda::CopyOut(host + count * square, slope_.as<double>() + first * groups,
                         Bytes(count * groups, sizeof(double)), stream_);
  }

  float* const h_;
  float* const feedback_;
  const int64_t k_;
  RounderHost& host_;
  const cuda::Stream& stream_;
  int64_t m_ = 0;  // columns that are rounded
  double damping_ = 0;
  gptq::Rows rows_;
  cuda::DeviceMemory order_, curvature_, kept_, super_begin_, super_column_;
  cuda::DeviceMemory w_, code_, error_, product_, left_, scale_, lo_, hi_, dots_, power_, slope_, stored_;
  cuda::DeviceMemory curvatures_[2];  // A
};

}  // namespace

absl::StatusOr<std::unique_ptr<SiteRounder>> NewCudaRounder(float* h, float* feedback, int64_t k,
                                                            RounderHost& host, const cuda::DeviceInfo& device,
                                                            const cuda::Stream& stream) {
  if (k % kLine != 0 || k > gptq::MaxColumns(device.max_shared_bytes)) return std::unique_ptr<SiteRounder>();
  auto rounder = std::make_unique<CudaRounder>(h, feedback, k, host, stream);
  SF_RETURN_IF_ERROR(rounder->Init());
  return rounder;
}

}  // namespace spikefold
