// R2: v -> v R head by head. Attention mixes positions, not channels, so the context is turned alike: v rows
// W <- R^T W and b <- R^T b, o columns W <- W R for each query head. SpinQuant (2405.16406), section 3.
// Learned ones differ from layer to layer.
#include "absl/strings/str_cat.h"
#include "formats/base/status.h"
#include "quant/folds/fold_builder.h"
#include "quant/folds/graph_links.h"

namespace spikefold {
namespace {

constexpr char kName[] = "R2";

// The linears that make the values of each layer; empty, with the reason, if one may not be rotated.
std::vector<int> ValueLinears(const ModelGraph& graph, std::string* why) {
  std::vector<int> values;
  for (int layer = 0; layer < graph.config.num_layers; ++layer) {
    values.push_back(OnlyLinearInto(graph, layer, ValueKind::kV, why));
    if (values.back() < 0 || !LinearsOnlyRead(graph, layer, ValueKind::kCtx, why)) return {};
  }
  return values;
}

}  // namespace

bool ValuesMayRotate(const ModelGraph& graph, std::string* why) { return !ValueLinears(graph, why).empty(); }

absl::Status RotateValues(const FoldOptions& options, FoldBuilder& b) {
  const ModelGraph& graph = b.graph();
  std::string why;
  const std::vector<int> values = ValueLinears(graph, &why);
  if (values.empty()) {
    b.Refuse(kName, why);
    return absl::OkStatus();
  }
  const int64_t width = graph.config.head_dim;
  const Rotation r = RandomRotation(kName, RotationPlace::kValues, width, options.seed);
  const LearnedRotations* const learned = options.learned.get();
  for (int layer = 0; layer < graph.config.num_layers; ++layer) {
    const size_t l = static_cast<size_t>(layer);
    const Transform turn =
        learned == nullptr ? Transform::Rotate(r) : Transform::Dense(learned->values[l], width);
    b.Left(values[l], turn);
    for (const int reader : ReadersOf(graph, layer, ValueKind::kCtx)) b.Right(reader, turn);
  }
  if (learned != nullptr) {
    b.Applied(kName, LearnedProvenance(kName, RotationPlace::kValues, width, *learned));
    return absl::OkStatus();
  }
  b.Applied(kName, RotationProvenance(r, options.seed));
  return b.AddRotation(r);
}

}  // namespace spikefold
