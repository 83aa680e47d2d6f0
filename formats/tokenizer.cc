#include "formats/tokenizer.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "formats/base/status.h"
#include "formats/gguf.h"
#include "formats/tokenizer/gguf_tokenizer.h"
#include "formats/tokenizer/json_tokenizer.h"

namespace spikefold {
namespace {

// Moves the value of an optional key into `out`; DataLoss if it has another type.
template <typename T, typename Out>
absl::Status ReadOptional(const GgufFile& file, absl::string_view key, absl::string_view expected, Out* out) {
  const GgufValue* value = file.Find(key);
  if (value == nullptr) return absl::OkStatus();
  const T* typed = std::get_if<T>(&value->v);
  if (typed == nullptr) {
    return absl::DataLossError(absl::StrCat(file.name(), ": ", key, " is not ", expected));
  }
  *out = *typed;
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::FromGguf(const GgufFile& file) {
  tok::GgufVocab vocab;
  SF_ASSIGN_OR_RETURN(vocab.model, file.GetString("tokenizer.ggml.model"));
  SF_RETURN_IF_ERROR(ReadOptional<std::string>(file, "tokenizer.ggml.pre", "a string", &vocab.pre));
  SF_RETURN_IF_ERROR(
      ReadOptional<GgufValue::Strings>(file, "tokenizer.ggml.tokens", "an array of strings", &vocab.tokens));
  SF_RETURN_IF_ERROR(
      ReadOptional<GgufValue::Strings>(file, "tokenizer.ggml.merges", "an array of strings", &vocab.merges));
  SF_RETURN_IF_ERROR(ReadOptional<std::vector<int64_t>>(file, "tokenizer.ggml.token_type",
                                                        "an array of integers", &vocab.types));
  std::vector<double> scores;
  SF_RETURN_IF_ERROR(
      ReadOptional<std::vector<double>>(file, "tokenizer.ggml.scores", "an array of floats", &scores));
  vocab.scores.assign(scores.begin(), scores.end());
  SF_RETURN_IF_ERROR(ReadOptional<int64_t>(file, "tokenizer.ggml.bos_token_id", "an integer", &vocab.bos_id));
  SF_RETURN_IF_ERROR(ReadOptional<int64_t>(file, "tokenizer.ggml.eos_token_id", "an integer", &vocab.eos_id));
  SF_RETURN_IF_ERROR(
      ReadOptional<int64_t>(file, "tokenizer.ggml.unknown_token_id", "an integer", &vocab.unk_id));
  SF_RETURN_IF_ERROR(ReadOptional<bool>(file, "tokenizer.ggml.add_bos_token", "a bool", &vocab.add_bos));
  SF_RETURN_IF_ERROR(
      ReadOptional<bool>(file, "tokenizer.ggml.add_space_prefix", "a bool", &vocab.add_space_prefix));
  return tok::MakeGgufTokenizer(std::move(vocab), file.name());
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::FromTokenizerJson(const Json& tokenizer,
                                                                        const Json& config,
                                                                        absl::string_view where,
                                                                        int64_t model_bos) {
  return tok::MakeJsonTokenizer(tokenizer, config, where, model_bos);
}

}  // namespace spikefold
