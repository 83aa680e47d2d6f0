// Linears of the CUDA backend: weights are uploaded when they are packed; the linears of a site share a
// launch.
#include <algorithm>
#include <cstring>
#include <vector>

#include "absl/strings/str_cat.h"
#include "formats/base/status.h"
#include "kernels/matmul_f32_f32_f32/matmul_f32_f32_f32_cuda.h"
#include "kernels/matmul_f32_f32_s8c/matmul_f32_f32_s8c_cuda.h"
#include "kernels/matmul_f32_s8r_s8c/matmul_f32_s8r_s8c_cuda.h"
#include "kernels/runtime/cuda_ops.h"

namespace spikefold {
namespace {

namespace s8c = kernels::matmul_f32_s8r_s8c;
using Kind = LinearWeights::Kind;

const CudaBuffer& Cuda(const Buffer& x) { return static_cast<const CudaBuffer&>(x); }

template <typename T>
absl::Status Upload(const std::vector<T>& values, const cuda::Stream& stream, CudaWeights& owner,
                    cuda::DeviceMemory& to) {
  const size_t bytes = values.size() * sizeof(T);
  owner.bytes += bytes;
  SF_RETURN_IF_ERROR(to.Reserve(bytes));
  return cuda::CopyIn(to.as<T>(), values.data(), bytes, stream);
}

// [n, r] -> [r, n]: neighbouring channels load together.
std::vector<uint16_t> Transposed(const std::vector<uint16_t>& w, int64_t n) {
  const int64_t r = static_cast<int64_t>(w.size()) / n;
  std::vector<uint16_t> out(w.size());
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t c = 0; c < r; ++c) out[static_cast<size_t>(c * n + i)] = w[static_cast<size_t>(i * r + c)];
  }
  return out;
}

cuda::Linear LinearOf(const LinearWeights& w, const CudaWeights& device, float* y) {
  return {.n = w.n,
          .w = device.w.as<void>(),
          .w_stride = w.kind == Kind::kF32 ? w.k : s8c::RowBytes(w.k),
          .w_scale = device.scale.as<float>(),
          .kept_w = device.kept.as<uint16_t>(),
          .kept_stride = w.n,
          .bias = w.bias.empty() ? nullptr : device.bias.as<float>(),
          .y = y};
}

}  // namespace

absl::Status CudaOps::PackF32(const Tensor& w, LinearWeights& out) {
  out.kind = Kind::kF32;
  out.n = w.dim(0);
  out.k = w.dim(1);
  auto device = std::make_shared<CudaWeights>();
  const size_t bytes = static_cast<size_t>(out.n * out.k) * sizeof(float);
  SF_RETURN_IF_ERROR(device->w.Reserve(bytes));
  SF_RETURN_IF_ERROR(cuda::CopyIn(device->w.as<float>(), w.data(), bytes, *stream_));
  device->bytes = bytes;
  out.device = std::move(device);
  return stream_->Sync();
}

absl::Status CudaOps::PackCodes(const CodeMatrix& w, const ActivationFormat& act, LinearWeights& out) {
  if (w.format != WeightFormat::kS8c || act.group > 0 || !act.symmetric) {
    return absl::UnimplementedError(
        absl::StrCat("backend \"cuda\": no kernel for ", FormatText(w.format, w.group), " weights with ",
                     FormatText(act), " activations; quantize to w8a8, or use --backend cpu"));
  }
  if (w.k >= 131072) {  // 2^17 products of up to 127^2 would no longer fit in int32
    return absl::UnimplementedError(
        absl::StrCat("backend \"cuda\": K=", w.k, " is not below 131072; use --backend cpu"));
  }
  out.kind = Kind::kS8c;
  out.n = w.n;
  out.k = w.k;
  out.scale.assign(w.scales.begin(), w.scales.end());
  const int64_t stride = s8c::RowBytes(w.k);
  std::vector<int8_t> rows(static_cast<size_t>(w.n * stride), 0);
  for (int64_t n = 0; n < w.n; ++n) {
    std::memcpy(rows.data() + n * stride, w.codes.data() + n * w.k, static_cast<size_t>(w.k));
  }
  auto device = std::make_shared<CudaWeights>();
  SF_RETURN_IF_ERROR(Upload(rows, *stream_, *device, device->w));
  SF_RETURN_IF_ERROR(Upload(out.scale, *stream_, *device, device->scale));
  out.device = std::move(device);
  return stream_->Sync();
}

// What was not known when the weight was packed. weight_bytes() counts it on the host already.
absl::StatusOr<const CudaWeights*> CudaOps::Complete(const LinearWeights& w) {
  if (w.device == nullptr) {
    return absl::InternalError("backend \"cuda\": a linear was packed for another backend");
  }
  auto& device = static_cast<CudaWeights&>(*w.device);
  if (device.complete) return &device;
  const uint64_t bytes = device.bytes;
  SF_RETURN_IF_ERROR(Upload(w.bias, *stream_, device, device.bias));
  SF_RETURN_IF_ERROR(Upload(Transposed(w.kept_weight, w.n), *stream_, device, device.kept));
  SF_RETURN_IF_ERROR(Upload(w.super_slot, *stream_, device, device.super_slot));
  SF_RETURN_IF_ERROR(Upload(w.super_row, *stream_, device, device.super_row));
  SF_RETURN_IF_ERROR(Upload(w.super_value, *stream_, device, device.super_value));
  device.bytes = bytes;
  device.complete = true;
  return &device;
}

absl::Status CudaOps::FloatLinears(const CudaActivation& x, absl::Span<const LinearWeights* const> w,
                                   absl::Span<float* const> y) {
  cuda::SimtParams params = {.m = x.rows, .k = x.buffer.width(), .x = x.buffer.data()};
  for (size_t i = 0; i < w.size(); ++i) {
    if (!w[i]->super_row.empty()) {
      return absl::InternalError("backend \"cuda\": super weights of a float linear");
    }
    SF_ASSIGN_OR_RETURN(const CudaWeights* device, Complete(*w[i]));
    params.linears.linear[params.linears.count++] = LinearOf(*w[i], *device, y[i]);
  }
  return kernels::matmul_f32_f32_f32::RunCuda(params, *stream_);
}

absl::Status CudaOps::CodeLinears(const CudaActivation& x, absl::Span<const LinearWeights* const> w,
                                  absl::Span<float* const> y) {
  s8c::CudaParams params = {.m = x.rows,
                            .k = x.buffer.width(),
                            .x = x.codes.as<int8_t>(),
                            .x_scale = x.scale.as<float>(),
                            .num_kept = static_cast<int64_t>(x.form->kept.size()),
                            .kept_x = x.kept_x.as<float>()};
  for (size_t i = 0; i < w.size(); ++i) {
    SF_ASSIGN_OR_RETURN(const CudaWeights* device, Complete(*w[i]));
    params.linears.linear[params.linears.count++] = LinearOf(*w[i], *device, y[i]);
  }
  SF_RETURN_IF_ERROR(s8c::RunCuda(params, *stream_));
  for (size_t i = 0; i < w.size(); ++i) SF_RETURN_IF_ERROR(AddSupers(x, *w[i], y[i]));
  return absl::OkStatus();
}

absl::Status CudaOps::AddSupers(const CudaActivation& x, const LinearWeights& w, float* y) {
  if (w.super_row.empty()) return absl::OkStatus();
  SF_ASSIGN_OR_RETURN(const CudaWeights* device, Complete(w));
  return cuda::AddSuperWeights({.m = x.rows,
                                .n = w.n,
                                .num_super = static_cast<int64_t>(w.super_row.size()),
                                .x_stride = static_cast<int64_t>(x.form->super_columns.size()),
                                .x = x.super_x.as<float>(),
                                .slot = device->super_slot.as<int32_t>(),
                                .row = device->super_row.as<int32_t>(),
                                .value = device->super_value.as<float>(),
                                .y = y},
                               *stream_);
}

absl::Status CudaOps::MixedLinears(const CudaActivation& x, absl::Span<const LinearWeights* const> w,
                                   absl::Span<float* const> y, bool spikes_only) {
  SF_ASSIGN_OR_RETURN(const CudaConstants::Form* columns, constants_.Columns(*x.form, x.buffer.width()));
  cuda::SimtParams params = {.m = spikes_only ? std::min(x.rows, x.max_spike_rows) : x.rows,
                             .k = x.buffer.width(),
                             .x = x.buffer.data(),
                             .rows = spikes_only ? x.spike_rows.as<int32_t>() + 1 : nullptr,
                             .num_rows = spikes_only ? x.spike_rows.as<int32_t>() : nullptr,
                             .tail = {.num_kept = static_cast<int64_t>(x.form->kept.size()),
                                      .kept = columns->device_kept.as<int32_t>(),
                                      .super_column = columns->device_super.as<int32_t>()}};
  for (size_t i = 0; i < w.size(); ++i) {
    SF_ASSIGN_OR_RETURN(const CudaWeights* device, Complete(*w[i]));
    params.super[params.linears.count] = {.num = static_cast<int64_t>(w[i]->super_row.size()),
                                          .slot = device->super_slot.as<int32_t>(),
                                          .row = device->super_row.as<int32_t>(),
                                          .value = device->super_value.as<float>()};
    params.linears.linear[params.linears.count++] = LinearOf(*w[i], *device, y[i]);
  }
  return kernels::matmul_f32_f32_s8c::RunCuda(params, *stream_);
}

absl::Status CudaOps::LinearsTo(const CudaActivation& x, absl::Span<const LinearWeights* const> w,
                                absl::Span<float* const> y) {
  if (w.size() > cuda::kMaxLinears)
    return absl::InternalError("backend \"cuda\": too many linears of a site");
  const LinearWeights *floats[cuda::kMaxLinears], *codes[cuda::kMaxLinears];
  float *float_y[cuda::kMaxLinears], *code_y[cuda::kMaxLinears];
  size_t num_floats = 0, num_codes = 0;
  for (size_t i = 0; i < w.size(); ++i) {
    if (w[i]->kind == Kind::kF32) {
      floats[num_floats] = w[i];
      float_y[num_floats++] = y[i];
    } else {
      codes[num_codes] = w[i];
      code_y[num_codes++] = y[i];
    }
  }
  if (num_floats > 0) SF_RETURN_IF_ERROR(FloatLinears(x, {floats, num_floats}, {float_y, num_floats}));
  if (num_codes == 0) return absl::OkStatus();
  const absl::Span<const LinearWeights* const> c(codes, num_codes);
  const absl::Span<float* const> c_y(code_y, num_codes);
  if (x.form->format.is_float()) return MixedLinears(x, c, c_y, false);
  SF_RETURN_IF_ERROR(CodeLinears(x, c, c_y));
  return x.max_spike_rows > 0 ? MixedLinears(x, c, c_y, true) : absl::OkStatus();
}

absl::Status CudaOps::Linears(const Activation& x, absl::Span<const LinearWeights* const> w,
                              absl::Span<Buffer* const> y) {
  std::vector<float*> outs;
  for (const Buffer* buffer : y) outs.push_back(Cuda(*buffer).data());
  return LinearsTo(static_cast<const CudaActivation&>(x), w, outs);
}

absl::Status CudaOps::Head(const LinearWeights& w, const ActivationForm& form, int64_t rows,
                           const float* hidden, float* logits) {
  if (head_x_ == nullptr || head_x_->buffer.width() != w.k) {
    SF_RETURN_IF_ERROR(stream_->Sync());
    head_x_ = std::make_unique<CudaActivation>(w.k);
  }
  SF_RETURN_IF_ERROR(head_x_->buffer.Reserve(rows));
  SF_RETURN_IF_ERROR(Write(hidden, rows, head_x_->buffer));
  SF_ASSIGN_OR_RETURN(const Target target, TargetOf(rows, form, *head_x_, true));
  SF_RETURN_IF_ERROR(Finish(target, *head_x_));
  SF_RETURN_IF_ERROR(logits_.Reserve(static_cast<size_t>(rows * w.n) * sizeof(float)));
  float* const out = logits_.as<float>();
  const LinearWeights* const weights = &w;
  SF_RETURN_IF_ERROR(LinearsTo(*head_x_, {&weights, 1}, {&out, 1}));
  return ReadOut(out, rows * w.n, logits);
}

}  // namespace spikefold
