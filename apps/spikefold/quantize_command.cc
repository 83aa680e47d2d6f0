#include "apps/spikefold/quantize_command.h"

#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "apps/spikefold/dry_run.h"
#include "apps/spikefold/machine.h"
#include "apps/spikefold/output_path.h"
#include "apps/spikefold/plan_text.h"
#include "apps/spikefold/scan_files.h"
#include "apps/spikefold/text.h"
#include "formats/base/file.h"
#include "formats/base/status.h"
#include "formats/quantized/native.h"
#include "formats/quantized/native_parts.h"

namespace spikefold {
namespace {

constexpr uint64_t kMaxPlanBytes = uint64_t{256} << 20;

absl::StatusOr<LoadedScan> MakeScan(const QuantizeCommandOptions& options,
                                    std::shared_ptr<CheckpointReader> reader, Context& context) {
  SF_ASSIGN_OR_RETURN(const OpenedModel opened,
                      OpenModel(context, std::move(reader), {.backend = context.calibration_backend()}));
  SF_ASSIGN_OR_RETURN(ScanResult made, ScanOpened(opened, options.text, context));
  LoadedScan scan{.map = std::move(made.map), .stats = std::move(made.stats)};
  SF_ASSIGN_OR_RETURN(scan.sha256, HashStats(scan.stats));
  return scan;
}

struct Limits {
  uint64_t max_memory = 0;  // 0: what the machine has
  Shard shard;
};

absl::StatusOr<Limits> ParseLimits(const QuantizeCommandOptions& options) {
  Limits limits;
  if (!options.max_memory.empty()) {
    SF_ASSIGN_OR_RETURN(limits.max_memory, ParseBytes("--max-memory", options.max_memory));
  }
  if (options.shard.empty()) {
    if (options.after.empty()) return limits;
    return absl::InvalidArgumentError("--after: names the parts before a --shard, which is not given");
  }
  const std::vector<std::string> numbers = absl::StrSplit(options.shard, '/');
  Shard& shard = limits.shard;
  const bool read = numbers.size() == 2 && absl::SimpleAtoi(numbers[0], &shard.index) &&
                    absl::SimpleAtoi(numbers[1], &shard.count);
  if (!read || shard.index < 1 || shard.index > shard.count) {
    return absl::InvalidArgumentError(absl::StrCat("--shard: \"", Printable(options.shard, 64),
                                                   "\" is not I/N with I from 1 to N, as in 2/4"));
  }
  return limits;
}

// All shards must go by one scan, and a scan here would be made by each of them.
absl::Status CheckScanHere(const Limits& limits, const CheckpointReader& reader, Backend backend) {
  if (limits.shard.count > 0) {
    return absl::InvalidArgumentError(
        "--shard: this recipe needs a scan, and all shards the same one; make it once by spikefold scan and "
        "give it to each with --scan");
  }
  const uint64_t need = WeightMemory(reader, false);
  const bool elsewhere = backend != Backend::kCpu;  // the weights are in another memory
  if (elsewhere || limits.max_memory == 0 || need <= limits.max_memory) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat(
      Printable(reader.path(), 1024), ": the scan that this recipe needs runs the model, whose weights take ",
      BytesText(need), " of memory; ", BytesText(limits.max_memory),
      " are allowed by --max-memory; scan it on a larger machine and give the scan with --scan"));
}

using Rotations = std::shared_ptr<const LearnedRotations>;

struct Given {
  Limits limits;
  Rotations rotations;  // null: none
};

PrepareInput InputFor(const QuantizeCommandOptions& options, const Given& given, const LoadedScan* scan,
                      const CheckpointReader& reader, Context& context) {
  PrepareInput input = MakePrepareInput(reader, scan, options.scan, context);
  if (context.calibration_backend() == Backend::kCpu) {
    input.max_model_bytes = MemoryLimit(given.limits.max_memory);
  }
  input.rotations = given.rotations;
  return input;
}

struct Decided {
  std::optional<LoadedScan> scan;
  Prepared prepared;
};

// From a plan file, whose scan must be the one it was made from.
absl::StatusOr<Decided> ReadPlan(const QuantizeCommandOptions& options, const Given& given,
                                 const CheckpointReader& reader, Context& context) {
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
  const std::string is = decided.scan ? decided.scan->sha256 : "";
  if (wanted == is) {
    SF_ASSIGN_OR_RETURN(
        decided.prepared,
        PrepareFor(std::move(plan),
                   InputFor(options, given, decided.scan ? &*decided.scan : nullptr, reader, context)));
    return decided;
  }
  if (is.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(Printable(options.plan, 1024), ": was made from a scan (",
                                                   Printable(wanted, 12), "...); give it with --scan"));
  }
  return absl::InvalidArgumentError(absl::StrCat(
      Printable(options.plan, 1024), ": was made from ",
      wanted.empty() ? "no scan" : absl::StrCat("scan ", Printable(wanted, 12), "..."), ", ",
      Printable(options.scan, 1024), " is ", is.substr(0, 12), "...; give the one it was made from"));
}

absl::StatusOr<Decided> MakePlanHere(const QuantizeCommandOptions& options, const Given& given,
                                     const std::shared_ptr<CheckpointReader>& file, Context& context) {
  const CheckpointReader& reader = *file;
  SF_ASSIGN_OR_RETURN(Recipe recipe, BuildRecipe(options.recipe, context.given_seed));
  if (given.rotations != nullptr && recipe.rotations_sha256.empty()) {
    recipe.rotations_sha256 = given.rotations->sha256;
  }
  SF_RETURN_IF_ERROR(CheckRecipe(recipe, reader.graph()));
  Decided decided;
  if (!options.scan.empty()) {
    SF_ASSIGN_OR_RETURN(decided.scan, LoadScan(options.scan, reader.graph()));
  } else {
    SF_ASSIGN_OR_RETURN(const bool needed, NeedsScan(recipe));
    if (needed) {
      SF_RETURN_IF_ERROR(CheckScanHere(given.limits, reader, context.calibration_backend()));
      SF_ASSIGN_OR_RETURN(decided.scan, MakeScan(options, file, context));
    }
  }
  SF_ASSIGN_OR_RETURN(
      decided.prepared,
      Prepare(recipe, InputFor(options, given, decided.scan ? &*decided.scan : nullptr, reader, context)));
  return decided;
}

absl::Status WithResumeHint(const absl::Status& status, const std::string& output) {
  const bool resumable = absl::IsCancelled(status) || absl::IsResourceExhausted(status);
  if (!resumable || !PathExists(JournalPath(output))) return status;
  return absl::Status(status.code(),
                      absl::StrCat(status.message(), "; what is done waits in ",
                                   Printable(PartialPath(output), 1024), ", go on with --resume"));
}

Json Document(const QuantizeCommandOptions& options, const Plan& plan, const NativeInfo& info,
              const WorkForecast& forecast) {
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
      .Set("file_bytes", info.file_bytes)
      .Set("forecast", ForecastJson(forecast))
      .Set("peak_memory", PeakMemory());
}

absl::Status PrintDryRun(const Plan& plan, const WorkForecast& forecast, const CheckpointReader& reader,
                         Context& context) {
  Console& console = context.console;
  if (console.json()) {
    return console.PrintJson(NewDocument("quantize").Set("forecast", ForecastJson(forecast)));
  }
  console.Print(absl::StrCat(PlanText(plan, console), ForecastText(forecast, reader)));
  return console.Flush();
}

absl::Status PrintResult(const QuantizeCommandOptions& options, const Plan& plan,
                         const WorkForecast& forecast, const CheckpointReader& reader, Context& context) {
  const bool part = !options.shard.empty();
  SF_ASSIGN_OR_RETURN(const auto written,
                      part ? NativeReader::OpenPart(options.output) : NativeReader::Open(options.output));
  Console& console = context.console;
  const NativeInfo& info = written->info();
  if (console.json()) {
    Json document = Document(options, plan, info, forecast);
    if (part) document.Set("shard", options.shard);
    return console.PrintJson(document);
  }
  console.Print(PlanText(plan, console));
  const std::string name = console.Bold(Printable(options.output, 1024)), bytes = BytesText(info.file_bytes);
  if (part) {
    console.Print(absl::StrCat("Wrote ", name, ", part ", options.shard, " of it: ", bytes,
                               " of weights; put all parts together by spikefold merge.\n"));
  } else {
    console.Print(absl::StrCat("Wrote ", name, ": ", bytes, " of weights; the original has ",
                               BytesText(reader.file_bytes()), ".\n"));
  }
  console.Detail(absl::StrCat("memory: ", BytesText(PeakMemory()), " at most, ",
                              BytesText(forecast.peak_memory), " foreseen"));
  return console.Flush();
}

// What shapes a scan has no say where one is given.
absl::Status CheckScanText(const QuantizeCommandOptions& options) {
  if (options.scan.empty() && options.plan.empty()) return absl::OkStatus();
  const ScanTextOptions& text = options.text;
  const char* const given = !text.texts.empty() ? "--text"
                            : text.windows != 0 ? "--windows"
                            : text.length != 0  ? "--length"
                            : text.no_prefix    ? "--no-prefix"
                                                : nullptr;
  if (given == nullptr) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      given, ": is what a scan is made from, and --scan or --plan brings one; leave one of them out"));
}

}  // namespace

ApplyOptions MakeApplyOptions(const Prepared& prepared, const LoadedScan* scan, const PreparedOutput& output,
                              Context& context) {
  ApplyOptions options;
  options.pool = &context.pool();
  options.backend = context.calibration_backend();
  options.stats = prepared.stats_or(scan == nullptr ? nullptr : &scan->stats);
  options.output = output.path;
  options.overwrite = output.overwrite;
  options.command = absl::StrCat("spikefold ", context.command);
  options.folds = prepared.folds();
  options.codes_from = output.codes_from;
  options.journal = output.journal;
  options.resume = output.resume;
  options.journal_key = context.FloatArithmetic();
  options.shard = output.shard;
  options.earlier = output.earlier;
  options.progress = context.console.progress();
  return options;
}

absl::Status WritePrepared(const Prepared& prepared, const CheckpointReader& reader, const LoadedScan* scan,
                           const PreparedOutput& output, Context& context) {
  ApplyOptions options = MakeApplyOptions(prepared, scan, output, context);
  SF_ASSIGN_OR_RETURN(options.base_fingerprint, reader.Fingerprint());
  int64_t num_resumed = 0;
  options.num_resumed = &num_resumed;
  HostRounding host_rounding;
  options.host_rounding = &host_rounding;
  SF_RETURN_IF_ERROR(ApplyPlan(prepared.plan, prepared.model(reader), options));
  context.console.EndProgress();
  for (const auto& [reason, sites] : host_rounding) {
    context.console.Note(
        absl::StrCat("GPTQ of what reads ", sites,
                     " of the model's activations ran on the CPU, not on the GPU: ", reason));
  }
  if (num_resumed > 0) {
    context.console.Note(absl::StrCat("went on behind ", num_resumed, " linears of an interrupted run"));
  }
  return absl::OkStatus();
}

absl::Status RunQuantize(const QuantizeCommandOptions& options, Context& context) {
  if (options.output.empty() && !options.dry_run) {
    return absl::InvalidArgumentError("-o: says where to write; only --dry-run goes without");
  }
  SF_RETURN_IF_ERROR(CheckScanText(options));
  Given given;
  SF_ASSIGN_OR_RETURN(given.limits, ParseLimits(options));
  ReturnLargeBuffers();
  if (!options.output.empty()) {
    SF_RETURN_IF_ERROR(CheckOutputDirectory(
        options.output, options.force,
        {options.model, options.scan, options.plan, options.recipe.file, options.rotate_from}));
  }
  SF_RETURN_IF_ERROR(context.CalibrateOn(options.backend));
  SF_ASSIGN_OR_RETURN(given.rotations, ReadRotations(options.rotate_from));
  SF_ASSIGN_OR_RETURN(const std::shared_ptr<CheckpointReader> reader,
                      OpenFloatReader(context, options.model));
  SF_ASSIGN_OR_RETURN(const Decided decided, options.plan.empty()
                                                 ? MakePlanHere(options, given, reader, context)
                                                 : ReadPlan(options, given, *reader, context));
  context.console.EndProgress();
  const LoadedScan* const scan = decided.scan ? &*decided.scan : nullptr;
  const Plan& plan = decided.prepared.plan;
  PreparedOutput output{.path = options.output,
                        .overwrite = options.force,
                        .codes_from = {},
                        .journal = true,
                        .resume = options.resume,
                        .shard = given.limits.shard,
                        .earlier = {}};
  std::vector<std::unique_ptr<NativeReader>> earlier;
  for (const std::string& path : options.after) {
    SF_ASSIGN_OR_RETURN(auto part, NativeReader::OpenPart(path));
    SF_RETURN_IF_ERROR(VerifyManifest(path, context.console.progress()));  // later parts rest on its bytes
    output.earlier.push_back(part.get());
    earlier.push_back(std::move(part));
  }
  SF_ASSIGN_OR_RETURN(const WorkForecast forecast,
                      Forecast(plan, decided.prepared.model(*reader),
                               MakeApplyOptions(decided.prepared, scan, output, context)));
  if (options.dry_run) {
    SF_RETURN_IF_ERROR(PrintDryRun(plan, forecast, *reader, context));
    return given.limits.max_memory == 0 ? absl::OkStatus() : CheckMemory(forecast, given.limits.max_memory);
  }
  SF_RETURN_IF_ERROR(CheckMemory(forecast, given.limits.max_memory));
  const absl::Status status = WritePrepared(decided.prepared, *reader, scan, output, context);
  if (!status.ok()) return WithResumeHint(status, options.output);
  return PrintResult(options, plan, forecast, *reader, context);
}

}  // namespace spikefold
