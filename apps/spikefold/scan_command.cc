#include "apps/spikefold/scan_command.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "apps/spikefold/anatomy_text.h"
#include "apps/spikefold/scan_files.h"
#include "calib/format_count.h"
#include "formats/base/status.h"

namespace spikefold {
namespace {

std::string TextNote(const CalibStats& stats) {
  return absl::StrCat("scanned ", FormatCount(stats.num_windows * stats.window_length), " tokens, ",
                      stats.num_windows, " windows of ", stats.window_length, ": ",
                      Printable(stats.text_source));
}

}  // namespace

absl::StatusOr<ScanResult> ScanOpened(const OpenedModel& opened, const ScanTextOptions& options,
                                      Context& context) {
  ScanOptions how{.seed = context.seed,
                  .texts = options.texts,
                  .anatomy = options.anatomy,
                  .allow_prefix = !options.no_prefix,
                  .progress = context.console.progress()};
  if (options.windows > 0) how.num_windows = options.windows;
  const int64_t positions = opened.model->graph().config.max_positions;
  if (positions > 0) how.window_length = std::min(how.window_length, positions);
  if (options.length > 0) how.window_length = options.length;
  if (options.windows > 0 && options.texts.empty()) {  // asked for by name: not cut
    how.max_generated_tokens = how.num_windows * how.window_length;
  }
  SF_ASSIGN_OR_RETURN(ScanResult scan, Scan(*opened.model, *opened.reader, *opened.tokenizer, how));
  context.console.Note(TextNote(scan.stats));
  return scan;
}

absl::Status RunScan(const ScanCommandOptions& options, Context& context) {
  std::vector<std::string> inputs = options.text.texts;
  inputs.push_back(options.model);
  SF_RETURN_IF_ERROR(CheckScanOutput(options.output, options.force, inputs));
  SF_RETURN_IF_ERROR(context.CalibrateOn(options.backend));
  SF_ASSIGN_OR_RETURN(const OpenedModel opened, OpenFloatModel(context, options.model));
  SF_ASSIGN_OR_RETURN(const ScanResult scan, ScanOpened(opened, options.text, context));
  const ModelGraph& graph = opened.reader->graph();
  SF_RETURN_IF_ERROR(SaveScan(scan, graph, options.output, options.force));
  Console& console = context.console;
  if (console.json()) return console.PrintJson(OutlierMapToJson(scan.map, graph));
  console.Print(AnatomyText(scan.map, graph, console));
  SF_RETURN_IF_ERROR(console.Flush());
  console.Detail(absl::StrCat("wrote ", Printable(options.output, 1024)));
  return absl::OkStatus();
}

}  // namespace spikefold
