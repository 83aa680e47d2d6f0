#include "apps/report/gate.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "apps/report/text.h"
#include "calib/eval_summary.h"
#include "formats/base/status.h"
#include "formats/base/suggest.h"

namespace spikefold {
namespace {

constexpr double kZ = 1.96;  // 95 %, two-sided
// Fewer tokens show no spread that a standard error could be trusted on; of one token it is zero.
constexpr int64_t kMinTokens = 30;

struct Key {
  const char* name;
  std::optional<double> GateThresholds::*field;
  double min, max;
};
constexpr double kHuge = 1e300;
constexpr Key kKeys[] = {
    {"max_ppl_ratio", &GateThresholds::max_ppl_ratio, 0, kHuge},
    {"max_kld", &GateThresholds::max_kld, 0, kHuge},
    {"min_same_top", &GateThresholds::min_same_top, 0, 1},
    {"max_bits_linear", &GateThresholds::max_bits_linear, 0, kHuge},
    {"max_bits_total", &GateThresholds::max_bits_total, 0, kHuge},
    {"max_file_bytes", &GateThresholds::max_file_bytes, 0, kHuge},
    {"min_scored", &GateThresholds::min_scored, 0, kHuge},
};

absl::StatusOr<double> NumberIn(const Json& json, absl::string_view key, double min, double max,
                                absl::string_view where) {
  SF_ASSIGN_OR_RETURN(const double value, json.GetDouble(key, where));
  if (value >= min && value <= max) return value;
  return absl::DataLossError(absl::StrCat(where, ": \"", key, "\" is ", value, "; ", min, " to ", max,
                                          " is allowed", max == 1 ? " (a share, not percent)" : ""));
}

absl::Status UnknownKey(absl::string_view key, absl::string_view where) {
  std::vector<std::string> known = {"format_version", "max_ppl_gain"};
  for (const Key& k : kKeys) known.emplace_back(k.name);
  std::string list;
  for (const std::string& k : known) absl::StrAppend(&list, list.empty() ? "" : ", ", k);
  return absl::UnimplementedError(absl::StrCat(where, ": unknown threshold \"", Printable(key), "\"",
                                               DidYouMean(key, known), "; known are ", list));
}

}  // namespace

absl::StatusOr<GateThresholds> GateThresholdsFromJson(absl::string_view text, absl::string_view where) {
  SF_ASSIGN_OR_RETURN(const Json json, ParseJson(text, where, {.max_depth = 8, .max_bytes = 1 << 20}));
  if (!json.is_object()) return absl::DataLossError(absl::StrCat(where, ": is no JSON object"));
  GateThresholds t;
  int num_limits = 0;
  for (const auto& [name, value] : json.object()) {
    const absl::string_view key = name;  // a lambda cannot capture what a pair was taken apart into
    const auto known =
        std::find_if(std::begin(kKeys), std::end(kKeys), [&](const Key& k) { return key == k.name; });
    if (known != std::end(kKeys)) {
      SF_ASSIGN_OR_RETURN(t.*known->field, NumberIn(json, key, known->min, known->max, where));
      ++num_limits;
    } else if (key == "max_ppl_gain") {
      SF_ASSIGN_OR_RETURN(t.max_ppl_gain, NumberIn(json, key, 0, 1, where));
    } else if (key == "format_version") {
      SF_ASSIGN_OR_RETURN(const int64_t version, json.GetInt(key, where));
      if (version != 1) {
        return absl::UnimplementedError(
            absl::StrCat(where, ": format_version ", version, "; only 1 is read"));
      }
    } else if (key.rfind("x-", 0) != 0) {
      return UnknownKey(key, where);
    }
  }
  if (num_limits == 0) {
    return absl::DataLossError(
        absl::StrCat(where, ": has no threshold, so anything would pass; add max_kld, say"));
  }
  return t;
}

const char* GateVerdictName(GateVerdict verdict) {
  switch (verdict) {
    case GateVerdict::kPass:
      return "pass";
    case GateVerdict::kInconclusive:
      return "inconclusive";
    case GateVerdict::kAnomalous:
      return "anomalous";
    case GateVerdict::kFail:
      return "fail";
  }
  return "";
}

namespace {

std::string Interval(const GateCheck& c) {
  if (c.low == c.high) return Significant(c.value, 5);
  return absl::StrCat(Significant(c.value, 5), " (95 %: ", Significant(c.low, 5), " to ",
                      Significant(c.high, 5), ")");
}

// `above`: the limit is a maximum.
void Decide(bool above, GateCheck* c) {
  const bool finite = std::isfinite(c->value) && std::isfinite(c->low) && std::isfinite(c->high);
  const double good = above ? c->high : c->low, bad = above ? c->low : c->high;
  const char* word = above ? "at most " : "at least ";
  if (!finite || (above ? bad > c->limit : bad < c->limit)) {
    c->verdict = GateVerdict::kFail;
  } else if (above ? good > c->limit : good < c->limit) {
    c->verdict = GateVerdict::kInconclusive;
  }
  c->reason = absl::StrCat(Interval(*c), ", ", word, Significant(c->limit, 5), " is allowed");
  if (!finite) c->reason = "is not finite";
  if (c->verdict == GateVerdict::kInconclusive) c->reason += ": score more tokens (--windows)";
}

class Judge {
 public:
  Judge(const EvalDocument& d, const GateThresholds& t, GateEval* out) : d_(d), t_(t), out_(out) {}

  void Run() {
    const EvalResult& r = d_.result;
    if (r.nonfinite_share > 0) {
      GateCheck c{.name = "nonfinite",
                  .value = r.nonfinite_share,
                  .low = r.nonfinite_share,
                  .high = r.nonfinite_share};
      c.verdict = GateVerdict::kFail;
      c.reason = absl::StrCat(Percent(r.nonfinite_share, 3), " of the logits are not finite; none may be");
      Add(std::move(c));
    }
    if (d_.parity.has_value() && d_.parity->different > 0) {
      const double different = static_cast<double>(d_.parity->different);
      GateCheck c{.name = "parity", .value = different, .low = different, .high = different};
      c.verdict = GateVerdict::kFail;
      c.reason = absl::StrCat(d_.parity->different, " of ", d_.parity->outputs,
                              " outputs of integer linears are not the CPU's; all must be");
      Add(std::move(c));
    }
    Ratio(r);
    Divergence(r);
    SameTop(r);
    Counted("max_bits_linear", t_.max_bits_linear, d_.bits_linear, true);
    Counted("max_bits_total", t_.max_bits_total, d_.bits_total, true);
    Counted("max_file_bytes", t_.max_file_bytes, static_cast<double>(d_.model.file_bytes), true);
    Counted("min_scored", t_.min_scored, static_cast<double>(r.num_scored), false);
    for (const GateCheck& c : out_->checks) out_->verdict = std::max(out_->verdict, c.verdict);
  }

 private:
  void Add(GateCheck c) { out_->checks.push_back(std::move(c)); }

  // Neighbouring tokens are not independent: variances from tokens grow as much as the ratio's does by
  // windows.
  double design_effect() const { return std::max(1.0, d_.result.design_effect); }

  void Counted(const char* name, std::optional<double> limit, double value, bool above) {
    if (!limit) return;
    GateCheck c{.name = name, .value = value, .low = value, .high = value, .limit = *limit};
    Decide(above, &c);
    Add(std::move(c));
  }

  // A mean over the scored tokens.
  void DecideMean(bool above, GateCheck* c) {
    Decide(above, c);
    if (d_.result.num_scored >= kMinTokens || !std::isfinite(c->value)) return;
    c->verdict = GateVerdict::kInconclusive;
    c->reason = absl::StrCat(Significant(c->value, 5), " from ", d_.result.num_scored,
                             d_.result.num_scored == 1 ? " scored token" : " scored tokens", "; at least ",
                             kMinTokens, " are needed for an error: score more tokens (--windows)");
  }

  void Divergence(const EvalResult& r) {
    if (!t_.max_kld) return;
    const double half = kZ * std::sqrt(design_effect()) * r.kld_se;
    GateCheck c{.name = "max_kld",
                .value = r.kld_mean,
                .low = r.kld_mean - half,
                .high = r.kld_mean + half,
                .limit = *t_.max_kld};
    DecideMean(true, &c);
    Add(std::move(c));
  }

  // Wilson's interval (1927): (p + z^2/2n +- z sqrt(p (1 - p)/n + z^2/4n^2)) / (1 + z^2/n). That of the
  // standard error is empty at 0 and 1.
  void SameTop(const EvalResult& r) {
    if (!t_.min_same_top) return;
    const double n = std::max(1.0, static_cast<double>(r.num_scored) / design_effect());
    const double p = r.same_top, scale = 1 / (1 + kZ * kZ / n);
    const double centre = scale * (p + kZ * kZ / (2 * n));
    const double half = scale * kZ * std::sqrt(p * (1 - p) / n + kZ * kZ / (4 * n * n));
    GateCheck c{.name = "min_same_top",
                .value = p,
                .low = centre - half,
                .high = centre + half,
                .limit = *t_.min_same_top};
    DecideMean(false, &c);
    Add(std::move(c));
  }

  void Ratio(const EvalResult& r) {
    double se = r.ppl_ratio > 0 ? r.ppl_ratio_se / r.ppl_ratio : 0;
    if (r.num_windows < kMinWindowsForError) se *= std::sqrt(design_effect());  // it is from tokens
    GateCheck c{.name = "max_ppl_ratio",
                .value = r.ppl_ratio,
                .low = std::exp(r.ln_ratio - kZ * se),
                .high = std::exp(r.ln_ratio + kZ * se),
                .limit = t_.max_ppl_ratio.value_or(0)};
    if (t_.max_ppl_ratio) DecideMean(true, &c);
    if (c.verdict == GateVerdict::kPass && r.num_scored >= kMinTokens && c.high < 1 - t_.max_ppl_gain) {
      c.verdict = GateVerdict::kAnomalous;
      c.reason = absl::StrCat(Interval(c),
                              ": better than the float model beyond noise, which quantization cannot "
                              "be; look for text that was calibrated on, or another reference");
    }
    if (t_.max_ppl_ratio || c.verdict != GateVerdict::kPass) Add(std::move(c));
  }

  const EvalDocument& d_;
  const GateThresholds& t_;
  GateEval* out_;
};

}  // namespace

absl::StatusOr<GateEval> JudgeEval(const EvalDocument& d, const std::string& path,
                                   const GateThresholds& thresholds) {
  if (d.model.fingerprint == d.reference.fingerprint && d.kv.is_null()) {
    return absl::InvalidArgumentError(
        absl::StrCat(Printable(path, 1024),
                     ": compares a model with itself, which always passes; evaluate a quantized model with "
                     "--reference"));
  }
  GateEval eval{.name = d.name, .path = path};
  Judge(d, thresholds, &eval).Run();
  return eval;
}

GateVerdict WorstVerdict(const std::vector<GateEval>& evals) {
  GateVerdict worst = GateVerdict::kPass;
  for (const GateEval& eval : evals) worst = std::max(worst, eval.verdict);
  return worst;
}

}  // namespace spikefold
