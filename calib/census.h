// The anatomy of a model's outliers: spikes (massive activations), sinks, who writes and removes them, super
// weights. Definitions and sources: docs/methods.md. OutlierMap is what `quant` decides from, and what people
// read and diff (outliers.json).
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "calib/stats.h"
#include "formats/base/json.h"
#include "formats/base/progress.h"
#include "kernels/runtime/model.h"

namespace spikefold {

struct UnitRef {  // an FFN unit: row of gate/up, column of down
  int layer = 0;
  int64_t unit = 0;
  double strength = 0;  // weight-only: |D[k,i]| * |g_i| * |u_i| of its strongest channel
  int64_t channel = 0;
  bool by_weights = false, by_activations = false;
};
struct SpikeChannel {
  int64_t channel = 0;
  double peak = 0;      // largest |h| on the plateau
  bool leader = false;  // the largest; the others follow in fixed ratios
};
// A spike's life: written at step_up, carried to the residual of step_down - 1, removed at step_down.
struct SpikeStage {
  int step_up = 0,
      step_down =
          0;  // layers whose FFN (or attention) writes and removes it; step_down = num_layers: never removed
  double plateau = 0;                  // median over plateau layers of the peak |h|
  std::vector<SpikeChannel> channels;  // descending peak
  double first_position_share = 0;     // windows whose position 0 spikes
  std::vector<std::pair<std::string, double>>
      tokens;                    // token text at positions > 0 that spike, share of spikes; descending
  double per_window = 0;         // spike tokens a window at positions > 0
  double near_constancy = 0;     // mean cosine of normalised spike rows to their mean (1 = constant)
  double vocabulary_share = -1;  // AnatomyProbes: tokens that spike when they stand first; -1: not asked
  std::vector<UnitRef> writers, removers;
};
struct SuperWeightRef {
  int layer = 0;
  int64_t row = 0, column = 0;  // of down_proj
  float value = 0;
  bool by_weights = false, by_activations = false;
};
struct LayerLife {  // the residual after `layer` (-1: embedding)
  int layer = 0;
  double top[3] = {0, 0, 0};  // three largest |h|
  int64_t top_channel[3] = {0, 0, 0}, top_position[3] = {0, 0, 0};
  double median = 0, kurtosis = 0;  // of all entries; excess kurtosis
};
struct SinkMap {
  int64_t num_layers = 0, num_heads = 0;
  std::vector<double> mass;  // [num_layers, num_heads] mean attention on position 0 at T = 64
  double ratio = 0;          // share of (layer, head) with mass > 0.3
  std::vector<double>
      value_norm_ratio;  // [num_layers] |v| of position 0 over the median of the other positions
  std::vector<double> key_norm_ratio;  // [num_layers]
  // [num_layers] mean over windows of |v - mean v| over |mean v|, of position 0 and of one in the middle;
  // empty in a scan of an older version.
  std::vector<double> value_variation, other_value_variation;
};
struct SiteReport {
  int site = 0;
  double score = 0;  // mean over windows of max_t r_t, r_t = row peak / median row peak
  double absmax = 0, median_peak = 0;
  double upper_per_window = 0, lower_per_window = 0;  // rows with r_t > 64, r_t < 1/8
  double absmax_prefix = 0, score_prefix = 0;         // the same behind the prefix
};
struct PrefixCandidate {
  std::vector<int32_t> tokens;
  std::string text;
  double ppl_ratio = 1;  // float model behind it / without, same scored tokens
  double score = 0;      // largest site score behind it
  bool chosen = false;
  std::string reason;
};

// Only with ScanOptions::anatomy.
struct AnatomyProbes {
  bool made = false;
  int64_t vocabulary_tokens = 0;  // asked for SpikeStage::vocabulary_share
  double sink_ratio_random = 0,
         sink_ratio_repeated = 0;  // SinkMap::ratio in windows of random tokens, of one
};

struct OutlierMap {
  int format_version = 1;
  bool treatment_needed = false;
  std::string verdict;  // one or two sentences
  std::vector<SpikeStage> stages;
  std::vector<SuperWeightRef> super_weights;
  std::vector<LayerLife> life_plain,
      life_bos;  // [num_layers + 1]; life_bos empty if the tokenizer has no BOS
  SinkMap sinks_plain, sinks_bos;
  AnatomyProbes probes;
  std::vector<SiteReport> sites;
  std::vector<PrefixCandidate> prefixes;
  std::vector<int32_t> prefix;        // chosen; empty: none
  std::vector<std::string> notes;     // what the architecture makes of it (sandwich norm, QK-norm)
  std::vector<std::string> warnings;  // weights and activations disagree, ...
  Json provenance;
  int64_t num_layers = 0, hidden = 0;
};
Json OutlierMapToJson(const OutlierMap& map, const ModelGraph& graph);
// InvalidArgument: of a model of other sizes. DataLoss: no map, or one with a layer, row or channel that the
// model has not. Unimplemented: another format version.
absl::StatusOr<OutlierMap> OutlierMapFromJson(const Json& json, const ModelGraph& graph,
                                              absl::string_view where);

struct ScanOptions {
  int64_t num_windows = 64, window_length = 512;
  uint64_t seed = 1;
  std::vector<std::string> texts;  // empty: the model writes its own text
  // Writing is slow (one pass over the weights a token, shared by 16 sequences), so windows are then cut to
  // 256 tokens and to this many tokens in all.
  int64_t max_generated_tokens = 4096;
  bool anatomy = false;      // also the vocabulary and unnatural text; costs about a quarter of the scan more
  bool allow_prefix = true;  // false: no prefix search, no "prefix" arm
  Progress progress;
};
struct ScanResult {
  OutlierMap map;
  CalibStats stats;
};
// The calibration pass. Half of the windows run behind the chosen prefix, the others plain (all if there is
// none); of a large text only half of those others, so that the whole scan runs about as many tokens as the
// text has.
absl::StatusOr<ScanResult> Scan(const RuntimeModel& model, const CheckpointReader& reader,
                                const Tokenizer& tokenizer, const ScanOptions& options);

}  // namespace spikefold
