// The head of the CUDA backend, and what is found out from logits without taking them to the host.
#include <algorithm>
#include <memory>
#include <vector>

#include "absl/strings/string_view.h"
#include "formats/base/status.h"
#include "kernels/argmax_s32_f32/argmax_s32_f32_cuda.h"
#include "kernels/kld_f64_f32_f32/kld_f64_f32_f32_cuda.h"
#include "kernels/runtime/cuda_ops.h"

namespace spikefold {
namespace {

namespace argmax = kernels::argmax_s32_f32;
namespace kld = kernels::kld_f64_f32_f32;

}  // namespace

absl::Status CudaOps::Head(const LinearWeights& w, const ActivationForm& form, int64_t rows,
                           const float* hidden, float* logits) {
  SF_RETURN_IF_ERROR(HeadLogits(w, form, rows, hidden, logits_));
  return ReadOut(logits_.as<float>(), rows * w.n, logits);
}

absl::Status CudaOps::ReserveHead(const LinearWeights& w, int64_t rows, cuda::DeviceMemory& logits) {
  if (head_x_ == nullptr || head_x_->buffer.width() != w.k) {
    SF_RETURN_IF_ERROR(stream_->Sync());
    head_x_ = std::make_unique<CudaActivation>(w.k);
  }
  return logits.Reserve(static_cast<size_t>(rows * w.n) * sizeof(float));
}

absl::Status CudaOps::HeadLogits(const LinearWeights& w, const ActivationForm& form, int64_t rows,
                                 const float* hidden, cuda::DeviceMemory& logits) {
  SF_RETURN_IF_ERROR(ReserveHead(w, rows, logits));
  SF_RETURN_IF_ERROR(head_x_->buffer.Reserve(rows));
  SF_RETURN_IF_ERROR(Write(hidden, rows, head_x_->buffer));
  return HeadLogits(w, form, rows, logits);
}

absl::Status CudaOps::HeadLogits(const LinearWeights& w, const ActivationForm& form, int64_t rows,
                                 const cuda::DeviceMemory& logits) {
  SF_ASSIGN_OR_RETURN(const Target target, TargetOf(rows, form, *head_x_, true));
  SF_RETURN_IF_ERROR(Finish(target, *head_x_));
  float* const out = logits.as<float>();
  const LinearWeights* const weights = &w;
  return LinearsTo(*head_x_, {&weights, 1}, {&out, 1});
}

absl::Status CudaOps::FindBest(const LinearWeights& w, const ActivationForm& form, int64_t rows,
                               const Buffer& hidden) {
  constexpr int64_t kMostRows = 128;  // a head of 262,144 words makes 128 MiB of them
  const int64_t blocks = (rows + kMostRows - 1) / kMostRows, each = (rows + blocks - 1) / blocks;
  SF_RETURN_IF_ERROR(ReserveHead(w, each, logits_));
  const int64_t parts = argmax::NumParts(w.n);
  SF_RETURN_IF_ERROR(best_.Reserve(static_cast<size_t>(rows * parts) * sizeof(argmax::Found)));
  best_parts_ = static_cast<size_t>(parts);
  float* const rows_of_hidden = static_cast<const CudaBuffer&>(hidden).data();
  for (int64_t row = 0; row < rows; row += each) {
    const int64_t count = std::min(each, rows - row);
    head_x_->buffer.Borrow(rows_of_hidden + row * w.k);
    const absl::Status status = HeadLogits(w, form, count, logits_);
    head_x_->buffer.Borrow(nullptr);
    SF_RETURN_IF_ERROR(status);
    SF_RETURN_IF_ERROR(argmax::RunCuda(
        {.m = count, .n = w.n, .x = logits_.as<float>(), .found = best_.as<argmax::Found>() + row * parts},
        *stream_));
  }
  return absl::OkStatus();
}

template <typename T>
absl::Status CudaOps::ReadArray(const cuda::DeviceMemory& memory, int64_t count, T* host) {
  static_assert(sizeof(T) % sizeof(float) == 0);
  constexpr int64_t kFloats = sizeof(T) / sizeof(float);
  return ReadOut(memory.as<float>(), count * kFloats, reinterpret_cast<float*>(host));
}

absl::Status CudaOps::ReadBest(int64_t rows, Best* best) {
  std::vector<argmax::Found> found(static_cast<size_t>(rows) * best_parts_);
  SF_RETURN_IF_ERROR(ReadArray(best_, static_cast<int64_t>(found.size()), found.data()));
  for (auto parts = absl::MakeConstSpan(found); !parts.empty(); parts.remove_prefix(best_parts_)) {
    *best++ = argmax::ResultOf(parts.first(best_parts_));
  }
  return absl::OkStatus();
}

absl::Status CudaOps::KeepLogits(LogitsOf of, const LinearWeights& w, const ActivationForm& form,
                                 int64_t rows, const float* hidden) {
  SF_RETURN_IF_ERROR(HeadLogits(w, form, rows, hidden, kept_logits_[static_cast<size_t>(of)]));
  kept_width_ = w.n;
  return stream_->Sync();  // who compares them may have another stream
}

absl::Status CudaOps::CompareLogits(int64_t rows, Ops* other, const int32_t* targets, TargetRow* out) {
  if (other != nullptr && absl::string_view(other->name()) != name()) {
    return absl::UnimplementedError("logits of two backends are compared on the host");
  }
  const size_t reference = static_cast<size_t>(LogitsOf::kReference);
  const size_t num_rows = static_cast<size_t>(rows);
  const float* const p = kept_logits_[reference].as<float>();
  const float* const q =
      other == nullptr
          ? p
          : static_cast<CudaOps*>(other)->kept_logits_[static_cast<size_t>(LogitsOf::kOther)].as<float>();
  SF_RETURN_IF_ERROR(targets_.Reserve(num_rows * sizeof(int32_t)));
  SF_RETURN_IF_ERROR(target_rows_.Reserve(num_rows * sizeof(TargetRow)));
  SF_RETURN_IF_ERROR(cuda::CopyIn(targets_.as<void>(), targets, num_rows * sizeof(int32_t), *stream_));
  SF_RETURN_IF_ERROR(kld::RunCuda({.m = rows,
                                   .n = kept_width_,
                                   .p = p,
                                   .q = q,
                                   .target = targets_.as<int32_t>(),
                                   .out = target_rows_.as<TargetRow>()},
                                  *stream_));
  return ReadArray(target_rows_, rows, out);
}

}  // namespace spikefold
