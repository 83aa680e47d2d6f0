#include "formats/base/utf8.h"

#include <cstdint>

#include "absl/strings/str_cat.h"
#include "formats/base/json.h"

namespace spikefold {

Utf8Char NextUtf8(absl::string_view s) {
  const auto byte = [&s](size_t i) { return static_cast<uint8_t>(s[i]); };
  const uint8_t lead = byte(0);
  if (lead < 0x80) return {lead, 1, true};
  const Utf8Char bad{lead, 1, false};
  const size_t n = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  if (lead < 0xc2 || lead > 0xf4 || s.size() < n) return bad;
  char32_t code = lead & (0xffu >> (n + 1));
  for (size_t i = 1; i < n; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return bad;
    code = (code << 6) | (byte(i) & 0x3f);
  }
  if ((n == 3 && code < 0x800) || (n == 4 && code < 0x10000)) return bad;
  if ((code >= 0xd800 && code <= 0xdfff) || code > 0x10ffff) return bad;
  return {code, n, true};
}

bool IsValidUtf8(absl::string_view s) {
  while (!s.empty()) {
    const Utf8Char c = NextUtf8(s);
    if (!c.valid) return false;
    s.remove_prefix(c.bytes);
  }
  return true;
}

namespace {

// Characters that move the cursor, hide, or turn the direction of what is printed after them.
bool IsTreacherous(char32_t c) {
  return c < 0x20 || (c >= 0x7f && c <= 0x9f) || (c >= 0x200b && c <= 0x200f) ||
         (c >= 0x2028 && c <= 0x202e) || (c >= 0x2060 && c <= 0x2069) || c == 0xfeff;
}

}  // namespace

std::string Printable(absl::string_view text, size_t max_bytes) {
  std::string out;
  size_t cut = 0;  // the last place that leaves room for "..."
  while (!text.empty()) {
    const Utf8Char c = NextUtf8(text);
    std::string piece;
    if (!c.valid) {
      piece = absl::StrCat("\\x", absl::Hex(static_cast<uint32_t>(c.code), absl::kZeroPad2));
    } else if (c.code == '\n') {
      piece = "\\n";
    } else if (c.code < 0x100 && IsTreacherous(c.code)) {
      piece = absl::StrCat("\\x", absl::Hex(static_cast<uint32_t>(c.code), absl::kZeroPad2));
    } else if (IsTreacherous(c.code)) {
      piece = absl::StrCat("\\u", absl::Hex(static_cast<uint32_t>(c.code), absl::kZeroPad4));
    } else {
      piece.assign(text.data(), c.bytes);
    }
    text.remove_prefix(c.bytes);
    if (out.size() + piece.size() > max_bytes) return out.substr(0, cut) + "...";
    out += piece;
    if (out.size() + 3 <= max_bytes) cut = out.size();
  }
  return out;
}

}  // namespace spikefold
