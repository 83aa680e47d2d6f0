// R2: v -> v R head by head. Attention mixes positions, not channels, so the context is turned alike: v rows
// W <- R^T W and b <- R^T b, o columns W <- W R for each query head. SpinQuant (2405.16406), section 3.
#include "absl/strings/str_cat.h"
#include "formats/base/status.h"
#include "quant/folds/fold_builder.h"
#include "quant/folds/graph_links.h"

namespace spikefold {
namespace {

constexpr char kName[] = "R2";

}  // namespace

absl::Status RotateValues(const FoldOptions& options, FoldBuilder& b) {
  const ModelGraph& graph = b.graph();
  std::vector<int> values;
  for (int layer = 0; layer < graph.config.num_layers; ++layer) {
    std::string why;
    values.push_back(OnlyLinearInto(graph, layer, ValueKind::kV, &why));
    if (values.back() >= 0 && LinearsOnlyRead(graph, layer, ValueKind::kCtx, &why)) continue;
    b.Refuse(kName, why);
    return absl::OkStatus();
  }
  const Rotation r = RandomRotation(kName, RotationPlace::kValues, graph.config.head_dim, options.seed);
  const Transform turn = Transform::Rotate(r);
  for (int layer = 0; layer < graph.config.num_layers; ++layer) {
    b.Left(values[static_cast<size_t>(layer)], turn);
    for (const int reader : ReadersOf(graph, layer, ValueKind::kCtx)) b.Right(reader, turn);
  }
  b.Applied(kName, RotationProvenance(r, options.seed));
  return b.AddRotation(r);
}

}  // namespace spikefold
