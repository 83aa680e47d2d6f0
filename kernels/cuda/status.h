// Errors of the CUDA runtime as absl::Status.
#pragma once

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace spikefold::kernels::cuda {

// `error` is a cudaError_t; `what` names the call. ResourceExhausted: out of device memory. Unimplemented: no
// driver, no device, or a device this build has no code for. Internal: everything else.
absl::Status ToStatus(int error, absl::string_view what);

// The error of the launches since the last call, if any: after each kernel launch.
absl::Status CheckLaunch(absl::string_view kernel);

}  // namespace spikefold::kernels::cuda
