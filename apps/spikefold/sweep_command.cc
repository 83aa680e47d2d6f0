#include "apps/spikefold/sweep_command.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "apps/report/report.h"
#include "apps/spikefold/eval_command.h"
#include "apps/spikefold/machine.h"
#include "apps/spikefold/output_path.h"
#include "apps/spikefold/report_command.h"
#include "apps/spikefold/sweep_point.h"
#include "apps/spikefold/sweep_record.h"
#include "apps/spikefold/text.h"
#include "calib/eval_windows.h"
#include "formats/base/file.h"
#include "formats/base/hash.h"
#include "formats/base/status.h"
#include "formats/base/version.h"

namespace spikefold {
namespace {

constexpr uint64_t kMaxDocumentBytes = uint64_t{64} << 20;
constexpr int64_t kMemoryBytes = int64_t{1} << 30;  // for the reference's hidden rows
// For what points share, if it is at most so large a part of the memory that is free.
constexpr uint64_t kSharedBytes = uint64_t{1} << 30, kSharedPart = 8;

// The output is new, empty, or what a sweep left.
absl::Status MakeOutput(const SweepCommandOptions& options) {
  const std::string shown = Printable(options.output, 1024);
  std::vector<std::string> inputs = options.texts;
  inputs.insert(inputs.end(), {options.model, options.scan});
  SF_RETURN_IF_ERROR(CheckOutputDirectory(options.output, true, inputs));
  if (PathExists(options.output)) {
    if (!IsDirectory(options.output)) {
      return absl::AlreadyExistsError(absl::StrCat(shown, ": is no directory; choose another output"));
    }
    SF_ASSIGN_OR_RETURN(const auto names, ListDirectory(options.output));
    const bool ours = std::count(names.begin(), names.end(), "sweep.json") > 0;
    if (names.empty() || ours || options.force) return absl::OkStatus();
    return absl::AlreadyExistsError(absl::StrCat(
        shown, ": holds something else than a sweep; choose another output, or write there with --force"));
  }
  std::error_code error;
  if (std::filesystem::create_directory(options.output, error)) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat(shown, ": cannot be made: ", error.message()));
}

absl::StatusOr<std::vector<SweepPoint>> ChoosePoints(const SweepCommandOptions& options, uint64_t seed) {
  std::vector<SweepPoint> points;
  if (options.recipes == "grid") {
    points = SweepGrid(seed);
  } else {
    SF_ASSIGN_OR_RETURN(points, ReadSweepPoints(options.recipes));
  }
  const size_t most = static_cast<size_t>(options.max_points);
  if (most > 0 && points.size() > most) points.resize(most);
  return points;
}

uint64_t SharedBytes() { return std::min(kSharedBytes, ReadMachine().memory_available / kSharedPart); }

absl::StatusOr<std::unique_ptr<HiddenMemory>> MakeMemory(const SweepInputs& in) {
  const Tokenizer& tokenizer = *in.reference.tokenizer;
  SF_ASSIGN_OR_RETURN(const EvalWindows plan,
                      MakeEvalWindows(in.text.ids, tokenizer.bos_id(), tokenizer.add_bos(), in.how));
  const int64_t row_bytes = in.reference.reader->graph().config.hidden * static_cast<int64_t>(sizeof(float));
  return std::make_unique<HiddenMemory>(kMemoryBytes / (row_bytes * (plan.context + 1)), SharedBytes());
}

absl::StatusOr<SweepInputs> LoadInputs(const SweepCommandOptions& options, Context& context) {
  SweepInputs in;
  SF_ASSIGN_OR_RETURN(in.reference, OpenFloatModel(context, options.model));
  const CheckpointReader& reader = *in.reference.reader;
  in.scan_directory = options.scan;
  SF_ASSIGN_OR_RETURN(in.scan, LoadScan(options.scan, reader.graph()));
  SF_ASSIGN_OR_RETURN(const std::string fingerprint, reader.Fingerprint());
  if (in.scan.stats.model_fingerprint != fingerprint) {
    return absl::InvalidArgumentError(absl::StrCat(Printable(options.scan, 1024), ": is of model ",
                                                   in.scan.stats.model_fingerprint, ", this is model ",
                                                   fingerprint, "; scan this model"));
  }
  SF_ASSIGN_OR_RETURN(in.text, TokenizeFiles(*in.reference.tokenizer, options.texts));
  EvalCommandOptions eval;
  eval.protocol = options.protocol;
  eval.context = options.context;
  eval.windows = options.windows;
  SF_ASSIGN_OR_RETURN(in.how, ParseEvalOptions(eval, *in.reference.tokenizer));
  SF_ASSIGN_OR_RETURN(in.memory, MakeMemory(in));
  in.weights = std::make_unique<TensorMemory>(SharedBytes());
  if (in.scan.stats.text_sha256 == in.text.sha256) {
    context.console.Warn("the scan was made on this very text, which flatters every point; use another");
  }
  return in;
}

absl::StatusOr<Json> FactsOf(const SweepCommandOptions& options, const SweepInputs& in) {
  SF_ASSIGN_OR_RETURN(const std::string fingerprint, in.reference.reader->Fingerprint());
  return Json::MakeObject()
      .Set("model", options.model)
      .Set("model_fingerprint", fingerprint)
      .Set("scan", options.scan)
      .Set("scan_sha256", in.scan.sha256)
      .Set("text", in.text.source)
      .Set("text_sha256", in.text.sha256)
      .Set("protocol", ProtocolName(in.how.protocol))
      .Set("bos", BosModeName(in.how.bos))
      .Set("context", in.how.context)
      .Set("windows", in.how.max_windows);
}

class Sweep {
 public:
  Sweep(const SweepCommandOptions& options, const SweepInputs& inputs, Json facts,
        std::vector<SweepPoint> points, SweepRecord record, Context& context)
      : options_(options),
        inputs_(inputs),
        facts_(std::move(facts)),
        points_(std::move(points)),
        record_(std::move(record)),
        context_(context) {}

  absl::Status Run() {
    std::vector<SweepPoint> open;
    for (const SweepPoint& point : points_) {
      if (!FindDone(point)) open.push_back(point);
    }
    SweepRunner runner(inputs_, {.directory = options_.output, .keep_models = options_.keep_models},
                       context_);
    const absl::Span<const SweepPoint> all(open);
    for (size_t i = 0; i < open.size(); ++i) {
      context_.console.Detail(absl::StrFormat("point %d of %d: %s", i + 1, open.size(), open[i].name));
      SF_RETURN_IF_ERROR(RunPoint(open[i], all.subspan(i + 1), runner));
    }
    SF_RETURN_IF_ERROR(WriteReports());
    SF_RETURN_IF_ERROR(PrintResult());
    if (!documents_.empty()) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat(Printable(options_.output, 1024),
                     ": every recipe was refused; sweep.json says why, give one that this model allows"));
  }

 private:
  std::string DocumentPath(const SweepPoint& point) const {
    return JoinPath(options_.output, point.name + ".eval.json");
  }
  // Of all that decides a point's numbers, paths aside.
  std::string KeyOf(const SweepPoint& point) const {
    std::string text = absl::StrCat(ToolVersion(), "\n", RecipeToJson(point.recipe).Dump(), "\n");
    for (const auto& [name, value] : facts_.object()) {
      if (name != "model" && name != "scan" && name != "text") absl::StrAppend(&text, value.Dump(), "\n");
    }
    return Sha256Hex(text);
  }

  // Takes up the evaluation of an earlier run, if it is of this very point.
  bool FindDone(const SweepPoint& point) {
    const SweepEntry* entry = record_.Find(point.name);
    if (options_.force || entry == nullptr || entry->status != "done" || entry->key != KeyOf(point)) {
      return false;
    }
    const std::string path = DocumentPath(point);
    const auto text = ReadFileToString(path, kMaxDocumentBytes);
    if (!text.ok()) return false;
    auto document = EvalDocumentFromJson(*text, path);
    const std::string recipe = Sha256Hex(RecipeToJson(point.recipe).Dump());
    if (!document.ok() || document->recipe_sha256 != recipe) return false;
    documents_.push_back({point.name, *std::move(document)});
    return true;
  }

  absl::Status RunPoint(const SweepPoint& point, absl::Span<const SweepPoint> later, SweepRunner& runner) {
    const double start = Now();
    const bool overwrite = options_.force || record_.Find(point.name) != nullptr;
    SweepEntry entry{.name = point.name,
                     .key = KeyOf(point),
                     .status = "running",
                     .reason = {},
                     .codes_from = {},
                     .recipe = RecipeToJson(point.recipe)};
    record_.Set(entry);
    SF_RETURN_IF_ERROR(record_.Save(options_.output, facts_));
    auto result = runner.Run(point, overwrite, later);
    if (!result.ok()) {
      return absl::Status(result.status().code(), absl::StrCat(point.name, ": ", result.status().message()));
    }
    entry.status = result->document ? "done" : "refused";
    entry.reason = result->refused;
    entry.codes_from = result->codes_from;
    entry.seconds = Now() - start;
    if (result->document) {
      SF_RETURN_IF_ERROR(WriteFileAtomically(DocumentPath(point), EvalDocumentToJson(*result->document)));
      documents_.push_back({point.name, *std::move(result->document)});
    }
    record_.Set(std::move(entry));
    return record_.Save(options_.output, facts_);
  }

  // In the order of the recipes.
  std::vector<EvalDocument> Documents() const {
    std::vector<EvalDocument> out;
    for (const SweepPoint& point : points_) {
      for (const auto& [name, document] : documents_) {
        if (name == point.name) out.push_back(document);
      }
    }
    return out;
  }

  absl::Status WriteReports() const {
    ReportInput input{.title = {}, .command = absl::StrCat("spikefold ", context_.command)};
    input.evals = Documents();
    input.scan = MakeReportScan(inputs_.scan.map, inputs_.reference.reader->graph(), options_.scan);
    using Render = std::string (*)(const ReportInput&);
    const std::array<std::pair<const char*, Render>, 3> files = {
        {{"report.html", RenderHtml}, {"report.md", RenderMarkdown}, {"report.csv", RenderCsv}}};
    for (const auto& [name, render] : files) {
      SF_RETURN_IF_ERROR(WriteFileAtomically(JoinPath(options_.output, name), render(input)));
    }
    return absl::OkStatus();
  }

  absl::Status PrintResult() const {
    Console& console = context_.console;
    if (console.json()) return console.PrintJson(record_.ToJson(facts_));
    const std::vector<EvalDocument> documents = Documents();
    TableMarks marks{.head = "Pareto", .cells = {}};
    for (const bool best : ParetoSet(documents)) marks.cells.emplace_back(best ? "*" : "");
    console.Print(AccuracyText(documents, marks));
    console.Print("\n* no other has fewer bits in the linears and a smaller KL divergence\n");
    for (const SweepPoint& point : points_) {
      const SweepEntry* entry = record_.Find(point.name);
      if (entry == nullptr || entry->status != "refused") continue;
      console.Print(absl::StrCat("skipped ", point.name, ": ", Printable(entry->reason, 1000), "\n"));
    }
    console.Print(absl::StrCat("Wrote ", Printable(JoinPath(options_.output, "report.html"), 1024),
                               ", report.md, report.csv and sweep.json\n"));
    return console.Flush();
  }

  const SweepCommandOptions& options_;
  const SweepInputs& inputs_;
  const Json facts_;
  const std::vector<SweepPoint> points_;
  SweepRecord record_;
  Context& context_;
  std::vector<std::pair<std::string, EvalDocument>> documents_;  // by name, in the order they came
};

}  // namespace

std::vector<bool> ParetoSet(const std::vector<EvalDocument>& evals) {
  std::vector<bool> best;
  for (const EvalDocument& e : evals) {
    const double bits = e.bits_linear, kld = e.result.kld_mean;
    const bool beaten = std::any_of(evals.begin(), evals.end(), [&](const EvalDocument& other) {
      const double b = other.bits_linear, d = other.result.kld_mean;
      return b <= bits && d <= kld && (b < bits || d < kld);
    });
    best.push_back(std::isfinite(kld) && !beaten);
  }
  return best;
}

absl::Status RunSweep(const SweepCommandOptions& options, Context& context) {
  SF_ASSIGN_OR_RETURN(std::vector<SweepPoint> points, ChoosePoints(options, context.seed));
  SF_ASSIGN_OR_RETURN(const SweepInputs inputs, LoadInputs(options, context));
  SF_ASSIGN_OR_RETURN(Json facts, FactsOf(options, inputs));
  SF_RETURN_IF_ERROR(MakeOutput(options));
  SF_ASSIGN_OR_RETURN(SweepRecord record, SweepRecord::Load(options.output));
  return Sweep(options, inputs, std::move(facts), std::move(points), std::move(record), context).Run();
}

}  // namespace spikefold
