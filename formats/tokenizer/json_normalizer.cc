#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "formats/base/status.h"
#include "formats/base/utf8.h"
#include "formats/tokenizer/json_pipeline.h"
#include "formats/tokenizer/regex.h"

namespace spikefold::tok {
namespace {

struct CodePointRange {
  char32_t first, last;
};

// Combining marks that NFC reorders or composes in Unicode 15 (utf8proc) but not in the older Unicode of the
// `tokenizers` library 0.23, found by comparing the two over all code points. Models have seen the latter.
constexpr CodePointRange kLeftAlone[] = {
    {0x7FD, 0x7FD},     {0x898, 0x89F},     {0x8CA, 0x8D3},     {0x9FE, 0x9FE},     {0xC3C, 0xC3C},
    {0xD3B, 0xD3C},     {0xEBA, 0xEBA},     {0x1715, 0x1715},   {0x1ABF, 0x1ACE},   {0x1DF6, 0x1DFA},
    {0xA82C, 0xA82C},   {0x10D24, 0x10D27}, {0x10EAB, 0x10EAC}, {0x10EFD, 0x10EFF}, {0x10F46, 0x10F50},
    {0x10F82, 0x10F85}, {0x11070, 0x11070}, {0x1133B, 0x1133B}, {0x1145E, 0x1145E}, {0x11839, 0x1183A},
    {0x11930, 0x11930}, {0x1193D, 0x1193E}, {0x11943, 0x11943}, {0x119E0, 0x119E0}, {0x11A34, 0x11A34},
    {0x11A47, 0x11A47}, {0x11A99, 0x11A99}, {0x11D42, 0x11D42}, {0x11D44, 0x11D45}, {0x11D97, 0x11D97},
    {0x11F41, 0x11F42}, {0x16FF0, 0x16FF1}, {0x1E08F, 0x1E08F}, {0x1E130, 0x1E136}, {0x1E2AE, 0x1E2AE},
    {0x1E2EC, 0x1E2EF}, {0x1E4EC, 0x1E4EF},
};

bool IsLeftAlone(char32_t c) {
  if (c < kLeftAlone[0].first) return false;
  const CodePointRange* it =
      std::upper_bound(std::begin(kLeftAlone), std::end(kLeftAlone), c,
                       [](char32_t v, const CodePointRange& r) { return v < r.first; });
  return it != std::begin(kLeftAlone) && c <= (it - 1)->last;
}

class Nfc : public NormalizerStep {
 public:
  absl::StatusOr<std::string> Apply(std::string text) const override {
    std::string out;
    out.reserve(text.size());
    size_t begin = 0;  // of the stretch that is normalized as one
    for (size_t pos = 0; pos < text.size();) {
      const Utf8Char c = NextUtf8(absl::string_view(text).substr(pos));
      if (IsLeftAlone(c.code)) {
        SF_RETURN_IF_ERROR(Append(absl::string_view(text).substr(begin, pos - begin), &out));
        out.append(text, pos, c.bytes);
        begin = pos + c.bytes;
      }
      pos += c.bytes;
    }
    SF_RETURN_IF_ERROR(Append(absl::string_view(text).substr(begin), &out));
    return out;
  }

 private:
  static absl::Status Append(absl::string_view text, std::string* out) {
    if (text.empty()) return absl::OkStatus();
    utf8proc_uint8_t* result = nullptr;
    const utf8proc_ssize_t bytes = utf8proc_map(
        reinterpret_cast<const utf8proc_uint8_t*>(text.data()), static_cast<utf8proc_ssize_t>(text.size()),
        &result, static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
    if (bytes < 0) return absl::InternalError(absl::StrCat("NFC: ", utf8proc_errmsg(bytes)));
    out->append(reinterpret_cast<const char*>(result), bytes);
    std::free(result);
    return absl::OkStatus();
  }
};

class Replace : public NormalizerStep {
 public:
  Replace(std::unique_ptr<Regex> regex, std::string content)
      : regex_(std::move(regex)), content_(std::move(content)) {}
  absl::StatusOr<std::string> Apply(std::string text) const override {
    std::vector<Regex::Range> matches;
    SF_RETURN_IF_ERROR(Regex::Matcher(*regex_).FindAll(text, &matches));
    std::string out;
    out.reserve(text.size() + matches.size() * content_.size());
    size_t pos = 0;
    for (const auto& [begin, end] : matches) {
      out.append(text, pos, begin - pos);
      out += content_;
      pos = end;
    }
    out.append(text, pos, std::string::npos);
    return out;
  }

 private:
  std::unique_ptr<Regex> regex_;
  std::string content_;
};

class Prepend : public NormalizerStep {
 public:
  explicit Prepend(std::string content) : content_(std::move(content)) {}
  absl::StatusOr<std::string> Apply(std::string text) const override {
    return text.empty() ? text : absl::StrCat(content_, text);
  }

 private:
  std::string content_;
};

absl::Status Append(const JsonNode& node, int depth, Normalizer* steps) {
  if (node.json->is_null()) return absl::OkStatus();
  SF_ASSIGN_OR_RETURN(const std::string type, node.Type());
  if (type == "Sequence") {
    if (depth > 8) return node.Malformed("sequences nested more than 8 deep");
    SF_ASSIGN_OR_RETURN(const auto children, node.Elements("normalizers"));
    for (const JsonNode& child : children) SF_RETURN_IF_ERROR(Append(child, depth + 1, steps));
  } else if (type == "NFC") {
    steps->push_back(std::make_unique<Nfc>());
  } else if (type == "Prepend") {
    SF_ASSIGN_OR_RETURN(std::string content, node.String("prepend"));
    steps->push_back(std::make_unique<Prepend>(std::move(content)));
  } else if (type == "Replace") {
    SF_ASSIGN_OR_RETURN(const PatternNode pattern, ParsePattern(node));
    SF_ASSIGN_OR_RETURN(std::string content, node.String("content"));
    SF_ASSIGN_OR_RETURN(auto regex, Regex::Compile(pattern.regex, UnicodeVersion::k16, node.path));
    steps->push_back(std::make_unique<Replace>(std::move(regex), std::move(content)));
  } else {
    return node.UnknownType(type, "NFC, Prepend, Replace, Sequence");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Normalizer> ParseNormalizer(const JsonNode& node) {
  Normalizer steps;
  SF_RETURN_IF_ERROR(Append(node, 0, &steps));
  return steps;
}

}  // namespace spikefold::tok
