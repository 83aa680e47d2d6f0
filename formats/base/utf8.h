// UTF-8 one character at a time, strictly: no surrogates, no overlong forms, nothing above U+10FFFF.
#pragma once

#include <cstddef>

#include "absl/strings/string_view.h"

namespace spikefold {

struct Utf8Char {
  char32_t code = 0;  // the byte itself when invalid
  size_t bytes = 1;   // how far to advance; 1 when invalid
  bool valid = false;
};
// The first character of `s`, which is not empty.
Utf8Char NextUtf8(absl::string_view s);
bool IsValidUtf8(absl::string_view s);

}  // namespace spikefold
