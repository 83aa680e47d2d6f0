#include "apps/spikefold/report_command.h"

#include <array>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "apps/spikefold/output_path.h"
#include "apps/spikefold/text.h"
#include "apps/spikefold/text_table.h"
#include "formats/base/file.h"
#include "formats/base/status.h"

namespace spikefold {
namespace {

constexpr uint64_t kMaxInputBytes = uint64_t{64} << 20;

struct Style {
  const char* extension;
  std::string (*render)(const ReportInput&);
};
constexpr std::array<Style, 4> kStyles = {
    {{".html", RenderHtml}, {".md", RenderMarkdown}, {".json", RenderJson}, {".csv", RenderCsv}}};

absl::StatusOr<const Style*> StyleOf(const std::string& path) {
  const std::string lower = absl::AsciiStrToLower(path);
  for (const Style& style : kStyles) {
    if (absl::EndsWith(lower, style.extension)) return &style;
  }
  return absl::InvalidArgumentError(
      absl::StrCat(Printable(path, 1024), ": the ending says what to write; use .html, .md, .json or .csv"));
}

absl::StatusOr<ReportInput> Read(const ReportCommandOptions& options, const Context& context) {
  ReportInput input{.title = options.title, .command = absl::StrCat("spikefold ", context.command)};
  for (const std::string& path : options.evals) {
    SF_ASSIGN_OR_RETURN(const std::string text, ReadFileToString(path, kMaxInputBytes));
    SF_ASSIGN_OR_RETURN(EvalDocument document, EvalDocumentFromJson(text, path));
    input.evals.push_back(std::move(document));
  }
  if (options.scan.empty()) return input;
  const std::string path = IsDirectory(options.scan) ? JoinPath(options.scan, "outliers.json") : options.scan;
  SF_ASSIGN_OR_RETURN(const std::string text, ReadFileToString(path, kMaxInputBytes));
  SF_ASSIGN_OR_RETURN(input.scan, ReportScanFromJson(text, path));
  return input;
}

}  // namespace

std::string AccuracyText(const std::vector<EvalDocument>& evals, const TableMarks& marks) {
  TextTable table("llrrrrrrl");
  table.Row({"", "scheme", "bits: linears", "all", "activations", "perplexity", "KL divergence", "same top",
             marks.head});
  for (size_t i = 0; i < evals.size(); ++i) {
    const EvalDocument& d = evals[i];
    const EvalResult& r = d.result;
    const std::string ratio = absl::StrCat("x ", PlusMinus(r.ppl_ratio, r.ppl_ratio_se, 4));
    table.Row({Printable(d.name, 40), Printable(d.scheme), BitsText(d.bits_linear), BitsText(d.bits_total),
               BitsText(d.activation_bits), ratio, absl::StrFormat("%.4f", r.kld_mean),
               PercentText(r.same_top), i < marks.cells.size() ? marks.cells[i] : ""});
  }
  return table.Text();
}

absl::Status RunReport(const ReportCommandOptions& options, Context& context) {
  const Style* style = nullptr;
  if (!options.output.empty()) {
    std::vector<std::string> inputs = options.evals;
    inputs.push_back(options.scan);
    SF_ASSIGN_OR_RETURN(style, StyleOf(options.output));
    SF_RETURN_IF_ERROR(CheckOutputFile(options.output, inputs));
  }
  SF_ASSIGN_OR_RETURN(const ReportInput input, Read(options, context));
  if (style != nullptr) SF_RETURN_IF_ERROR(WriteFileAtomically(options.output, style->render(input)));
  Console& console = context.console;
  if (console.json()) {
    console.Print(RenderJson(input));
    return console.Flush();
  }
  console.Print(AccuracyText(input.evals));
  if (style != nullptr) console.Print(absl::StrCat("\nWrote ", Printable(options.output, 1024), "\n"));
  return console.Flush();
}

}  // namespace spikefold
