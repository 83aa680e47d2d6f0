#include "calib/dataset.h"

#include <random>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "calib/format_count.h"
#include "formats/base/file.h"
#include "formats/base/hash.h"
#include "formats/base/status.h"
#include "formats/base/utf8.h"

namespace spikefold {
namespace {

constexpr uint64_t kMaxTextBytes = uint64_t{1} << 30;

}  // namespace

absl::StatusOr<TokenStream> TokenizeFiles(const Tokenizer& tokenizer, const std::vector<std::string>& paths) {
  if (paths.empty()) return absl::InvalidArgumentError("text: no file given; at least one is needed");
  std::string text;
  std::vector<std::string> names;
  for (const std::string& path : paths) {
    SF_ASSIGN_OR_RETURN(std::string bytes, ReadFileToString(path, kMaxTextBytes));
    if (!IsValidUtf8(bytes)) {
      return absl::DataLossError(absl::StrCat(path, ": not UTF-8; convert it first (iconv -t UTF-8)"));
    }
    if (!names.empty()) text += '\n';
    text += bytes;
    names.push_back(Basename(path));
  }
  TokenStream stream;
  stream.source = absl::StrJoin(names, ", ");
  if (text.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(stream.source, ": empty; text is needed"));
  }
  SF_ASSIGN_OR_RETURN(stream.ids, tokenizer.Encode(text));
  stream.sha256 = Sha256Hex(text);
  stream.num_bytes = static_cast<int64_t>(text.size());
  return stream;
}

absl::StatusOr<std::vector<std::vector<int32_t>>> CutWindows(const TokenStream& stream, int64_t count,
                                                             int64_t length, uint64_t seed) {
  if (count < 1 || length < 2) {
    return absl::InvalidArgumentError(absl::StrCat("windows: ", count, " of ", length,
                                                   " tokens; at least one of at least 2 tokens is needed"));
  }
  const int64_t size = static_cast<int64_t>(stream.ids.size());
  if (size / length < count) {
    return absl::InvalidArgumentError(absl::StrCat(
        stream.source, ": ", FormatCount(size), " tokens; ", count, " windows of ", length, " need ",
        FormatCount(count * length), "; give more text or ask for fewer or shorter windows"));
  }
  std::vector<std::vector<int32_t>> windows;
  windows.reserve(static_cast<size_t>(count));
  std::mt19937_64 random(seed);
  const auto draw = [&](int64_t end) {  // 0 .. end - 1
    return seed == 1 ? 0 : static_cast<int64_t>(random() % static_cast<uint64_t>(end));
  };
  const int64_t shift = draw(size / count);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t segment = i * size / count, room = (i + 1) * size / count - segment - length;
    const int64_t first = shift + segment + draw(room + 1);
    std::vector<int32_t>& window = windows.emplace_back();
    for (int64_t t = first; t < first + length; ++t) {
      window.push_back(stream.ids[static_cast<size_t>(t % size)]);
    }
  }
  return windows;
}

}  // namespace spikefold
