// What parts of a walk take on the device, and what it could do.
#include <algorithm>
#include <array>

#include "formats/base/status.h"
#include "kernels/cuda/cublaslt.h"
#include "kernels/cuda/graph.h"
#include "kernels/runtime/cuda_ops.h"

namespace spikefold {

// As Step(), but that no recording is kept and pages do not settle: the rows come again.
absl::StatusOr<Ops::Timing> CudaOps::Time(const StepArgs& a, int times,
                                          absl::FunctionRef<absl::Status()> walk) {
  const bool is_step = a.tokens.size() == a.sequences.size();
  StepPlan plan;
  if (is_step) {
    SF_ASSIGN_OR_RETURN(plan, PrepareStep(a));
  }
  step_.active = plan.records;
  absl::StatusOr<Timing> timing = TimeWalks(times, walk);
  step_.active = false;
  step_.rope = nullptr;
  return timing;
}

absl::StatusOr<Ops::Timing> CudaOps::TimeWalks(int times, absl::FunctionRef<absl::Status()> walk) {
  const auto walks = [&]() -> absl::Status {
    for (int i = 0; i < times; ++i) SF_RETURN_IF_ERROR(walk());
    return absl::OkStatus();
  };
  no_room_ = std::numeric_limits<size_t>::max();
  step_.timed = true;
  const absl::Status first = walk();  // allocates and copies from the host, which a recording may not
  step_.repeats = true;
  const absl::StatusOr<cuda::Graph> graph =
      first.ok() ? cuda::Graph::Record(*stream_, walks) : absl::StatusOr<cuda::Graph>(first);
  step_.timed = step_.repeats = false;
  SF_RETURN_IF_ERROR(first);
  const auto run = [&] { return graph.ok() ? graph->Run(*stream_) : walks(); };
  SF_RETURN_IF_ERROR(run());
  std::array<double, 3> seconds;
  cuda::Timer timer(*stream_);
  for (double& s : seconds) {
    SF_RETURN_IF_ERROR(timer.Start());
    SF_RETURN_IF_ERROR(run());
    SF_ASSIGN_OR_RETURN(s, timer.Stop());
  }
  std::sort(seconds.begin(), seconds.end());
  return Timing{.seconds = seconds[1] / times, .has_host = !graph.ok()};
}

absl::Status CudaOps::SetForm(const ActivationForm& form, int64_t rows, Activation& x) {
  return TargetOf(rows, form, static_cast<CudaActivation&>(x), true).status();
}

absl::StatusOr<double> CudaOps::TimePeer(int64_t m, int64_t n, int64_t k) {
  return cuda::TimeLtBf16(m, n, k, device_, *stream_);
}

Ops::Limits CudaOps::limits() const {
  const double ops = cuda::PeakOps(device_);
  return {.ops = ops,
          .int8_ops = 2 * ops,
          .clock_hz = cuda::PeakClockHz(),
          .cache_bytes = static_cast<uint64_t>(device_.l2_bytes)};
}

}  // namespace spikefold
