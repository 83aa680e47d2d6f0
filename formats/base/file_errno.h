// errno as a Status: the one table between the system's refusals and ours (formats/base/status.h).
#pragma once

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace spikefold {

// "<path>: cannot <doing>: <reason>"
absl::Status ErrnoStatus(int error, absl::string_view doing, absl::string_view path);

}  // namespace spikefold
