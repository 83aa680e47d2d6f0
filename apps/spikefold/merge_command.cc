#include "apps/spikefold/merge_command.h"

#include "absl/strings/str_cat.h"
#include "apps/spikefold/machine.h"
#include "apps/spikefold/output_path.h"
#include "apps/spikefold/text.h"
#include "formats/base/status.h"
#include "formats/quantized/native.h"

namespace spikefold {

absl::Status RunMerge(const MergeCommandOptions& options, Context& context) {
  SF_RETURN_IF_ERROR(CheckOutputDirectory(options.output, options.force, options.parts));
  ReturnLargeBuffers();
  SF_RETURN_IF_ERROR(MergeNativeParts(options.parts, options.output,
                                      {.overwrite = options.force,
                                       .arguments = {absl::StrCat("spikefold ", context.command)},
                                       .progress = context.console.progress()}));
  context.console.EndProgress();
  SF_ASSIGN_OR_RETURN(const auto written, NativeReader::Open(options.output));
  Console& console = context.console;
  const NativeInfo& info = written->info();
  const auto parts = static_cast<int64_t>(options.parts.size());
  if (console.json()) {
    return console.PrintJson(NewDocument("merge")
                                 .Set("output", options.output)
                                 .Set("parts", parts)
                                 .Set("linears", static_cast<int64_t>(info.linears.size()))
                                 .Set("file_bytes", info.file_bytes));
  }
  console.Print(absl::StrCat("Wrote ", console.Bold(Printable(options.output, 1024)), ": ",
                             info.linears.size(), " linears of ", parts, " parts, ",
                             BytesText(info.file_bytes), ".\n"));
  return console.Flush();
}

}  // namespace spikefold
