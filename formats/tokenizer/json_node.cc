#include "formats/tokenizer/json_node.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "formats/base/status.h"
#include "formats/tokenizer/regex.h"

namespace spikefold::tok {
namespace {

const Json& Null() {
  static const auto* null = new Json();
  return *null;
}

}  // namespace

bool JsonNode::Has(absl::string_view key) const {
  const Json* member = json->Find(key);
  return member != nullptr && !member->is_null();
}

JsonNode JsonNode::operator[](absl::string_view key) const {
  const Json* member = json->Find(key);
  // The document's own name ends in ": "; members of members are joined by dots.
  return {member == nullptr ? &Null() : member,
          absl::StrCat(path, absl::EndsWith(path, ": ") ? "" : ".", key)};
}

absl::StatusOr<std::vector<JsonNode>> JsonNode::Elements(absl::string_view key) const {
  const JsonNode member = (*this)[key];
  if (!member.json->is_array()) return member.Malformed("expected an array");
  std::vector<JsonNode> elements;
  elements.reserve(member.json->array().size());
  for (const Json& element : member.json->array()) {
    elements.push_back({&element, absl::StrCat(member.path, "[", elements.size(), "]")});
  }
  return elements;
}

absl::StatusOr<std::string> JsonNode::String(absl::string_view key) const {
  return json->GetString(key, path);
}

absl::StatusOr<bool> JsonNode::Bool(absl::string_view key, bool if_absent) const {
  if (!Has(key)) return if_absent;
  return json->GetBool(key, path);
}

absl::StatusOr<int64_t> JsonNode::Int(absl::string_view key) const { return json->GetInt(key, path); }

absl::Status JsonNode::UnknownType(absl::string_view type, absl::string_view supported) const {
  return absl::UnimplementedError(
      absl::StrCat(path, ": type \"", Printable(type), "\" is not supported; supported: ", supported));
}

absl::Status JsonNode::Unsupported(absl::string_view what) const {
  return absl::UnimplementedError(absl::StrCat(path, ": ", what, " is not supported"));
}

absl::Status JsonNode::Malformed(absl::string_view what) const {
  return absl::DataLossError(absl::StrCat(path, ": ", what));
}

absl::StatusOr<PatternNode> ParsePattern(const JsonNode& node) {
  const JsonNode pattern = node["pattern"];
  PatternNode parsed;
  if (pattern.Has("Regex")) {
    SF_ASSIGN_OR_RETURN(parsed.regex, pattern.String("Regex"));
    return parsed;
  }
  SF_ASSIGN_OR_RETURN(parsed.literal, pattern.String("String"));
  if (parsed.literal.empty()) return pattern.Malformed("an empty pattern");
  parsed.is_literal = true;
  parsed.regex = QuoteRegex(parsed.literal);
  return parsed;
}

}  // namespace spikefold::tok
