// "Did you mean": the known name nearest to an unknown one.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace spikefold {

// ` (did you mean "w8a8-static"?)` if a candidate is within a third of the longer name's length in edit
// distance, else "". Ties go to the first.
std::string DidYouMean(absl::string_view name, const std::vector<std::string>& candidates);

}  // namespace spikefold
