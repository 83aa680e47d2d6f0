// norm_gain: y = x/rms * g, W y = (W diag(g)) (x/rms). Needed before a rotation of the residual, where a gain
// a channel has no meaning any more.
#include "absl/strings/str_cat.h"
#include "formats/base/status.h"
#include "quant/folds/fold_builder.h"
#include "quant/folds/graph_links.h"

namespace spikefold {
namespace {

constexpr char kName[] = "norm_gain";

// Whether the norm's gain may go into its readers.
bool MayFold(const FoldOptions& options, const FoldBuilder& b, int norm, std::string* why) {
  const Node& node = b.node(norm);
  if (!LinearsOnlyRead(b.graph(), node.layer, node.out, why)) return false;
  if (node.role != Role::kFinalNorm || !b.graph().config.tied_embeddings) return true;
  if (options.rotate_residual && ResidualMayRotate(b.graph(), why)) return true;  // unties the head
  *why = "the head shares the embedding's weight";
  return false;
}

}  // namespace

absl::Status FoldNormGains(const FoldOptions& options, FoldBuilder& b) {
  int64_t folded = 0;
  for (int i = 0; i < static_cast<int>(b.graph().nodes.size()); ++i) {
    const Node& norm = b.node(i);
    if (norm.op != Op::kNorm || norm.in0 != ValueKind::kResidual) continue;
    std::string why;
    if (!MayFold(options, b, i, &why)) {
      b.Refuse(kName, absl::StrCat(norm.module, ": ", why));
      continue;
    }
    if (norm.role == Role::kFinalNorm) b.Untie();
    SF_ASSIGN_OR_RETURN(const std::vector<float> gain, b.Gain(i));
    for (const int reader : ReadersOf(b.graph(), norm.layer, norm.out)) {
      b.Right(reader, Transform::Diagonal({gain.begin(), gain.end()}));
    }
    b.SetGain(i, std::vector<double>(gain.size(), 1.0));
    ++folded;
  }
  Json provenance = Json::MakeObject();
  provenance.Set("kind", kName).Set("norms", folded);
  if (folded > 0) b.Applied(kName, std::move(provenance));
  return absl::OkStatus();
}

}  // namespace spikefold
