// smooth: x -> x / s, W <- W diag(s) for the linears of a site, 1/s going into what makes x: the norm's gain,
// the rows of up, or the rows of v. SmoothQuant (2211.10438), section 4, on all four sites.
#include <cmath>

#include "absl/strings/str_cat.h"
#include "formats/base/hash.h"
#include "formats/base/status.h"
#include "quant/folds/fold_builder.h"
#include "quant/folds/graph_links.h"

namespace spikefold {
namespace {

constexpr char kName[] = "smooth";

const Site* FindSite(const ModelGraph& graph, const SiteScales& s) {
  for (const Site& site : graph.sites) {
    if (site.layer == s.layer && site.value == s.value) return &site;
  }
  return nullptr;
}

absl::Status CheckScales(const ModelGraph& graph, const SiteScales& s) {
  const std::string where = absl::StrCat("smooth: layers.", s.layer, ".", ValueKindName(s.value));
  const Site* site = FindSite(graph, s);
  if (site == nullptr || s.layer < 0)
    return absl::InvalidArgumentError(absl::StrCat(where, ": no such site"));
  const ModelConfig& c = graph.config;
  const int64_t needed = s.value == ValueKind::kCtx ? c.num_kv_heads * c.head_dim : site->k;
  if (static_cast<int64_t>(s.scales.size()) != needed) {
    return absl::InvalidArgumentError(
        absl::StrCat(where, ": ", s.scales.size(), " scales; ", needed, " are needed"));
  }
  for (size_t i = 0; i < s.scales.size(); ++i) {
    if (s.scales[i] > 0 && std::isfinite(s.scales[i]) && std::isfinite(1 / s.scales[i])) continue;
    return absl::InvalidArgumentError(
        absl::StrCat(where, ": scale ", i, " is ", s.scales[i], "; a positive finite number is needed"));
  }
  return absl::OkStatus();
}

std::vector<double> Inverse(absl::Span<const float> scales) {
  std::vector<double> inverse;
  for (const float s : scales) inverse.push_back(1 / static_cast<double>(s));
  return inverse;
}

// Through the norm's gain. The linears get what the stored gain leaves to do.
absl::StatusOr<std::vector<double>> ThroughGain(FoldBuilder& b, int norm, absl::Span<const float> scales) {
  SF_ASSIGN_OR_RETURN(const std::vector<float> before, b.Gain(norm));
  std::vector<double> wanted;
  for (size_t i = 0; i < scales.size(); ++i) {
    wanted.push_back(static_cast<double>(before[i]) / static_cast<double>(scales[i]));
  }
  const std::vector<float> after = b.SetGain(norm, wanted);
  std::vector<double> rest;
  for (size_t i = 0; i < scales.size(); ++i) {
    rest.push_back(before[i] == 0 ? 1.0 : static_cast<double>(before[i]) / static_cast<double>(after[i]));
  }
  return rest;
}

// The scales of a KV head for each of its query heads.
std::vector<double> ForQueryHeads(const ModelConfig& c, absl::Span<const float> scales) {
  std::vector<double> all;
  for (int64_t head = 0; head < c.num_heads; ++head) {
    const int64_t kv = head / (c.num_heads / c.num_kv_heads);
    for (int64_t i = 0; i < c.head_dim; ++i) all.push_back(scales[static_cast<size_t>(kv * c.head_dim + i)]);
  }
  return all;
}

// Divides what makes the site's input and returns what its columns are to be multiplied by; empty and `why`
// if nothing can absorb the scales.
absl::StatusOr<std::vector<double>> Absorb(FoldBuilder& b, const SiteScales& s, std::string* why) {
  const ModelGraph& graph = b.graph();
  const std::vector<double> none;
  if (!LinearsOnlyRead(graph, s.layer, s.value, why)) return none;
  if (s.value == ValueKind::kCtx) {
    const int v = OnlyLinearInto(graph, s.layer, ValueKind::kV, why);
    if (v < 0) return none;
    b.Left(v, Transform::Diagonal(Inverse(s.scales)));
    return ForQueryHeads(graph.config, s.scales);
  }
  const std::vector<int> writers = WritersOf(graph, s.layer, s.value);
  const Node& writer = b.node(writers.front());
  if (writers.size() == 1 && writer.op == Op::kNorm) return ThroughGain(b, writers.front(), s.scales);
  if (writers.size() == 1 && writer.op == Op::kGatedMul) {
    const int up = OnlyLinearInto(graph, s.layer, writer.in1, why);
    if (up < 0) return none;
    b.Left(up, Transform::Diagonal(Inverse(s.scales)));
    return std::vector<double>(s.scales.begin(), s.scales.end());
  }
  *why = absl::StrCat(Describe(graph, writers.front()), " makes ", ValueKindName(s.value),
                      " and cannot take scales");
  return none;
}

}  // namespace

absl::Status ScaleChannels(const FoldOptions& options, FoldBuilder& b) {
  Sha256 digest;
  Json sites = Json::MakeArray();
  for (size_t i = 0; i < options.smooth.size(); ++i) {
    const SiteScales& s = options.smooth[i];
    SF_RETURN_IF_ERROR(CheckScales(b.graph(), s));
    const Site& site = *FindSite(b.graph(), s);
    for (size_t j = 0; j < i; ++j) {
      if (options.smooth[j].layer != s.layer || options.smooth[j].value != s.value) continue;
      return absl::InvalidArgumentError(absl::StrCat("smooth: ", site.name, " is there twice"));
    }
    std::string why;
    SF_ASSIGN_OR_RETURN(const std::vector<double> columns, Absorb(b, s, &why));
    if (columns.empty()) {
      b.Refuse(kName, absl::StrCat(site.name, ": ", why));
      continue;
    }
    for (const int linear : site.linears) b.Right(linear, Transform::Diagonal(columns));
    sites.Append(site.name);
    digest.Update({reinterpret_cast<const char*>(s.scales.data()), s.scales.size() * sizeof(float)});
  }
  if (sites.array().empty()) return absl::OkStatus();
  Json provenance = Json::MakeObject();
  provenance.Set("kind", kName).Set("sites", std::move(sites)).Set("scales_sha256", digest.Hex());
  b.Applied(kName, std::move(provenance));
  return absl::OkStatus();
}

}  // namespace spikefold
