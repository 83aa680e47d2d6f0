// Evaluations held against thresholds. A measured value passes or fails by its 95 % bound: what the bound
// does not decide is inconclusive, never a silent pass; a gain beyond noise is anomalous, not a success.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "apps/report/eval_document.h"
#include "formats/base/json.h"

namespace spikefold {

// gate.json: {"format_version": 1, "max_ppl_ratio": 1.01, ...}. What is absent is not checked.
struct GateThresholds {
  std::optional<double> max_ppl_ratio;                    // perplexity / that of the reference
  std::optional<double> max_kld;                          // mean KL divergence, nats
  std::optional<double> min_same_top;                     // share in [0, 1]
  std::optional<double> max_bits_linear, max_bits_total;  // stored bits a weight
  std::optional<double> max_file_bytes;
  std::optional<double> min_scored;  // tokens scored
  // A perplexity ratio whose bound lies below 1 - this is anomalous.
  double max_ppl_gain = 0.002;
};
// DataLoss: malformed, out of range. Unimplemented: another version or an unknown key, with the nearest known
// one.
absl::StatusOr<GateThresholds> GateThresholdsFromJson(absl::string_view text, absl::string_view where);

enum class GateVerdict { kPass, kInconclusive, kAnomalous, kFail };  // the later the worse
const char* GateVerdictName(GateVerdict verdict);

struct GateCheck {
  std::string name;                     // the threshold's key
  double value = 0, low = 0, high = 0;  // measured, and its 95 % interval; equal where it is exact
  double limit = 0;
  GateVerdict verdict = GateVerdict::kPass;
  std::string reason;  // a sentence
};
struct GateEval {
  std::string name, path;
  std::vector<GateCheck> checks;
  GateVerdict verdict = GateVerdict::kPass;  // the worst
};

// InvalidArgument: an evaluation that compares nothing (of a float model with itself), which would always
// pass.
absl::StatusOr<GateEval> JudgeEval(const EvalDocument& document, const std::string& path,
                                   const GateThresholds& thresholds);
GateVerdict WorstVerdict(const std::vector<GateEval>& evals);

Json GateToJson(const std::vector<GateEval>& evals);  // array
std::string GateJUnit(const std::vector<GateEval>& evals);
std::string GateMarkdown(const std::vector<GateEval>& evals);  // below 1 MiB: what does not fit is counted
// "::error title=...::..." lines, one for each check that did not pass, as GitHub shows them beside a run.
std::string GateAnnotations(const std::vector<GateEval>& evals);

}  // namespace spikefold
