#include "formats/tokenizer/json_tokenizer.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "formats/base/hash.h"
#include "formats/base/status.h"
#include "formats/base/utf8.h"
#include "formats/tokenizer/added_tokens.h"
#include "formats/tokenizer/bpe.h"
#include "formats/tokenizer/json_model.h"
#include "formats/tokenizer/json_node.h"
#include "formats/tokenizer/json_pipeline.h"
#include "formats/tokenizer/utf8.h"

namespace spikefold::tok {
namespace {

constexpr size_t kMaxTextBytes = 1 << 30;

class JsonTokenizer : public Tokenizer {
 public:
  absl::Status Init(const JsonNode& root, const JsonNode& config, int64_t model_bos);

  absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view text,
                                              const EncodeOptions& options) const override;
  std::string Decode(absl::Span<const int32_t> ids, bool skip_special) const override;
  int64_t vocab_size() const override { return static_cast<int64_t>(tokens_.size()); }
  std::string TokenText(int32_t id) const override;
  int32_t bos_id() const override { return bos_id_; }
  int32_t eos_id() const override { return eos_id_; }
  bool add_bos() const override { return add_bos_; }
  bool is_special(int32_t id) const override { return IsId(id) && kinds_[id] == Kind::kSpecial; }
  std::string fingerprint() const override { return fingerprint_; }

 private:
  enum class Kind : int8_t { kOrdinary, kAdded, kSpecial };

  bool IsId(int64_t id) const { return id >= 0 && id < vocab_size() && !tokens_[id].empty(); }
  absl::Status InitVocabulary(const JsonNode& root, JsonVocabulary vocabulary);
  absl::Status InitSpecialIds(const JsonNode& root, const JsonNode& config, const JsonVocabulary& vocabulary,
                              int64_t model_bos);
  // The id of config's `key` (a string or {"content": ...}); `if_absent` without it.
  absl::StatusOr<int32_t> ConfigToken(const JsonNode& config, absl::string_view key, int32_t if_absent,
                                      const JsonVocabulary& vocabulary) const;
  absl::Status EncodeText(std::string text, bool at_start, PieceCache* cache,
                          std::vector<int32_t>* ids) const;
  std::string Fingerprint(const JsonNode& root, const JsonVocabulary& vocabulary) const;

  std::vector<std::string> tokens_;  // by id; empty: no such id
  std::vector<Kind> kinds_;          // [tokens]
  Normalizer normalizer_;
  AddedTokens added_;
  JsonPreTokenizer pre_tokenizer_;
  BpeModel bpe_;
  Decoder decoder_;
  int32_t bos_id_ = -1, eos_id_ = -1;
  bool add_bos_ = false;
  std::string fingerprint_;
};

absl::Status JsonTokenizer::Init(const JsonNode& root, const JsonNode& config, int64_t model_bos) {
  if (!root.json->is_object()) return root.Malformed("expected an object");
  SF_ASSIGN_OR_RETURN(JsonVocabulary vocabulary, ParseVocabulary(root));
  SF_ASSIGN_OR_RETURN(normalizer_, ParseNormalizer(root["normalizer"]));
  SF_ASSIGN_OR_RETURN(pre_tokenizer_, ParsePreTokenizer(root["pre_tokenizer"]));
  SF_ASSIGN_OR_RETURN(decoder_, ParseDecoder(root["decoder"]));
  SF_RETURN_IF_ERROR(InitSpecialIds(root, config, vocabulary, model_bos));
  fingerprint_ = Fingerprint(root, vocabulary);
  return InitVocabulary(root, std::move(vocabulary));
}

absl::Status JsonTokenizer::InitVocabulary(const JsonNode& root, JsonVocabulary vocabulary) {
  vocabulary.options.byte_level = pre_tokenizer_.byte_level;
  const JsonNode model = root["model"];
  if (vocabulary.options.byte_level && vocabulary.options.byte_fallback) {
    return model.Unsupported("byte_fallback together with a ByteLevel pre-tokenizer");
  }
  kinds_.assign(vocabulary.tokens.size(), Kind::kOrdinary);
  for (const AddedToken& token : vocabulary.added) {
    kinds_[token.id] = token.special ? Kind::kSpecial : Kind::kAdded;
  }
  SF_RETURN_IF_ERROR(bpe_.Init(vocabulary.model_tokens, vocabulary.merges, /*last_wins=*/true,
                               vocabulary.options, model["merges"].path));
  tokens_ = std::move(vocabulary.tokens);
  return added_.Init(std::move(vocabulary.added), normalizer_);
}

// The leading special token of a TemplateProcessing node ("" if there is none).
absl::StatusOr<std::string> LeadingSpecial(const JsonNode& node, int depth = 0) {
  if (node.json->is_null()) return std::string();
  SF_ASSIGN_OR_RETURN(const std::string type, node.Type());
  if (type == "ByteLevel") return std::string();
  if (type == "Sequence" && depth < 8) {
    SF_ASSIGN_OR_RETURN(const auto children, node.Elements("processors"));
    for (const JsonNode& child : children) {
      SF_ASSIGN_OR_RETURN(std::string leading, LeadingSpecial(child, depth + 1));
      if (!leading.empty()) return leading;
    }
    return std::string();
  }
  if (type != "TemplateProcessing") return node.UnknownType(type, "ByteLevel, Sequence, TemplateProcessing");
  SF_ASSIGN_OR_RETURN(const auto pieces, node.Elements("single"));
  if (pieces.empty() || !pieces[0].Has("SpecialToken")) return std::string();
  return pieces[0]["SpecialToken"].String("id");
}

absl::StatusOr<int32_t> JsonTokenizer::ConfigToken(const JsonNode& config, absl::string_view key,
                                                   int32_t if_absent,
                                                   const JsonVocabulary& vocabulary) const {
  if (!config.Has(key)) return if_absent;
  const JsonNode node = config[key];
  std::string text;
  if (node.json->is_string()) {
    text = node.json->string_value();
  } else {
    SF_ASSIGN_OR_RETURN(text, node.String("content"));
  }
  const auto it = vocabulary.index.find(text);
  if (it == vocabulary.index.end()) {
    return node.Malformed(absl::StrCat("\"", Printable(text), "\" is not in the vocabulary"));
  }
  return it->second;
}

absl::Status JsonTokenizer::InitSpecialIds(const JsonNode& root, const JsonNode& config,
                                           const JsonVocabulary& vocabulary, int64_t model_bos) {
  const JsonNode processor = root["post_processor"];
  SF_ASSIGN_OR_RETURN(const std::string leading, LeadingSpecial(processor));
  int32_t leading_id = -1;
  if (!leading.empty()) {
    const auto it = vocabulary.index.find(leading);
    if (it == vocabulary.index.end()) {
      return processor.Malformed(absl::StrCat("\"", Printable(leading), "\" is not in the vocabulary"));
    }
    leading_id = it->second;
  }
  const auto num_tokens = static_cast<int64_t>(vocabulary.tokens.size());
  const bool has_model_bos = leading_id < 0 && model_bos >= 0 && model_bos < num_tokens &&
                             !vocabulary.tokens[static_cast<size_t>(model_bos)].empty();
  const int32_t unnamed = has_model_bos ? static_cast<int32_t>(model_bos) : leading_id;
  SF_ASSIGN_OR_RETURN(bos_id_, ConfigToken(config, "bos_token", unnamed, vocabulary));
  SF_ASSIGN_OR_RETURN(eos_id_, ConfigToken(config, "eos_token", -1, vocabulary));
  SF_ASSIGN_OR_RETURN(const bool wanted, config.Bool("add_bos_token", leading_id >= 0));
  add_bos_ = wanted && bos_id_ >= 0;
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int32_t>> JsonTokenizer::Encode(absl::string_view text,
                                                           const EncodeOptions& options) const {
  if (text.size() > kMaxTextBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("text to encode: ", text.size(), " bytes; at most ", kMaxTextBytes, "; split it"));
  }
  std::string replaced;
  if (!IsValidUtf8(text)) text = replaced = ReplaceInvalidUtf8(text);
  std::vector<int32_t> ids;
  PieceCache cache;
  for (const auto& fragment : added_.Split(text, /*normalized=*/false, options.parse_special)) {
    if (fragment.value >= 0) {
      ids.push_back(fragment.value);
      continue;
    }
    std::string normalized(text.substr(fragment.begin, fragment.end - fragment.begin));
    for (const auto& step : normalizer_) {
      SF_ASSIGN_OR_RETURN(normalized, step->Apply(std::move(normalized)));
    }
    for (const auto& part : added_.Split(normalized, /*normalized=*/true, options.parse_special)) {
      if (part.value >= 0) {
        ids.push_back(part.value);
        continue;
      }
      SF_RETURN_IF_ERROR(EncodeText(normalized.substr(part.begin, part.end - part.begin),
                                    fragment.begin == 0 && part.begin == 0, &cache, &ids));
    }
  }
  return ids;
}

absl::Status JsonTokenizer::EncodeText(std::string text, bool at_start, PieceCache* cache,
                                       std::vector<int32_t>* ids) const {
  SF_ASSIGN_OR_RETURN(const Pieces pieces, PreTokenize(pre_tokenizer_.steps, std::move(text), at_start));
  for (size_t i = 0; i < pieces.ranges.size(); ++i) {
    cache->Append(pieces[i], ids, [this](absl::string_view piece, std::vector<int32_t>* out) {
      bpe_.EncodePiece(piece, out);
    });
  }
  return absl::OkStatus();
}

std::string JsonTokenizer::Decode(absl::Span<const int32_t> ids, bool skip_special) const {
  std::vector<DecodedToken> decoded;
  decoded.reserve(ids.size());
  for (const int32_t id : ids) {
    if (!IsId(id) || (skip_special && is_special(id))) continue;
    decoded.push_back({tokens_[id], kinds_[id] != Kind::kOrdinary});
  }
  for (const auto& step : decoder_) step->Apply(&decoded);
  std::string out;
  for (const DecodedToken& token : decoded) out += token.text;
  return out;
}

std::string JsonTokenizer::TokenText(int32_t id) const {
  if (!IsId(id)) return absl::StrCat("[no token ", id, "]");
  // A second token in front keeps decoders from taking a leading space off this one.
  const std::string with_guard = Decode({id, id}, false);
  const std::string alone = Decode({id}, false);
  return Printable(with_guard.size() > alone.size() ? with_guard.substr(alone.size()) : alone);
}

// Over everything that decides the ids.
std::string JsonTokenizer::Fingerprint(const JsonNode& root, const JsonVocabulary& vocabulary) const {
  Sha256 sha;
  const auto add = [&sha](absl::string_view text) {
    const uint64_t size = text.size();
    char prefix[8];
    std::memcpy(prefix, &size, 8);
    sha.Update(prefix);
    sha.Update(absl::MakeConstSpan(text.data(), text.size()));
  };
  add("json tokenizer 1");
  add(absl::StrCat(vocabulary.tokens.size(), " ", vocabulary.merges.size()));
  for (const std::string& token : vocabulary.tokens) add(token);
  for (const auto& [left, right] : vocabulary.merges) {
    add(left);
    add(right);
  }
  for (const char* key : {"added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder"}) {
    add(root[key].json->Dump());
  }
  const BpeModel::Options& o = vocabulary.options;
  add(absl::StrCat(o.ignore_merges, o.byte_fallback, o.fuse_unk, " ", o.unk_id, " ", bos_id_, " ", eos_id_,
                   " ", add_bos_));
  return sha.Hex();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> MakeJsonTokenizer(const Json& document, const Json& config,
                                                             absl::string_view where, int64_t model_bos) {
  auto tokenizer = std::make_unique<JsonTokenizer>();
  SF_RETURN_IF_ERROR(tokenizer->Init({&document, absl::StrCat(where, ": ")},
                                     {&config, absl::StrCat(where, ": tokenizer_config.json: ")}, model_bos));
  return std::unique_ptr<Tokenizer>(std::move(tokenizer));
}

}  // namespace spikefold::tok
