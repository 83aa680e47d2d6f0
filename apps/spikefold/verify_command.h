// spikefold verify DIR: recomputes every hash and rule of a native quantized checkpoint.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "apps/spikefold/context.h"

namespace spikefold {

struct VerifyCommandOptions {
  std::string model;
};
absl::Status RunVerify(const VerifyCommandOptions& options, Context& context);

}  // namespace spikefold
