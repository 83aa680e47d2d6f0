#include "apps/spikefold/refine_command.h"

#include <chrono>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "apps/spikefold/output_path.h"
#include "apps/spikefold/text.h"
#include "calib/format_count.h"
#include "formats/base/status.h"
#include "formats/quantized/native.h"
#include "kernels/runtime/torch/torch_plugin.h"
#include "quant/refine/refine.h"

namespace spikefold {
namespace {

Json Document(const RefineCommandOptions& options, const Refined& r, double seconds) {
  Json document = NewDocument("refine")
                      .Set("output", options.output)
                      .Set("parameters", r.num_parameters)
                      .Set("seconds", seconds);
  AddLearning(r, document);
  return document;
}

std::string Text(const Refined& r, double seconds) {
  return absl::StrCat("KL divergence from the float model, of ", FormatCount(r.num_parameters),
                      " scales, biases and gains\n", LearningTable(r),
                      absl::StrFormat("%.0f s; * is what was written\n", seconds));
}

}  // namespace

absl::Status RunRefine(const RefineCommandOptions& options, Context& context) {
  const auto start = std::chrono::steady_clock::now();
  Console& console = context.console;
  std::vector<std::string> inputs = options.text.texts;
  inputs.insert(inputs.end(), {options.model, options.reference});
  SF_RETURN_IF_ERROR(CheckOutputDirectory(options.output, options.force, inputs));
  SF_RETURN_IF_ERROR(LoadTorchPlugin().status());  // before a model is read
  SF_ASSIGN_OR_RETURN(const auto quantized, CheckpointReader::Open(options.model));
  if (quantized->kind() != CheckpointKind::kNative) {
    return absl::InvalidArgumentError(
        absl::StrCat(Printable(options.model, 1024), ": is not quantized; give what quantize wrote"));
  }
  SF_ASSIGN_OR_RETURN(const auto native, NativeReader::Open(options.model));
  SF_ASSIGN_OR_RETURN(const auto reference, OpenFloatReader(context, options.reference));
  SF_ASSIGN_OR_RETURN(const auto tokenizer, reference->LoadTokenizer());
  SF_ASSIGN_OR_RETURN(const std::string fingerprint, reference->Fingerprint());
  if (fingerprint != native->info().base_fingerprint) {
    return absl::InvalidArgumentError(absl::StrCat(Printable(options.reference, 1024),
                                                   ": is not the model that ", Printable(options.model, 1024),
                                                   " was quantized from; give that one"));
  }
  SF_ASSIGN_OR_RETURN(const TokenStream text, TokenizeFiles(*tokenizer, options.text.texts));
  const bool has_prefix = native->info().prefix.num_tokens > 0;
  SF_ASSIGN_OR_RETURN(LearningOptions how, LearningWindows(options.text, *tokenizer, text, has_prefix));
  how.rate = options.rate;
  how.num_threads = context.num_threads();
  how.progress = console.progress();
  SF_ASSIGN_OR_RETURN(const Refined refined, Refine(*quantized, *reference, how));
  console.EndProgress();
  SF_RETURN_IF_ERROR(WriteRefined(*quantized, refined,
                                  {.text = text.source,
                                   .sha256 = text.sha256,
                                   .tokens = options.text.windows * options.text.length,
                                   .rate = options.rate},
                                  {.path = options.output,
                                   .overwrite = options.force,
                                   .command = absl::StrCat("spikefold ", context.command)}));
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (refined.best_step == 0)
    console.Warn("no step was better than what was there; the parameters are unchanged");
  if (console.json()) return console.PrintJson(Document(options, refined, seconds));
  console.Print(Text(refined, seconds));
  console.Print(
      absl::StrCat("Wrote ", console.Bold(Printable(options.output, 1024)), ", of the size it had.\n"));
  return console.Flush();
}

}  // namespace spikefold
