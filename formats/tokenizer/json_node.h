// A place inside tokenizer.json: the value and its path, so that every error names the place.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "formats/base/json.h"

namespace spikefold::tok {

struct JsonNode {
  const Json* json;
  std::string path;  // "tokenizer.json: pre_tokenizer.pretokenizers[1]"

  bool Has(absl::string_view key) const;  // present and not null
  // A member; null if absent.
  JsonNode operator[](absl::string_view key) const;
  // The elements of an array member; DataLoss if it is no array.
  absl::StatusOr<std::vector<JsonNode>> Elements(absl::string_view key) const;
  absl::StatusOr<std::string> String(absl::string_view key) const;
  absl::StatusOr<bool> Bool(absl::string_view key, bool if_absent) const;
  absl::StatusOr<int64_t> Int(absl::string_view key) const;

  absl::StatusOr<std::string> Type() const { return String("type"); }
  // Unimplemented: "<path>: type "X" is not supported; supported: ...".
  absl::Status UnknownType(absl::string_view type, absl::string_view supported) const;
  absl::Status Unsupported(absl::string_view what) const;  // Unimplemented: "<path>: <what> is not supported"
  absl::Status Malformed(absl::string_view what) const;    // DataLoss: "<path>: <what>"
};

// The pattern of Split and Replace nodes: {"String": "..."} or {"Regex": "..."}; as a regular expression.
struct PatternNode {
  std::string regex;
  bool is_literal = false;
  std::string literal;
};
absl::StatusOr<PatternNode> ParsePattern(const JsonNode& node);  // node["pattern"]

}  // namespace spikefold::tok
