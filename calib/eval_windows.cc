#include "calib/eval_windows.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "calib/format_count.h"

namespace spikefold {
namespace {

int64_t DefaultContext(Protocol protocol) { return protocol == Protocol::kPaper ? 2048 : 512; }

}  // namespace

absl::StatusOr<EvalWindows> MakeEvalWindows(absl::Span<const int32_t> ids, int32_t bos_id, bool add_bos,
                                            const EvalOptions& options) {
  const bool llama_cpp = options.protocol == Protocol::kLlamaCpp;
  EvalWindows out;
  out.context = options.context > 0 ? options.context : DefaultContext(options.protocol);
  out.bos = llama_cpp && add_bos ? BosMode::kWindow : options.bos;
  const int64_t context = out.context;
  if (context < (llama_cpp ? 4 : 2)) {
    return absl::InvalidArgumentError(
        absl::StrCat("context: ", context, " tokens; at least ", llama_cpp ? 4 : 2, " are needed"));
  }
  if (out.bos != BosMode::kNone && bos_id < 0) {
    return absl::InvalidArgumentError("BOS mode: the tokenizer has no BOS token; use the mode \"none\"");
  }
  // llama.cpp overwrites a chunk's first token with BOS; the other protocols make the window one token
  // longer.
  std::vector<int32_t> stream;
  const bool bos_before_text = out.bos == BosMode::kOnce || (llama_cpp && out.bos == BosMode::kWindow);
  if (bos_before_text) {
    stream.reserve(ids.size() + 1);
    stream.push_back(bos_id);
    stream.insert(stream.end(), ids.begin(), ids.end());
    ids = stream;
  }
  int64_t count = static_cast<int64_t>(ids.size()) / context;
  if (count == 0) {
    return absl::InvalidArgumentError(absl::StrCat("text: ", FormatCount(static_cast<int64_t>(ids.size())),
                                                   " tokens; one window needs ", FormatCount(context),
                                                   "; give more text or a shorter context"));
  }
  if (options.max_windows > 0) count = std::min(count, options.max_windows);
  for (int64_t w = 0; w < count; ++w) {
    EvalWindow window;
    const auto chunk = ids.subspan(static_cast<size_t>(w * context), static_cast<size_t>(context));
    window.score_from = llama_cpp ? context / 2 + 1 : 1;
    if (out.bos == BosMode::kWindow && !llama_cpp) {
      window.tokens.push_back(bos_id);
      window.score_from = 2;
    }
    window.tokens.insert(window.tokens.end(), chunk.begin(), chunk.end());
    if (out.bos == BosMode::kWindow) window.tokens[0] = bos_id;
    window.leads_with_bos = out.bos == BosMode::kWindow || (out.bos == BosMode::kOnce && w == 0);
    out.windows.push_back(std::move(window));
  }
  return out;
}

bool HoldsBos(const KvPrefix* prefix, const Tokenizer& tokenizer) {
  return prefix != nullptr && tokenizer.bos_id() >= 0 &&
         std::find(prefix->tokens.begin(), prefix->tokens.end(), tokenizer.bos_id()) != prefix->tokens.end();
}

std::vector<EvalWindow> DropLeadingBos(std::vector<EvalWindow>& windows) {
  std::vector<EvalWindow> out;
  out.reserve(windows.size());
  for (EvalWindow& window : windows) {
    if (window.leads_with_bos) window.score_from = std::max<int64_t>(window.score_from, 2);
    out.push_back(window);
    if (!window.leads_with_bos) continue;
    out.back().tokens.erase(out.back().tokens.begin());
    out.back().score_from -= 1;
    out.back().leads_with_bos = false;
  }
  return out;
}

}  // namespace spikefold
