#include "calib/anatomy_probes.h"

#include <algorithm>
#include <cmath>
#include <random>

#include "absl/strings/str_cat.h"
#include "calib/sinks.h"
#include "calib/spike_stages.h"
#include "formats/base/status.h"
#include "kernels/runtime/forward.h"

namespace spikefold {
namespace {

constexpr int64_t kRows = 512;  // tokens a pass
constexpr int64_t kSinkWindows = 8;

// Every row as if it were the first of a sequence.
class Alone : public Interventions {
 public:
  AttentionView View(int) const override { return {.only_itself = true}; }
  bool Wants(int, ValueKind) const override { return false; }
  void Edit(int, ValueKind, float*, int64_t, int64_t, int64_t) override {}
};

// Counts the rows that spike after the layers that write.
class SpikeCounter : public Taps {
 public:
  explicit SpikeCounter(const std::vector<SpikeStage>& stages) : stages_(stages), counts_(stages.size(), 0) {}
  bool Wants(int layer, ValueKind value) const override {
    return value == ValueKind::kResidual &&
           std::any_of(stages_.begin(), stages_.end(),
                       [&](const SpikeStage& stage) { return stage.step_up == layer; });
  }
  bool WantsAttention(int) const override { return false; }
  void OnRows(const TapRows& rows) override {
    for (size_t s = 0; s < stages_.size(); ++s) {
      if (stages_[s].step_up != rows.layer) continue;
      const auto leader = std::find_if(stages_[s].channels.begin(), stages_[s].channels.end(),
                                       [](const SpikeChannel& c) { return c.leader; });
      if (leader == stages_[s].channels.end()) continue;
      for (int64_t t = 0; t < rows.num_rows; ++t) {
        const double height = static_cast<double>(std::fabs(rows.data[t * rows.width + leader->channel]));
        counts_[s] += height > kSpikeRowShare * stages_[s].plateau;
      }
    }
  }
  int64_t count(size_t stage) const { return counts_[stage]; }

 private:
  const std::vector<SpikeStage>& stages_;
  std::vector<int64_t> counts_;
};

absl::Status ProbeVocabulary(const AnatomyProbeInput& in, OutlierMap& map) {
  if (map.stages.empty()) return absl::OkStatus();
  const ModelGraph& graph = in.model.graph();
  int last = 0;
  for (const SpikeStage& stage : map.stages) last = std::max(last, stage.step_up);
  NodeRange range;
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    if (graph.nodes[i].layer <= last && graph.nodes[i].layer >= 0) range.end = static_cast<int>(i) + 1;
  }
  const int64_t vocab = graph.config.vocab, count = std::min(in.max_tokens, vocab);
  const int64_t rows = std::min(kRows, count);
  KvCache cache(graph.config, rows);
  std::vector<float> residual(static_cast<size_t>(rows * graph.config.hidden));
  Alone alone;
  SpikeCounter counter(map.stages);
  for (int64_t at = 0; at < count; at += rows) {
    if (!Report(in.progress, "asking the vocabulary", at, count)) {
      return absl::CancelledError(absl::StrCat("vocabulary: stopped after ", at, " of ", count, " tokens"));
    }
    std::vector<int32_t> ids;
    for (int64_t i = at; i < std::min(at + rows, count); ++i) {
      ids.push_back(static_cast<int32_t>(i * vocab / count));
    }
    SF_RETURN_IF_ERROR(ForwardNodes(
        in.model, range, ids, cache,
        absl::MakeSpan(residual).subspan(0, ids.size() * static_cast<size_t>(graph.config.hidden)),
        {.taps = &counter, .interventions = &alone}));
  }
  map.probes.vocabulary_tokens = count;
  for (size_t s = 0; s < map.stages.size(); ++s) {
    map.stages[s].vocabulary_share = static_cast<double>(counter.count(s)) / static_cast<double>(count);
  }
  return absl::OkStatus();
}

// Windows of tokens drawn at random, and of one such token each.
absl::Status ProbeSinks(const AnatomyProbeInput& in, OutlierMap& map) {
  std::mt19937_64 random(in.seed);
  const auto draw = [&] {
    const uint64_t vocab = static_cast<uint64_t>(in.model.graph().config.vocab);
    int32_t token = static_cast<int32_t>(random() % vocab);
    while (in.tokenizer.is_special(token)) token = static_cast<int32_t>(random() % vocab);
    return token;
  };
  Windows mixed, repeated;
  for (int64_t w = 0; w < kSinkWindows; ++w) {
    mixed.emplace_back();
    for (int64_t t = 0; t < kSinkLength; ++t) mixed.back().push_back(draw());
    repeated.emplace_back(static_cast<size_t>(kSinkLength), draw());
  }
  if (in.tokenizer.add_bos() && in.tokenizer.bos_id() >= 0) {
    mixed = WithFirstToken(mixed, in.tokenizer.bos_id());
    repeated = WithFirstToken(repeated, in.tokenizer.bos_id());
  }
  SF_ASSIGN_OR_RETURN(const SinkMap of_mixed, MapSinks(in.model, mixed, {}, in.progress));
  SF_ASSIGN_OR_RETURN(const SinkMap of_repeated, MapSinks(in.model, repeated, {}, in.progress));
  map.probes.sink_ratio_random = of_mixed.ratio;
  map.probes.sink_ratio_repeated = of_repeated.ratio;
  return absl::OkStatus();
}

}  // namespace

absl::Status ProbeAnatomy(const AnatomyProbeInput& input, OutlierMap& map) {
  SF_RETURN_IF_ERROR(ProbeVocabulary(input, map));
  SF_RETURN_IF_ERROR(ProbeSinks(input, map));
  map.probes.made = true;
  return absl::OkStatus();
}

}  // namespace spikefold
