#include "apps/spikefold/folds_command.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "apps/spikefold/recipe_options.h"
#include "apps/spikefold/text.h"
#include "apps/spikefold/text_table.h"
#include "calib/dataset.h"
#include "calib/format_count.h"
#include "formats/base/status.h"
#include "quant/folds/exactness.h"

namespace spikefold {
namespace {

constexpr size_t kWidth = 100;

const char* Verdict(const FoldProof& proof, const FoldProof& control) {
  if (proof.control) return "control";
  if (!proof.refused.empty()) return "refused";
  return IsExact(proof, control) ? "exact" : "NOT EXACT";
}

std::string Text(const std::vector<FoldProof>& proofs, const FoldsCommandOptions& options,
                 const TokenStream& text, const Console& console) {
  std::string out =
      absl::StrCat(console.Bold(Printable(options.model, 1024)), "\n", Printable(text.source), ", ",
                   options.windows, " windows of ", FormatCount(options.length), " tokens\n");
  TextTable table("llrr");
  table.Row({"fold", "", "largest change of a logit", "KL divergence"});
  std::vector<std::string> reasons;
  for (const FoldProof& p : proofs) {
    const bool ran = p.refused.empty();
    table.Row({p.fold, Verdict(p, proofs.front()), ran ? absl::StrFormat("%.1e", p.logit) : "",
               ran ? absl::StrFormat("%.1e", p.divergence) : ""});
    const std::string& reason = ran ? p.excepted : p.refused;
    if (!reason.empty() && std::find(reasons.begin(), reasons.end(), reason) == reasons.end()) {
      reasons.push_back(reason);
    }
  }
  absl::StrAppend(&out, table.Text(), reasons.empty() ? "" : "\nNot legal\n");
  for (const std::string& reason : reasons) absl::StrAppend(&out, "  ", Wrap(reason, 4, kWidth), "\n");
  absl::StrAppend(
      &out, "\n",
      Wrap(absl::StrFormat("Exact: no logit moves by more than %.0e of the largest, or than %g times "
                           "what rounding weights and values otherwise moves it (the control); the "
                           "divergence is at most %.0e.",
                           kExactLogit, kTimesControl, kExactDivergence),
           0, 100),
      "\n");
  return out;
}

Json Document(const std::vector<FoldProof>& proofs, const OpenedModel& opened, const TokenStream& text,
              const FoldsCommandOptions& options, const Context& context) {
  Json folds = Json::MakeArray();
  for (const FoldProof& p : proofs) {
    Json fold = Json::MakeObject().Set("fold", p.fold).Set("verdict", Verdict(p, proofs.front()));
    if (!p.refused.empty()) {
      fold.Set("reason", p.refused);
    } else {
      fold.Set("logit", p.logit).Set("kld", p.divergence);
      if (!p.excepted.empty()) fold.Set("without", p.excepted);
    }
    folds.Append(std::move(fold));
  }
  return NewDocument("folds")
      .Set("path", opened.reader->path())
      .Set("arguments", context.command)
      .Set("seed", absl::StrCat(context.seed))
      .Set("text_source", text.source)
      .Set("text_sha256", text.sha256)
      .Set("num_windows", options.windows)
      .Set("length", options.length)
      .Set("folds", std::move(folds));
}

}  // namespace

absl::Status RunFolds(const FoldsCommandOptions& options, Context& context) {
  Console& console = context.console;
  SF_ASSIGN_OR_RETURN(const OpenedModel opened, OpenFloatModel(context, options.model));
  TokenStream text;
  if (options.texts.empty()) {
    SF_ASSIGN_OR_RETURN(text, GenerateText(*opened.model, *opened.tokenizer, options.windows + 1,
                                           options.length, context.seed, console.progress()));
  } else {
    SF_ASSIGN_OR_RETURN(text, TokenizeFiles(*opened.tokenizer, options.texts));
  }
  SF_ASSIGN_OR_RETURN(const auto windows, CutWindows(text, options.windows, options.length));
  FoldProofOptions how{.pool = &context.pool(), .seed = context.seed};
  how.progress = console.progress();
  SF_ASSIGN_OR_RETURN(how.learned, ReadRotations(options.rotate_from));
  SF_ASSIGN_OR_RETURN(const std::vector<FoldProof> proofs, ProveFolds(*opened.reader, windows, how));
  console.EndProgress();
  if (console.json()) {
    SF_RETURN_IF_ERROR(console.PrintJson(Document(proofs, opened, text, options, context)));
  } else {
    console.Print(Text(proofs, options, text, console));
    SF_RETURN_IF_ERROR(console.Flush());
  }
  for (const FoldProof& p : proofs) {
    if (p.control || !p.refused.empty() || IsExact(p, proofs.front())) continue;
    return absl::FailedPreconditionError(
        absl::StrFormat("%s: %s moves a logit by %.2g of the largest where rounding moves it by %.2g: do not "
                        "trust this fold",
                        Printable(options.model, 1024), p.fold, p.logit, proofs.front().logit));
  }
  return absl::OkStatus();
}

}  // namespace spikefold
