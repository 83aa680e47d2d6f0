#include "kernels/runtime/profile.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "formats/base/status.h"
#include "kernels/runtime/forward.h"
#include "kernels/runtime/ops.h"
#include "kernels/runtime/pass.h"
#include "kernels/runtime/walk.h"

namespace spikefold {
namespace {

// q_proj, k_proj, v_proj -> "qkv_proj"; gate_proj, up_proj -> "gate_up_proj".
std::string SiteName(const ModelGraph& graph, const Site& site) {
  constexpr absl::string_view kEnding = "_proj";
  std::vector<absl::string_view> stems;
  bool letters = true, ends = true;
  for (const int node : site.linears) {
    absl::string_view stem = RoleName(graph.nodes[static_cast<size_t>(node)].role);
    ends = absl::ConsumeSuffix(&stem, kEnding) && ends;
    letters = letters && stem.size() == 1;
    stems.push_back(stem);
  }
  return absl::StrCat(absl::StrJoin(stems, letters ? "" : "_"), ends ? kEnding : "");
}

// What a node computes; empty: another one does its work.
std::string KindOf(const ModelGraph& graph, int i) {
  const Node& node = graph.nodes[static_cast<size_t>(i)];
  switch (node.op) {
    case Op::kEmbed:
      return "embedding";
    case Op::kNorm:
      return IsResidualNorm(node) ? "norm" : "";
    case Op::kLinear:
      return SiteName(graph, graph.sites[static_cast<size_t>(graph.SiteOf(i))]);
    case Op::kRope:  // a step's attention may turn the rows itself
      return node.in0 == ValueKind::kK ? "attention" : "";
    case Op::kAttention:
      return "attention";
    case Op::kGatedMul:
      return "gated_product";
    case Op::kHeadNorm:
    case Op::kAdd:
      return "";
  }
  return "";
}

struct Kind {
  OpTime time;
  NodeFilter nodes;
  std::map<std::pair<int64_t, int64_t>, int64_t> shapes;  // [n, k] of its sites: how many
};

void CountSite(const RuntimeModel& model, const Site& site, int64_t rows, Kind& kind) {
  int64_t n = 0;
  bool codes = !model.form(site.id).format.is_float();
  for (const int node : site.linears) {
    const LinearWeights& w = *model.linear(node);
    n += w.n;
    kind.time.bytes += w.MemoryBytes();
    codes = codes && w.kind != LinearWeights::Kind::kF32;
  }
  const double ops = 2.0 * static_cast<double>(rows) * static_cast<double>(n) * static_cast<double>(site.k);
  kind.time.ops += ops;
  if (codes) kind.time.int8_ops += ops;
  ++kind.shapes[{n, site.k}];
}

std::vector<Kind> KindsOf(const RuntimeModel& model, int64_t rows, int64_t sequences) {
  const ModelGraph& graph = model.graph();
  const int count = static_cast<int>(graph.nodes.size());
  std::vector<Kind> kinds;
  std::vector<std::string> names;
  for (int i = 0; i < count; ++i) {
    names.push_back(KindOf(graph, i));
    if (names.back().empty()) continue;
    auto kind =
        std::find_if(kinds.begin(), kinds.end(), [&](const Kind& k) { return k.time.name == names.back(); });
    if (kind == kinds.end()) kind = kinds.insert(kind, {.time = {.name = names.back()}});
    const Node& node = graph.nodes[static_cast<size_t>(i)];
    if (node.op == Op::kRope) continue;  // counts as its attention
    if (node.op == Op::kLinear) {
      const Site& site = graph.sites[static_cast<size_t>(graph.SiteOf(i))];
      if (site.linears.front() != i) continue;
      CountSite(model, site, node.role == Role::kHead ? sequences : rows, *kind);
    }
    ++kind->time.calls;
  }
  for (Kind& kind : kinds) {
    for (const std::string& name : names) kind.nodes.push_back(name.empty() || name == kind.time.name);
    kind.time.repeats_fit = kind.time.bytes > 0 && kind.time.bytes <= model.ops().limits().cache_bytes;
  }
  return kinds;
}

// As the caller goes on from here: what it checks is checked, and every buffer holds rows of the walk.
absl::Status RunOnce(const RuntimeModel& model, absl::Span<const int32_t> tokens,
                     absl::Span<KvCache* const> caches) {
  std::vector<int64_t> lengths;
  for (const KvCache* cache : caches) lengths.push_back(cache->length());
  if (tokens.size() == caches.size()) {
    std::vector<int32_t> next(tokens.size());
    SF_RETURN_IF_ERROR(ForwardGreedy(model, tokens, caches, absl::MakeSpan(next)));
  } else {
    std::vector<float> hidden(static_cast<size_t>(model.graph().config.hidden));
    SF_RETURN_IF_ERROR(
        Forward(model, tokens, *caches.front(), absl::MakeSpan(hidden), {.last_row_only = true}));
  }
  for (size_t i = 0; i < caches.size(); ++i) caches[i]->Truncate(lengths[i]);
  for (size_t i = 0; i < caches.size(); ++i) {
    if (caches[i]->length() == lengths[i]) continue;
    return absl::FailedPreconditionError(absl::StrCat("profile: cache ", i, " has ", caches[i]->length(),
                                                      " rows left of ", lengths[i],
                                                      "; begin at its prefix, or with fewer rows"));
  }
  return absl::OkStatus();
}

// So many that a recording has this many calls at the least: starting it on a device costs time as well.
int TimesFor(const RuntimeModel& model, int64_t calls, bool is_step) {
  const int64_t least = model.ops().device().empty() ? 4 : is_step ? 64 : 16;
  return static_cast<int>((least + calls - 1) / calls);
}

}  // namespace

absl::StatusOr<WalkProfile> ProfileWalk(const RuntimeModel& model, absl::Span<const int32_t> tokens,
                                        absl::Span<KvCache* const> caches, const Progress& progress) {
  WalkProfile profile = {.sequences = static_cast<int64_t>(caches.size()),
                         .rows = static_cast<int64_t>(tokens.size())};
  const bool is_step = tokens.size() == caches.size();
  if (tokens.empty() || (!is_step && (caches.size() != 1 || profile.rows > model.ops().block_rows()))) {
    return absl::InvalidArgumentError(absl::StrCat("profile: ", tokens.size(), " tokens of ", caches.size(),
                                                   " sequences; one each is needed, or 1 to ",
                                                   model.ops().block_rows(), " of one"));
  }
  const KvCache& first = *caches.front();
  if (!is_step && first.pages() != nullptr && first.length() > first.prefix_length()) {
    return absl::InvalidArgumentError(
        "profile: a block behind text in pages would code rows that come back less exact; begin at the "
        "prefix");
  }
  profile.position = first.length();
  SF_RETURN_IF_ERROR(RunOnce(model, tokens, caches));
  SF_ASSIGN_OR_RETURN(Walk* const walk, Walk::Of(model));
  Pass pass(model, *walk, caches, {});
  std::vector<Kind> kinds = KindsOf(model, profile.rows, profile.sequences);
  int64_t calls = 0;
  for (const Kind& kind : kinds) calls += kind.time.calls;
  const auto time = [&](const NodeFilter* nodes, int64_t of_calls, double& seconds) -> absl::Status {
    SF_ASSIGN_OR_RETURN(const Ops::Timing timing,
                        pass.Time(tokens, nodes, TimesFor(model, of_calls, is_step)));
    seconds = timing.seconds;
    profile.has_host = profile.has_host || timing.has_host;
    return absl::OkStatus();
  };
  SF_RETURN_IF_ERROR(time(nullptr, calls, profile.seconds));
  const int64_t num_kinds = static_cast<int64_t>(kinds.size());
  for (int64_t i = 0; i < num_kinds; ++i) {
    if (!Report(progress, "timing kernels", i, num_kinds)) {
      return absl::CancelledError(absl::StrCat("profile: stopped after ", i, " of ", num_kinds, " kinds"));
    }
    Kind& kind = kinds[static_cast<size_t>(i)];
    SF_RETURN_IF_ERROR(time(&kind.nodes, kind.time.calls, kind.time.seconds));
  }
  for (Kind& kind : kinds) {
    const int64_t m = kind.time.name == RoleName(Role::kHead) ? profile.sequences : profile.rows;
    double seconds = 0;
    for (const auto& [shape, count] : kind.shapes) {
      const absl::StatusOr<double> peer = model.ops().TimePeer(m, shape.first, shape.second);
      const bool none = absl::IsUnimplemented(peer.status()) || absl::IsResourceExhausted(peer.status());
      if (!peer.ok() && !none) return peer.status();
      if (!peer.ok()) profile.no_peer = std::string(peer.status().message());
      seconds = peer.ok() && seconds >= 0 ? seconds + static_cast<double>(count) * *peer : -1;
    }
    kind.time.peer_seconds = std::max(seconds, 0.0);
    profile.kernels.push_back(std::move(kind.time));
  }
  return profile;
}

}  // namespace spikefold
