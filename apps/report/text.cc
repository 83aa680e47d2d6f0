#include "apps/report/text.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "formats/base/json.h"
#include "formats/base/utf8.h"

namespace spikefold {
namespace {

constexpr size_t kMaxTextBytes = 2000;

std::string NotFinite(double value) { return std::isnan(value) ? "not a number" : value > 0 ? "∞" : "-∞"; }

// Commas into the integer part of "-1234567.8".
std::string Grouped(std::string number) {
  size_t end = number.find('.');
  if (end == std::string::npos) end = number.size();
  const size_t begin = number[0] == '-' ? 1 : 0;
  for (size_t at = end; at > begin + 3; at -= 3) number.insert(at - 3, 1, ',');
  return number;
}

std::string Fixed(double value, int decimals) {
  std::string text = absl::StrFormat("%.*f", decimals, value);
  if (text.find_first_not_of("-0.") == std::string::npos && text[0] == '-') text.erase(0, 1);  // "-0.0"
  return Grouped(std::move(text));
}

// "1.5e-05" -> "1.5e-5"
std::string Exponential(double value, int digits) {
  const std::string text = absl::StrFormat("%.*e", digits - 1, value);
  const size_t e = text.find('e');
  return absl::StrCat(text.substr(0, e), "e", std::atoi(text.c_str() + e + 1));
}

// Printable() cuts what is long; here the limit counts, but nothing else changes.
std::string Clean(absl::string_view text) { return Printable(text, kMaxTextBytes); }

std::string ReplaceEach(absl::string_view text, absl::string_view characters, const char* const* with) {
  std::string out;
  for (const char c : text) {
    const size_t at = characters.find(c);
    if (at == absl::string_view::npos) {
      out.push_back(c);
    } else {
      out.append(with[at]);
    }
  }
  return out;
}

}  // namespace

std::string Significant(double value, int digits) {
  if (!std::isfinite(value)) return NotFinite(value);
  if (value == 0) return "0";
  const double magnitude = std::fabs(value);
  if (magnitude < 1e-3 || magnitude >= 1e6) return Exponential(value, digits);
  const int exponent = static_cast<int>(std::floor(std::log10(magnitude)));
  const int decimals = digits - 1 - exponent;
  if (decimals >= 0) return Fixed(value, decimals);
  const double unit = std::pow(10, -decimals);
  return Fixed(std::round(value / unit) * unit, 0);
}

std::string PlusMinus(double value, double error) {
  if (!std::isfinite(value) || !std::isfinite(error) || error <= 0) return Significant(value, 4);
  const int exponent = static_cast<int>(std::floor(std::log10(error)));
  if (exponent < -5 || std::fabs(value) >= 1e6) {
    return absl::StrCat(Significant(value, 4), " ± ", Significant(error, 2));
  }
  const int decimals = std::max(0, 1 - exponent);
  return absl::StrCat(Fixed(value, decimals), " ± ", Fixed(error, decimals));
}

std::string Percent(double share, int decimals) {
  if (!std::isfinite(share)) return NotFinite(share);
  return absl::StrCat(Fixed(100 * share, decimals), " %");
}

std::string PercentPlusMinus(double share, double error) {
  if (!std::isfinite(share) || !std::isfinite(error) || error <= 0) return Percent(share, 2);
  return absl::StrCat(PlusMinus(100 * share, 100 * error), " %");
}

std::string Thousands(int64_t count) { return Grouped(absl::StrCat(count)); }

std::string Bytes(double bytes) {
  if (bytes >= 1e9) return absl::StrCat(Fixed(bytes / 1e9, 2), " GB");
  if (bytes >= 1e6) return absl::StrCat(Fixed(bytes / 1e6, 1), " MB");
  if (bytes >= 1e3) return absl::StrCat(Fixed(bytes / 1e3, 1), " kB");
  return absl::StrCat(Fixed(bytes, 0), " B");
}

std::string Html(absl::string_view text) {
  static constexpr const char* kWith[] = {"&amp;", "&lt;", "&gt;", "&quot;", "&#39;"};
  return ReplaceEach(Clean(text), "&<>\"'", kWith);
}

std::string Markdown(absl::string_view text) {
  static constexpr const char* kWith[] = {"\\\\", "\\`", "\\*", "\\_",   "\\[",  "\\]",  "\\#",  "\\|",
                                          "\\~",  "\\!", "\\$", "&amp;", "&lt;", "&gt;", "&#64;"};
  // Comments on code hosts turn @name into a message to somebody and addresses into links.
  return absl::StrReplaceAll(ReplaceEach(Clean(text), "\\`*_[]#|~!$&<>@", kWith),
                             {{"://", "&#58;//"}, {"www.", "www&#46;"}});
}

std::string CsvText(absl::string_view text) {
  std::string out = Clean(text);
  const bool formula = !out.empty() && absl::string_view("=+-@").find(out[0]) != absl::string_view::npos;
  if (formula) out.insert(0, 1, '\'');
  if (out.find_first_of(",\"") == std::string::npos) return out;
  std::string quoted(1, '"');
  for (const char c : out) {
    if (c == '"') quoted.push_back('"');
    quoted.push_back(c);
  }
  return quoted + "\"";
}

size_t NumCharacters(absl::string_view utf8) {
  size_t count = 0;
  for (; !utf8.empty(); ++count) utf8.remove_prefix(NextUtf8(utf8).bytes);
  return count;
}

std::string Shortened(absl::string_view text, size_t max) {
  if (NumCharacters(text) <= max) return std::string(text);
  absl::string_view rest = text;
  for (size_t i = 0; i + 1 < max; ++i) rest.remove_prefix(NextUtf8(rest).bytes);
  return absl::StrCat(text.substr(0, text.size() - rest.size()), "…");
}

}  // namespace spikefold
