// Strings behind their u64 length, as safetensors and GGUF have them: where mutations that keep the framing
// go.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "absl/strings/string_view.h"

namespace spikefold::fuzz {

struct LengthPrefixed {
  size_t offset = 0;  // of the first byte behind the length; 0: there is none
  size_t length = 0;
};

// One of the places where 8 bytes are the length of bytes that follow.
inline LengthPrefixed FindLengthPrefixed(absl::string_view bytes, size_t choice) {
  std::vector<LengthPrefixed> found;
  for (size_t i = 0; i + 8 < bytes.size() && found.size() < 4096; ++i) {
    uint64_t length = 0;
    std::memcpy(&length, bytes.data() + i, 8);
    if (length > 0 && length <= bytes.size() - i - 8) found.push_back({i + 8, static_cast<size_t>(length)});
  }
  return found.empty() ? LengthPrefixed{} : found[choice % found.size()];
}

}  // namespace spikefold::fuzz
