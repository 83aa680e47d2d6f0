#include "absl/strings/str_cat.h"
#include "formats/base/status.h"
#include "formats/tokenizer/json_pipeline.h"
#include "formats/tokenizer/regex.h"

namespace spikefold::tok {
namespace {

absl::StatusOr<SplitBehavior> ParseBehavior(const JsonNode& node) {
  SF_ASSIGN_OR_RETURN(const std::string name, node.String("behavior"));
  if (name == "Removed") return SplitBehavior::kRemoved;
  if (name == "Isolated") return SplitBehavior::kIsolated;
  if (name == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return SplitBehavior::kMergedWithNext;
  if (name == "Contiguous") return SplitBehavior::kContiguous;
  return node.Unsupported(absl::StrCat("behavior \"", Printable(name), "\""));
}

// "prepend_scheme", or the older "add_prefix_space".
absl::StatusOr<PrependScheme> ParsePrependScheme(const JsonNode& node) {
  if (!node.Has("prepend_scheme")) {
    SF_ASSIGN_OR_RETURN(const bool prepend, node.Bool("add_prefix_space", true));
    return prepend ? PrependScheme::kAlways : PrependScheme::kNever;
  }
  SF_ASSIGN_OR_RETURN(const std::string name, node.String("prepend_scheme"));
  if (name == "always") return PrependScheme::kAlways;
  if (name == "first") return PrependScheme::kFirst;
  if (name == "never") return PrependScheme::kNever;
  return node.Unsupported(absl::StrCat("prepend_scheme \"", Printable(name), "\""));
}

class Parser {
 public:
  absl::Status Append(const JsonNode& node, int depth) {
    if (node.json->is_null()) return absl::OkStatus();
    SF_ASSIGN_OR_RETURN(const std::string type, node.Type());
    if (result.byte_level) return node.Unsupported(absl::StrCat(type, " behind ByteLevel"));
    if (type == "Sequence") {
      if (depth > 8) return node.Malformed("sequences nested more than 8 deep");
      SF_ASSIGN_OR_RETURN(const auto children, node.Elements("pretokenizers"));
      for (const JsonNode& child : children) SF_RETURN_IF_ERROR(Append(child, depth + 1));
      return absl::OkStatus();
    }
    if (type == "ByteLevel") return ByteLevel(node);
    if (type == "Split") return Split(node);
    if (type == "Digits") return Digits(node);
    if (type == "Metaspace") return Metaspace(node);
    return node.UnknownType(type, "ByteLevel, Digits, Metaspace, Sequence, Split");
  }

  JsonPreTokenizer result;

 private:
  absl::Status AddSplit(const JsonNode& node, absl::string_view pattern, UnicodeVersion version,
                        SplitBehavior behavior, bool invert) {
    SF_ASSIGN_OR_RETURN(auto regex, Regex::Compile(pattern, version, node.path));
    result.steps.push_back(MakeRegexSplit(std::move(regex), behavior, invert));
    return absl::OkStatus();
  }

  absl::Status ByteLevel(const JsonNode& node) {
    SF_ASSIGN_OR_RETURN(const bool add_prefix_space, node.Bool("add_prefix_space", true));
    SF_ASSIGN_OR_RETURN(const bool use_regex, node.Bool("use_regex", true));
    if (add_prefix_space) result.steps.push_back(MakePrefixSpace());
    if (use_regex) {
      SF_RETURN_IF_ERROR(
          AddSplit(node, kGpt2Pattern, UnicodeVersion::k16, SplitBehavior::kIsolated, /*invert=*/false));
    }
    result.byte_level = true;
    return absl::OkStatus();
  }

  absl::Status Split(const JsonNode& node) {
    SF_ASSIGN_OR_RETURN(const PatternNode pattern, ParsePattern(node));
    SF_ASSIGN_OR_RETURN(const SplitBehavior behavior, ParseBehavior(node));
    SF_ASSIGN_OR_RETURN(const bool invert, node.Bool("invert", false));
    return AddSplit(node, pattern.regex, UnicodeVersion::k16, behavior, invert);
  }

  absl::Status Digits(const JsonNode& node) {
    SF_ASSIGN_OR_RETURN(const bool individual, node.Bool("individual_digits", false));
    return AddSplit(node, R"(\p{N})", UnicodeVersion::k17,
                    individual ? SplitBehavior::kIsolated : SplitBehavior::kContiguous, /*invert=*/false);
  }

  absl::Status Metaspace(const JsonNode& node) {
    SF_ASSIGN_OR_RETURN(const std::string replacement, node.String("replacement"));
    if (replacement.empty()) return node.Malformed("an empty replacement");
    SF_ASSIGN_OR_RETURN(const PrependScheme scheme, ParsePrependScheme(node));
    SF_ASSIGN_OR_RETURN(const bool split, node.Bool("split", true));
    SF_ASSIGN_OR_RETURN(auto step, MakeMetaspace(replacement, scheme, split, node.path));
    result.steps.push_back(std::move(step));
    return absl::OkStatus();
  }
};

}  // namespace

absl::StatusOr<JsonPreTokenizer> ParsePreTokenizer(const JsonNode& node) {
  Parser parser;
  SF_RETURN_IF_ERROR(parser.Append(node, 0));
  return std::move(parser.result);
}

}  // namespace spikefold::tok
