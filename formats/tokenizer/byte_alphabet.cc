#include "formats/tokenizer/byte_alphabet.h"

#include "formats/base/utf8.h"
#include "formats/tokenizer/utf8.h"

namespace spikefold::tok {
namespace {

constexpr int kNumShifted = 68;

bool StandsForItself(int byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

// Code point - 0x100 -> byte, for the bytes that do not stand for themselves.
std::array<uint8_t, kNumShifted> MakeShifted() {
  std::array<uint8_t, kNumShifted> shifted{};
  int n = 0;
  for (int byte = 0; byte < 256; ++byte) {
    if (!StandsForItself(byte)) shifted[n++] = static_cast<uint8_t>(byte);
  }
  return shifted;
}

const std::array<uint8_t, kNumShifted>& Shifted() {
  static const auto shifted = MakeShifted();
  return shifted;
}

std::array<std::string, 256> MakeAlphabet() {
  std::array<std::string, 256> alphabet;
  for (int byte = 0; byte < 256; ++byte) {
    if (StandsForItself(byte)) AppendUtf8(byte, &alphabet[byte]);
  }
  for (int n = 0; n < kNumShifted; ++n) AppendUtf8(0x100 + n, &alphabet[Shifted()[n]]);
  return alphabet;
}

}  // namespace

const std::array<std::string, 256>& ByteAlphabet() {
  static const auto alphabet = MakeAlphabet();
  return alphabet;
}

std::optional<std::string> BytesFromAlphabet(absl::string_view text) {
  std::string bytes;
  for (size_t pos = 0; pos < text.size();) {
    const Utf8Char c = NextUtf8(text.substr(pos));
    if (!c.valid) return std::nullopt;
    if (c.code < 0x100) {
      if (!StandsForItself(static_cast<int>(c.code))) return std::nullopt;
      bytes.push_back(static_cast<char>(c.code));
    } else {
      if (c.code - 0x100 >= kNumShifted) return std::nullopt;
      bytes.push_back(static_cast<char>(Shifted()[c.code - 0x100]));
    }
    pos += c.bytes;
  }
  return bytes;
}

}  // namespace spikefold::tok
