#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "formats/base/status.h"
#include "formats/tokenizer/byte_alphabet.h"
#include "formats/tokenizer/json_pipeline.h"

namespace spikefold::tok {
namespace {

void Join(std::vector<DecodedToken>* tokens) {
  DecodedToken joined;
  for (const DecodedToken& token : *tokens) joined.text += token.text;
  *tokens = {std::move(joined)};
}

class ByteLevelDecoder : public DecoderStep {
 public:
  void Apply(std::vector<DecodedToken>* tokens) const override {
    for (DecodedToken& token : *tokens) {
      if (token.is_added) continue;
      if (auto bytes = BytesFromAlphabet(token.text)) token.text = std::move(*bytes);
    }
    Join(tokens);
  }
};

class ReplaceDecoder : public DecoderStep {
 public:
  ReplaceDecoder(std::string from, std::string to) : from_(std::move(from)), to_(std::move(to)) {}
  void Apply(std::vector<DecodedToken>* tokens) const override {
    for (DecodedToken& token : *tokens) absl::StrReplaceAll({{from_, to_}}, &token.text);
  }

 private:
  std::string from_, to_;
};

// "<0x41>" -> the byte 0x41, whether or not the bytes make valid UTF-8.
class ByteFallbackDecoder : public DecoderStep {
 public:
  void Apply(std::vector<DecodedToken>* tokens) const override {
    for (DecodedToken& token : *tokens) {
      const std::string& t = token.text;
      if (t.size() != 6 || !absl::StartsWith(t, "<0x") || t[5] != '>') continue;
      if (!absl::ascii_isxdigit(t[3]) || !absl::ascii_isxdigit(t[4])) continue;
      token.text = std::string(1, static_cast<char>(std::stoi(t.substr(3, 2), nullptr, 16)));
    }
  }
};

class FuseDecoder : public DecoderStep {
 public:
  void Apply(std::vector<DecodedToken>* tokens) const override { Join(tokens); }
};

// Up to `start` copies of `content` off the front of each token and `stop` off its end.
class StripDecoder : public DecoderStep {
 public:
  StripDecoder(std::string content, int64_t start, int64_t stop)
      : content_(std::move(content)), start_(start), stop_(stop) {}
  void Apply(std::vector<DecodedToken>* tokens) const override {
    for (DecodedToken& token : *tokens) {
      absl::string_view text = token.text;
      for (int64_t i = 0; i < start_ && absl::ConsumePrefix(&text, content_); ++i) {
      }
      for (int64_t i = 0; i < stop_ && absl::ConsumeSuffix(&text, content_); ++i) {
      }
      token.text = std::string(text);
    }
  }

 private:
  std::string content_;
  int64_t start_, stop_;
};

class MetaspaceDecoder : public DecoderStep {
 public:
  MetaspaceDecoder(std::string replacement, bool prepended)
      : replacement_(std::move(replacement)), prepended_(prepended) {}
  // The library takes what was prepended off by leaving out every replacement of the first token.
  void Apply(std::vector<DecodedToken>* tokens) const override {
    for (size_t i = 0; i < tokens->size(); ++i) {
      absl::StrReplaceAll({{replacement_, i == 0 && prepended_ ? "" : " "}}, &(*tokens)[i].text);
    }
  }

 private:
  std::string replacement_;
  bool prepended_;
};

absl::Status AppendReplace(const JsonNode& node, Decoder* steps) {
  SF_ASSIGN_OR_RETURN(PatternNode pattern, ParsePattern(node));
  if (!pattern.is_literal) return node.Unsupported("a Regex pattern in a decoder");
  SF_ASSIGN_OR_RETURN(std::string content, node.String("content"));
  steps->push_back(std::make_unique<ReplaceDecoder>(std::move(pattern.literal), std::move(content)));
  return absl::OkStatus();
}

absl::Status AppendStrip(const JsonNode& node, Decoder* steps) {
  SF_ASSIGN_OR_RETURN(std::string content, node.String("content"));
  if (content.empty()) return node.Malformed("an empty content");
  SF_ASSIGN_OR_RETURN(const int64_t start, node.Int("start"));
  SF_ASSIGN_OR_RETURN(const int64_t stop, node.Int("stop"));
  steps->push_back(std::make_unique<StripDecoder>(std::move(content), start, stop));
  return absl::OkStatus();
}

absl::Status AppendMetaspace(const JsonNode& node, Decoder* steps) {
  SF_ASSIGN_OR_RETURN(std::string replacement, node.String("replacement"));
  if (replacement.empty()) return node.Malformed("an empty replacement");
  bool prepended = true;
  if (node.Has("prepend_scheme")) {
    SF_ASSIGN_OR_RETURN(const std::string scheme, node.String("prepend_scheme"));
    prepended = scheme != "never";
  } else {
    SF_ASSIGN_OR_RETURN(prepended, node.Bool("add_prefix_space", true));
  }
  steps->push_back(std::make_unique<MetaspaceDecoder>(std::move(replacement), prepended));
  return absl::OkStatus();
}

absl::Status Append(const JsonNode& node, int depth, Decoder* steps) {
  if (node.json->is_null()) return absl::OkStatus();
  SF_ASSIGN_OR_RETURN(const std::string type, node.Type());
  if (type == "Sequence") {
    if (depth > 8) return node.Malformed("sequences nested more than 8 deep");
    SF_ASSIGN_OR_RETURN(const auto children, node.Elements("decoders"));
    for (const JsonNode& child : children) SF_RETURN_IF_ERROR(Append(child, depth + 1, steps));
    return absl::OkStatus();
  }
  if (type == "Replace") return AppendReplace(node, steps);
  if (type == "Strip") return AppendStrip(node, steps);
  if (type == "Metaspace") return AppendMetaspace(node, steps);
  if (type == "ByteLevel") {
    steps->push_back(std::make_unique<ByteLevelDecoder>());
  } else if (type == "ByteFallback") {
    steps->push_back(std::make_unique<ByteFallbackDecoder>());
  } else if (type == "Fuse") {
    steps->push_back(std::make_unique<FuseDecoder>());
  } else {
    return node.UnknownType(type, "ByteFallback, ByteLevel, Fuse, Metaspace, Replace, Sequence, Strip");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Decoder> ParseDecoder(const JsonNode& node) {
  Decoder steps;
  SF_RETURN_IF_ERROR(Append(node, 0, &steps));
  return steps;
}

}  // namespace spikefold::tok
