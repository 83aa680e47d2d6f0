// tokenizer.ggml.* of a GGUF file.
#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "formats/base/file.h"
#include "formats/base/status.h"
#include "formats/export/gguf_metadata.h"
#include "formats/gguf.h"
#include "formats/tokenizer/gguf_tokenizer.h"
#include "formats/tokenizer/json_model.h"
#include "formats/tokenizer/json_pipeline.h"
#include "formats/tokenizer/pretokenizer.h"

namespace spikefold {
namespace {

using tok::GgufVocab;
using tok::TokenType;

constexpr const char* kPreTokenizers[] = {"llama-bpe", "qwen2", "smollm", "gpt-2"};

// Digits in runs, contractions in both cases, white space of all kinds, scripts without spaces, marks, emoji:
// where the pre-tokenizers differ. Composed characters only: ggml normalizes nothing.
constexpr char kHardText[] =
    "Hello world! 123 4567 89, it's I'LL don't WE'VE x='s\n\n  two\r\n\tTab  \n three   spaces   end.\n"
    "caf\u00e9 na\u00efve \u0421\u044a\u0435\u0448\u044c \u4f60\u597d\u4e16\u754c "
    "\u3053\u3093\u306b\u3061\u306f "
    "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35 \u0928\u092e\u0938\u094d\u0924\u0947 \ud55c\uad6d\uc5b4 "
    "\u00bd\u00b2 "
    "\U0001f600\U0001f680\u200d 3.14e-10 a_b::c->d(e)[f]{g}; <tag attr=\"v\"/> #!%&*~^ "
    "\u2014\u201cq\u201d\u2026 "
    "1000000 0x1F \u00a0nbsp\u3000wide ...!!!??? $5.00 100% foo@bar.com http://x.y/z?q=1  ";

const CheckpointReader::SideFile* FindFile(const std::vector<CheckpointReader::SideFile>& files,
                                           absl::string_view name) {
  for (const auto& file : files) {
    if (file.name == name) return &file;
  }
  return nullptr;
}

absl::StatusOr<Json> ParseFile(const CheckpointReader::SideFile* file, const std::string& where) {
  if (file == nullptr) return Json();
  return ParseJson(file->bytes, absl::StrCat(where, "/", file->name));
}

// All ids of the embedding get a token: what the tokenizer leaves out is unused.
GgufVocab VocabOf(const tok::JsonVocabulary& parsed, int64_t rows) {
  GgufVocab vocab;
  vocab.tokens = parsed.tokens;
  vocab.tokens.resize(std::max(vocab.tokens.size(), static_cast<size_t>(rows)));
  vocab.types.assign(vocab.tokens.size(), static_cast<int64_t>(TokenType::kNormal));
  for (size_t id = 0; id < vocab.tokens.size(); ++id) {
    if (!vocab.tokens[id].empty()) continue;
    vocab.tokens[id] = absl::StrCat("[PAD", id, "]");
    vocab.types[id] = static_cast<int64_t>(TokenType::kUnused);
  }
  for (const tok::AddedToken& added : parsed.added) {
    vocab.types[static_cast<size_t>(added.id)] =
        static_cast<int64_t>(added.special ? TokenType::kControl : TokenType::kUserDefined);
  }
  for (const auto& [left, right] : parsed.merges) vocab.merges.push_back(absl::StrCat(left, " ", right));
  return vocab;
}

// SentencePiece vocabularies: pieces that merges make, the earlier the better; bytes; the unknown token.
void MakeScored(const tok::JsonVocabulary& parsed, GgufVocab* vocab) {
  vocab->model = "llama";
  vocab->scores.assign(vocab->tokens.size(), 0);
  std::vector<bool> scored(vocab->tokens.size());
  for (size_t rank = 0; rank < parsed.merges.size(); ++rank) {
    const auto it = parsed.index.find(parsed.merges[rank].first + parsed.merges[rank].second);
    if (it == parsed.index.end() || scored[static_cast<size_t>(it->second)]) continue;
    scored[static_cast<size_t>(it->second)] = true;
    vocab->scores[static_cast<size_t>(it->second)] = -static_cast<float>(rank);
  }
  for (size_t id = 0; id < vocab->tokens.size(); ++id) {
    const std::string& text = vocab->tokens[id];
    if (text.size() == 6 && absl::StartsWith(text, "<0x")) {
      vocab->types[id] = static_cast<int64_t>(TokenType::kByte);
    } else if (!scored[id]) {
      vocab->scores[id] = -static_cast<float>(parsed.merges.size()) - 1;
    }
  }
  vocab->merges.clear();
  if (parsed.options.unk_id >= 0) {
    vocab->unk_id = parsed.options.unk_id;
    vocab->types[static_cast<size_t>(parsed.options.unk_id)] = static_cast<int64_t>(TokenType::kUnknown);
  }
}

absl::StatusOr<bool> SameIds(const Tokenizer& ours, const GgufVocab& vocab) {
  SF_ASSIGN_OR_RETURN(const auto theirs, tok::MakeGgufTokenizer(vocab, "tokenizer.json as GGUF"));
  for (const bool special : {false, true}) {
    SF_ASSIGN_OR_RETURN(const auto wanted, ours.Encode(kHardText, {.parse_special = special}));
    SF_ASSIGN_OR_RETURN(const auto got, theirs->Encode(kHardText, {.parse_special = special}));
    if (wanted != got) return false;
  }
  return true;
}

// Whether the pre-tokenizer cuts as tokenizer.json's does. Ids alone would hide differences that a small
// vocabulary has no merges for.
absl::StatusOr<bool> SamePieces(const tok::JsonPreTokenizer& ours, const char* pre) {
  SF_ASSIGN_OR_RETURN(const tok::PreTokenizer theirs, tok::PreTokenizerForGguf(pre, pre));
  SF_ASSIGN_OR_RETURN(const tok::Pieces wanted, tok::PreTokenize(ours.steps, kHardText, true));
  SF_ASSIGN_OR_RETURN(const tok::Pieces got, tok::PreTokenize(theirs, kHardText, true));
  if (wanted.ranges.size() != got.ranges.size()) return false;
  for (size_t i = 0; i < wanted.ranges.size(); ++i) {
    if (wanted[i] != got[i]) return false;
  }
  return true;
}

// The first form that gives our tokenizer's pieces and ids.
absl::StatusOr<GgufVocab> ChooseForm(const Tokenizer& ours, const tok::JsonVocabulary& parsed,
                                     const tok::JsonNode& pre_tokenizer, GgufVocab vocab,
                                     const std::string& where) {
  if (parsed.options.byte_fallback) {
    MakeScored(parsed, &vocab);
    for (const bool space : {true, false}) {
      vocab.add_space_prefix = space;
      SF_ASSIGN_OR_RETURN(const bool same, SameIds(ours, vocab));
      if (same) return vocab;
    }
  } else {
    vocab.model = "gpt2";
    SF_ASSIGN_OR_RETURN(const tok::JsonPreTokenizer cuts, tok::ParsePreTokenizer(pre_tokenizer));
    for (const char* pre : kPreTokenizers) {
      vocab.pre = pre;
      SF_ASSIGN_OR_RETURN(const bool alike, SamePieces(cuts, pre));
      if (!alike) continue;
      SF_ASSIGN_OR_RETURN(const bool same, SameIds(ours, vocab));
      if (same) return vocab;
    }
  }
  return absl::UnimplementedError(absl::StrCat(
      where,
      ": no pre-tokenizer of GGUF that is known here gives the same ids as this tokenizer.json on a text of "
      "hard cases; convert the tokenizer with llama.cpp"));
}

void AddVocab(const GgufVocab& vocab, GgufMetadata* out) {
  out->AddString("tokenizer.ggml.model", vocab.model);
  if (vocab.model == "gpt2") out->AddString("tokenizer.ggml.pre", vocab.pre);
  out->AddStrings("tokenizer.ggml.tokens", vocab.tokens);
  if (!vocab.scores.empty()) out->AddF32s("tokenizer.ggml.scores", vocab.scores);
  out->AddI32s("tokenizer.ggml.token_type", std::vector<int32_t>(vocab.types.begin(), vocab.types.end()));
  if (!vocab.merges.empty()) out->AddStrings("tokenizer.ggml.merges", vocab.merges);
  const auto id = [&](const char* key, std::optional<int64_t> value) {
    if (value) out->AddU32(absl::StrCat("tokenizer.ggml.", key), static_cast<uint32_t>(*value));
  };
  id("bos_token_id", vocab.bos_id);
  id("eos_token_id", vocab.eos_id);
  id("unknown_token_id", vocab.unk_id);
  if (vocab.add_bos) out->AddBool("tokenizer.ggml.add_bos_token", *vocab.add_bos);
  if (vocab.add_space_prefix) out->AddBool("tokenizer.ggml.add_space_prefix", *vocab.add_space_prefix);
}

absl::Status AddFromJson(const ExportSource& source, const std::vector<CheckpointReader::SideFile>& files,
                         GgufMetadata* out, ExportReport* report) {
  const std::string& where = source.path();
  SF_ASSIGN_OR_RETURN(const Json document, ParseFile(FindFile(files, "tokenizer.json"), where));
  SF_ASSIGN_OR_RETURN(const Json config, ParseFile(FindFile(files, "tokenizer_config.json"), where));
  const ModelConfig& model = source.config();
  SF_ASSIGN_OR_RETURN(const GgufVocab vocab, GgufVocabOf(document, config, model, where));
  AddVocab(vocab, out);
  const Json* chat = config.Find("chat_template");
  if (const auto* file = FindFile(files, "chat_template.jinja")) {
    out->AddString("tokenizer.chat_template", file->bytes);
  } else if (chat != nullptr && chat->is_string()) {
    out->AddString("tokenizer.chat_template", chat->string_value());
  }
  report->notes.push_back(
      absl::StrCat("tokenizer.json became ggml's \"", vocab.model, "\" tokenizer",
                   vocab.pre.empty() ? "" : absl::StrCat(" with pre-tokenizer \"", vocab.pre, "\""),
                   ", which gives the same ids on a text of hard cases"));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<tok::GgufVocab> GgufVocabOf(const Json& document, const Json& config, const ModelConfig& model,
                                           const std::string& where) {
  SF_ASSIGN_OR_RETURN(const tok::JsonVocabulary parsed,
                      tok::ParseVocabulary({&document, absl::StrCat(where, "/tokenizer.json: ")}));
  SF_ASSIGN_OR_RETURN(const auto ours, Tokenizer::FromTokenizerJson(document, config, where, model.bos_id));
  GgufVocab vocab = VocabOf(parsed, model.vocab);
  if (static_cast<int64_t>(vocab.tokens.size()) > model.vocab) {
    return absl::DataLossError(absl::StrCat(where, ": tokenizer.json has ids up to ", vocab.tokens.size() - 1,
                                            "; the embedding has ", model.vocab, " rows"));
  }
  if (ours->bos_id() >= 0) vocab.bos_id = ours->bos_id();
  if (const int64_t eos = ours->eos_id() >= 0 ? ours->eos_id() : model.eos_id; eos >= 0) vocab.eos_id = eos;
  vocab.add_bos = ours->add_bos();
  if (!parsed.options.byte_fallback && parsed.merges.empty()) {
    return absl::UnimplementedError(
        absl::StrCat(where, ": tokenizer.json has no merges, and a GGUF tokenizer of this kind needs some"));
  }
  const tok::JsonNode root = {&document, absl::StrCat(where, "/tokenizer.json: ")};
  return ChooseForm(*ours, parsed, root["pre_tokenizer"], std::move(vocab), where);
}

absl::Status AddTokenizer(const ExportSource& source, GgufMetadata* out, ExportReport* report) {
  SF_ASSIGN_OR_RETURN(const auto files, source.reader().SideFiles());
  if (FindFile(files, "tokenizer.json") != nullptr) return AddFromJson(source, files, out, report);
  const auto* gguf = FindFile(files, "tokenizer.gguf");
  if (gguf == nullptr) {
    return absl::NotFoundError(
        absl::StrCat(source.path(),
                     ": has neither tokenizer.json nor tokenizer.gguf, and a GGUF file holds its "
                     "tokenizer; add one"));
  }
  SF_ASSIGN_OR_RETURN(const auto file, GgufFile::FromSource(MemorySource(gguf->bytes, gguf->name)));
  SF_ASSIGN_OR_RETURN(const GgufFile::RawEntries entries, file->RawMetadata([](absl::string_view key) {
    return absl::StartsWith(key, "tokenizer.");
  }));
  out->AddRaw(entries);
  return absl::OkStatus();
}

}  // namespace spikefold
