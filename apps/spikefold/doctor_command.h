// spikefold doctor: what this machine can do, and whether the kernels compute correctly on it.
#pragma once

#include "absl/status/status.h"
#include "apps/spikefold/context.h"

namespace spikefold {

struct DoctorCommandOptions {};
// Internal if a kernel disagrees with its reference on this machine.
absl::Status RunDoctor(const DoctorCommandOptions& options, Context& context);

}  // namespace spikefold
