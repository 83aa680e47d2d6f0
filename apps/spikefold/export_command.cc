#include "apps/spikefold/export_command.h"

#include <algorithm>
#include <map>
#include <tuple>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "apps/spikefold/gguf_rounding.h"
#include "apps/spikefold/output_path.h"
#include "apps/spikefold/text.h"
#include "apps/spikefold/text_table.h"
#include "formats/base/status.h"
#include "formats/export/directory_export.h"
#include "formats/export/gguf_export.h"
#include "formats/export/gptq_export.h"
#include "formats/ggml_scales.h"
#include "formats/gguf_encode.h"

namespace spikefold {
namespace {

constexpr GgmlType kTypes[] = {GgmlType::kF32,  GgmlType::kF16,  GgmlType::kBF16, GgmlType::kQ8_0,
                               GgmlType::kQ5_1, GgmlType::kQ5_0, GgmlType::kQ4_1, GgmlType::kQ4_0,
                               GgmlType::kQ6_K, GgmlType::kQ5_K, GgmlType::kQ4_K};

std::string TypeWord(GgmlType type) {
  return absl::AsciiStrToLower(std::string(GgmlTypeName(static_cast<uint32_t>(type))));
}

std::optional<GgmlType> TypeOf(const std::string& word) {
  for (const GgmlType type : kTypes) {
    if (TypeWord(type) == word) return type;
  }
  return std::nullopt;
}

std::string ErrorText(double error) { return error == 0 ? "exact" : absl::StrFormat("%.2g", error); }

// Tensors that fared alike are one row: how many, from what to what, the largest error.
std::string TensorTable(const ExportReport& report) {
  struct Row {
    int64_t count = 0;
    uint64_t bytes = 0;
    double error = 0;
    std::string reason;
  };
  std::map<std::tuple<std::string, std::string, bool, std::string>, Row> rows;
  for (const ExportedTensor& t : report.tensors) {
    const std::string reason = t.reason.empty() ? "" : t.reason;
    Row& row = rows[{t.from, t.to, t.same_codes, reason}];
    ++row.count;
    row.bytes += t.bytes;
    row.error = std::max(row.error, t.error);
  }
  TextTable table("rllrrl");
  table.Row({"tensors", "from", "to", "size", "largest error", ""});
  for (const auto& [key, row] : rows) {
    const auto& [from, to, same, reason] = key;
    std::string note = reason;
    if (same) note = absl::StrCat("same codes", reason.empty() ? "" : "; ", reason);
    table.Row({absl::StrCat(row.count), from, to, BytesText(row.bytes), ErrorText(row.error), note});
  }
  return table.Text();
}

absl::Status PrintReport(const ExportCommandOptions& options, const ExportReport& report, Context& context) {
  Console& console = context.console;
  if (console.json()) {
    Json document = NewDocument("export");
    document.Set("output", options.output);
    const Json body = ExportReportToJson(report);
    for (const auto& [key, value] : body.object()) document.Set(key, value);
    return console.PrintJson(document);
  }
  console.Print(TensorTable(report));
  if (!report.losses.empty()) console.Print(console.Bold("\nNot carried over\n"));
  for (const ExportLoss& loss : report.losses) {
    const std::string start = absl::StrCat("  ", loss.what, ": ");
    console.Print(absl::StrCat(start, Wrap(Printable(loss.detail, 2000), 4, 100),
                               loss.changes_function ? console.Bad("  changes the function") : "", "\n"));
  }
  for (const std::string& note : report.notes) console.Note(note);
  console.Print(absl::StrCat("\nWrote ", console.Bold(Printable(options.output, 1024)), ": ",
                             BytesText(report.file_bytes), ", read back and compared.\n"));
  return console.Flush();
}

// What would be ignored.
absl::Status CheckScanUse(const ExportCommandOptions& options) {
  const bool gguf = options.format == "gguf";
  if (!options.like.empty() && !options.type.empty()) {
    return absl::InvalidArgumentError("--like and --type both choose types; give one of them");
  }
  const std::optional<GgmlType> type = TypeOf(options.type);
  const bool rounds = !options.like.empty() || (type && FindGgmlScaleLayout(*type) != nullptr);
  if (options.scan.empty() || rounds || options.rescale == "auto" || !options.qk_smooth.empty())
    return absl::OkStatus();
  if (!gguf) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--scan: is for --to gguf, --rescale auto and --qk-smooth; ", options.format, " has no such choice"));
  }
  return absl::InvalidArgumentError("--scan: nothing is rounded; add --type q4_0 or another type of blocks");
}

}  // namespace

std::vector<std::string> ExportFormats() {
  return {"gguf", "compressed-tensors", "gptq", "gptq_v2", "safetensors"};
}

std::vector<std::string> ExportTypes() {
  std::vector<std::string> words;
  for (const GgmlType type : kTypes) words.push_back(TypeWord(type));
  return words;
}

absl::Status RunExport(const ExportCommandOptions& options, Context& context) {
  const bool gguf = options.format == "gguf";
  for (const auto& [name, value] :
       {std::pair("--type", &options.type), std::pair("--rotate", &options.rotate),
        std::pair("--like", &options.like)}) {
    if (gguf || value->empty()) continue;
    return absl::InvalidArgumentError(
        absl::StrCat(name, ": is for --to gguf; ", options.format, " has no such choice"));
  }
  SF_RETURN_IF_ERROR(CheckScanUse(options));
  const std::vector<std::string> inputs = {options.model, options.like, options.scan};
  SF_RETURN_IF_ERROR(gguf ? CheckOutputFile(options.output, inputs)
                          : CheckOutputDirectory(options.output, options.force, inputs));
  SF_ASSIGN_OR_RETURN(const ExportModel model, OpenForExport(options, context));
  const Progress progress = context.console.progress();
  if (gguf) {
    SF_ASSIGN_OR_RETURN(const GgufRounding rounding,
                        RoundForGguf(model, options, TypeOf(options.type), context));
    SF_ASSIGN_OR_RETURN(const ExportReport report, ExportGguf(*model.source, options.output,
                                                              {.type = TypeOf(options.type),
                                                               .types = rounding.types,
                                                               .blocks = &rounding.blocks,
                                                               .name = "",
                                                               .pool = &context.pool(),
                                                               .progress = progress}));
    context.console.EndProgress();
    return PrintReport(options, report, context);
  }
  if (options.format == "gptq" || options.format == "gptq_v2") {
    SF_ASSIGN_OR_RETURN(const ExportReport report, ExportGptq(*model.source, options.output,
                                                              {.v2 = options.format == "gptq_v2",
                                                               .overwrite = options.force,
                                                               .pool = &context.pool(),
                                                               .progress = progress}));
    context.console.EndProgress();
    return PrintReport(options, report, context);
  }
  const DirectoryExportOptions to_directory{.compressed_tensors = options.format == "compressed-tensors",
                                            .overwrite = options.force,
                                            .pool = &context.pool(),
                                            .progress = progress};
  SF_ASSIGN_OR_RETURN(const ExportReport report,
                      ExportDirectory(*model.source, options.output, to_directory));
  context.console.EndProgress();
  return PrintReport(options, report, context);
}

}  // namespace spikefold
