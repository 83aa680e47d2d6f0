#include "apps/spikefold/text.h"

#include <array>
#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"

namespace spikefold {

std::string BytesText(uint64_t bytes) {
  static constexpr std::array<const char*, 5> kUnits = {"B", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 1024 && unit + 1 < kUnits.size()) {
    value /= 1024;
    ++unit;
  }
  if (unit == 0) return absl::StrCat(bytes, " B");
  return absl::StrFormat("%.*f %s", value < 100 ? 1 : 0, value, kUnits[unit]);
}

std::string CompactCount(int64_t count) {
  const double value = static_cast<double>(count);
  if (count >= 1000000000) return absl::StrFormat("%.2f G", value * 1e-9);
  if (count >= 1000000) return absl::StrFormat("%.1f M", value * 1e-6);
  if (count >= 10000) return absl::StrFormat("%.1f k", value * 1e-3);
  return absl::StrCat(count);
}

std::string BitsText(double bits) { return absl::StrFormat("%.2f", bits); }

std::string PercentText(double share) { return absl::StrFormat("%.1f %%", 100 * share); }

std::string SecondsText(double seconds) {
  if (seconds < 10) return absl::StrFormat("%.2f s", seconds);
  if (seconds < 120) return absl::StrFormat("%.1f s", seconds);
  const int64_t whole = std::llround(seconds);
  return absl::StrFormat("%d min %02d s", whole / 60, whole % 60);
}

std::string PlusMinus(double value, double error, int digits) {
  return absl::StrFormat("%.*f ± %.*f", digits, value, digits, error);
}

std::string Wrap(absl::string_view text, size_t indent, size_t width) {
  const std::string margin(indent, ' ');
  std::string out;
  bool first_line = true;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    if (!first_line) absl::StrAppend(&out, "\n", line.empty() ? "" : margin);
    first_line = false;
    size_t column = indent;
    bool first_word = true;
    for (absl::string_view word : absl::StrSplit(line, ' ')) {
      const size_t length = DisplayWidth(word);
      if (!first_word && column + 1 + length > width) {
        absl::StrAppend(&out, "\n", margin);
        column = indent;
      } else if (!first_word) {
        out += ' ';
        ++column;
      }
      absl::StrAppend(&out, word);
      column += length;
      first_word = false;
    }
  }
  return out;
}

size_t DisplayWidth(absl::string_view text) {
  size_t width = 0;
  for (const char c : text) width += (static_cast<unsigned char>(c) & 0xc0) == 0x80 ? 0 : 1;
  return width;
}

}  // namespace spikefold
