// Text that the model writes itself, for calibration without a file.
#include <algorithm>
#include <memory>

#include "absl/functional/function_ref.h"
#include "absl/strings/str_cat.h"
#include "calib/dataset.h"
#include "formats/base/hash.h"
#include "formats/base/status.h"
#include "kernels/runtime/forward.h"
#include "kernels/runtime/generate.h"

namespace spikefold {
namespace {

constexpr int64_t kBatch = 24;  // sequences side by side: beyond this the matmuls are bound by arithmetic

// Sequences start with a capitalised word, so that they run like text; with any ordinary token if there is
// none.
std::vector<int32_t> FirstTokens(const Tokenizer& tokenizer, int64_t vocab) {
  std::vector<int32_t> words, others;
  const int64_t count = std::min(vocab, tokenizer.vocab_size());
  for (int32_t id = 0; id < count; ++id) {
    if (tokenizer.is_special(id)) continue;
    others.push_back(id);
    const std::string text = tokenizer.Decode({&id, 1});
    const size_t start = !text.empty() && text[0] == ' ' ? 1 : 0;
    const bool word = text.size() >= start + 2 && text[start] >= 'A' && text[start] <= 'Z' &&
                      std::all_of(text.begin() + static_cast<int64_t>(start) + 1, text.end(),
                                  [](char c) { return c >= 'a' && c <= 'z'; });
    if (word) words.push_back(id);
  }
  return words.empty() ? others : words;
}

uint64_t Mix(uint64_t x) {  // SplitMix64's output function
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

// Writes sequences side by side, so that one pass over the weights makes a token of each.
class Writer {
 public:
  Writer(const RuntimeModel& model, int64_t num_sequences, int64_t positions) : model_(model) {
    for (int64_t i = 0; i < std::min(kBatch, num_sequences); ++i) {
      caches_.push_back(std::make_unique<KvCache>(model.graph().config, positions));
    }
  }

  // `lead` (-1: none) is seen before the text and not part of it. `step(done)` is asked before each token.
  absl::StatusOr<std::vector<std::vector<int32_t>>> Write(int32_t lead, std::vector<int32_t> tokens,
                                                          const std::vector<uint64_t>& seeds, int64_t length,
                                                          absl::FunctionRef<bool(int64_t)> step) {
    const size_t count = tokens.size();
    const size_t d = static_cast<size_t>(model_.graph().config.hidden);
    const size_t vocab = static_cast<size_t>(model_.graph().config.vocab);
    std::vector<KvCache*> caches;
    std::vector<Sampler> samplers;
    for (size_t i = 0; i < count; ++i) {
      caches.push_back(caches_[i].get());
      caches.back()->Reset();
      samplers.emplace_back(SamplingOptions{.temperature = 1, .seed = seeds[i]});
    }
    std::vector<float> hidden(count * d), logits(count * vocab);
    if (lead >= 0) {
      SF_RETURN_IF_ERROR(
          ForwardBatch(model_, std::vector<int32_t>(count, lead), caches, absl::MakeSpan(hidden)));
    }
    std::vector<std::vector<int32_t>> out(count);
    for (int64_t t = 0;; ++t) {
      for (size_t i = 0; i < count; ++i) out[i].push_back(tokens[i]);
      if (t + 1 == length) return out;
      if (!step(t)) return absl::CancelledError(absl::StrCat("generated text: stopped at token ", t));
      SF_RETURN_IF_ERROR(ForwardBatch(model_, tokens, caches, absl::MakeSpan(hidden)));
      SF_RETURN_IF_ERROR(Logits(model_, hidden, absl::MakeSpan(logits)));
      std::vector<absl::Status> drawn(count);
      model_.pool().ParallelFor(static_cast<int64_t>(count), 1, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          const size_t at = static_cast<size_t>(i);
          const auto token = samplers[at].Sample(absl::MakeSpan(logits).subspan(at * vocab, vocab));
          drawn[at] = token.status();
          tokens[at] = token.value_or(0);
        }
      });
      for (const absl::Status& status : drawn) SF_RETURN_IF_ERROR(status);
    }
  }

 private:
  const RuntimeModel& model_;
  std::vector<std::unique_ptr<KvCache>> caches_;
};

}  // namespace

absl::StatusOr<TokenStream> GenerateText(const RuntimeModel& model, const Tokenizer& tokenizer,
                                         int64_t num_sequences, int64_t length, uint64_t seed,
                                         const Progress& progress) {
  const ModelConfig& config = model.graph().config;
  if (num_sequences < 1 || length < 2) {
    return absl::InvalidArgumentError(absl::StrCat("generated text: ", num_sequences, " sequences of ",
                                                   length, " tokens; at least one of at least 2 is needed"));
  }
  const std::vector<int32_t> first = FirstTokens(tokenizer, config.vocab);
  if (first.empty()) return absl::InvalidArgumentError("generated text: the tokenizer has no ordinary token");
  const bool bos = tokenizer.add_bos() && tokenizer.bos_id() >= 0;  // seen by the model, not part of the text
  Writer writer(model, num_sequences, length + (bos ? 1 : 0));
  TokenStream stream;
  for (int64_t s = 0; s < num_sequences; s += kBatch) {
    const int64_t batch = std::min(kBatch, num_sequences - s);
    std::vector<uint64_t> seeds;
    std::vector<int32_t> starts;
    for (int64_t i = s; i < s + batch; ++i) {
      seeds.push_back(Mix(seed * 0x100000001b3u + static_cast<uint64_t>(i)));
      starts.push_back(first[seeds.back() % first.size()]);
    }
    const auto step = [&](int64_t done) {
      return Report(progress, "writing text", s * length + done * batch, num_sequences * length);
    };
    SF_ASSIGN_OR_RETURN(const auto sequences,
                        writer.Write(bos ? tokenizer.bos_id() : -1, starts, seeds, length, step));
    for (const auto& ids : sequences) stream.ids.insert(stream.ids.end(), ids.begin(), ids.end());
  }
  Report(progress, "writing text", num_sequences * length, num_sequences * length);
  // A window of a text file begins and ends anywhere, but a model's own sequence begins where the model saw
  // nothing: anything before it, such as a prefix, would look harmful. So the stream starts mid-sequence.
  std::rotate(stream.ids.begin(), stream.ids.begin() + length / 2, stream.ids.end());
  stream.source = absl::StrCat("generated by the model, seed ", seed);
  stream.sha256 =
      Sha256Hex({reinterpret_cast<const char*>(stream.ids.data()), stream.ids.size() * sizeof(int32_t)});
  stream.num_bytes = static_cast<int64_t>(tokenizer.Decode(stream.ids).size());
  return stream;
}

}  // namespace spikefold
