#include "apps/spikefold/text.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "formats/base/json.h"

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

absl::StatusOr<uint64_t> ParseBytes(absl::string_view what, absl::string_view text) {
  static constexpr std::array<std::pair<const char*, double>, 10> kUnits = {{{"", 1},
                                                                             {"B", 1},
                                                                             {"kB", 1e3},
                                                                             {"KB", 1e3},
                                                                             {"MB", 1e6},
                                                                             {"GB", 1e9},
                                                                             {"KiB", 1024},
                                                                             {"MiB", 1048576},
                                                                             {"GiB", 1073741824},
                                                                             {"TiB", 1099511627776}}};
  const size_t end = std::min(text.find_first_not_of("0123456789."), text.size());
  double number = 0;
  if (absl::SimpleAtod(text.substr(0, end), &number)) {
    for (const auto& [unit, factor] : kUnits) {
      const double bytes = number * factor;
      if (absl::StripAsciiWhitespace(text.substr(end)) == unit && bytes >= 1 && bytes < 1e18) {
        return static_cast<uint64_t>(bytes);
      }
    }
  }
  return absl::InvalidArgumentError(absl::StrCat(what, " \"", Printable(text, 40),
                                                 "\" is no size; use a number with B, kB, MB, GB, KiB, MiB, "
                                                 "GiB or TiB, as in 80MB"));
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
