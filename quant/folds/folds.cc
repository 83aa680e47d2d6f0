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

absl::StatusOr<FoldedModel> MakeFolds(const CheckpointReader& base, const FoldOptions& options) {
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
  SF_ASSIGN_OR_RETURN(FoldedModel model, MakeFolds(base, options));
  return MakeFoldedCheckpoint(nullptr, base, std::move(model), pool);
}

absl::StatusOr<std::unique_ptr<FoldedCheckpoint>> FoldCheckpoint(std::unique_ptr<CheckpointReader> base,
                                                                 const FoldOptions& options,
                                                                 ThreadPool* pool) {
  SF_ASSIGN_OR_RETURN(FoldedModel model, MakeFolds(*base, options));
  const CheckpointReader& reader = *base;
  return MakeFoldedCheckpoint(std::move(base), reader, std::move(model), pool);
}

}  // namespace spikefold
