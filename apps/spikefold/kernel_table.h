// What each kind of kernel of a walk takes and reaches: bench's tables and their JSON.
#pragma once

#include <string>

#include "absl/strings/string_view.h"
#include "formats/base/json.h"
#include "kernels/runtime/ops.h"
#include "kernels/runtime/profile.h"

namespace spikefold {

struct KernelLimits {
  double read_rate = 0;  // bytes a second, measured; 0: not known
  Ops::Limits device;
  bool is_gpu = false;  // where there is cuBLASLt to compare with
};
// A paragraph that begins with `what` ("A step of 8 sequences"), the table, and what its columns mean.
std::string KernelText(absl::string_view what, const WalkProfile& profile, const KernelLimits& limits);
// Appends an object a kind to `kernels`, and sets the walk's own members of `document`.
void AddKernels(absl::string_view walk, const WalkProfile& profile, bool is_gpu, Json& kernels,
                Json& document);

}  // namespace spikefold
