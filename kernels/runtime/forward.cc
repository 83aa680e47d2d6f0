#include "kernels/runtime/forward.h"

#include <algorithm>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "formats/base/status.h"
#include "kernels/runtime/ops.h"
#include "kernels/runtime/pass.h"
#include "kernels/runtime/walk.h"

namespace spikefold {

absl::Status NotFinite(int64_t token) {
  return absl::DataLossError(absl::StrCat("logits: that of token ", token,
                                          " is not finite; the model computes nothing to choose from"));
}

namespace {

absl::Status CheckIds(const RuntimeModel& model, absl::Span<const int32_t> tokens) {
  const ModelConfig& c = model.graph().config;
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < 0 || tokens[i] >= c.vocab) {
      return absl::InvalidArgumentError(absl::StrCat(
          "token ", i, ": id ", tokens[i], " is outside the vocabulary; 0 to ", c.vocab - 1, " are allowed"));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckRows(const RuntimeModel& model, absl::Span<const int32_t> tokens, size_t hidden_rows,
                       size_t hidden_size) {
  SF_RETURN_IF_ERROR(CheckIds(model, tokens));
  const ModelConfig& c = model.graph().config;
  const size_t want = hidden_rows * static_cast<size_t>(c.hidden);
  if (hidden_size == want) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("hidden: room for ", hidden_size, " values; ", want,
                                                 " needed (", hidden_rows, " tokens x ", c.hidden, ")"));
}

absl::Status CheckCall(const RuntimeModel& model, absl::Span<const int32_t> tokens, const KvCache& cache,
                       size_t hidden_rows, size_t hidden_size) {
  SF_RETURN_IF_ERROR(CheckRows(model, tokens, hidden_rows, hidden_size));
  const int64_t needed = cache.length() + static_cast<int64_t>(tokens.size());
  if (needed <= cache.capacity()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("cache: ", needed, " positions needed; ", cache.capacity(),
                                                 " allowed; make it larger or feed fewer tokens"));
}

// Rotary tables for the whole cache at once; the capacity of an evicting one costs nothing and may be
// anything.
int64_t RopePositions(const KvCache& cache, int64_t rows) {
  constexpr int64_t kStep = 4096;
  if (cache.options().evict == 0) return cache.capacity();
  return std::min(cache.capacity(), (cache.length() + rows + kStep - 1) / kStep * kStep);
}

}  // namespace

absl::Status Forward(const RuntimeModel& model, absl::Span<const int32_t> tokens, KvCache& cache,
                     absl::Span<float> hidden, const ForwardOptions& options) {
  const int64_t total = static_cast<int64_t>(tokens.size());
  const int64_t first_wanted = options.last_row_only ? std::max<int64_t>(total - 1, 0) : 0;
  SF_RETURN_IF_ERROR(
      CheckCall(model, tokens, cache, static_cast<size_t>(total - first_wanted), hidden.size()));
  SF_ASSIGN_OR_RETURN(Walk* const walk, Walk::Of(model));
  const bool watched = options.taps != nullptr || options.interventions != nullptr;
  const int64_t block = watched ? std::max<int64_t>(total, 1) : model.ops().block_rows();
  SF_RETURN_IF_ERROR(walk->Reserve(model.ops(), std::min(block, total), RopePositions(cache, total)));
  const int64_t before = cache.length();
  const int64_t d = model.graph().config.hidden;
  for (int64_t at = 0; at < total; at += block) {
    const int64_t rows = std::min(block, total - at);
    KvCache* const caches[] = {&cache};
    const int64_t wanted = std::max(at, first_wanted);  // row of the text
    absl::Status status = Pass(model, *walk, caches, options)
                              .Run(tokens.subspan(static_cast<size_t>(at), static_cast<size_t>(rows)),
                                   wanted - at, hidden.data() + (wanted - first_wanted) * d);
    if (!status.ok()) {
      cache.Truncate(before);
      return status;
    }
  }
  return absl::OkStatus();
}

bool IsResidualNorm(const Node& node) { return node.op == Op::kNorm && node.in0 == ValueKind::kResidual; }

namespace {

absl::Status CheckRange(const ModelGraph& graph, const NodeRange& range, size_t num_tokens) {
  const int count = static_cast<int>(graph.nodes.size());
  const auto fail = [&](absl::string_view must) {
    return absl::InvalidArgumentError(
        absl::StrCat("nodes ", range.begin, " to ", range.end, " of ", count, ": a part ", must));
  };
  if (range.begin < 0 || range.begin >= range.end || range.end > count) return fail("holds a node at least");
  const Node& first = graph.nodes[static_cast<size_t>(range.begin)];
  if (range.input.empty()) {
    if (range.begin == 0 || IsResidualNorm(first)) return absl::OkStatus();
    return fail("without an input begins with the embedding or a norm of the residual");
  }
  for (const Site& site : graph.sites) {
    if (site.linears.front() != range.begin) continue;
    const size_t want = num_tokens * static_cast<size_t>(site.k);
    if (range.input.size() == want) return absl::OkStatus();
    return fail(absl::StrCat("of ", num_tokens, " tokens needs an input of ", want, " values; ",
                             range.input.size(), " given"));
  }
  return fail("with an input begins with the first linear of a site");
}

}  // namespace

absl::Status ForwardNodes(const RuntimeModel& model, NodeRange range, absl::Span<const int32_t> tokens,
                          KvCache& cache, absl::Span<float> residual, const ForwardOptions& options) {
  SF_RETURN_IF_ERROR(CheckRange(model.graph(), range, tokens.size()));
  SF_RETURN_IF_ERROR(CheckCall(model, tokens, cache, tokens.size(), residual.size()));
  if (tokens.empty()) return absl::OkStatus();
  SF_ASSIGN_OR_RETURN(Walk* const walk, Walk::Of(model));
  SF_RETURN_IF_ERROR(walk->Reserve(model.ops(), static_cast<int64_t>(tokens.size()), cache.capacity()));
  KvCache* const caches[] = {&cache};
  return Pass(model, *walk, caches, options).RunPart(range, tokens, residual.data());
}

namespace {

// Positions that a step of a token a sequence needs rotary tables for.
absl::StatusOr<int64_t> CheckStep(absl::Span<const int32_t> tokens, absl::Span<KvCache* const> caches) {
  if (tokens.empty() || tokens.size() != caches.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("batch: ", tokens.size(), " tokens for ", caches.size(), " caches; one each is needed"));
  }
  absl::flat_hash_set<const KvCache*> seen;
  int64_t positions = 0;
  for (size_t i = 0; i < caches.size(); ++i) {
    const KvCache& cache = *caches[i];
    if (caches.size() > 1 && !seen.insert(&cache).second) {
      return absl::InvalidArgumentError(absl::StrCat(
          "batch: sequence ", i, ": its cache is that of another one too; each needs one of its own"));
    }
    if (cache.length() == cache.capacity()) {
      return absl::InvalidArgumentError(absl::StrCat("batch: sequence ", i, ": its cache of ",
                                                     cache.capacity(), " positions is full; make it larger"));
    }
    positions = std::max(positions, RopePositions(cache, 1));
  }
  return positions;
}

}  // namespace

absl::Status ForwardBatch(const RuntimeModel& model, absl::Span<const int32_t> tokens,
                          absl::Span<KvCache* const> caches, absl::Span<float> hidden) {
  SF_ASSIGN_OR_RETURN(const int64_t positions, CheckStep(tokens, caches));
  if (tokens.size() == 1) return Forward(model, tokens, *caches.front(), hidden, {});
  SF_RETURN_IF_ERROR(CheckRows(model, tokens, tokens.size(), hidden.size()));
  SF_ASSIGN_OR_RETURN(Walk* const walk, Walk::Of(model));
  SF_RETURN_IF_ERROR(walk->Reserve(model.ops(), static_cast<int64_t>(tokens.size()), positions));
  return Pass(model, *walk, caches, {}).Run(tokens, 0, hidden.data());
}

absl::Status ForwardGreedy(const RuntimeModel& model, absl::Span<const int32_t> tokens,
                           absl::Span<KvCache* const> caches, absl::Span<int32_t> next) {
  SF_ASSIGN_OR_RETURN(const int64_t positions, CheckStep(tokens, caches));
  SF_RETURN_IF_ERROR(CheckIds(model, tokens));
  if (next.size() != tokens.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("batch: room for ", next.size(), " tokens; ", tokens.size(), " needed"));
  }
  SF_ASSIGN_OR_RETURN(Walk* const walk, Walk::Of(model));
  SF_RETURN_IF_ERROR(walk->Reserve(model.ops(), static_cast<int64_t>(tokens.size()), positions));
  return Pass(model, *walk, caches, {}).FindBest(tokens, next.data());
}

absl::Status Logits(const RuntimeModel& model, absl::Span<const float> hidden, absl::Span<float> logits) {
  const ModelGraph& graph = model.graph();
  const size_t d = static_cast<size_t>(graph.config.hidden), vocab = static_cast<size_t>(graph.config.vocab);
  const size_t rows = hidden.size() / d;
  if (hidden.size() != rows * d || logits.size() != rows * vocab) {
    return absl::InvalidArgumentError(absl::StrCat("logits: ", hidden.size(), " hidden values and room for ",
                                                   logits.size(), " logits; ", d, " and ", vocab,
                                                   " a row are needed"));
  }
  if (rows == 0) return absl::OkStatus();
  const Site& site = graph.sites.back();
  return model.ops().Head(*model.linear(site.linears.front()), model.form(site.id),
                          static_cast<int64_t>(rows), hidden.data(), logits.data());
}

absl::Status KeepLogits(const RuntimeModel& model, LogitsOf of, absl::Span<const float> hidden) {
  const ModelGraph& graph = model.graph();
  const Site& site = graph.sites.back();
  const int64_t rows = static_cast<int64_t>(hidden.size()) / graph.config.hidden;
  return model.ops().KeepLogits(of, *model.linear(site.linears.front()), model.form(site.id), rows,
                                hidden.data());
}

absl::StatusOr<KvPrefix> ComputePrefix(const RuntimeModel& model, absl::Span<const int32_t> tokens) {
  const ModelConfig& c = model.graph().config;
  const int64_t p = static_cast<int64_t>(tokens.size()), width = c.num_kv_heads * c.head_dim;
  KvPrefix prefix;
  prefix.tokens.assign(tokens.begin(), tokens.end());
  KvCache cache(c, p);
  std::vector<float> hidden(static_cast<size_t>(p * c.hidden));
  SF_RETURN_IF_ERROR(Forward(model, tokens, cache, absl::MakeSpan(hidden), {}));
  SF_RETURN_IF_ERROR(model.ops().ReadCache(cache));
  const auto round = [&](const float* rows) {
    std::vector<uint16_t> out(static_cast<size_t>(p * width));
    for (int64_t h = 0; h < c.num_kv_heads; ++h) {
      for (int64_t t = 0; t < p; ++t) {
        for (int64_t i = 0; i < c.head_dim; ++i) {
          out[static_cast<size_t>((h * p + t) * c.head_dim + i)] =
              FloatToBf16(rows[t * width + h * c.head_dim + i]);
        }
      }
    }
    return out;
  };
  for (int layer = 0; layer < c.num_layers; ++layer) {
    prefix.k.push_back(round(cache.k(layer)));
    prefix.v.push_back(round(cache.v(layer)));
  }
  return prefix;
}

}  // namespace spikefold
