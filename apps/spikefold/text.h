// Numbers and paragraphs for people.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace spikefold {

std::string BytesText(uint64_t bytes);  // "98.1 MiB"
// The reverse: "80MB" (10^6), "1.5GiB" (2^30), "4096". InvalidArgument naming `what` and what is allowed.
absl::StatusOr<uint64_t> ParseBytes(absl::string_view what, absl::string_view text);
std::string CompactCount(int64_t count);                        // "134.5 M", "35.1 k", "512"
std::string BitsText(double bits);                              // "4.31"
std::string PercentText(double share);                          // 0.873 -> "87.3 %"
std::string SecondsText(double seconds);                        // "0.42 s", "12.3 s", "4 min 10 s"
std::string PlusMinus(double value, double error, int digits);  // "24.50 ± 0.31"

// Breaks at spaces so that no line is longer than `width`; every line but the first begins with `indent`
// spaces, and the first is taken to begin at column `indent` already. Line breaks in the text are kept.
std::string Wrap(absl::string_view text, size_t indent, size_t width);
// Characters that a terminal shows, of UTF-8 text: code points.
size_t DisplayWidth(absl::string_view text);

}  // namespace spikefold
