// What backends may leave as it is.
#include "kernels/runtime/ops.h"

#include <algorithm>
#include <chrono>

#include "formats/base/status.h"

namespace spikefold {

absl::Status Ops::FindBest(const LinearWeights& w, const ActivationForm& form, int64_t rows,
                           const Buffer& hidden) {
  constexpr int64_t kMostRows = 64;
  best_hidden_.resize(static_cast<size_t>(rows * w.k));
  SF_RETURN_IF_ERROR(Read(hidden, rows, best_hidden_.data()));
  best_logits_.resize(static_cast<size_t>(std::min(rows, kMostRows) * w.n));
  best_.resize(static_cast<size_t>(rows));
  for (int64_t row = 0; row < rows; row += kMostRows) {
    const int64_t count = std::min(kMostRows, rows - row);
    SF_RETURN_IF_ERROR(Head(w, form, count, best_hidden_.data() + row * w.k, best_logits_.data()));
    for (int64_t i = 0; i < count; ++i) {
      best_[static_cast<size_t>(row + i)] = kernels::argmax_s32_f32::Run(best_logits_.data() + i * w.n, w.n);
    }
  }
  return absl::OkStatus();
}

absl::Status Ops::ReadBest(int64_t rows, Best* best) {
  std::copy_n(best_.begin(), rows, best);
  return absl::OkStatus();
}

absl::Status Ops::KeepLogits(LogitsOf, const LinearWeights&, const ActivationForm&, int64_t, const float*) {
  return absl::UnimplementedError("this backend's logits are compared on the host");
}

absl::Status Ops::CompareLogits(int64_t, Ops*, const int32_t*, TargetRow*) {
  return absl::UnimplementedError("this backend's logits are compared on the host");
}

absl::StatusOr<Ops::Timing> Ops::Time(const StepArgs&, int times, absl::FunctionRef<absl::Status()> walk) {
  SF_RETURN_IF_ERROR(walk());
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < times; ++i) SF_RETURN_IF_ERROR(walk());
  const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
  return Timing{.seconds = taken.count() / times};
}

absl::Status Ops::SetForm(const ActivationForm& form, int64_t rows, Activation& x) {
  x.form = &form;
  x.rows = rows;
  return Reform(x);
}

absl::StatusOr<double> Ops::TimePeer(int64_t, int64_t, int64_t) {
  return absl::UnimplementedError("this backend has no library to compare with");
}

}  // namespace spikefold
