#include "quant/rounding/site_rounding.h"

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "formats/base/status.h"

namespace spikefold {

absl::Status SiteRounding::Start(absl::string_view stays) {
  k_ = sum_->k();
  if (!stays.empty() || !sum_->on_device()) return MoveToHost(stays);
  auto rounder = sum_->NewRounder();
  if (absl::IsResourceExhausted(rounder.status())) return MoveToHost();
  SF_RETURN_IF_ERROR(rounder.status());
  rounder_ = *std::move(rounder);
  return rounder_ == nullptr ? MoveToHost(absl::StrCat("it has no kernels for K=", k_)) : absl::OkStatus();
}

absl::Status SiteRounding::MoveToHost(absl::string_view reason) {
  factor_.reset();
  rounder_.reset();
  if (sum_->on_device() && host_rounding_ != nullptr) ++(*host_rounding_)[std::string(reason)];
  SF_ASSIGN_OR_RETURN(hessian_, sum_->Full(pool_));
  sum_.reset();
  return absl::OkStatus();
}

absl::Status SiteRounding::Factor(const std::vector<int32_t>& kept) {
  if (factor_ && factored_kept_ == kept) return absl::OkStatus();  // linears of a site agree as a rule
  const FactorOptions options{.kept = kept, .damping = damping_};
  if (on_device()) {
    auto factor = FactorHessian(*rounder_, k_, options);
    if (factor.ok()) {
      factor_ = *std::move(factor);
    } else if (absl::IsResourceExhausted(factor.status())) {
      SF_RETURN_IF_ERROR(MoveToHost());
    } else {
      return factor.status();
    }
  }
  if (!on_device()) {
    SF_ASSIGN_OR_RETURN(factor_, FactorHessian(hessian_, k_, options, pool_));
  }
  factored_kept_ = kept;
  return absl::OkStatus();
}

absl::StatusOr<std::vector<absl::StatusOr<RoundedWeights>>> SiteRounding::Round(
    absl::Span<const GptqTask> tasks, const std::vector<int32_t>& kept, const GptqOptions& options) {
  SF_RETURN_IF_ERROR(Factor(kept));
  auto rounded = Gptq(tasks, *factor_, options, pool_);
  const bool no_room = std::any_of(rounded.begin(), rounded.end(),
                                   [](const auto& r) { return absl::IsResourceExhausted(r.status()); });
  if (!on_device() || !no_room) return rounded;
  rounded.clear();
  SF_RETURN_IF_ERROR(MoveToHost());
  SF_RETURN_IF_ERROR(Factor(kept));
  return Gptq(tasks, *factor_, options, pool_);
}

}  // namespace spikefold
