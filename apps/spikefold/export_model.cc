#include "apps/spikefold/export_model.h"

#include <cmath>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "apps/spikefold/text.h"
#include "formats/base/status.h"
#include "quant/folds/qk_scales.h"
#include "quant/recipe.h"
#include "quant/treatments.h"

namespace spikefold {
namespace {

absl::StatusOr<RotationChoice> Rotations(const std::string& words) {
  if (words.empty()) return RotationChoice{};
  SF_ASSIGN_OR_RETURN(const RotationChoice choice, ParseRotations(words));
  if (!choice.r3 && !choice.r4) return choice;
  return absl::InvalidArgumentError(
      absl::StrCat("--rotate ", words,
                   ": R3 and R4 turn values while the model runs, which GGUF cannot say; use offline"));
}

absl::StatusOr<double> Rescale(const std::string& word, const ExportModel& model, Context& context) {
  Recipe recipe;
  if (word.empty()) return 1.0;
  SF_RETURN_IF_ERROR(ParseRescale(word, recipe));
  if (!recipe.rescale_auto) return recipe.rescale;
  if (!model.scan) {
    return absl::InvalidArgumentError(
        "--rescale auto: takes the residual's peak from a scan; add --scan, or give a power of two");
  }
  const double peak = ResidualPeak(model.scan->map), lambda = RescaleFor(peak);
  context.console.Note(
      absl::StrCat("The residual stream reaches ", std::llround(peak), " and is divided by ", lambda, "."));
  return lambda;
}

absl::StatusOr<std::vector<QkScales>> PairScales(const std::string& word, const ExportModel& model) {
  double alpha = 0;
  if (word.empty()) return std::vector<QkScales>();
  if (!absl::SimpleAtod(word, &alpha)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--qk-smooth \"", Printable(word), "\": give a number from 0 to 1"));
  }
  const StatsArm* const arm = model.scan ? model.scan->stats.FindArm("plain") : nullptr;
  if (arm == nullptr || arm->keys.empty()) {
    return absl::InvalidArgumentError("--qk-smooth: takes the keys' ranges from a scan; add --scan");
  }
  return ChooseQkScales(arm->keys, model.base->graph().config, alpha);
}

absl::Status Fold(const ExportCommandOptions& options, Context& context, ExportModel& out) {
  FoldOptions folds;
  folds.seed = context.seed;
  SF_ASSIGN_OR_RETURN(const RotationChoice rotate, Rotations(options.rotate));
  folds.rotate_residual = rotate.r1;
  folds.rotate_values = rotate.r2;
  SF_ASSIGN_OR_RETURN(folds.rescale, Rescale(options.rescale, out, context));
  SF_ASSIGN_OR_RETURN(folds.qk_scales, PairScales(options.qk_smooth, out));
  if (!folds.any()) return absl::OkStatus();
  SF_ASSIGN_OR_RETURN(out.folded, FoldCheckpoint(*out.base, folds, &context.pool()));
  if (out.folded->refused().empty()) return absl::OkStatus();
  const RefusedFold& refused = out.folded->refused().front();
  return absl::UnimplementedError(absl::StrCat(refused.fold, ": ", refused.reason, "; leave it out"));
}

absl::StatusOr<LoadedScan> ScanOf(const std::string& directory, const CheckpointReader& base) {
  SF_ASSIGN_OR_RETURN(LoadedScan scan, LoadScan(directory, base.graph()));
  SF_ASSIGN_OR_RETURN(const std::string fingerprint, base.Fingerprint());
  if (scan.stats.model_fingerprint == fingerprint) return scan;
  return absl::InvalidArgumentError(absl::StrCat("the scan is of model ", scan.stats.model_fingerprint,
                                                 ", this is model ", fingerprint, "; scan this model"));
}

}  // namespace

absl::StatusOr<ExportModel> OpenForExport(const ExportCommandOptions& options, Context& context) {
  ExportModel out;
  SF_ASSIGN_OR_RETURN(out.base, CheckpointReader::Open(options.model));
  const bool changes = !options.scan.empty() || !options.rotate.empty() || !options.like.empty() ||
                       !options.rescale.empty() || !options.qk_smooth.empty();
  if (out.base->kind() == CheckpointKind::kNative) {
    if (changes) {
      return absl::InvalidArgumentError(
          absl::StrCat(Printable(options.model, 1024),
                       ": is quantized, its codes are copied; --scan, --rotate, --rescale, --qk-smooth and "
                       "--like are for float models (quantize has all but --like)"));
    }
    SF_ASSIGN_OR_RETURN(out.source, ExportSource::Open(options.model));
    return out;
  }
  if (!options.scan.empty()) {
    SF_ASSIGN_OR_RETURN(out.scan, ScanOf(options.scan, *out.base));
  }
  SF_RETURN_IF_ERROR(Fold(options, context, out));
  out.source = ExportSource::Of(out.model());
  return out;
}

}  // namespace spikefold
