// Numbers as people read them, and text from files made safe for each output.
#pragma once

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace spikefold {

// Significant digits, "0.0281", "24,100", "1.5e-5"; "∞", "-∞", "not a number".
std::string Significant(double value, int digits = 3);
// Value and standard error with as many decimals as give the error two digits: "1.0298 ± 0.0031". Without an
// error (0 or not finite) the value alone.
std::string PlusMinus(double value, double error);
std::string Percent(double share, int decimals = 1);       // 0.891 -> "89.1 %"
std::string PercentPlusMinus(double share, double error);  // "89.1 ± 0.3 %"
std::string Thousands(int64_t count);                      // "10,220"
std::string Bytes(double bytes);                           // "155.5 MB" (10^6)

// For HTML text and double-quoted attributes. Control characters and stray bytes are shown as escapes.
std::string Html(absl::string_view text);
// For Markdown text and table cells: one line, no character that means anything.
std::string Markdown(absl::string_view text);
// One field of a CSV row (RFC 4180). A leading = + - @ gets an apostrophe, as spreadsheets would run it.
std::string CsvText(absl::string_view text);
// `text` cut to `max` characters, the last then "…".
std::string Shortened(absl::string_view text, size_t max);
size_t NumCharacters(absl::string_view utf8);

}  // namespace spikefold
