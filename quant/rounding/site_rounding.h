// The second moments of one site's inputs, and GPTQ by them: where the sum lies, if that device can and has
// room for it, else on the host.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "calib/hessian.h"
#include "formats/base/thread_pool.h"
#include "quant/rounding/gptq.h"

namespace spikefold {

// Sites that were rounded on the host though their model runs on a device: the reason, and how many.
using HostRounding = std::map<std::string, int64_t>;

class SiteRounding {
 public:
  // `sum` gets rows until Start(); `host_rounding` may be null. The pool outlives this.
  SiteRounding(std::unique_ptr<Hessian> sum, double damping, ThreadPool& pool, HostRounding* host_rounding)
      : sum_(std::move(sum)), damping_(damping), pool_(pool), host_rounding_(host_rounding) {}
  Hessian& sum() { return *sum_; }

  // Once all rows are added. Empty `stays`: rounds where the sum lies, as far as that goes; else on the host,
  // for that reason.
  absl::Status Start(absl::string_view stays);
  // H factored without these columns.
  absl::Status Factor(const std::vector<int32_t>& kept);
  // Of tasks that all keep these columns. An error of all, or one each.
  absl::StatusOr<std::vector<absl::StatusOr<RoundedWeights>>> Round(absl::Span<const GptqTask> tasks,
                                                                    const std::vector<int32_t>& kept,
                                                                    const GptqOptions& options);
  bool on_device() const { return rounder_ != nullptr; }
  // Gives the device's memory back: the rest is rounded on the host.
  static constexpr absl::string_view kNoRoom = "memory ran out";
  absl::Status MoveToHost(absl::string_view reason = kNoRoom);

  const HessianFactor& factor() const { return *factor_; }       // the last one
  absl::Span<const double> hessian() const { return hessian_; }  // [k, k]; empty: it lies on a device

 private:
  std::unique_ptr<Hessian> sum_;  // null: hessian_ has it
  const double damping_;
  ThreadPool& pool_;
  HostRounding* const host_rounding_;
  std::unique_ptr<SiteRounder> rounder_;
  int64_t k_ = 0;
  std::vector<double> hessian_;
  std::optional<HessianFactor> factor_;
  std::vector<int32_t> factored_kept_;
};

}  // namespace spikefold
