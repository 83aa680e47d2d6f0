// R1: h -> h R for the residual stream. RMSNorm without gains commutes with it, so E <- E R, readers W <- W
// R, writers W <- R^T W and b <- R^T b. QuaRot (2404.00456), section 4.1.
#include "absl/strings/str_cat.h"
#include "formats/base/status.h"
#include "quant/folds/fold_builder.h"
#include "quant/folds/graph_links.h"

namespace spikefold {
namespace {

constexpr char kName[] = "R1";

// Linears whose output is added to the residual; false if a branch is anything else.
bool BranchLinears(const ModelGraph& graph, std::vector<int>* linears, std::string* why) {
  for (const Node& add : graph.nodes) {
    if (add.op != Op::kAdd) continue;
    const int linear = OnlyLinearInto(graph, add.layer, add.in1, why);
    if (linear < 0) {
      absl::StrAppend(why, ", and a gain a channel does not commute with a rotation");
      return false;
    }
    linears->push_back(linear);
  }
  return true;
}

}  // namespace

bool ResidualMayRotate(const ModelGraph& graph, std::string* why) {
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    const Node& node = graph.nodes[i];
    const bool touches = node.in0 == ValueKind::kResidual || node.out == ValueKind::kResidual;
    if (node.op == Op::kEmbed || node.op == Op::kAdd || node.op == Op::kNorm || !touches) continue;
    *why = absl::StrCat(Describe(graph, static_cast<int>(i)), " reads the residual without a norm");
    return false;
  }
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    const Node& norm = graph.nodes[i];
    if (norm.op != Op::kNorm || norm.in0 != ValueKind::kResidual) continue;
    if (!LinearsOnlyRead(graph, norm.layer, norm.out, why)) return false;
  }
  std::vector<int> linears;
  return BranchLinears(graph, &linears, why);
}

absl::Status RotateResidual(const FoldOptions& options, FoldBuilder& b) {
  std::string why;
  std::vector<int> writers;
  if (!ResidualMayRotate(b.graph(), &why) || !BranchLinears(b.graph(), &writers, &why)) {
    b.Refuse(kName, why);
    return absl::OkStatus();
  }
  const int64_t width = b.graph().config.hidden;
  const Rotation r = RandomRotation(kName, RotationPlace::kResidual, width, options.seed);
  const LearnedRotations* const learned = options.learned.get();
  const Transform turn =
      learned == nullptr ? Transform::Rotate(r) : Transform::Dense(learned->residual, width);
  for (int i = 0; i < static_cast<int>(b.graph().nodes.size()); ++i) {
    const Node& node = b.node(i);
    if (node.op == Op::kEmbed) b.Right(i, turn);
    if (node.op != Op::kNorm || node.in0 != ValueKind::kResidual) continue;
    for (const int reader : ReadersOf(b.graph(), node.layer, node.out)) b.Right(reader, turn);
  }
  for (const int writer : writers) b.Left(writer, turn);
  if (learned != nullptr) {  // offline, and no Hadamard matrix: the graph has nothing to say of it
    b.Applied(kName, LearnedProvenance(kName, RotationPlace::kResidual, width, *learned));
    return absl::OkStatus();
  }
  b.Applied(kName, RotationProvenance(r, options.seed));
  return b.AddRotation(r);
}

}  // namespace spikefold
