// Accuracy of a quantized model beside its float model, in one process: perplexity, paired ratio, KL
// divergence, same-top. Protocols and formulas: docs/methods.md and docs/results.md (WikiText-2; windows as
// in GPTQ's papers, or as in llama.cpp).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "calib/dataset.h"
#include "calib/hidden_memory.h"
#include "formats/base/json.h"
#include "formats/base/progress.h"
#include "kernels/runtime/model.h"
#include "kernels/runtime/tap.h"

namespace spikefold {

enum class Protocol {
  kPaper,     // whole windows of `context` tokens (2048), logits 0..context-2 score tokens 1..context-1
  kLlamaCpp,  // chunks of `context` (512); first token of each overwritten by BOS if the model adds one; the
              // second half is scored
  kChunks  // chunks of `context`; all targets but the first of a chunk are scored; a prefix is put before the
           // chunk in both models
};
enum class BosMode { kNone, kOnce, kWindow };

struct EvalOptions {
  Protocol protocol = Protocol::kChunks;
  BosMode bos = BosMode::kNone;
  int64_t context = 0;      // 0: the protocol's own (2048, 512, 512)
  int64_t max_windows = 0;  // 0: all
  // The reference runs behind the quantized model's prefix too (paired with the same input). The unprefixed
  // reference's perplexity is computed as a control if `prefix_control`.
  bool prefix_control = true;
  // Watches the quantized model on the first windows; null: nobody does.
  Taps* watch = nullptr;
  int64_t watch_windows = 8;
  bool noise_floor = false;  // also the reference against itself with bf16-rounded activations
  // What the reference gave in earlier evaluations beside it, and where that of this one goes: windows found
  // there are not run again. Belongs to the caller, outlives the call, and is for one reference
  // only; null: none. Not for a model beside itself, whose two caches differ.
  HiddenMemory* reference_memory = nullptr;
  Progress progress;
};

struct Percentiles {
  double max = 0, p999 = 0, p99 = 0, p95 = 0, p90 = 0, p50 = 0, p10 = 0, p5 = 0, p1 = 0, p01 = 0, min = 0;
};
struct EvalResult {
  Protocol protocol = Protocol::kChunks;
  BosMode bos = BosMode::kNone;
  int64_t context = 0, num_windows = 0, num_scored = 0, num_text_tokens = 0;
  double ppl = 0, ppl_se = 0, ppl_reference = 0, ppl_reference_se = 0;
  double ln_ratio = 0, ln_ratio_se = 0, ln_ratio_se_window = 0;  // paired
  double ppl_ratio = 1, ppl_ratio_se = 0;  // exp(ln_ratio); SE from windows when >= 20, else from tokens
  double design_effect = 1;
  double ppl_reference_no_prefix = 0, prefix_ratio = 1;  // control: reference behind the prefix / without it
  double kld_mean = 0, kld_se = 0, kld_llamacpp = 0;
  Percentiles kld;
  double same_top = 0, same_top_se = 0;  // share in [0, 1]
  double delta_p_mean = 0, delta_p_rms = 0;
  double bits_per_byte = 0;
  double nonfinite_share = 0;
  double noise_floor_kld = 0, noise_floor_same_top = 1;  // only with EvalOptions::noise_floor
  double seconds_reference = 0, seconds_quantized = 0;
  std::vector<double> kld_by_position;  // mean KLD in 8 equal position buckets
  std::vector<double> window_ln_ratio;  // per window
  int64_t num_missed_spike_rows = 0, num_saturated = 0;
};
// A model beside itself (one object) measures its key/value cache: its kv() against float32 rows.
// Streams window by window, logits in row blocks; sums in float64. InvalidArgument: text too short for one
// window, contexts beyond the model's, vocabularies that differ.
absl::StatusOr<EvalResult> Evaluate(const RuntimeModel& quantized, const RuntimeModel& reference,
                                    const Tokenizer& tokenizer, const TokenStream& text,
                                    const EvalOptions& options);

}  // namespace spikefold
