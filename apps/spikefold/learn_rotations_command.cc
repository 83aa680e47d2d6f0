#include "apps/spikefold/learn_rotations_command.h"

#include <chrono>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "apps/spikefold/output_path.h"
#include "apps/spikefold/scan_files.h"
#include "apps/spikefold/text.h"
#include "formats/base/status.h"
#include "kernels/runtime/torch/torch_plugin.h"
#include "quant/refine/learn_rotations.h"

namespace spikefold {
namespace {

std::string Names(const LearnedRotations& r) {
  const std::string values = r.values.empty() ? "" : absl::StrCat("R2 of ", r.values.size(), " layers");
  return absl::StrCat(r.residual == nullptr ? "" : "R1",
                      r.residual != nullptr && !r.values.empty() ? " and " : "", values);
}

Json Record(const LearnRotationsCommandOptions& options, const TokenStream& text, const Recipe& recipe,
            const Learning& learning) {
  return Json::MakeObject()
      .Set("scheme", recipe.scheme)
      .Set("seed", absl::StrCat(recipe.seed))
      .Set("source", text.source)
      .Set("text_sha256", text.sha256)
      .Set("tokens", options.text.windows * options.text.length)
      .Set("rate", options.rate)
      .Set("steps", learning.best_step)
      .Set("held_out_kld_before", learning.before)
      .Set("held_out_kld", learning.after);
}

absl::Status PrintResult(const LearnRotationsCommandOptions& options, const RotationsLearnt& learnt,
                         double seconds, Console& console) {
  if (console.json()) {
    Json document = NewDocument("learn-rotations")
                        .Set("output", options.output)
                        .Set("sha256", learnt.rotations.sha256)
                        .Set("seconds", seconds);
    AddLearning(learnt, document);
    return console.PrintJson(document);
  }
  console.Print(absl::StrCat("KL divergence from the float model, linears' inputs rounded, ",
                             Names(learnt.rotations), "\n", LearningTable(learnt),
                             absl::StrFormat("%.0f s; * is what was written\n", seconds)));
  console.Print(absl::StrCat("Wrote ", console.Bold(Printable(options.output, 1024)),
                             "; quantize with --rotate-from it.\n"));
  return console.Flush();
}

}  // namespace

absl::Status RunLearnRotations(const LearnRotationsCommandOptions& options, Context& context) {
  const auto start = std::chrono::steady_clock::now();
  Console& console = context.console;
  std::vector<std::string> inputs = options.text.texts;
  inputs.insert(inputs.end(), {options.model, options.scan, options.recipe.file});
  SF_RETURN_IF_ERROR(CheckOutputFile(options.output, inputs));
  SF_RETURN_IF_ERROR(LoadTorchPlugin().status());  // before a model is read
  SF_ASSIGN_OR_RETURN(const auto reader, OpenFloatReader(context, options.model));
  SF_ASSIGN_OR_RETURN(const Recipe recipe, BuildRecipe(options.recipe, context.given_seed));
  SF_RETURN_IF_ERROR(CheckRecipe(recipe, reader->graph()));
  if (!recipe.rotations_sha256.empty()) {
    return absl::InvalidArgumentError(
        "learn-rotations: the recipe has learned rotations already; learning starts at Hadamard matrices");
  }
  SF_ASSIGN_OR_RETURN(const auto tokenizer, reader->LoadTokenizer());
  SF_ASSIGN_OR_RETURN(const TokenStream text, TokenizeFiles(*tokenizer, options.text.texts));
  std::optional<LoadedScan> scan;
  if (!options.scan.empty()) {
    SF_ASSIGN_OR_RETURN(scan, LoadScan(options.scan, reader->graph()));
  }
  SF_ASSIGN_OR_RETURN(
      const Prepared prepared,
      Prepare(recipe, MakePrepareInput(*reader, scan ? &*scan : nullptr, options.scan, context)));
  console.EndProgress();
  SF_ASSIGN_OR_RETURN(LearningOptions how,
                      LearningWindows(options.text, *tokenizer, text, !prepared.plan.prefix.empty()));
  how.rate = options.rate;
  how.num_threads = context.num_threads();
  how.progress = console.progress();
  SF_ASSIGN_OR_RETURN(
      RotationsLearnt learnt,
      LearnRotations(*reader, prepared, prepared.stats_or(scan ? &scan->stats : nullptr), how));
  console.EndProgress();
  learnt.rotations.record = Record(options, text, recipe, learnt);
  SF_RETURN_IF_ERROR(SaveRotations(learnt.rotations, options.output));
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (learnt.best_step == 0) {
    console.Warn("no step was better than the Hadamard matrices; what was written is those");
  }
  return PrintResult(options, learnt, seconds, console);
}

}  // namespace spikefold
