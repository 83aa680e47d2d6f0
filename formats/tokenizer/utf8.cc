#include "formats/tokenizer/utf8.h"

#include "formats/base/utf8.h"

namespace spikefold::tok {
namespace {

uint8_t ByteAt(absl::string_view text, size_t pos) { return static_cast<uint8_t>(text[pos]); }
bool IsContinuation(absl::string_view text, size_t pos) {
  return pos < text.size() && (ByteAt(text, pos) & 0xC0) == 0x80;
}

struct DecodedChar {
  uint32_t code_point = 0;
  int bytes = 0;  // 0: no sequence starts here
};

// Decodes by the announced length alone, without the range checks of the strict form.
DecodedChar DecodeLeniently(absl::string_view text, size_t pos) {
  const uint8_t first = ByteAt(text, pos);
  if (first < 0x80) return {first, 1};
  if (first < 0xC0 || first >= 0xF8) return {};
  const int bytes = AnnouncedUtf8Length(text[pos]);
  uint32_t code_point = first & (0x7F >> bytes);
  for (int i = 1; i < bytes; ++i) {
    if (!IsContinuation(text, pos + i)) return {};
    code_point = code_point << 6 | (ByteAt(text, pos + i) & 0x3F);
  }
  return {code_point, bytes};
}

}  // namespace

int AnnouncedUtf8Length(char first) {
  const auto byte = static_cast<uint8_t>(first);
  return byte < 0xC0 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
}

void AppendUtf8(uint32_t c, std::string* out) {
  if (c < 0x80) {
    out->push_back(static_cast<char>(c));
    return;
  }
  if (c < 0x800) {
    out->push_back(static_cast<char>(0xC0 | c >> 6));
  } else {
    if (c < 0x10000) {
      out->push_back(static_cast<char>(0xE0 | c >> 12));
    } else {
      out->push_back(static_cast<char>(0xF0 | c >> 18));
      out->push_back(static_cast<char>(0x80 | (c >> 12 & 0x3F)));
    }
    out->push_back(static_cast<char>(0x80 | (c >> 6 & 0x3F)));
  }
  out->push_back(static_cast<char>(0x80 | (c & 0x3F)));
}

std::string ReplaceInvalidUtf8(absl::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t pos = 0; pos < text.size();) {
    const Utf8Char c = NextUtf8(text.substr(pos));
    if (c.valid) {
      out.append(text.data() + pos, c.bytes);
      pos += c.bytes;
      continue;
    }
    AppendUtf8(0xFFFD, &out);
    // The maximal subpart: the longest prefix of some valid sequence.
    const uint8_t first = ByteAt(text, pos++);
    if (first < 0xC2 || first > 0xF4 || !IsContinuation(text, pos)) continue;
    const uint8_t second = ByteAt(text, pos);
    if ((first == 0xE0 && second < 0xA0) || (first == 0xED && second >= 0xA0) ||
        (first == 0xF0 && second < 0x90) || (first == 0xF4 && second >= 0x90)) {
      continue;
    }
    for (int left = AnnouncedUtf8Length(static_cast<char>(first)) - 1; left > 0; --left) {
      if (!IsContinuation(text, pos)) break;
      ++pos;
    }
  }
  return out;
}

std::string RewriteUtf8Leniently(absl::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t pos = 0; pos < text.size();) {
    const DecodedChar c = DecodeLeniently(text, pos);
    const bool taken = c.bytes > 0 && c.code_point <= 0x10FFFF;
    AppendUtf8(taken ? c.code_point : 0xFFFD, &out);
    pos += taken ? c.bytes : 1;
  }
  return out;
}

}  // namespace spikefold::tok
