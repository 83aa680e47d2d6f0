// The byte-level alphabet of GPT-2: every byte has a printable character. Bytes 21-7E, A1-AC and AE-FF stand
// for themselves, the other 68 are U+0100 + n in byte order.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace spikefold::tok {

const std::array<std::string, 256>& ByteAlphabet();  // UTF-8 character of each byte
// "Ġworld" -> " world"; nullopt if a character is outside the alphabet.
std::optional<std::string> BytesFromAlphabet(absl::string_view text);

}  // namespace spikefold::tok
