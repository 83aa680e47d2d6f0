#include "apps/report/analysis.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "apps/report/text.h"

namespace spikefold {
namespace {

constexpr double kNormal95 = 1.96;
constexpr double kAnomalousGain = 0.005;  // of perplexity
constexpr double kBrokenRatio = 2;
struct Limit {
  Grade grade;
  double kld, same_top;
};
constexpr Limit kLimits[] = {{Grade::kNearLossless, 0.002, 0.975},
                             {Grade::kSlight, 0.006, 0.96},
                             {Grade::kModerate, 0.03, 0.92},
                             {Grade::kClear, 0.1, 0},
                             {Grade::kSevere, 1, 0}};

Grade GradeOf(const EvalDocument& eval) {
  const EvalResult& r = eval.result;
  if (r.nonfinite_share > 0 || !std::isfinite(r.kld_mean) || !std::isfinite(r.ppl_ratio)) {
    return Grade::kBroken;
  }
  if (eval.model.fingerprint == eval.reference.fingerprint && r.kld_mean == 0) return Grade::kReference;
  if (r.ppl_ratio > kBrokenRatio) return Grade::kBroken;
  if (r.ppl_ratio + kNormal95 * r.ppl_ratio_se < 1 && r.ppl_ratio < 1 - kAnomalousGain) {
    return Grade::kAnomalous;
  }
  for (const Limit& limit : kLimits) {
    if (r.kld_mean <= limit.kld && r.same_top >= limit.same_top) return limit.grade;
  }
  return Grade::kBroken;
}

// What most multiply-adds of the decoder read.
ActivationFormat ActivationsOf(const EvalDocument& eval) {
  std::map<std::string, double> macs;  // by the format's word
  for (const LinearDecision& d : eval.linears) {
    if (d.layer >= 0) macs[d.act] += static_cast<double>(d.n) * static_cast<double>(d.k);
  }
  const auto most = std::max_element(macs.begin(), macs.end(),
                                     [](const auto& a, const auto& b) { return a.second < b.second; });
  const auto format = ParseActivationFormat(most == macs.end() ? "float" : most->first);
  return format.ok() ? *format : ActivationFormat::kFloat;
}

std::vector<std::string> UniqueNames(const std::vector<EvalDocument>& evals) {
  std::map<std::string, int> seen;
  for (const EvalDocument& eval : evals) ++seen[eval.name];
  std::vector<std::string> out;
  std::set<std::string> taken;
  for (const EvalDocument& eval : evals) {
    std::string name = eval.name.empty() ? "unnamed" : eval.name;
    if (seen[eval.name] > 1 && eval.backend != "cpu") absl::StrAppend(&name, " (", eval.backend, ")");
    std::string unique = name;
    for (int i = 2; !taken.insert(unique).second; ++i) unique = absl::StrCat(name, " #", i);
    out.push_back(unique);
  }
  return out;
}

// What must agree for two rows to be compared.
std::vector<std::string> ComparisonKey(const EvalDocument& e) {
  const EvalResult& r = e.result;
  return {e.text_sha256, absl::StrCat(ProtocolName(r.protocol), " of ", r.context), BosModeName(r.bos),
          Thousands(r.num_scored), e.reference.fingerprint};
}

std::string Difference(const EvalDocument& e, const EvalDocument& base) {
  const auto a = ComparisonKey(e), b = ComparisonKey(base);
  std::vector<std::string> words;
  if (a[0] != b[0]) words.push_back(absl::StrCat("another text (", e.text_source, ")"));
  if (a[1] != b[1]) words.push_back(absl::StrCat("protocol ", a[1], ", not ", b[1]));
  if (a[2] != b[2]) words.push_back(absl::StrCat("BOS ", a[2], ", not ", b[2]));
  if (a[3] != b[3]) words.push_back(absl::StrCat(a[3], " scored tokens, not ", b[3]));
  if (a[4] != b[4]) words.push_back("another reference");
  return absl::StrJoin(words, "; ");
}

// The evaluation whose key is the most frequent; the first of them.
const EvalDocument* Base(const std::vector<EvalDocument>& evals) {
  std::map<std::vector<std::string>, int> count;
  for (const EvalDocument& eval : evals) ++count[ComparisonKey(eval)];
  const EvalDocument* base = nullptr;
  for (const EvalDocument& eval : evals) {
    if (base == nullptr || count[ComparisonKey(eval)] > count[ComparisonKey(*base)]) base = &eval;
  }
  return base;
}

std::string RatioWords(const EvalResult& r) {
  if (!std::isfinite(r.ppl_ratio)) return "perplexity is not finite";
  const double half = kNormal95 * r.ppl_ratio_se, low = r.ppl_ratio - half, high = r.ppl_ratio + half;
  std::string text = absl::StrCat("perplexity × ", PlusMinus(r.ppl_ratio, r.ppl_ratio_se));
  if (half > 0 && low <= 1 && high >= 1) {
    absl::StrAppend(&text, ", no change within its error");
  }
  return text;
}

std::string VerdictOf(const Configuration& c) {
  const EvalResult& r = c.eval->result;
  if (c.grade == Grade::kReference) {
    return absl::StrCat("The reference itself: perplexity ", PlusMinus(r.ppl, r.ppl_se), " at ",
                        Significant(c.eval->bits_linear), " bits a weight.");
  }
  return absl::StrCat(RatioWords(r), "; KLD ", PlusMinus(r.kld_mean, r.kld_se), " nats; same top token in ",
                      PercentPlusMinus(r.same_top, r.same_top_se), "; ", Significant(c.eval->bits_linear),
                      " bits a decoder weight (", Significant(c.eval->bits_total), " in all), activations ",
                      FormatText(c.activations), ".");
}

std::vector<std::string> FlagsOf(const Configuration& c, double noise_floor) {
  const EvalResult& r = c.eval->result;
  std::vector<std::string> flags;
  if (r.nonfinite_share > 0) {
    flags.push_back(
        absl::StrCat(Percent(r.nonfinite_share), " of the scored tokens have logits that are not finite"));
  }
  if (c.grade == Grade::kAnomalous) {
    flags.push_back("a gain over float is an error until explained: check text, prefix and calibration");
  }
  if (c.eval->prefix.tokens > 0 && c.eval->prefix.changes_function) {
    flags.push_back(absl::StrCat("both models run behind its prefix (", c.eval->prefix.tokens,
                                 c.eval->prefix.tokens == 1 ? " token" : " tokens",
                                 "), from which the float model alone gets × ",
                                 Significant(r.prefix_ratio, 4)));
  }
  if (noise_floor > 0 && r.kld_mean <= noise_floor && c.grade != Grade::kReference) {
    flags.push_back("below the noise floor: a tie with 16-bit arithmetic");
  }
  if (r.num_missed_spike_rows > 0) {
    flags.push_back(absl::StrCat(Thousands(r.num_missed_spike_rows),
                                 " spike rows found no room and were quantized with the rest"));
  }
  const double half = kNormal95 * r.ppl_ratio_se;
  if (half > 0.25 * std::fabs(r.ppl_ratio - 1) && half > 0.005 * r.ppl_ratio) {
    flags.push_back(absl::StrCat("inconclusive: the ratio is known to ± ", Percent(half / r.ppl_ratio, 2),
                                 " (95 %); ± 0.5 % needs about ", Significant(TokensForHalfPercent(r), 2),
                                 " scored tokens"));
  }
  return flags;
}

std::vector<SimulationGap> FindGaps(const std::vector<Configuration>& configurations) {
  std::vector<SimulationGap> out;
  for (const Configuration& real : configurations) {
    for (const Configuration& simulated : configurations) {
      if (simulated.eval->backend != absl::StrCat(real.eval->backend, "-simulated")) continue;
      if (real.eval->model.fingerprint != simulated.eval->model.fingerprint) continue;
      if (ComparisonKey(*real.eval) != ComparisonKey(*simulated.eval)) continue;
      const EvalResult &a = real.eval->result, &b = simulated.eval->result;
      out.push_back({real.number, simulated.number, a.kld_mean - b.kld_mean, a.ppl_ratio / b.ppl_ratio - 1});
    }
  }
  return out;
}

// Each treated configuration against the untreated one of its scheme that is nearest in bits.
std::vector<TreatmentEffect> FindTreatments(const std::vector<Configuration>& configurations) {
  std::vector<TreatmentEffect> out;
  for (const Configuration& treated : configurations) {
    if (!treated.comparable() || TreatmentWords(*treated.eval).empty()) continue;
    const Configuration* nearest = nullptr;
    const auto distance = [&](const Configuration& c) {
      return std::fabs(c.eval->bits_linear - treated.eval->bits_linear);
    };
    for (const Configuration& plain : configurations) {
      const bool pair = plain.comparable() && plain.eval->scheme == treated.eval->scheme &&
                        plain.eval->backend == treated.eval->backend && TreatmentWords(*plain.eval).empty();
      if (pair && (nearest == nullptr || distance(plain) < distance(*nearest))) nearest = &plain;
    }
    if (nearest != nullptr) out.push_back({nearest->number, treated.number});
  }
  return out;
}

// The pair in which treatment changed most.
std::string TreatmentHeadline(const Findings& findings) {
  const TreatmentEffect* most = nullptr;
  const auto gain = [&](const TreatmentEffect& t) {
    return findings.at(t.without).eval->result.kld_mean / findings.at(t.with).eval->result.kld_mean;
  };
  for (const TreatmentEffect& t : findings.treatments) {
    if (!(gain(t) > 1)) continue;
    if (most == nullptr || gain(t) > gain(*most)) most = &t;
  }
  if (most == nullptr) return "";
  const EvalDocument &without = *findings.at(most->without).eval, &with = *findings.at(most->with).eval;
  return absl::StrCat(" Treating outliers (", TreatmentWords(with), ") takes ", with.scheme, " from × ",
                      PlusMinus(without.result.ppl_ratio, without.result.ppl_ratio_se), " to × ",
                      PlusMinus(with.result.ppl_ratio, with.result.ppl_ratio_se), ".");
}

std::string Headline(const Findings& findings) {
  std::vector<const Configuration*> ranked;
  int broken = 0;
  for (const Configuration& c : findings.configurations) {
    broken += c.grade == Grade::kBroken || c.grade == Grade::kAnomalous;
    const bool counts = c.comparable() && c.grade != Grade::kReference && c.grade != Grade::kBroken;
    if (counts && c.grade != Grade::kAnomalous) ranked.push_back(&c);
  }
  std::string text;
  if (!ranked.empty()) {
    const auto by = [&](auto value) {
      return *std::min_element(ranked.begin(), ranked.end(),
                               [&](const auto* a, const auto* b) { return value(*a) < value(*b); });
    };
    const Configuration* best = by([](const Configuration& c) { return c.eval->result.kld_mean; });
    const Configuration* small = by(
        [](const Configuration& c) { return std::make_pair(c.eval->bits_linear, c.eval->result.kld_mean); });
    const auto words = [](const Configuration& c) {
      return absl::StrCat(c.name, " (", GradeName(c.grade), ": perplexity × ",
                          PlusMinus(c.eval->result.ppl_ratio, c.eval->result.ppl_ratio_se), " at ",
                          Significant(c.eval->bits_linear), " bits)");
    };
    if (best == small) {
      text =
          absl::StrCat(ranked.size() > 1 ? "Nearest to the reference and smallest: " : "", words(*best), ".");
    } else {
      text = absl::StrCat("Nearest to the reference: ", words(*best), ". Fewest bits: ", words(*small), ".");
    }
    text += TreatmentHeadline(findings);
  }
  if (broken > 0) {
    absl::StrAppend(&text, text.empty() ? "" : " ", broken,
                    broken == 1 ? " configuration is" : " configurations are", " broken or anomalous.");
  }
  return text.empty() ? "No quantized model was evaluated." : text;
}

std::string Title(const ReportInput& input) {
  if (!input.title.empty()) return input.title;
  if (input.evals.empty()) return "Outliers";
  absl::string_view path = input.evals.front().reference.path;
  while (absl::EndsWith(path, "/")) path.remove_suffix(1);
  if (const size_t slash = path.rfind('/'); slash != absl::string_view::npos) path.remove_prefix(slash + 1);
  return path.empty() ? "Quantization report" : absl::StrCat("Quantization of ", path);
}

bool IsSimulated(const Configuration& c) { return absl::EndsWith(c.eval->backend, "-simulated"); }

// What it takes: decoder and activation bits, bytes of keys and values.
std::array<double, 3> Costs(const Configuration& c) {
  return {c.eval->bits_linear, c.eval->activation_bits, c.eval->kv_bytes_per_token};
}

bool Dominates(const Configuration& a, const Configuration& b) {
  const double x = a.eval->result.kld_mean, y = b.eval->result.kld_mean;
  const std::array<double, 3> costs = Costs(a), others = Costs(b);
  bool less = x < y;
  for (size_t i = 0; i < costs.size(); ++i) {
    if (!(costs[i] <= others[i])) return false;
    less = less || costs[i] < others[i];
  }
  // Any divergence that is a number is less than one that is none.
  return (x <= y && less) || (std::isfinite(x) && !std::isfinite(y));
}

}  // namespace

const char* GradeName(Grade grade) {
  switch (grade) {
    case Grade::kReference:
      return "reference";
    case Grade::kNearLossless:
      return "near-lossless";
    case Grade::kSlight:
      return "slight loss";
    case Grade::kModerate:
      return "moderate loss";
    case Grade::kClear:
      return "clear loss";
    case Grade::kSevere:
      return "severe loss";
    case Grade::kBroken:
      return "broken";
    case Grade::kAnomalous:
      return "anomalous";
  }
  return "";
}

void MarkPareto(std::vector<Configuration>& configurations) {
  for (Configuration& c : configurations) {
    c.pareto = c.comparable() && std::isfinite(c.eval->result.kld_mean);
    c.dominated_by = 0;
    double best = 0;
    for (const Configuration& other : configurations) {
      if (!c.comparable() || !other.comparable() || (IsSimulated(other) && !IsSimulated(c))) continue;
      const double kld = other.eval->result.kld_mean;
      if (!Dominates(other, c)) continue;
      c.pareto = false;
      if (c.dominated_by == 0 || kld < best) {
        c.dominated_by = other.number;
        best = kld;
      }
    }
  }
}

std::string ProtocolWords(const EvalDocument& e) {
  const EvalResult& r = e.result;
  const char* what = r.protocol == Protocol::kPaper      ? "paper protocol, windows of "
                     : r.protocol == Protocol::kLlamaCpp ? "llama.cpp's protocol, chunks of "
                                                         : "chunks of ";
  const char* bos = r.bos == BosMode::kNone   ? "no BOS"
                    : r.bos == BosMode::kOnce ? "BOS once"
                                              : "BOS before each window";
  return absl::StrCat(what, r.context, " tokens, ", bos, ", ", Thousands(r.num_scored), " scored tokens of ",
                      e.text_source);
}

std::string TreatmentWords(const EvalDocument& eval) {
  int64_t kept = 0, supers = 0;
  bool rows = false;
  for (const LinearDecision& d : eval.linears) {
    kept = std::max(kept, d.kept);
    supers += d.super;
    rows = rows || d.spike_threshold > 0;
  }
  std::vector<std::string> words;
  if (eval.prefix.tokens > 0) {
    words.push_back(
        absl::StrCat("prefix of ", eval.prefix.tokens, eval.prefix.tokens == 1 ? " token" : " tokens"));
  }
  if (kept > 0) words.push_back(absl::StrCat(kept, " kept columns"));
  if (supers > 0) words.push_back(absl::StrCat(supers, " super weights"));
  if (rows) words.push_back("spike rows in float");
  return absl::StrJoin(words, ", ");
}

std::string SiteName(const ReportScan& scan, const SiteReport& site) {
  const size_t id = static_cast<size_t>(site.site);
  return site.site >= 0 && id < scan.sites.size() ? scan.sites[id] : absl::StrCat("site ", site.site);
}

std::vector<const SiteReport*> WorstSites(const OutlierMap& map, size_t count) {
  std::vector<const SiteReport*> out;
  for (const SiteReport& site : map.sites) out.push_back(&site);
  std::stable_sort(out.begin(), out.end(),
                   [](const SiteReport* a, const SiteReport* b) { return a->score > b->score; });
  if (out.size() > count) out.resize(count);
  return out;
}

double TokensForHalfPercent(const EvalResult& r) {
  if (!std::isfinite(r.ppl_ratio_se) || r.ppl_ratio_se <= 0 || !(r.ppl_ratio > 0)) return 0;
  const double se = r.ppl_ratio_se / r.ppl_ratio;  // of the logarithm
  return static_cast<double>(r.num_scored) * std::pow(kNormal95 * se / 0.005, 2);
}

Findings Analyze(const ReportInput& input) {
  Findings out{.title = Title(input)};
  const EvalDocument* base = Base(input.evals);
  const std::vector<std::string> names = UniqueNames(input.evals);
  for (size_t i = 0; i < input.evals.size(); ++i) {
    const EvalDocument& eval = input.evals[i];
    Configuration c{.eval = &eval, .number = static_cast<int>(i) + 1, .name = names[i]};
    c.grade = GradeOf(eval);
    c.activations = ActivationsOf(eval);
    c.not_comparable = Difference(eval, *base);
    if (c.comparable()) out.noise_floor = std::max(out.noise_floor, eval.result.noise_floor_kld);
    const double tokens = static_cast<double>(eval.result.num_windows * eval.result.context);
    if (eval.result.seconds_quantized > 0) c.tokens_per_second = tokens / eval.result.seconds_quantized;
    out.configurations.push_back(std::move(c));
  }
  for (Configuration& c : out.configurations) {
    c.verdict = VerdictOf(c);
    c.flags = FlagsOf(c, out.noise_floor);
  }
  MarkPareto(out.configurations);
  out.gaps = FindGaps(out.configurations);
  out.treatments = FindTreatments(out.configurations);
  if (base != nullptr) out.protocol = ProtocolWords(*base);
  out.headline = Headline(out);
  return out;
}

}  // namespace spikefold
