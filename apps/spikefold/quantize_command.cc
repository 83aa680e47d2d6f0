#include "apps/spikefold/quantize_command.h"

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "apps/spikefold/output_path.h"
#include "apps/spikefold/plan_text.h"
#include "apps/spikefold/scan_files.h"
#include "apps/spikefold/text.h"
#include "formats/base/file.h"
#include "formats/base/status.h"
#include "formats/quantized/native.h"

namespace spikefold {
namespace {

constexpr uint64_t kMaxPlanBytes = uint64_t{256} << 20;

absl::StatusOr<LoadedScan> MakeScan(const QuantizeCommandOptions& options, Context& context) {
  SF_ASSIGN_OR_RETURN(const OpenedModel opened, OpenModel(context, options.model));
  SF_ASSIGN_OR_RETURN(ScanResult made, ScanOpened(opened, options.text, context));
  LoadedScan scan{.map = std::move(made.map), .stats = std::move(made.stats)};
  SF_ASSIGN_OR_RETURN(scan.sha256, HashStats(scan.stats));
  return scan;
}

struct Decided {
  std::optional<LoadedScan> scan;
  Prepared prepared;
};

// From a plan file, whose scan must be the one it was made from.
absl::StatusOr<Decided> ReadPlan(const QuantizeCommandOptions& options, const CheckpointReader& reader,
                                 Context& context) {
  if (options.recipe.any()) {
    return absl::InvalidArgumentError(
        "--plan: the plan has decided everything; leave out --scheme, --recipe and what they would ask for");
  }
  Decided decided;
  SF_ASSIGN_OR_RETURN(const std::string text, ReadFileToString(options.plan, kMaxPlanBytes));
  SF_ASSIGN_OR_RETURN(Plan plan, PlanFromJson(text, options.plan));
  if (!options.scan.empty()) {
    SF_ASSIGN_OR_RETURN(decided.scan, LoadScan(options.scan, reader.graph()));
  }
  const std::string wanted = plan.scan_sha256;
  const std::string given = decided.scan ? decided.scan->sha256 : "";
  if (wanted == given) {
    SF_ASSIGN_OR_RETURN(
        decided.prepared,
        PrepareFor(std::move(plan),
                   MakePrepareInput(reader, decided.scan ? &*decided.scan : nullptr, options.scan, context)));
    return decided;
  }
  if (given.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(Printable(options.plan, 1024), ": was made from a scan (",
                                                   Printable(wanted, 12), "...); give it with --scan"));
  }
  return absl::InvalidArgumentError(absl::StrCat(
      Printable(options.plan, 1024), ": was made from ",
      wanted.empty() ? "no scan" : absl::StrCat("scan ", Printable(wanted, 12), "..."), ", ",
      Printable(options.scan, 1024), " is ", given.substr(0, 12), "...; give the one it was made from"));
}

absl::StatusOr<Decided> MakePlanHere(const QuantizeCommandOptions& options, const CheckpointReader& reader,
                                     Context& context) {
  SF_ASSIGN_OR_RETURN(const Recipe recipe, BuildRecipe(options.recipe, context.seed));
  SF_RETURN_IF_ERROR(CheckRecipe(recipe, reader.graph()));
  Decided decided;
  if (!options.scan.empty()) {
    SF_ASSIGN_OR_RETURN(decided.scan, LoadScan(options.scan, reader.graph()));
  } else {
    SF_ASSIGN_OR_RETURN(const bool needed, NeedsScan(recipe));
    if (needed) {
      SF_ASSIGN_OR_RETURN(decided.scan, MakeScan(options, context));
    }
  }
  SF_ASSIGN_OR_RETURN(decided.prepared,
                      Prepare(recipe, MakePrepareInput(reader, decided.scan ? &*decided.scan : nullptr,
                                                       options.scan, context)));
  return decided;
}

absl::Status WithResumeHint(const absl::Status& status, const std::string& output) {
  const bool resumable = absl::IsCancelled(status) || absl::IsResourceExhausted(status);
  if (!resumable || !PathExists(JournalPath(output))) return status;
  return absl::Status(status.code(),
                      absl::StrCat(status.message(), "; what is done waits in ",
                                   Printable(PartialPath(output), 1024), ", go on with --resume"));
}

Json Document(const QuantizeCommandOptions& options, const Plan& plan, const NativeInfo& info) {
  Json prefix = Json::MakeArray();
  for (const int32_t token : plan.prefix) prefix.Append(static_cast<int64_t>(token));
  return NewDocument("quantize")
      .Set("output", options.output)
      .Set("scheme", plan.recipe.scheme)
      .Set("group_size", plan.group_size)
      .Set("outliers", OutlierModeName(plan.recipe.outliers))
      .Set("outlier_reason", plan.outlier_reason)
      .Set("prefix", std::move(prefix))
      .Set("bits_linear", info.bits_linears)
      .Set("bits_total", info.bits_all)
      .Set("activation_bits", plan.totals.activation_bits)
      .Set("file_bytes", info.file_bytes);
}

}  // namespace

absl::Status WritePrepared(const Prepared& prepared, const CheckpointReader& reader, const LoadedScan* scan,
                           const PreparedOutput& output, Context& context) {
  SF_ASSIGN_OR_RETURN(const std::string base_fingerprint, reader.Fingerprint());
  int64_t num_resumed = 0;
  SF_RETURN_IF_ERROR(ApplyPlan(prepared.plan, prepared.model(reader),
                               {.pool = &context.pool(),
                                .stats = prepared.stats_or(scan == nullptr ? nullptr : &scan->stats),
                                .output = output.path,
                                .overwrite = output.overwrite,
                                .command = absl::StrCat("spikefold ", context.command),
                                .folds = prepared.folds(),
                                .base_fingerprint = base_fingerprint,
                                .codes_from = output.codes_from,
                                .journal = output.journal,
                                .resume = output.resume,
                                .journal_key = FloatArithmetic(),
                                .num_resumed = &num_resumed,
                                .progress = context.console.progress()}));
  context.console.EndProgress();
  if (num_resumed > 0) {
    context.console.Note(absl::StrCat("went on behind ", num_resumed, " linears of an interrupted run"));
  }
  return absl::OkStatus();
}

absl::Status RunQuantize(const QuantizeCommandOptions& options, Context& context) {
  SF_RETURN_IF_ERROR(CheckOutputDirectory(options.output, options.force,
                                          {options.model, options.scan, options.plan, options.recipe.file}));
  SF_ASSIGN_OR_RETURN(const auto reader, OpenFloatReader(context, options.model));
  SF_ASSIGN_OR_RETURN(const Decided decided, options.plan.empty() ? MakePlanHere(options, *reader, context)
                                                                  : ReadPlan(options, *reader, context));
  const Plan& plan = decided.prepared.plan;
  const absl::Status status =
      WritePrepared(decided.prepared, *reader, decided.scan ? &*decided.scan : nullptr,
                    {.path = options.output,
                     .overwrite = options.force,
                     .codes_from = {},
                     .journal = true,
                     .resume = options.resume},
                    context);
  if (!status.ok()) return WithResumeHint(status, options.output);
  SF_ASSIGN_OR_RETURN(const auto written, NativeReader::Open(options.output));
  Console& console = context.console;
  if (console.json()) return console.PrintJson(Document(options, plan, written->info()));
  console.Print(PlanText(plan, console));
  console.Print(absl::StrCat("Wrote ", console.Bold(Printable(options.output, 1024)), ": ",
                             BytesText(written->info().file_bytes), " of weights; the original has ",
                             BytesText(reader->file_bytes()), ".\n"));
  return console.Flush();
}

}  // namespace spikefold
