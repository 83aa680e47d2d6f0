#include "apps/spikefold/generate_command.h"

#include <algorithm>
#include <chrono>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "apps/spikefold/interrupt.h"
#include "apps/spikefold/text.h"
#include "calib/format_count.h"
#include "formats/base/json.h"
#include "formats/base/status.h"
#include "formats/base/utf8.h"
#include "kernels/runtime/generate.h"

namespace spikefold {
namespace {

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// How many bytes of `text` can be shown while more may follow: all but a character whose end is missing.
size_t WholeCharacters(absl::string_view text) {
  size_t begin = text.size();
  while (begin > 0 && text.size() - begin < 4) {
    --begin;
    const unsigned char c = static_cast<unsigned char>(text[begin]);
    if ((c & 0xc0) == 0x80) continue;  // inside a character: look further back for its beginning
    const size_t length = c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : c >= 0xc0 ? 2 : 1;
    return begin + length > text.size() ? begin : text.size();
  }
  return text.size();
}

// Decodes what was generated behind the prompt and hands out what is new. All tokens are decoded each time:
// blanks at a token's edge depend on its neighbours.
class Stream {
 public:
  Stream(const Tokenizer& tokenizer, std::vector<int32_t> prompt)
      : tokenizer_(tokenizer), ids_(std::move(prompt)), shown_(tokenizer.Decode(ids_).size()) {}
  std::string Add(int32_t token) {
    ids_.push_back(token);
    const std::string text = tokenizer_.Decode(ids_);
    return Take(text, WholeCharacters(text));
  }
  std::string Rest() {
    const std::string text = tokenizer_.Decode(ids_);
    return Take(text, text.size());
  }

 private:
  std::string Take(const std::string& text, size_t end) {
    if (end <= shown_) return "";
    std::string part = text.substr(shown_, end - shown_);
    shown_ = end;
    return part;
  }
  const Tokenizer& tokenizer_;
  std::vector<int32_t> ids_;
  size_t shown_;  // bytes
};

// The prompt's tokens, behind BOS if the model wants one and its prefix has none.
absl::StatusOr<std::vector<int32_t>> PromptTokens(const OpenedModel& opened, const std::string& prompt) {
  if (!IsValidUtf8(prompt)) return absl::InvalidArgumentError("--prompt: not UTF-8");
  const Tokenizer& tokenizer = *opened.tokenizer;
  SF_ASSIGN_OR_RETURN(std::vector<int32_t> ids, tokenizer.Encode(prompt, {.parse_special = true}));
  const KvPrefix* prefix = opened.model->prefix();
  const bool has_bos =
      prefix != nullptr && std::count(prefix->tokens.begin(), prefix->tokens.end(), tokenizer.bos_id()) > 0;
  const bool wants_bos = tokenizer.add_bos() || ids.empty();
  if (wants_bos && !has_bos && tokenizer.bos_id() >= 0) ids.insert(ids.begin(), tokenizer.bos_id());
  if (ids.empty()) return absl::InvalidArgumentError("--prompt: empty; give at least one character");
  return ids;
}

// Greedy text draws nothing.
absl::Status CheckSampling(const GenerateCommandOptions& options, const Context& context) {
  if (options.temperature > 0 || (options.top_k == 0 && !context.given_seed)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(options.top_k > 0 ? "--top-k" : "--seed",
                   ": without --temperature the likeliest token is always taken; give one above 0"));
}

absl::Status CheckLength(const OpenedModel& opened, int64_t prompt, int64_t max_tokens) {
  const int64_t prefix = opened.model->prefix() == nullptr ? 0 : opened.model->prefix()->size();
  const int64_t allowed = opened.model->graph().config.max_positions, before = prompt + prefix;
  if (allowed == 0 || before + max_tokens <= allowed) return absl::OkStatus();
  if (before >= allowed) {
    return absl::InvalidArgumentError(absl::StrCat("--prompt: ", FormatCount(before),
                                                   " tokens; the model has ", FormatCount(allowed),
                                                   " positions; give a shorter one"));
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "--max-tokens ", FormatCount(max_tokens), ": with ", FormatCount(before),
      " tokens before them they exceed the model's ", FormatCount(allowed), " positions; ask for fewer"));
}

// Whatever the model's files call an end of text: chat models name the end of a turn in
// generation_config.json alone.
absl::StatusOr<std::vector<int64_t>> StopIds(const OpenedModel& opened) {
  const ModelConfig& config = opened.model->graph().config;
  std::vector<int64_t> stop = config.eos_ids;
  if (config.eos_id >= 0) stop.push_back(config.eos_id);
  if (opened.tokenizer->eos_id() >= 0) stop.push_back(opened.tokenizer->eos_id());
  constexpr absl::string_view kFile = "generation_config.json";
  const std::string where = absl::StrCat(opened.reader->path(), ": ", kFile);
  SF_ASSIGN_OR_RETURN(const auto files, opened.reader->SideFiles());
  for (const CheckpointReader::SideFile& file : files) {
    if (file.name != kFile) continue;
    SF_ASSIGN_OR_RETURN(const Json json, ParseJson(file.bytes, where));
    const Json* eos = json.is_object() ? json.Find("eos_token_id") : nullptr;
    if (eos == nullptr || eos->is_null()) continue;
    for (const Json& id : eos->is_array() ? eos->array() : Json::Array{*eos}) {
      if (!id.is_int()) {
        return absl::DataLossError(
            absl::StrCat(where, ": \"eos_token_id\" holds something that is no integer"));
      }
      stop.push_back(id.int_value());
    }
  }
  return stop;
}

Json Document(const GenerateCommandOptions& options, const Context& context, const OpenedModel& opened,
              const std::vector<int32_t>& prompt, const std::vector<int32_t>& generated,
              const std::string& text, double seconds) {
  Json ids = Json::MakeArray();
  for (const int32_t id : generated) ids.Append(static_cast<int64_t>(id));
  return NewDocument("generate")
      .Set("path", opened.reader->path())
      .Set("prompt", options.prompt)
      .Set("prompt_tokens", static_cast<int64_t>(prompt.size()))
      .Set("temperature", options.temperature)
      .Set("top_k", options.top_k)
      .Set("seed", absl::StrCat(context.seed))
      .Set("text", text)
      .Set("tokens", std::move(ids))
      .Set("stopped_at_end_of_text", static_cast<int64_t>(generated.size()) < options.max_tokens)
      .Set("seconds", seconds);
}

}  // namespace

absl::Status RunGenerate(const GenerateCommandOptions& options, Context& context) {
  SF_RETURN_IF_ERROR(CheckSampling(options, context));
  SF_ASSIGN_OR_RETURN(const OpenedModel opened,
                      OpenModel(context, options.model, {.backend = BackendOf(options.backend)}));
  SF_RETURN_IF_ERROR(OverrideKv(options.kv, *opened.model));
  SF_ASSIGN_OR_RETURN(std::vector<int64_t> stop_ids, StopIds(opened));
  SF_ASSIGN_OR_RETURN(const std::vector<int32_t> prompt, PromptTokens(opened, options.prompt));
  SF_RETURN_IF_ERROR(CheckLength(opened, static_cast<int64_t>(prompt.size()), options.max_tokens));

  Console& console = context.console;
  Stream stream(*opened.tokenizer, prompt);
  std::string text;
  absl::Status written;
  const auto show = [&](const std::string& part) {
    text += part;
    if (console.json()) return;
    console.PrintForeign(part);
    written = console.Flush();
  };
  if (!console.json()) {
    console.Print(console.Bold(options.prompt));
    SF_RETURN_IF_ERROR(console.Flush());
  }
  const double start = Now();
  SF_ASSIGN_OR_RETURN(const std::vector<int32_t> generated,
                      Generate(*opened.model, prompt,
                               {.max_tokens = options.max_tokens,
                                .sampling = {.temperature = static_cast<float>(options.temperature),
                                             .top_k = options.top_k,
                                             .seed = context.seed},
                                .stop_ids = std::move(stop_ids),
                                .on_token = [&](int32_t token) {
                                  show(stream.Add(token));
                                  return written.ok() && !Interrupted();
                                }}));
  const double seconds = Now() - start;
  show(stream.Rest());
  SF_RETURN_IF_ERROR(written);
  if (!console.json()) {
    console.Print("\n");
    SF_RETURN_IF_ERROR(console.Flush());
  }
  if (Interrupted()) return absl::CancelledError("generate: interrupted");
  if (console.json()) {
    return console.PrintJson(Document(options, context, opened, prompt, generated, text, seconds));
  }
  const double count = static_cast<double>(generated.size());
  console.Note(absl::StrFormat("%d tokens in %s, %.1f a second", generated.size(), SecondsText(seconds),
                               count / seconds));
  return absl::OkStatus();
}

}  // namespace spikefold
