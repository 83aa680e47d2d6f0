#include "apps/spikefold/ablate_command.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "apps/report/eval_document.h"
#include "apps/spikefold/output_path.h"
#include "apps/spikefold/scan_files.h"
#include "apps/spikefold/text.h"
#include "apps/spikefold/text_table.h"
#include "calib/ablate.h"
#include "calib/format_count.h"
#include "formats/base/file.h"
#include "formats/base/status.h"

namespace spikefold {
namespace {

constexpr int64_t kScanWindows = 16;
constexpr size_t kMostChannels = 6;

struct Anatomy {
  OutlierMap map;
  CalibStats stats;
};

// The scan that was given, or a small one of the text itself: which channels spike is a matter of the model.
absl::StatusOr<Anatomy> FindAnatomy(const AblateCommandOptions& options, const OpenedModel& opened,
                                    const TokenStream& text, Context& context) {
  if (options.scan.empty()) {
    const int64_t fit = static_cast<int64_t>(text.ids.size()) / options.context;
    SF_ASSIGN_OR_RETURN(ScanResult scan, Scan(*opened.model, *opened.reader, *opened.tokenizer,
                                              {.num_windows = std::clamp<int64_t>(fit, 2, kScanWindows),
                                               .window_length = options.context,
                                               .seed = context.seed,
                                               .texts = options.texts,
                                               .allow_prefix = false,
                                               .progress = context.console.progress()}));
    return Anatomy{.map = std::move(scan.map), .stats = std::move(scan.stats)};
  }
  SF_ASSIGN_OR_RETURN(LoadedScan scan, LoadScan(options.scan, opened.reader->graph()));
  SF_ASSIGN_OR_RETURN(const std::string fingerprint, opened.reader->Fingerprint());
  if (scan.stats.model_fingerprint != fingerprint) {
    return absl::InvalidArgumentError(absl::StrCat(
        Printable(options.scan, 1024), ": a scan of the model ", Printable(scan.stats.model_fingerprint, 12),
        "..., this one is ", fingerprint.substr(0, 12), "...; scan this model"));
  }
  return Anatomy{.map = std::move(scan.map), .stats = std::move(scan.stats)};
}

std::string Heading(const AblationArm& arm, const OutlierMap& map) {
  if (arm.heads > 0) return "Attention heads whose context varies least, in all rows";
  if (arm.stage < 0) return "Attention sink: the first token of a window, for all later rows";
  const SpikeStage& stage = map.stages[static_cast<size_t>(arm.stage)];
  std::vector<std::string> channels;
  for (size_t c = 0; c < std::min(stage.channels.size(), kMostChannels); ++c) {
    channels.push_back(absl::StrCat(stage.channels[c].channel));
  }
  if (stage.channels.size() > kMostChannels) {
    channels.push_back(absl::StrCat(stage.channels.size() - kMostChannels, " more"));
  }
  return absl::StrCat("Spikes after layer ", stage.step_up, ", channels ", absl::StrJoin(channels, ", "));
}

std::string EditText(const AblationArm& arm) {
  if (arm.heads > 0) {
    return absl::StrCat(arm.heads,
                        arm.edit == AblationEdit::kZero ? " dropped" : " become a bias: their mean");
  }
  const bool sink = arm.stage < 0;
  switch (arm.edit) {
    case AblationEdit::kZero:
      return sink ? "its values zero" : arm.first_only ? "zero in the first row alone" : "zero";
    case AblationEdit::kMean:
      return sink ? "its values their mean" : arm.first_only ? "mean in the first row alone" : "mean";
    case AblationEdit::kShuffle:
      return "shuffled channels";
    case AblationEdit::kNoise:
      return "noise of that size";
    case AblationEdit::kHide:
      return "unseen, its mass to others";
    case AblationEdit::kHideLate:
      return "unseen once the last spike is written";
  }
  return "";
}

std::string Text(const AblationResult& r, const OutlierMap& map, const std::string& name,
                 const TokenStream& text, const Console& console) {
  std::string out = absl::StrCat(
      console.Bold(Printable(name, 1024)), "\n", Printable(text.source), ", ", r.num_windows, " windows of ",
      FormatCount(r.context), " tokens (BOS ", BosModeName(r.bos), "), ", FormatCount(r.num_scored),
      " tokens scored; untouched perplexity ", PlusMinus(r.ppl, r.ppl_se, 3), "\n");
  for (size_t i = 0; i < r.arms.size();) {
    const int stage = r.arms[i].stage;
    const bool heads = r.arms[i].heads > 0;
    absl::StrAppend(&out, "\n", console.Bold(Heading(r.arms[i], map)), "\n");
    TextTable table("lrrrr");
    table.Row({"",
               heads       ? "heads"
               : stage < 0 ? "tokens a window"
                           : "entries a window",
               "perplexity", "KL divergence", "same top token"});
    for (; i < r.arms.size() && r.arms[i].stage == stage && (r.arms[i].heads > 0) == heads; ++i) {
      const AblationArm& arm = r.arms[i];
      const EvalResult& e = arm.result;
      table.Row({arm.control ? absl::StrCat("  ", heads ? "random ones" : "at random places") : EditText(arm),
                 absl::StrFormat("%.4g", arm.per_window),
                 absl::StrCat("x ", PlusMinus(e.ppl_ratio, e.ppl_ratio_se, 4)),
                 PlusMinus(e.kld_mean, e.kld_se, 5),
                 absl::StrCat(PlusMinus(100 * e.same_top, 100 * e.same_top_se, 1), " %")});
    }
    absl::StrAppend(&out, table.Text());
  }
  if (map.stages.empty()) absl::StrAppend(&out, "\n  The scan found no massive activations to change.\n");
  return out;
}

// A value beyond what JSON holds, as in eval.json.
Json Finite(double v) {
  return std::isfinite(v) ? Json(v) : Json(std::isnan(v) ? "NaN" : v > 0 ? "Infinity" : "-Infinity");
}

Json ArmJson(const AblationArm& arm, const OutlierMap& map) {
  const EvalResult& e = arm.result;
  Json out = Json::MakeObject().Set("target", arm.heads > 0 ? "heads" : arm.stage < 0 ? "sink" : "spikes");
  if (arm.stage >= 0) {
    const SpikeStage& stage = map.stages[static_cast<size_t>(arm.stage)];
    Json channels = Json::MakeArray();
    for (const SpikeChannel& c : stage.channels) channels.Append(c.channel);
    out.Set("layer", stage.step_up).Set("channels", std::move(channels));
  }
  return out.Set("edit", AblationEditName(arm.edit))
      .Set("first_row_only", arm.first_only)
      .Set("control", arm.control)
      .Set("changed_per_window", arm.per_window)
      .Set("ppl_ratio", Finite(e.ppl_ratio))
      .Set("ppl_ratio_se", Finite(e.ppl_ratio_se))
      .Set("kld_mean", Finite(e.kld_mean))
      .Set("kld_se", Finite(e.kld_se))
      .Set("same_top", Finite(e.same_top))
      .Set("same_top_se", Finite(e.same_top_se));
}

Json Document(const AblationResult& r, const Anatomy& anatomy, const OpenedModel& opened,
              const TokenStream& text, const Context& context) {
  Json arms = Json::MakeArray();
  for (const AblationArm& arm : r.arms) arms.Append(ArmJson(arm, anatomy.map));
  return NewDocument("ablate")
      .Set("path", opened.reader->path())
      .Set("model_fingerprint", anatomy.stats.model_fingerprint)
      .Set("arguments", context.command)
      .Set("seed", absl::StrCat(context.seed))
      .Set("text_source", text.source)
      .Set("text_sha256", text.sha256)
      .Set("scan_text_sha256", anatomy.stats.text_sha256)
      .Set("bos", BosModeName(r.bos))
      .Set("num_windows", r.num_windows)
      .Set("context", r.context)
      .Set("num_scored", r.num_scored)
      .Set("mean_windows", r.num_mean_windows)
      .Set("ppl", Finite(r.ppl))
      .Set("ppl_se", Finite(r.ppl_se))
      .Set("arms", std::move(arms));
}

}  // namespace

absl::Status RunAblate(const AblateCommandOptions& options, Context& context) {
  Console& console = context.console;
  std::vector<std::string> inputs = options.texts;
  inputs.push_back(options.model);
  if (!options.output.empty()) SF_RETURN_IF_ERROR(CheckOutputFile(options.output, inputs));
  SF_ASSIGN_OR_RETURN(const OpenedModel opened, OpenFloatModel(context, options.model));
  SF_ASSIGN_OR_RETURN(const TokenStream text, TokenizeFiles(*opened.tokenizer, options.texts));
  SF_ASSIGN_OR_RETURN(const Anatomy anatomy, FindAnatomy(options, opened, text, context));
  SF_ASSIGN_OR_RETURN(const AblationResult result,
                      Ablate(*opened.model, *opened.tokenizer, anatomy.map, anatomy.stats, text,
                             {.num_windows = options.windows,
                              .context = options.context,
                              .seed = context.seed,
                              .progress = console.progress()}));
  console.EndProgress();
  const Json document = Document(result, anatomy, opened, text, context);
  if (!options.output.empty()) {
    SF_RETURN_IF_ERROR(WriteFileAtomically(options.output, document.Dump(1) + "\n"));
  }
  if (console.json()) return console.PrintJson(document);
  console.Print(Text(result, anatomy.map, options.model, text, console));
  SF_RETURN_IF_ERROR(console.Flush());
  if (!options.output.empty()) console.Detail(absl::StrCat("wrote ", Printable(options.output, 1024)));
  return absl::OkStatus();
}

}  // namespace spikefold
