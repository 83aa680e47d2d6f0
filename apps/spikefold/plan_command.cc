#include "apps/spikefold/plan_command.h"

#include <optional>

#include "absl/strings/str_cat.h"
#include "apps/spikefold/dry_run.h"
#include "apps/spikefold/machine.h"
#include "apps/spikefold/output_path.h"
#include "apps/spikefold/plan_text.h"
#include "apps/spikefold/quantize_command.h"
#include "formats/base/file.h"
#include "formats/base/status.h"

namespace spikefold {

namespace {

absl::Status PrintForecast(const Prepared& prepared, const CheckpointReader& reader, const LoadedScan* scan,
                           Context& context) {
  SF_ASSIGN_OR_RETURN(const WorkForecast forecast, Forecast(prepared.plan, prepared.model(reader),
                                                            MakeApplyOptions(prepared, scan, {}, context)));
  Console& console = context.console;
  if (console.json()) {
    return console.PrintJson(NewDocument("plan").Set("forecast", ForecastJson(forecast)));
  }
  console.Print(absl::StrCat(PlanText(prepared.plan, console), ForecastText(forecast, reader)));
  return console.Flush();
}

}  // namespace

absl::Status RunPlan(const PlanCommandOptions& options, Context& context) {
  if (!options.output.empty()) {
    SF_RETURN_IF_ERROR(CheckOutputFile(
        options.output, {options.model, options.scan, options.recipe.file, options.rotate_from}));
  }
  SF_RETURN_IF_ERROR(context.CalibrateOn(options.backend));
  if (options.dry_run) ReturnLargeBuffers();  // as quantize does
  SF_ASSIGN_OR_RETURN(const auto reader, OpenFloatReader(context, options.model));
  SF_ASSIGN_OR_RETURN(Recipe recipe, BuildRecipe(options.recipe, context.given_seed));
  SF_ASSIGN_OR_RETURN(const auto rotations, ReadRotations(options.rotate_from));
  if (rotations != nullptr && recipe.rotations_sha256.empty()) {
    recipe.rotations_sha256 = rotations->sha256;
  }
  SF_RETURN_IF_ERROR(CheckRecipe(recipe, reader->graph()));
  std::optional<LoadedScan> scan;
  if (!options.scan.empty()) {
    SF_ASSIGN_OR_RETURN(scan, LoadScan(options.scan, reader->graph()));
  }
  PrepareInput input = MakePrepareInput(*reader, scan ? &*scan : nullptr, options.scan, context);
  input.rotations = rotations;
  if (context.calibration_backend() == Backend::kCpu) input.max_model_bytes = MemoryLimit(0);
  SF_ASSIGN_OR_RETURN(const Prepared prepared, Prepare(recipe, input));
  context.console.EndProgress();
  const Plan& plan = prepared.plan;
  const std::string json = PlanToJson(plan);
  if (!options.output.empty()) SF_RETURN_IF_ERROR(WriteFileAtomically(options.output, json));
  Console& console = context.console;
  if (options.dry_run) return PrintForecast(prepared, *reader, scan ? &*scan : nullptr, context);
  console.Print(console.json() ? json : PlanText(plan, console));
  SF_RETURN_IF_ERROR(console.Flush());
  if (!options.output.empty()) console.Detail(absl::StrCat("wrote ", Printable(options.output, 1024)));
  return absl::OkStatus();
}

}  // namespace spikefold
