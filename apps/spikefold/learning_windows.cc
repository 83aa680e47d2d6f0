#include "apps/spikefold/learning_windows.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "apps/spikefold/text_table.h"
#include "formats/base/status.h"

namespace spikefold {
namespace {

constexpr int64_t kHeldOutShare = 16;  // one window of so many is held out,
constexpr int64_t kMinHeldOut = 4, kMaxHeldOut = 16;

}  // namespace

absl::StatusOr<LearningOptions> LearningWindows(const LearningText& options, const Tokenizer& tokenizer,
                                                const TokenStream& text, bool has_prefix) {
  const int64_t held_out = std::clamp(options.windows / kHeldOutShare, kMinHeldOut, kMaxHeldOut);
  SF_ASSIGN_OR_RETURN(auto windows, CutWindows(text, options.windows + held_out, options.length));
  LearningOptions out;
  out.device = options.backend;
  const int64_t every = static_cast<int64_t>(windows.size()) / held_out;
  for (size_t i = 0; i < windows.size(); ++i) {
    if (!has_prefix && tokenizer.add_bos() && tokenizer.bos_id() >= 0) windows[i][0] = tokenizer.bos_id();
    const bool hold =
        static_cast<int64_t>(i) % every == every / 2 && static_cast<int64_t>(out.held_out.size()) < held_out;
    (hold ? out.held_out : out.windows).push_back(std::move(windows[i]));
  }
  return out;
}

std::string LearningTable(const Learning& learning) {
  TextTable table("rrr");
  table.Row({"step", "learnt on", "held out"});
  for (const LearningPoint& p : learning.curve) {
    table.Row({absl::StrCat(p.step), p.step == 0 ? "" : absl::StrFormat("%.4f", p.learnt),
               absl::StrCat(absl::StrFormat("%.4f", p.held_out), p.step == learning.best_step ? " *" : "")});
  }
  return table.Text();
}

void AddLearning(const Learning& learning, Json& document) {
  Json curve = Json::MakeArray();
  for (const LearningPoint& p : learning.curve) {
    curve.Append(
        Json::MakeObject().Set("step", p.step).Set("learnt_kld", p.learnt).Set("held_out_kld", p.held_out));
  }
  document.Set("held_out_kld_before", learning.before)
      .Set("held_out_kld", learning.after)
      .Set("best_step", learning.best_step)
      .Set("curve", std::move(curve));
}

}  // namespace spikefold
