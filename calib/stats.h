// What calibration keeps of every linear input: enough to choose scales and kept columns later without
// another forward pass.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "formats/model_graph.h"
#include "kernels/runtime/kv_cache.h"

namespace spikefold {

// Magnitudes on a scale of 8 bins an octave (linear inside an octave: exponent and the top 3 mantissa bits of
// the float), from 2^-12 to 2^18. Bin 0 also holds everything below, the last bin everything above.
inline constexpr int kMagnitudeBins = 240;
int MagnitudeBin(float value);      // of |value|
float MagnitudeBinCenter(int bin);  // representative magnitude

struct SiteStats;
// The bins of all columns' largest magnitudes, two hexadecimal digits each; back again (empty: not such a
// text).
std::string PeakBinsText(const SiteStats& stats);
std::vector<int> PeakBinsFromText(absl::string_view text);

struct SiteStats {
  int site = 0;                     // ModelGraph::sites
  int64_t k = 0;                    // channels
  int64_t rows = 0;                 // token rows seen
  std::vector<float> min, max;      // [k]
  std::vector<double> sum, sum_sq;  // [k]
  std::vector<uint32_t> histogram;  // [k, kMagnitudeBins] counts of |x|
  std::vector<double>
      weight_sq;  // [k] sum over the site's linears of W[:, k]^2: what an error in a channel costs downstream
  std::vector<float> row_peak;  // [rows] max_c |x[t, c]|, in order of the rows seen
  float AbsMax(int64_t channel) const {
    return std::max(-min[static_cast<size_t>(channel)], max[static_cast<size_t>(channel)]);
  }
};

// Keys of one layer before rotary embedding, channel by channel.
inline constexpr int kKeyQuantiles = 47;
double KeyQuantileShare(int i);  // 0, 2^-12 .. 2^-6, 1/32 .. 31/32, 1 - 2^-6 .. 1 - 2^-12, 1
struct KeyStats {
  int layer = 0;
  int64_t rows = 0;              // token rows seen
  std::vector<float> quantiles;  // [kKeyQuantiles, num_kv_heads * head_dim], ascending; the ends: of all rows
};

// One way of running the calibration text.
struct StatsArm {
  std::string
      name;  // "plain": windows as they are. "prefix": windows behind the KV prefix, prefix rows left out
  std::vector<int32_t> prefix;   // tokens
  std::vector<SiteStats> sites;  // [num sites]
  std::vector<KeyStats> keys;    // [num layers]; empty in a scan of an older version, or of rotated keys
};

struct CalibStats {
  // Provenance: all are checked when a plan or a quantization uses the file with another model.
  std::string tool_version, model_fingerprint, tokenizer_fingerprint, text_sha256, text_source, bos;
  int64_t num_windows = 0, window_length = 0;
  uint64_t seed = 0;
  // The text itself, num_windows x window_length token ids (with BOS first where the model wants it), so that
  // a folded model can be calibrated on it again.
  std::vector<std::vector<int32_t>> windows;
  std::vector<StatsArm> arms;
  KvPrefix prefix;  // keys and values of the "prefix" arm's tokens, so that a quantizer need not run the
                    // model; empty without one
  const StatsArm* FindArm(absl::string_view name) const;
};

// scan.spike: safetensors inside one zstd frame with checksum. Reading refuses (DataLoss) bombs, lying sizes,
// second frames, missing tensors.
absl::Status SaveStats(const CalibStats& stats, const std::string& path);
absl::StatusOr<CalibStats> LoadStats(const std::string& path);
// That what LoadStats() read can be used by the places of this model: its sites in their order and width, its
// layers' prefix keys and values, its tokens. InvalidArgument: the statistics are another model's.
absl::Status CheckStats(const CalibStats& stats, const ModelGraph& graph, absl::string_view where);

}  // namespace spikefold
