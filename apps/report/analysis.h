// What the numbers say, before any rendering: grades, comparability, the Pareto set, the sentence of each
// configuration. All four outputs speak from here, so that they cannot disagree.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "apps/report/report.h"
#include "formats/quantized/quant_format.h"

namespace spikefold {

// By mean KLD (nats) and share of equal top tokens; limits in docs/report.md.
enum class Grade {
  kReference,     // the float model itself
  kNearLossless,  // KLD <= 0.002 and same top >= 97.5 %
  kSlight,        // 0.006, 96 %
  kModerate,      // 0.03, 92 %
  kClear,         // 0.1
  kSevere,        // 1
  kBroken,        // beyond, twice the perplexity, or values that are not finite
  kAnomalous,     // perplexity falls by more than 0.5 %, and not by chance: an error until explained
};
const char* GradeName(Grade grade);  // "near-lossless", "slight loss", ...

struct Configuration {
  const EvalDocument* eval = nullptr;
  int number = 0;    // from 1, in the order of the input
  std::string name;  // unique; the evaluation's where that is
  Grade grade = Grade::kReference;
  ActivationFormat activations;    // what most multiply-adds of the decoder read
  std::string verdict;             // one sentence
  std::vector<std::string> flags;  // what the reader should know besides
  std::string not_comparable;      // why; empty: comparable with the report's majority
  // Among comparable ones: no other has at most its decoder bits, its activation bits, its bytes of keys and
  // values a token and its KLD, and less of one. A simulation does not dominate what real kernels computed.
  bool pareto = false;
  int dominated_by = 0;          // number of the one with the lowest KLD that dominates it; 0: none
  double tokens_per_second = 0;  // of scoring; 0: unknown
  bool comparable() const { return not_comparable.empty(); }
};

// The same checkpoint on real kernels and simulated in float: how far the kernels are off.
struct SimulationGap {
  int real = 0, simulated = 0;  // numbers
  double kld_gap = 0, ratio_gap = 0;
};

// What treating outliers paid and bought: two configurations of one scheme on one backend.
struct TreatmentEffect {
  int without = 0, with = 0;  // numbers
};
// "prefix of 1 token, 64 kept columns"; empty: nothing was done about outliers.
std::string TreatmentWords(const EvalDocument& eval);

struct Findings {
  std::string title, headline;
  std::vector<Configuration> configurations;
  std::vector<SimulationGap> gaps;
  std::vector<TreatmentEffect> treatments;
  std::string protocol;    // of the comparable ones, in words
  double noise_floor = 0;  // KLD, the largest measured among comparable ones; 0: not measured
  const Configuration& at(int number) const { return configurations[static_cast<size_t>(number - 1)]; }
};
Findings Analyze(const ReportInput& input);

// Sets pareto and dominated_by; the rest of `configurations` is read.
void MarkPareto(std::vector<Configuration>& configurations);

// "chunks of 512 tokens, BOS none, 10,220 scored tokens of wiki.test.raw"
std::string ProtocolWords(const EvalDocument& eval);
std::string SiteName(const ReportScan& scan, const SiteReport& site);
// The `count` highest scores, descending.
std::vector<const SiteReport*> WorstSites(const OutlierMap& map, size_t count);
// Tokens after which the ratio's 95 % interval is +- 0.5 %, from the spread seen here; 0: unknown.
double TokensForHalfPercent(const EvalResult& result);

}  // namespace spikefold
