// R3: q -> q R, k -> k R online after RoPE; q.k is unchanged. Pays for a low-bit cache of keys. QuaRot
// (2404.00456), section 4.3.
#include "formats/base/status.h"
#include "quant/folds/fold_builder.h"

namespace spikefold {

absl::Status RotateQueriesKeys(const FoldOptions& options, FoldBuilder& b) {
  const Rotation r =
      RandomRotation("R3", RotationPlace::kQueriesKeys, b.graph().config.head_dim, options.seed);
  b.Applied("R3", RotationProvenance(r, options.seed));
  return b.AddRotation(r);
}

}  // namespace spikefold
