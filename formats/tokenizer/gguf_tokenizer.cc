#include "formats/tokenizer/gguf_tokenizer.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "formats/base/hash.h"
#include "formats/base/json.h"
#include "formats/base/status.h"
#include "formats/base/utf8.h"
#include "formats/tokenizer/bpe.h"
#include "formats/tokenizer/byte_alphabet.h"
#include "formats/tokenizer/literal_matcher.h"
#include "formats/tokenizer/pretokenizer.h"
#include "formats/tokenizer/spm.h"
#include "formats/tokenizer/utf8.h"

namespace spikefold::tok {
namespace {

constexpr char kSpaceMark[] = "\u2581";  // ▁
constexpr size_t kMaxTextBytes = 1 << 30;

// Tokens that llama.cpp treats as control tokens by their text, whatever type the file gives them
// (llama-vocab.cpp, end-of-turn, end-of-generation and fill-in-the-middle markers).
constexpr const char* kControlByText[] = {
    "<|eot_id|>",    "<|im_end|>",     "<|end|>",       "<|return|>",      "<|call|>",
    "<end_of_turn>", "<|endoftext|>",  "</s>",          "<|eom_id|>",      "<EOT>",
    "_<EOT>",        "[EOT]",          "[EOS]",         "<|end_of_text|>", "<end_of_utterance>",
    "<eos>",         "<|fim_prefix|>", "<fim-prefix>",  "<fim_prefix>",    "<PRE>",
    "▁<PRE>",        "<|fim_suffix|>", "<fim-suffix>",  "<fim_suffix>",    "<SUF>",
    "▁<SUF>",        "<|fim_middle|>", "<fim-middle>",  "<fim_middle>",    "<MID>",
    "▁<MID>",        "<|fim_pad|>",    "<fim-pad>",     "<fim_pad>",       "<PAD>",
    "[PAD]",         "<|fim_repo|>",   "<|repo_name|>", "<fim-repo>",      "<REPO>",
    "<reponame>",    "<|file_sep|>",
};

std::string Quoted(absl::string_view text) { return absl::StrCat("\"", Printable(text), "\""); }

class GgufTokenizer : public Tokenizer {
 public:
  absl::Status Init(GgufVocab vocab, absl::string_view where);

  absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view text,
                                              const EncodeOptions& options) const override;
  std::string Decode(absl::Span<const int32_t> ids, bool skip_special) const override;
  int64_t vocab_size() const override { return static_cast<int64_t>(vocab_.tokens.size()); }
  std::string TokenText(int32_t id) const override;
  int32_t bos_id() const override { return bos_id_; }
  int32_t eos_id() const override { return eos_id_; }
  bool add_bos() const override { return add_bos_; }
  bool is_special(int32_t id) const override {
    return IsId(id) && (types_[id] == TokenType::kControl || types_[id] == TokenType::kUnknown);
  }
  std::string fingerprint() const override { return fingerprint_; }

 private:
  bool IsId(int64_t id) const { return id >= 0 && id < vocab_size(); }
  absl::Status CheckTokens();
  absl::Status InitTypes();
  absl::Status InitSpecialIds();
  absl::Status InitByteLevel();
  absl::Status InitScored();
  absl::Status EncodeFragment(std::string text, PieceCache* cache, std::vector<int32_t>* ids) const;
  void AppendPiece(int32_t id, std::string* out) const;
  std::string Fingerprint() const;

  std::string where_;
  GgufVocab vocab_;
  std::vector<TokenType> types_;  // [tokens]
  bool byte_level_ = false;
  bool add_bos_ = false, add_space_prefix_ = false;
  int32_t bos_id_ = -1, eos_id_ = -1;
  LiteralMatcher user_defined_, all_special_;  // cut out first: without and with parse_special
  PreTokenizer pre_tokenizer_;
  BpeModel bpe_;
  SpmModel spm_;
  std::string fingerprint_;
};

absl::Status GgufTokenizer::Init(GgufVocab vocab, absl::string_view where) {
  where_ = std::string(where);
  vocab_ = std::move(vocab);
  byte_level_ = vocab_.model == "gpt2";
  if (!byte_level_ && vocab_.model != "llama") {
    return absl::UnimplementedError(absl::StrCat(where_, ": tokenizer.ggml.model ", Quoted(vocab_.model),
                                                 " is not supported; supported: gpt2, llama"));
  }
  fingerprint_ = Fingerprint();
  SF_RETURN_IF_ERROR(CheckTokens());
  SF_RETURN_IF_ERROR(InitTypes());
  SF_RETURN_IF_ERROR(InitSpecialIds());
  return byte_level_ ? InitByteLevel() : InitScored();
}

absl::Status GgufTokenizer::CheckTokens() {
  if (vocab_.tokens.empty() || vocab_.tokens.size() > INT32_MAX) {
    return absl::DataLossError(absl::StrCat(where_, ": tokenizer.ggml.tokens has ", vocab_.tokens.size(),
                                            " entries; expected 1 to ", INT32_MAX));
  }
  absl::flat_hash_map<absl::string_view, size_t> seen;
  seen.reserve(vocab_.tokens.size());
  for (size_t id = 0; id < vocab_.tokens.size(); ++id) {
    if (vocab_.tokens[id].empty()) vocab_.tokens[id] = absl::StrCat("[EMPTY_", id, "]");
    const auto [it, is_new] = seen.emplace(vocab_.tokens[id], id);
    if (!is_new) {
      return absl::DataLossError(absl::StrCat(where_, ": tokenizer.ggml.tokens[", id, "] ",
                                              Quoted(vocab_.tokens[id]), " is also token ", it->second,
                                              "; every token must be unique"));
    }
  }
  return absl::OkStatus();
}

absl::Status GgufTokenizer::InitTypes() {
  const size_t n = vocab_.tokens.size();
  if (!vocab_.types.empty() && vocab_.types.size() != n) {
    return absl::DataLossError(absl::StrCat(where_, ": tokenizer.ggml.token_type has ", vocab_.types.size(),
                                            " entries; expected ", n, ", one a token"));
  }
  types_.assign(n, TokenType::kNormal);
  for (size_t id = 0; id < vocab_.types.size(); ++id) {
    const int64_t type = vocab_.types[id];
    if (type < 1 || type > 6) {
      return absl::DataLossError(
          absl::StrCat(where_, ": tokenizer.ggml.token_type[", id, "] is ", type, "; expected 1 to 6"));
    }
    types_[id] = static_cast<TokenType>(type);
    const std::string& text = vocab_.tokens[id];
    if (types_[id] == TokenType::kByte &&
        !(text.size() == 6 && absl::StartsWith(text, "<0x") && absl::ascii_isxdigit(text[3]) &&
          absl::ascii_isxdigit(text[4]) && text[5] == '>')) {
      return absl::DataLossError(absl::StrCat(where_, ": tokenizer.ggml.tokens[", id, "] ", Quoted(text),
                                              " has type byte; expected <0x00> to <0xFF>"));
    }
  }
  const absl::flat_hash_set<absl::string_view> control(std::begin(kControlByText), std::end(kControlByText));
  for (size_t id = 0; id < n; ++id) {
    if (control.contains(vocab_.tokens[id])) types_[id] = TokenType::kControl;
    const bool special = types_[id] == TokenType::kControl || types_[id] == TokenType::kUnknown;
    if (special || types_[id] == TokenType::kUserDefined) {
      all_special_.Add(vocab_.tokens[id], static_cast<int32_t>(id));
      if (!special) user_defined_.Add(vocab_.tokens[id], static_cast<int32_t>(id));
    }
  }
  all_special_.Build();
  user_defined_.Build();
  return absl::OkStatus();
}

absl::Status GgufTokenizer::InitSpecialIds() {
  const auto check = [&](const char* key, std::optional<int64_t> id, int32_t fallback,
                         int32_t* out) -> absl::Status {
    *out = IsId(fallback) ? fallback : -1;
    if (!id) return absl::OkStatus();
    if (!IsId(*id)) {
      return absl::DataLossError(
          absl::StrCat(where_, ": tokenizer.ggml.", key, " is ", *id, "; expected 0 to ", vocab_size() - 1));
    }
    *out = static_cast<int32_t>(*id);
    return absl::OkStatus();
  };
  int32_t unk_id = -1;
  SF_RETURN_IF_ERROR(check("bos_token_id", vocab_.bos_id, byte_level_ ? -1 : 1, &bos_id_));
  SF_RETURN_IF_ERROR(check("eos_token_id", vocab_.eos_id, byte_level_ ? -1 : 2, &eos_id_));
  SF_RETURN_IF_ERROR(check("unknown_token_id", vocab_.unk_id, byte_level_ ? -1 : 0, &unk_id));
  const bool llama3 = byte_level_ && absl::StartsWith(vocab_.pre, "llama");
  add_bos_ = vocab_.add_bos.value_or(!byte_level_ || llama3) && bos_id_ >= 0;
  add_space_prefix_ = !byte_level_ && vocab_.add_space_prefix.value_or(true);
  return absl::OkStatus();
}

absl::Status GgufTokenizer::InitByteLevel() {
  SF_ASSIGN_OR_RETURN(pre_tokenizer_,
                      PreTokenizerForGguf(vocab_.pre, absl::StrCat(where_, ": tokenizer.ggml.pre")));
  if (vocab_.merges.empty()) {
    return absl::DataLossError(
        absl::StrCat(where_, ": tokenizer.ggml.merges is missing; model gpt2 needs it"));
  }
  std::vector<BpeModel::Merge> merges;
  merges.reserve(vocab_.merges.size());
  for (size_t rank = 0; rank < vocab_.merges.size(); ++rank) {
    const std::string& text = vocab_.merges[rank];
    const size_t space = text.find(' ', 1);
    if (space == std::string::npos || space + 1 == text.size()) {
      return absl::DataLossError(absl::StrCat(where_, ": tokenizer.ggml.merges[", rank, "] is ", Quoted(text),
                                              "; expected two tokens and a space between"));
    }
    merges.emplace_back(text.substr(0, space), text.substr(space + 1));
  }
  BpeModel::Options options;
  options.byte_level = true;
  options.ignore_merges = absl::StartsWith(vocab_.pre, "llama");
  options.unknown_is_barrier = true;
  return bpe_.Init(vocab_.tokens, merges, /*last_wins=*/false, options,
                   absl::StrCat(where_, ": tokenizer.ggml.merges"));
}

absl::Status GgufTokenizer::InitScored() {
  const size_t n = vocab_.tokens.size();
  if (vocab_.scores.size() != n) {
    return absl::DataLossError(absl::StrCat(where_, ": tokenizer.ggml.scores has ", vocab_.scores.size(),
                                            " entries; expected ", n, ", one a token"));
  }
  absl::flat_hash_map<absl::string_view, int32_t> index;
  for (size_t id = 0; id < n; ++id) {
    if (!std::isfinite(vocab_.scores[id])) {
      return absl::DataLossError(absl::StrCat(where_, ": tokenizer.ggml.scores[", id, "] is not finite"));
    }
    if (vocab_.tokens[id].size() <= 6) index.emplace(vocab_.tokens[id], static_cast<int32_t>(id));
  }
  std::array<int32_t, 256> byte_ids;
  for (int byte = 0; byte < 256; ++byte) {
    auto it = index.find(absl::StrFormat("<0x%02X>", byte));
    if (it == index.end()) it = index.find(std::string(1, static_cast<char>(byte)));
    if (it != index.end()) {
      byte_ids[byte] = it->second;
    } else if (vocab_.unk_id) {
      byte_ids[byte] = static_cast<int32_t>(*vocab_.unk_id);
    } else {
      return absl::DataLossError(absl::StrFormat(
          "%s: tokenizer.ggml.tokens: byte 0x%02X has no token <0x%02X> and there is no unknown token",
          where_, byte, byte));
    }
  }
  spm_.Init(vocab_.tokens, vocab_.scores, byte_ids);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int32_t>> GgufTokenizer::Encode(absl::string_view text,
                                                           const EncodeOptions& options) const {
  if (text.size() > kMaxTextBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("text to encode: ", text.size(), " bytes; at most ", kMaxTextBytes, "; split it"));
  }
  const LiteralMatcher& literals = options.parse_special ? all_special_ : user_defined_;
  std::vector<int32_t> ids;
  PieceCache cache;
  bool after_special = true;  // the start counts as one
  for (const auto& fragment : literals.PartitionLongestFirst(text)) {
    if (fragment.value >= 0) {
      ids.push_back(fragment.value);
      after_special = true;
      continue;
    }
    const absl::string_view part = text.substr(fragment.begin, fragment.end - fragment.begin);
    if (byte_level_) {
      SF_RETURN_IF_ERROR(
          EncodeFragment(IsValidUtf8(part) ? std::string(part) : RewriteUtf8Leniently(part), &cache, &ids));
    } else {
      const std::string prefixed = absl::StrCat(add_space_prefix_ && after_special ? " " : "", part);
      spm_.Encode(absl::StrReplaceAll(prefixed, {{" ", kSpaceMark}}), &cache, &ids);
    }
    after_special = false;
  }
  return ids;
}

absl::Status GgufTokenizer::EncodeFragment(std::string text, PieceCache* cache,
                                           std::vector<int32_t>* ids) const {
  SF_ASSIGN_OR_RETURN(const Pieces pieces, PreTokenize(pre_tokenizer_, std::move(text), true));
  for (size_t i = 0; i < pieces.ranges.size(); ++i) {
    cache->Append(pieces[i], ids, [this](absl::string_view piece, std::vector<int32_t>* out) {
      bpe_.EncodePiece(piece, out);
    });
  }
  return absl::OkStatus();
}

void GgufTokenizer::AppendPiece(int32_t id, std::string* out) const {
  const std::string& text = vocab_.tokens[id];
  switch (types_[id]) {
    case TokenType::kByte:
      out->push_back(static_cast<char>(std::stoi(text.substr(3, 2), nullptr, 16)));
      return;
    case TokenType::kNormal:
    case TokenType::kUnused:
      if (byte_level_) {
        const auto bytes = BytesFromAlphabet(text);
        absl::StrAppend(out, bytes ? *bytes : text);
      } else {
        absl::StrAppend(out, absl::StrReplaceAll(text, {{kSpaceMark, " "}}));
      }
      return;
    default:
      absl::StrAppend(out, text);
  }
}

std::string GgufTokenizer::Decode(absl::Span<const int32_t> ids, bool skip_special) const {
  std::string out;
  bool after_special = true;
  for (const int32_t id : ids) {
    if (!IsId(id)) continue;
    const bool cut_out = is_special(id) || types_[id] == TokenType::kUserDefined;
    if (!(skip_special && is_special(id))) {
      const size_t begin = out.size();
      AppendPiece(id, &out);
      // Encode put a space in front of text that follows the start or a special token.
      if (add_space_prefix_ && after_special && !cut_out && out.size() > begin && out[begin] == ' ') {
        out.erase(begin, 1);
      }
    }
    after_special = cut_out;
  }
  return out;
}

std::string GgufTokenizer::TokenText(int32_t id) const {
  if (!IsId(id)) return absl::StrCat("[no token ", id, "]");
  std::string text;
  AppendPiece(id, &text);
  return Printable(text);
}

// Over everything that decides the ids.
std::string GgufTokenizer::Fingerprint() const {
  Sha256 sha;
  const auto add = [&sha](absl::string_view text) {
    const uint64_t size = text.size();
    char prefix[8];
    std::memcpy(prefix, &size, 8);
    sha.Update(prefix);
    sha.Update(absl::MakeConstSpan(text.data(), text.size()));
  };
  add("gguf tokenizer 1");
  add(vocab_.model);
  add(vocab_.pre);
  for (const auto* list : {&vocab_.tokens, &vocab_.merges}) {
    add(absl::StrCat(list->size()));
    for (const std::string& text : *list) add(text);
  }
  add({reinterpret_cast<const char*>(vocab_.scores.data()), vocab_.scores.size() * sizeof(float)});
  add({reinterpret_cast<const char*>(vocab_.types.data()), vocab_.types.size() * sizeof(int64_t)});
  const auto number = [](std::optional<int64_t> v) { return v ? absl::StrCat(*v) : std::string("none"); };
  const auto flag = [](std::optional<bool> v) { return v ? absl::StrCat(*v) : std::string("none"); };
  add(absl::StrCat(number(vocab_.bos_id), " ", number(vocab_.eos_id), " ", number(vocab_.unk_id), " ",
                   flag(vocab_.add_bos), " ", flag(vocab_.add_space_prefix)));
  return sha.Hex();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> MakeGgufTokenizer(GgufVocab vocab, absl::string_view where) {
  auto tokenizer = std::make_unique<GgufTokenizer>();
  SF_RETURN_IF_ERROR(tokenizer->Init(std::move(vocab), where));
  return std::unique_ptr<Tokenizer>(std::move(tokenizer));
}

}  // namespace spikefold::tok
