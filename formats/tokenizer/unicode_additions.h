// Letters and numbers that Unicode assigned after version 14, the one that PCRE2 10.42 knows.
#pragma once

#include <cstdint>

#include "absl/strings/string_view.h"

namespace spikefold::tok {

// A character of Unicode 14 with the same class (letter without case, or number) and UTF-8 length; empty if
// `code_point` needs none, or was assigned after `version` (15 = 15.1, 16, 17).
absl::string_view StandInFor(uint32_t code_point, int version);

}  // namespace spikefold::tok
