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
  TextTable table("llrrrr");
  table.Row({"fold", "", "float64: logit", "KL divergence", "float32: logit", "KL divergence"});
  std::vector<std::string> reasons;
  for (const FoldProof& p : proofs) {
    const bool ran = p.refused.empty();
    const auto number = [&](double value) { return ran ? absl::StrFormat("%.1e", value) : ""; };
    table.Row({p.fold, Verdict(p, proofs.front()), number(p.float64.logit), number(p.float64.divergence),
               number(p.float32.logit), number(p.float32.divergence)});
    const std::string& reason = ran ? p.excepted : p.refused;
    if (!reason.empty() && std::find(reasons.begin(), reasons.end(), reason) == reasons.end()) {
      reasons.push_back(reason);
    }
  }
  absl::StrAppend(&out, table.Text(), reasons.empty() ? "" : "\nNot legal\n");
  for (const std::string& reason : reasons) absl::StrAppend(&out, "  ", Wrap(reason, 4, kWidth), "\n");
  absl::StrAppend(
      &out, "\n",
      Wrap(
          absl::StrFormat("Largest change of a logit over the largest logit, in float64 arithmetic and in "
                          "the float32 that models run in. Exact: at most %.0e in float64, and in float32 at "
                          "most that or %g times what rounding weights and values otherwise changes (the "
                          "control); the divergence is at most %.0e nats.",
                          kExactLogit, kTimesControl, kExactDivergence),
          0, 100),
      "\n");
  return out;
}

Json ChangeJson(const FoldChange& change) {
  return Json::MakeObject().Set("logit", change.logit).Set("kld", change.divergence);
}

Json Document(const std::vector<FoldProof>& proofs, const OpenedModel& opened, const TokenStream& text,
              const FoldsCommandOptions& options, const Context& context) {
  Json folds = Json::MakeArray();
  for (const FoldProof& p : proofs) {
    Json fold = Json::MakeObject().Set("fold", p.fold).Set("verdict", Verdict(p, proofs.front()));
    if (!p.refused.empty()) {
      fold.Set("reason", p.refused);
    } else {
      fold.Set("float64", ChangeJson(p.float64)).Set("float32", ChangeJson(p.float32));
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
  SF_ASSIGN_OR_RETURN(OpenedModel opened, OpenFloatModel(context, options.model));
  TokenStream text;
  if (options.texts.empty()) {
    SF_ASSIGN_OR_RETURN(text, GenerateText(*opened.model, *opened.tokenizer, options.windows + 1,
                                           options.length, context.seed, console.progress()));
  } else {
    SF_ASSIGN_OR_RETURN(text, TokenizeFiles(*opened.tokenizer, options.texts));
  }
  opened.model.reset();  // the proof loads its own
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
    return absl::FailedPreconditionError(absl::StrFormat(
        "%s: %s moves a logit by %.2g of the largest in float64 and by %.2g in float32 (KL divergence "
        "%.2g and %.2g), where rounding moves it by %.2g and %.2g: do not trust this fold",
        Printable(options.model, 1024), p.fold, p.float64.logit, p.float32.logit, p.float64.divergence,
        p.float32.divergence, proofs.front().float64.logit, proofs.front().float32.logit));
  }
  return absl::OkStatus();
}

}  // namespace spikefold
