// rescale: h -> h / lambda for the residual stream, for engines whose activations are float16, which ends at
// 65,504. RMSNorm sees a factor in its epsilon alone: (h/l) / sqrt(mean (h/l)^2 + eps/l^2) = h / sqrt(mean
// h^2 + eps). Models have one epsilon, so whatever another norm reads is divided as well: branches that are
// normed before they are added, queries and keys. As lambda is a power of two every number keeps its digits,
// and logits are the same to the bit; but for gains that are stored less 1, which round once more.
#include <cmath>

#include "absl/strings/str_cat.h"
#include "formats/base/status.h"
#include "quant/folds/fold_builder.h"
#include "quant/folds/graph_links.h"

namespace spikefold {
namespace {

constexpr char kName[] = "rescale";
constexpr double kLargest = 65536;

bool IsNorm(const Node& node) { return node.op == Op::kNorm || node.op == Op::kHeadNorm; }

bool IsBranch(const ModelGraph& graph, int layer, ValueKind value) {
  for (const Node& add : graph.nodes) {
    if (add.op == Op::kAdd && add.layer == layer && add.in1 == value) return true;
  }
  return false;
}

// Norms alone read the residual, linears and norms alone write what is added to it.
bool MayRescale(const ModelGraph& graph, std::string* why) {
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    const Node& node = graph.nodes[i];
    const bool reads = node.in0 == ValueKind::kResidual && node.op != Op::kAdd && node.op != Op::kEmbed;
    const bool branch = node.op != Op::kAdd && IsBranch(graph, node.layer, node.out);
    if ((!reads || node.op == Op::kNorm) && (!branch || node.op == Op::kLinear || node.op == Op::kNorm)) {
      continue;
    }
    *why = absl::StrCat(Describe(graph, static_cast<int>(i)),
                        reads ? " reads the residual without a norm" : " writes a branch and is no linear");
    return false;
  }
  return true;
}

// Whether a linear's output is added to the residual, or normed.
bool IsRead(const ModelGraph& graph, const Node& linear) {
  if (IsBranch(graph, linear.layer, linear.out)) return true;
  for (const Node& norm : graph.nodes) {
    if (IsNorm(norm) && norm.layer == linear.layer && norm.in0 == linear.out) return true;
  }
  return false;
}

absl::Status MultiplyGain(FoldBuilder& b, int norm, double factor) {
  SF_ASSIGN_OR_RETURN(const std::vector<float> gain, b.Gain(norm));
  std::vector<double> wanted(gain.begin(), gain.end());
  for (double& g : wanted) g *= factor;
  b.SetExactGain(norm, wanted);
  return absl::OkStatus();
}

}  // namespace

absl::Status RescaleResidual(const FoldOptions& options, FoldBuilder& b) {
  const double lambda = options.rescale;
  int exponent = 0;
  if (!(lambda >= 1 && lambda <= kLargest) || std::frexp(lambda, &exponent) != 0.5) {
    return absl::InvalidArgumentError(
        absl::StrCat("rescale: ", lambda, " is not a power of two from 1 (none) to ", kLargest));
  }
  std::string why;
  if (!MayRescale(b.graph(), &why)) {
    b.Refuse(kName, why);
    return absl::OkStatus();
  }
  const auto divide = [&](int64_t width) {
    return Transform::Diagonal(std::vector<double>(static_cast<size_t>(width), 1 / lambda));
  };
  for (int i = 0; i < static_cast<int>(b.graph().nodes.size()); ++i) {
    const Node& node = b.node(i);
    if (node.op == Op::kEmbed) b.Right(i, divide(node.k));
    if (node.op == Op::kLinear && IsRead(b.graph(), node)) b.Left(i, divide(node.n));
    if (node.op != Op::kNorm) continue;
    if (IsBranch(b.graph(), node.layer, node.out)) SF_RETURN_IF_ERROR(MultiplyGain(b, i, 1 / lambda));
    const bool before_embedding = node.role == Role::kFinalNorm && b.graph().config.tied_embeddings;
    if (before_embedding) SF_RETURN_IF_ERROR(MultiplyGain(b, i, lambda));
  }
  b.DivideNormEps(lambda * lambda);
  Json provenance = Json::MakeObject();
  provenance.Set("kind", kName).Set("lambda", lambda);
  b.Applied(kName, std::move(provenance));
  return absl::OkStatus();
}

double RescaleFor(double peak) {
  double lambda = 1;
  while (peak / lambda > kRescaledPeak && lambda < kLargest) lambda *= 2;
  return lambda;
}

}  // namespace spikefold
