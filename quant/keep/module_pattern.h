// Patterns of modules' names, as --keep takes them.
#pragma once

#include "absl/strings/string_view.h"

namespace spikefold {

// `*` matches any run of characters, all else itself.
bool MatchesPattern(absl::string_view pattern, absl::string_view text);

}  // namespace spikefold
