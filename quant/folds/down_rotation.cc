// R4: a -> a R online, W_down <- W_down R. Always legal: (a R)(W R)^T = a W^T. QuaRot (2404.00456),
// section 4.2.
#include "absl/strings/str_cat.h"
#include "formats/base/status.h"
#include "quant/folds/fold_builder.h"
#include "quant/folds/graph_links.h"

namespace spikefold {
namespace {

constexpr char kName[] = "R4";

}  // namespace

absl::Status RotateDown(const FoldOptions& options, FoldBuilder& b) {
  for (int layer = 0; layer < b.graph().config.num_layers; ++layer) {
    std::string why;
    if (LinearsOnlyRead(b.graph(), layer, ValueKind::kDownIn, &why)) continue;
    b.Refuse(kName, why);
    return absl::OkStatus();
  }
  Rotation r = RandomRotation(kName, RotationPlace::kDownIn, b.graph().config.intermediate, options.seed);
  r.layers = options.rotate_down_layers;
  SF_RETURN_IF_ERROR(b.AddRotation(r));
  const Transform turn = Transform::Rotate(r);
  for (const Site& site : b.graph().sites) {
    if (site.rotation < 0 || site.value != ValueKind::kDownIn) continue;
    for (const int linear : site.linears) b.Right(linear, turn);
  }
  Json provenance = RotationProvenance(r, options.seed), layers = Json::MakeArray();
  for (const int layer : r.layers) layers.Append(layer);
  if (!r.layers.empty()) provenance.Set("layers", std::move(layers));
  b.Applied(kName, std::move(provenance));
  return absl::OkStatus();
}

}  // namespace spikefold
