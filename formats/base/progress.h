// Progress of long work. Libraries call it; only apps/ shows it. May be empty.
#pragma once

#include <cstdint>
#include <functional>

#include "absl/strings/string_view.h"

namespace spikefold {

// Called with what is being done and done/total in the caller's unit. Returning false asks to stop:
// the callee returns absl::CancelledError as soon as it can.
using Progress = std::function<bool(absl::string_view what, int64_t done, int64_t total)>;

inline bool Report(const Progress& progress, absl::string_view what, int64_t done, int64_t total) {
  return !progress || progress(what, done, total);
}

}  // namespace spikefold
