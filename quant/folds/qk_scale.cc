// qk_scale: q -> q s, k -> k / s before rotary embedding, one scale for the two channels of a rotary pair, so
// that it commutes with the turn; one for all query heads of a KV head. Scores are what they were. A norm of
// queries and keys has one gain for all heads, which takes the scales, so these must be alike there.
#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "formats/base/hash.h"
#include "formats/base/status.h"
#include "quant/folds/fold_builder.h"
#include "quant/folds/graph_links.h"
#include "quant/folds/qk_scales.h"

namespace spikefold {
namespace {

constexpr char kName[] = "qk_scale";

absl::Status CheckScales(const ModelConfig& c, const QkScales& s) {
  const std::string where = absl::StrCat("qk_scale: layer ", s.layer);
  const int64_t pairs = c.head_dim / 2, needed = c.num_kv_heads * pairs;
  if (s.layer < 0 || s.layer >= c.num_layers) {
    return absl::InvalidArgumentError(absl::StrCat(where, " of ", c.num_layers, ": no such layer"));
  }
  if (static_cast<int64_t>(s.scales.size()) != needed) {
    return absl::InvalidArgumentError(
        absl::StrCat(where, ": ", s.scales.size(), " scales; ", needed, " are needed"));
  }
  for (size_t i = 0; i < s.scales.size(); ++i) {
    const float scale = s.scales[i];
    if (!(scale > 0 && std::isfinite(scale) && std::isfinite(1 / scale))) {
      return absl::InvalidArgumentError(
          absl::StrCat(where, ": scale ", i, " is ", scale, "; a positive finite number is needed"));
    }
    if (c.qk_norm && scale != s.scales[i % static_cast<size_t>(pairs)]) {
      return absl::InvalidArgumentError(
          absl::StrCat(where, ": scale ", i, " is not that of the first head, with which it shares a gain"));
    }
  }
  return absl::OkStatus();
}

// Of the channels of `heads` heads, `group` of which share a KV head.
std::vector<double> Channels(const ModelConfig& c, const QkScales& s, int64_t heads, int64_t group,
                             bool invert) {
  std::vector<double> out;
  const int64_t pairs = c.head_dim / 2;
  for (int64_t head = 0; head < heads; ++head) {
    for (int64_t i = 0; i < c.head_dim; ++i) {
      const double scale = s.scales[static_cast<size_t>(head / group * pairs + i % pairs)];
      out.push_back(invert ? 1 / scale : scale);
    }
  }
  return out;
}

// The norm, or else the linear, that the scales of queries or keys go into; -1: something else is there.
int Absorber(const ModelGraph& graph, int layer, ValueKind value, std::string* why) {
  int found = -1;
  for (const int writer : WritersOf(graph, layer, value)) {
    const Op op = graph.nodes[static_cast<size_t>(writer)].op;
    if (op == Op::kLinear || op == Op::kHeadNorm) {
      found = writer;
    } else if (op != Op::kRope) {
      *why = absl::StrCat(Describe(graph, writer), " changes ", ValueKindName(value));
      return -1;
    }
  }
  if (found < 0) *why = absl::StrCat("no linear makes ", ValueKindName(value), " of layer ", layer);
  return found;
}

absl::Status Multiply(FoldBuilder& b, int node, const std::vector<double>& factors) {
  if (b.node(node).op == Op::kLinear) {
    b.Left(node, Transform::Diagonal(factors));
    return absl::OkStatus();
  }
  SF_ASSIGN_OR_RETURN(const std::vector<float> gain, b.Gain(node));
  std::vector<double> scaled(gain.begin(), gain.end());
  for (size_t i = 0; i < scaled.size(); ++i) scaled[i] *= factors[i];
  b.SetExactGain(node, scaled);
  return absl::OkStatus();
}

// The quantile whose size stands for a channel's: one row in 64 is beyond it, spike rows among these.
float Size(const KeyStats& keys, size_t channel, size_t channels) {
  const auto at = [&](int i) {
    return std::fabs(keys.quantiles[static_cast<size_t>(i) * channels + channel]);
  };
  int low = 0;
  while (KeyQuantileShare(low) < 1.0 / 64) ++low;
  return std::max(at(low), at(kKeyQuantiles - 1 - low));
}

}  // namespace

absl::Status ScaleQueriesKeys(const FoldOptions& options, FoldBuilder& b) {
  const ModelConfig& c = b.graph().config;
  Sha256 digest;
  Json layers = Json::MakeArray();
  for (size_t i = 0; i < options.qk_scales.size(); ++i) {
    const QkScales& s = options.qk_scales[i];
    SF_RETURN_IF_ERROR(CheckScales(c, s));
    if (i > 0 && s.layer <= options.qk_scales[i - 1].layer) {
      return absl::InvalidArgumentError(absl::StrCat("qk_scale: layer ", s.layer, " does not ascend"));
    }
    std::string why;
    const int q = Absorber(b.graph(), s.layer, ValueKind::kQ, &why);
    const int k = Absorber(b.graph(), s.layer, ValueKind::kK, &why);
    if (q < 0 || k < 0) {
      b.Refuse(kName, why);
      continue;
    }
    const auto heads = [&](int node, int64_t all) { return b.node(node).op == Op::kHeadNorm ? 1 : all; };
    SF_RETURN_IF_ERROR(Multiply(
        b, q, Channels(c, s, heads(q, c.num_heads), c.num_heads / c.num_kv_heads, /*invert=*/false)));
    SF_RETURN_IF_ERROR(Multiply(b, k, Channels(c, s, heads(k, c.num_kv_heads), 1, /*invert=*/true)));
    digest.Update({reinterpret_cast<const char*>(s.scales.data()), s.scales.size() * sizeof(float)});
    layers.Append(static_cast<int64_t>(s.layer));
  }
  if (layers.array().empty()) return absl::OkStatus();
  Json provenance = Json::MakeObject();
  provenance.Set("kind", kName).Set("layers", std::move(layers)).Set("scales_sha256", digest.Hex());
  b.Applied(kName, std::move(provenance));
  return absl::OkStatus();
}

absl::StatusOr<std::vector<QkScales>> ChooseQkScales(absl::Span<const KeyStats> keys, const ModelConfig& c,
                                                     double alpha) {
  if (!(alpha >= 0 && alpha <= 1)) {
    return absl::InvalidArgumentError(
        absl::StrCat("qk_smooth=", alpha, "; alpha must be from 0 (none) to 1"));
  }
  const size_t pairs = static_cast<size_t>(c.head_dim / 2), heads = static_cast<size_t>(c.num_kv_heads);
  std::vector<QkScales> out;
  for (const KeyStats& layer : keys) {
    if (layer.quantiles.size() != kKeyQuantiles * heads * 2 * pairs) {
      return absl::InvalidArgumentError(
          absl::StrCat("scan: keys of layer ", layer.layer, " are another model's; scan this one"));
    }
    std::vector<double> sizes(heads * pairs);  // log2
    for (size_t i = 0; i < sizes.size(); ++i) {
      const size_t channel = i / pairs * 2 * pairs + i % pairs;
      const float size =
          std::max(Size(layer, channel, heads * 2 * pairs), Size(layer, channel + pairs, heads * 2 * pairs));
      sizes[i] = std::log2(std::max(static_cast<double>(size), 1e-5));
    }
    for (size_t i = 0; c.qk_norm && i < sizes.size(); ++i) {
      sizes[i % pairs] = std::max(sizes[i % pairs], sizes[i]);
    }
    QkScales& scales = out.emplace_back(QkScales{.layer = layer.layer, .scales = {}});
    for (size_t i = 0; i < sizes.size(); ++i) {
      const size_t first = c.qk_norm ? 0 : i / pairs * pairs;
      double mean = 0;
      for (size_t j = 0; j < pairs; ++j) mean += sizes[first + j] / static_cast<double>(pairs);
      const double own = sizes[c.qk_norm ? i % pairs : i];
      scales.scales.push_back(static_cast<float>(std::exp2(std::round(alpha * (own - mean)))));
    }
  }
  return out;
}

}  // namespace spikefold
