#include "apps/report/tables.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "apps/report/decisions.h"
#include "apps/report/text.h"
#include "kernels/kv_page.h"

namespace spikefold {
namespace {

constexpr char kNone[] = "–";

std::string GradeClass(Grade grade) {
  return absl::StrCat("grade g-", absl::StrReplaceAll(GradeName(grade), {{" ", "-"}}));
}

std::string ParetoWords(const Configuration& c, const Findings& findings) {
  if (!c.comparable()) return absl::StrCat("not comparable: ", c.not_comparable);
  if (c.pareto) return "yes";
  if (c.dominated_by == 0) return "no";
  constexpr size_t kMaxNamed = 10;
  if (findings.configurations.size() > kMaxNamed) return absl::StrCat("no: ", c.dominated_by);
  return absl::StrCat("no: ", findings.at(c.dominated_by).name);
}

std::string PrefixWords(const EvalDocument& eval) {
  if (eval.prefix.tokens == 0) return kNone;
  return absl::StrCat("× ", Significant(eval.result.prefix_ratio, 4));
}

std::string ErrorWords(double error) { return error < 0 ? kNone : Percent(error, 2); }

std::string Span(int64_t low, int64_t high) {
  return low == high ? absl::StrCat(low) : absl::StrCat(low, "–", high);
}

// Positions that a cache holds of `tokens`: all, or with a window the pinned ones, it and a page begun
// before.
double PositionsKept(const EvalDocument& e, int64_t tokens) {
  const int64_t window = e.kv.is_object() ? e.kv.GetInt("evict", "").value_or(0) : 0;
  if (window <= 0 || window >= tokens) return static_cast<double>(tokens);
  const int64_t sinks = std::clamp<int64_t>(e.kv.GetInt("sinks", "").value_or(0), 0, tokens);
  const int64_t pinned = std::clamp<int64_t>(e.prefix.tokens, 0, tokens) + sinks;
  return static_cast<double>(std::min(tokens, pinned + window + kernels::kPageTokens));
}

std::vector<Cell> Head(const Configuration& c) { return {absl::StrCat(c.number), Cell(c.name, "key")}; }

}  // namespace

Table AccuracyTable(const Findings& findings) {
  Table t{.caption = absl::StrCat("Accuracy: ", findings.protocol,
                                  ". Ratios and KLD are paired with the float model on the same tokens.")};
  t.columns = {{"#"},
               {"configuration", false},
               {"verdict", false},
               {"bits, decoder"},
               {"bits, all"},
               {"bits, activations"},
               {"perplexity ± SE"},
               {"float model's"},
               {"ratio ± SE"},
               {"KLD ± SE, nats"},
               {"same top ± SE, %"},
               {"Pareto", false},
               {"ratio of its prefix"}};
  for (const Configuration& c : findings.configurations) {
    const EvalResult& r = c.eval->result;
    std::vector<Cell> row = Head(c);
    row.emplace_back(GradeName(c.grade), GradeClass(c.grade));
    row.emplace_back(Significant(c.eval->bits_linear));
    row.emplace_back(Significant(c.eval->bits_total));
    row.emplace_back(Significant(c.eval->activation_bits));
    row.emplace_back(PlusMinus(r.ppl, r.ppl_se));
    row.emplace_back(Significant(r.ppl_reference));
    row.emplace_back(PlusMinus(r.ppl_ratio, r.ppl_ratio_se));
    row.emplace_back(PlusMinus(r.kld_mean, r.kld_se));
    row.emplace_back(PlusMinus(100 * r.same_top, 100 * r.same_top_se));
    row.emplace_back(ParetoWords(c, findings), c.pareto ? "good" : "");
    row.emplace_back(PrefixWords(*c.eval));
    t.rows.push_back(std::move(row));
  }
  return t;
}

Table DistributionTable(const Findings& findings) {
  Table t{
      .caption =
          "KLD of single tokens (nats), change of the true token's probability, and what else was counted."};
  t.columns = {{"#"},
               {"configuration", false},
               {"KLD median"},
               {"95 %"},
               {"99 %"},
               {"99.9 %"},
               {"max"},
               {"llama.cpp's KLD"},
               {"Δp mean"},
               {"Δp RMS"},
               {"bits a byte"},
               {"design effect"},
               {"tokens for ± 0.5 %"},
               {"not finite"},
               {"noise floor KLD"},
               {"noise floor same top"}};
  for (const Configuration& c : findings.configurations) {
    const EvalResult& r = c.eval->result;
    std::vector<Cell> row = Head(c);
    for (const double v : {r.kld.p50, r.kld.p95, r.kld.p99, r.kld.p999, r.kld.max, r.kld_llamacpp}) {
      row.emplace_back(Significant(v));
    }
    row.emplace_back(Percent(r.delta_p_mean, 2));
    row.emplace_back(Percent(r.delta_p_rms, 2));
    row.emplace_back(Significant(r.bits_per_byte, 4));
    row.emplace_back(Significant(r.design_effect, 2));
    const double tokens = TokensForHalfPercent(r);
    row.emplace_back(tokens > 0 ? Significant(tokens, 2) : kNone);
    row.emplace_back(r.nonfinite_share > 0 ? Percent(r.nonfinite_share, 2) : "0",
                     r.nonfinite_share > 0 ? "bad" : "");
    row.emplace_back(r.noise_floor_kld > 0 ? Significant(r.noise_floor_kld) : kNone);
    row.emplace_back(r.noise_floor_kld > 0 ? Percent(r.noise_floor_same_top, 2) : kNone);
    t.rows.push_back(std::move(row));
  }
  return t;
}

Table SizeTable(const Findings& findings) {
  Table t{.caption =
              "Size: weights as stored; a float KV cache counts 16 bits a value, a window what it keeps. "
              "Speed: scoring whole windows, "
              "while the float model ran beside it."};
  t.columns = {{"#"},          {"configuration", false},  {"weights"},
               {"KV a token"}, {"with 2,048 tokens"},     {"with 32,768 tokens"},
               {"tokens/s"},   {"float model, tokens/s"}, {"backend", false},
               {"threads"}};
  for (const Configuration& c : findings.configurations) {
    const double weights = static_cast<double>(c.eval->model.file_bytes), kv = c.eval->kv_bytes_per_token;
    std::vector<Cell> row = Head(c);
    row.emplace_back(Bytes(weights));
    row.emplace_back(Bytes(kv));
    for (const int64_t tokens : {2048, 32768}) {
      row.emplace_back(Bytes(weights + PositionsKept(*c.eval, tokens) * kv));
    }
    const EvalResult& r = c.eval->result;
    const double tokens = static_cast<double>(r.num_windows * r.context);
    row.emplace_back(c.tokens_per_second > 0 ? Significant(c.tokens_per_second) : kNone);
    row.emplace_back(r.seconds_reference > 0 ? Significant(tokens / r.seconds_reference) : kNone);
    row.emplace_back(c.eval->backend);
    row.emplace_back(absl::StrCat(c.eval->threads));
    t.rows.push_back(std::move(row));
  }
  return t;
}

Table GapTable(const Findings& findings) {
  Table t{.caption =
              "The same checkpoint on real kernels and simulated in float: the gap should stay near the "
              "noise floor."};
  t.columns = {{"real kernels", false},      {"simulated", false}, {"KLD real"}, {"KLD simulated"}, {"gap"},
               {"ratio of perplexities − 1"}};
  for (const SimulationGap& gap : findings.gaps) {
    const Configuration &real = findings.at(gap.real), &simulated = findings.at(gap.simulated);
    t.rows.push_back({real.name, simulated.name, Significant(real.eval->result.kld_mean, 4),
                      Significant(simulated.eval->result.kld_mean, 4), Significant(gap.kld_gap),
                      Percent(gap.ratio_gap, 3)});
  }
  return t;
}

Table TreatmentTable(const Findings& findings) {
  Table t{.caption =
              "What treating outliers paid and bought, against the same scheme without it; each is "
              "compared with the float model behind its own prefix, if it has one."};
  t.columns = {{"scheme", false}, {"treatment", false},  {"without", false},
               {"with", false},   {"decoder bits paid"}, {"KLD without"},
               {"KLD with"},      {"ratio without"},     {"ratio with"}};
  for (const TreatmentEffect& effect : findings.treatments) {
    const EvalDocument &a = *findings.at(effect.without).eval, &b = *findings.at(effect.with).eval;
    t.rows.push_back({Cell(b.scheme, "key"), TreatmentWords(b), findings.at(effect.without).name,
                      findings.at(effect.with).name, Significant(b.bits_linear - a.bits_linear),
                      Significant(a.result.kld_mean), Significant(b.result.kld_mean),
                      PlusMinus(a.result.ppl_ratio, a.result.ppl_ratio_se),
                      PlusMinus(b.result.ppl_ratio, b.result.ppl_ratio_se)});
  }
  return t;
}

Table RoleTable(const Configuration& c) {
  Table t{.caption = absl::StrCat("Decisions of ", c.name, " by role")};
  t.columns = {{"role", false},  {"tensors"},       {"weights", false}, {"activations", false},
               {"kept columns"}, {"super weights"}, {"bits"},           {"rounding error, median"},
               {"largest"},      {"exceptions"}};
  for (const RoleSummary& s : SummarizeRoles(c.eval->linears)) {
    t.rows.push_back({Cell(s.role.empty() ? "other" : s.role, "key"), absl::StrCat(s.count),
                      WeightWords(s.weight, s.group), ActivationWords(s.act), Span(s.kept_min, s.kept_max),
                      absl::StrCat(s.supers), Significant(s.bits), ErrorWords(s.error_median),
                      ErrorWords(s.error_max), absl::StrCat(s.exceptions)});
  }
  return t;
}

Table ExceptionTable(const Configuration& c, size_t max_rows) {
  const auto exceptions = Exceptions(c.eval->linears);
  Table t{.caption = absl::StrCat("Exceptions of ", c.name, ": tensors unlike most of their role")};
  if (exceptions.size() > max_rows) {
    absl::StrAppend(&t.caption, " (the first ", max_rows, " of ", exceptions.size(), ")");
  }
  t.columns = {{"module", false}, {"weights", false}, {"activations", false},
               {"kept"},          {"bits"},           {"reason", false}};
  for (size_t i = 0; i < std::min(exceptions.size(), max_rows); ++i) {
    const LinearDecision& d = *exceptions[i];
    t.rows.push_back({Cell(d.module, "key"), WeightWords(d.weight, d.group), ActivationWords(d.act),
                      absl::StrCat(d.kept), Significant(d.bits), Cell(d.reason, "wide")});
  }
  return t;
}

Table DecisionTable(const Configuration& c) {
  Table t{.caption = absl::StrCat("All ", c.eval->linears.size(), " decisions of ", c.name)};
  t.columns = {{"module", false}, {"shape"}, {"weights", false}, {"activations", false},
               {"kept"},          {"bits"},  {"rounding error"}, {"reason", false}};
  for (const LinearDecision& d : c.eval->linears) {
    t.rows.push_back({Cell(d.module, "key"), absl::StrCat(d.n, " × ", d.k), WeightWords(d.weight, d.group),
                      ActivationWords(d.act), absl::StrCat(d.kept), Significant(d.bits),
                      ErrorWords(d.weight_error), Cell(d.reason, "wide")});
  }
  return t;
}

Table WorstTensorTable(const Configuration& c, size_t count) {
  Table t{.caption = absl::StrCat("Tensors of ", c.name, " that rounding hurts most")};
  t.columns = {{"module", false}, {"rounding error"}, {"weights", false}, {"activations", false}, {"bits"}};
  for (const LinearDecision* d : WorstTensors(c.eval->linears, count)) {
    t.rows.push_back({Cell(d->module, "key"), ErrorWords(d->weight_error), WeightWords(d->weight, d->group),
                      ActivationWords(d->act), Significant(d->bits)});
  }
  return t;
}

}  // namespace spikefold
