#include "quant/folds/folds.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "formats/base/status.h"
#include "quant/folds/fold_builder.h"
#include "quant/folds/folded_checkpoint.h"

namespace spikefold {
namespace {

struct FoldEntry {
  bool (*wanted)(const FoldOptions& options, const ModelGraph& graph);
  absl::Status (*apply)(const FoldOptions& options, FoldBuilder& builder);
};

bool GainsAreInTheWay(const FoldOptions& o, const ModelGraph& graph) {
  std::string why;
  return o.rotate_residual && ResidualMayRotate(graph, &why);
}

// In order of application.
constexpr FoldEntry kFolds[] = {
    {[](const FoldOptions& o, const ModelGraph& g) { return o.norm_gain || GainsAreInTheWay(o, g); },
     FoldNormGains},
    {[](const FoldOptions& o, const ModelGraph&) { return o.rotate_residual; }, RotateResidual},
    {[](const FoldOptions& o, const ModelGraph&) { return o.rescale != 1; }, RescaleResidual},
    {[](const FoldOptions& o, const ModelGraph&) { return o.rotate_values; }, RotateValues},
    {[](const FoldOptions& o, const ModelGraph&) { return !o.smooth.empty(); }, ScaleChannels},
    {[](const FoldOptions& o, const ModelGraph&) { return !o.qk_scales.empty(); }, ScaleQueriesKeys},
    {[](const FoldOptions& o, const ModelGraph&) { return o.rotate_down; }, RotateDown},
    {[](const FoldOptions& o, const ModelGraph&) { return o.rotate_qk; }, RotateQueriesKeys},
    {[](const FoldOptions& o, const ModelGraph&) { return !o.shifts.empty(); }, ShiftChannels},
};

// Learned rotations are for exactly the folds that take them: one that is there and not asked for, or the
// reverse, is another model than the one that was learnt on.
absl::Status CheckLearned(const FoldOptions& options, const CheckpointReader& base, ThreadPool* pool) {
  const LearnedRotations& learned = *options.learned;
  SF_RETURN_IF_ERROR(CheckLearnedRotations(learned, base, pool));
  std::string why;
  const bool r1 = options.rotate_residual && ResidualMayRotate(base.graph(), &why);
  const bool r2 = options.rotate_values && ValuesMayRotate(base.graph(), &why);
  const auto words = [](bool one, bool two) { return one ? two ? "R1 and R2" : "R1" : two ? "R2" : "none"; };
  const bool has_r1 = learned.residual != nullptr, has_r2 = !learned.values.empty();
  if (r1 == has_r1 && r2 == has_r2) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("the learned rotations are ", words(has_r1, has_r2),
                                                 "; what is asked for and legal here is ", words(r1, r2),
                                                 "; rotate as they were learnt, or learn others",
                                                 why.empty() ? "" : absl::StrCat(" (", why, ")")));
}

absl::StatusOr<FoldedModel> MakeFolds(const CheckpointReader& base, const FoldOptions& options,
                                      ThreadPool* pool) {
  if (base.kind() == CheckpointKind::kNative) {
    return absl::InvalidArgumentError(absl::StrCat(
        base.path(), ": is quantized; folds rewrite float models, give the one it was made from"));
  }
  const bool shifted = std::any_of(base.graph().sites.begin(), base.graph().sites.end(),
                                   [](const Site& site) { return !site.shift.empty(); });
  if (shifted || !base.graph().rotations.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(base.path(), ": is ", shifted ? "shifted" : "rotated",
                                                   " already; fold the model itself, once"));
  }
  if (options.learned != nullptr) SF_RETURN_IF_ERROR(CheckLearned(options, base, pool));
  FoldBuilder builder(base);
  for (const FoldEntry& fold : kFolds) {
    if (fold.wanted(options, base.graph())) SF_RETURN_IF_ERROR(fold.apply(options, builder));
  }
  return builder.Finish();
}

}  // namespace

absl::StatusOr<std::unique_ptr<FoldedCheckpoint>> FoldCheckpoint(const CheckpointReader& base,
                                                                 const FoldOptions& options,
                                                                 ThreadPool* pool) {
  SF_ASSIGN_OR_RETURN(FoldedModel model, MakeFolds(base, options, pool));
  return MakeFoldedCheckpoint(nullptr, base, std::move(model), pool);
}

absl::StatusOr<std::unique_ptr<FoldedCheckpoint>> FoldCheckpoint(std::unique_ptr<CheckpointReader> base,
                                                                 const FoldOptions& options,
                                                                 ThreadPool* pool) {
  SF_ASSIGN_OR_RETURN(FoldedModel model, MakeFolds(*base, options, pool));
  const CheckpointReader& reader = *base;
  return MakeFoldedCheckpoint(std::move(base), reader, std::move(model), pool);
}

}  // namespace spikefold
