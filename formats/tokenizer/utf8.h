// Invalid UTF-8 as the two reference tokenizers read it; valid UTF-8 is formats/base/utf8.h's business.
#pragma once

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace spikefold::tok {

void AppendUtf8(uint32_t code_point, std::string* out);  // also encodes surrogates
// Bytes the first byte of a sequence announces; 1 for a continuation byte.
int AnnouncedUtf8Length(char first);

// Each maximal invalid subpart becomes one U+FFFD (Unicode 3.9, as Python and Rust decode).
std::string ReplaceInvalidUtf8(absl::string_view text);
// llama.cpp's reading: overlong forms and surrogates are taken at their value and written anew, any other
// invalid byte becomes U+FFFD. Sequences above U+10FFFF, which llama.cpp refuses, become U+FFFD as well.
std::string RewriteUtf8Leniently(absl::string_view text);

}  // namespace spikefold::tok
