// Rounds a whole model, layer by layer, on the inputs that the linears will really see: each site's Hessian
// is computed behind everything that was rounded before it. All windows of text go through one part of the
// model before the next, and one site's Hessian is in memory at a time.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "calib/hessian.h"
#include "formats/base/progress.h"
#include "formats/base/thread_pool.h"
#include "formats/checkpoint.h"
#include "kernels/runtime/model.h"
#include "quant/rounding/gptq.h"
#include "quant/rounding/site_rounding.h"

namespace spikefold {

// Weights of a site's linears that are rounded in one go: enough to keep threads busy, few beside a Hessian.
inline constexpr int64_t kRoundedTogether = int64_t{4} << 20;

// What is wanted of one linear.
struct LinearRounding {
  bool round = false;  // false: it stays as it is
  WeightGrid grid;
  std::vector<int32_t> kept;           // ascending; they count as bf16
  std::vector<PlannedSuper> supers;    // they count as exact
  float spike_threshold = 0;           // > 0: rows above it are computed in float and do not count
  std::optional<RoundedWeights> done;  // rounded by an earlier, interrupted call: `take` has it already
};

struct SequentialOptions {
  ThreadPool* pool = nullptr;               // required
  const KvPrefix* prefix = nullptr;         // before every window
  const RuntimeModel* reference = nullptr;  // the float model once more: rounds to its outputs, see below
  double reference_strength = 0.5;
  // `model` was loaded without its linears and has them only while the text passes through them: not together
  // with `reference`. What an earlier call rounded is passed through site by site.
  bool weights_on_demand = false;
  bool sequential = true;  // false: Hessians of the float model throughout, `model` stays as it is
  double damping = 0.01;
  double row_cap = 16;  // RowWeighting::cap
  GptqOptions gptq;
  HostRounding* host_rounding = nullptr;  // gets what a device did not round; may be null
  Progress progress;
};

// `reader` holds the float weights and `model` was loaded from it; on return `model` computes with what the
// codes stand for, in float. `choose` is asked once a linear (head included, by node) before its site is
// calibrated, `take` gets the result, in order of execution.
//
// With `reference` the target is not W x^ but W x, x being what the float model feeds the linear and x^ what
// this one does: W is replaced by W + strength * W E[(x - x^) x^T] H^-1, the best answer to the errors made
// before.
//
// InvalidArgument: no windows, what Gptq and ForwardNodes refuse; Cancelled; what `choose` and `take` return.
absl::Status RoundSequentially(const CheckpointReader& reader, RuntimeModel& model,
                               const std::vector<std::vector<int32_t>>& windows,
                               const SequentialOptions& options,
                               absl::FunctionRef<absl::StatusOr<LinearRounding>(int node)> choose,
                               absl::FunctionRef<absl::Status(int node, RoundedWeights rounded)> take);

}  // namespace spikefold
