#include "formats/tokenizer/json_model.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "formats/base/status.h"

namespace spikefold::tok {
namespace {

// Ids need not be dense, but memory must follow the size of the file.
constexpr int64_t kMaxUnusedIds = 65'536;

absl::Status SetToken(const JsonNode& node, absl::string_view text, int64_t id, int64_t max_id,
                      JsonVocabulary* out) {
  if (id < 0 || id > max_id) {
    return node.Malformed(absl::StrCat("\"", Printable(text), "\" has id ", id, "; expected 0 to ", max_id));
  }
  if (static_cast<size_t>(id) >= out->tokens.size()) out->tokens.resize(id + 1);
  std::string& slot = out->tokens[id];
  if (!slot.empty() && slot != text) {
    return node.Malformed(
        absl::StrCat("\"", Printable(text), "\" and \"", Printable(slot), "\" both have id ", id));
  }
  slot = std::string(text);
  const auto [it, is_new] = out->index.emplace(text, static_cast<int32_t>(id));
  if (!is_new && it->second != id) {
    return node.Malformed(
        absl::StrCat("\"", Printable(text), "\" has id ", id, ", but also id ", it->second));
  }
  return absl::OkStatus();
}

absl::Status ParseTokens(const JsonNode& model, int64_t max_id, JsonVocabulary* out) {
  const JsonNode vocab = model["vocab"];
  if (!vocab.json->is_object()) return vocab.Malformed("expected an object of token: id");
  for (const auto& [text, id] : vocab.json->object()) {
    if (!id.is_int()) {
      return vocab.Malformed(
          absl::StrCat("\"", Printable(text), "\" has no integer id; expected 0 to ", max_id));
    }
    if (text.empty()) return vocab.Malformed("an empty token");
    SF_RETURN_IF_ERROR(SetToken(vocab, text, id.int_value(), max_id, out));
  }
  return absl::OkStatus();
}

absl::Status ParseMerges(const JsonNode& model, JsonVocabulary* out) {
  const JsonNode merges = model["merges"];
  if (!merges.json->is_array()) return merges.Malformed("expected an array");
  const Json::Array& array = merges.json->array();
  out->merges.reserve(array.size());
  for (size_t rank = 0; rank < array.size(); ++rank) {
    const Json& merge = array[rank];
    if (merge.is_array() && merge.array().size() == 2 && merge.array()[0].is_string() &&
        merge.array()[1].is_string()) {
      out->merges.emplace_back(merge.array()[0].string_value(), merge.array()[1].string_value());
      continue;
    }
    const std::string text = merge.is_string() ? merge.string_value() : "";
    const size_t space = text.find(' ');
    if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) {
      return merges.Malformed(absl::StrCat("[", rank, "]: expected \"left right\" or [\"left\", \"right\"]"));
    }
    out->merges.emplace_back(text.substr(0, space), text.substr(space + 1));
  }
  return absl::OkStatus();
}

absl::Status ParseOptions(const JsonNode& model, JsonVocabulary* out) {
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (!model.Has(key)) continue;
    SF_ASSIGN_OR_RETURN(const std::string text, model.String(key));
    if (!text.empty()) return model[key].Unsupported(absl::StrCat("\"", Printable(text), "\""));
  }
  if (model.Has("dropout")) {
    SF_ASSIGN_OR_RETURN(const double dropout, model.json->GetDouble("dropout", model.path));
    if (dropout != 0) return model["dropout"].Unsupported("random merging");
  }
  SF_ASSIGN_OR_RETURN(out->options.ignore_merges, model.Bool("ignore_merges", false));
  SF_ASSIGN_OR_RETURN(out->options.byte_fallback, model.Bool("byte_fallback", false));
  SF_ASSIGN_OR_RETURN(out->options.fuse_unk, model.Bool("fuse_unk", false));
  if (model.Has("unk_token")) {
    SF_ASSIGN_OR_RETURN(const std::string unk, model.String("unk_token"));
    const auto it = out->index.find(unk);
    if (it == out->index.end()) {
      return model["unk_token"].Malformed(absl::StrCat("\"", Printable(unk), "\" is not in the vocabulary"));
    }
    out->options.unk_id = it->second;
  }
  return absl::OkStatus();
}

absl::Status ParseAdded(const JsonNode& root, int64_t max_id, JsonVocabulary* out) {
  if (!root.Has("added_tokens")) return absl::OkStatus();
  SF_ASSIGN_OR_RETURN(const auto nodes, root.Elements("added_tokens"));
  for (const JsonNode& node : nodes) {
    AddedToken token;
    SF_ASSIGN_OR_RETURN(token.content, node.String("content"));
    SF_ASSIGN_OR_RETURN(const int64_t id, node.Int("id"));
    SF_ASSIGN_OR_RETURN(token.special, node.Bool("special", false));
    SF_ASSIGN_OR_RETURN(token.normalized, node.Bool("normalized", !token.special));
    SF_ASSIGN_OR_RETURN(token.single_word, node.Bool("single_word", false));
    SF_ASSIGN_OR_RETURN(token.lstrip, node.Bool("lstrip", false));
    SF_ASSIGN_OR_RETURN(token.rstrip, node.Bool("rstrip", false));
    if (token.content.empty()) continue;
    SF_RETURN_IF_ERROR(SetToken(node, token.content, id, max_id, out));
    token.id = static_cast<int32_t>(id);
    out->added.push_back(std::move(token));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<JsonVocabulary> ParseVocabulary(const JsonNode& root) {
  const JsonNode model = root["model"];
  if (!model.json->is_object()) return model.Malformed("expected an object");
  if (model.Has("type") || !model.Has("merges")) {  // files of 2020 leave the type out
    SF_ASSIGN_OR_RETURN(const std::string type, model.Type());
    if (type != "BPE") return model.UnknownType(type, "BPE");
  }
  JsonVocabulary out;
  const Json *vocab = model.json->Find("vocab"), *added = root.json->Find("added_tokens");
  const int64_t num_entries = (vocab != nullptr && vocab->is_object() ? vocab->object().size() : 0) +
                              (added != nullptr && added->is_array() ? added->array().size() : 0);
  const int64_t max_id = std::min<int64_t>(num_entries - 1 + kMaxUnusedIds, INT32_MAX - 1);
  SF_RETURN_IF_ERROR(ParseTokens(model, max_id, &out));
  SF_RETURN_IF_ERROR(ParseMerges(model, &out));
  SF_RETURN_IF_ERROR(ParseOptions(model, &out));
  out.model_tokens = out.tokens;
  SF_RETURN_IF_ERROR(ParseAdded(root, max_id, &out));
  return out;
}

}  // namespace spikefold::tok
