// What the report concludes: grades, comparability, the Pareto set, exceptions.
#include <catch2/catch.hpp>
#include <limits>

#include "apps/report/analysis.h"
#include "apps/report/decisions.h"
#include "apps/report/tables.h"
#include "apps/report/text.h"
#include "tests/apps/report_kit.h"

namespace spikefold::testing {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

Grade GradeOf(const EvalValues& values) {
  const ReportInput input{.evals = {MakeEval(values)}};
  return Analyze(input).configurations[0].grade;
}

}  // namespace

TEST_CASE("The Pareto set is what nothing beats in decoder bits, activation bits and KLD at once") {
  //                                                       bits, activations, KLD
  const ReportInput input{
      .evals = {MakeEval({.name = "w8a8", .bits = 8, .activation_bits = 8, .kld = 0.02}),
                MakeEval({.name = "w8a16", .bits = 8, .activation_bits = 16, .kld = 0.005}),
                MakeEval({.name = "static", .bits = 9, .activation_bits = 8, .kld = 0.05}),
                MakeEval({.name = "w4a16", .bits = 4.25, .activation_bits = 16, .kld = 0.2}),
                MakeEval({.name = "w4 twin", .bits = 4.25, .activation_bits = 16, .kld = 0.2}),
                MakeEval({.name = "w5a16", .bits = 5, .activation_bits = 16, .kld = 0.3}),
                MakeEval({.name = "exploded", .bits = 8, .activation_bits = 8, .kld = kInfinity})}};
  const Findings f = Analyze(input);
  const std::vector<int> dominated_by = {0, 0, 1, 0, 0, 4, 1};
  for (size_t i = 0; i < dominated_by.size(); ++i) {
    CAPTURE(f.configurations[i].name);
    CHECK(f.configurations[i].dominated_by == dominated_by[i]);
    CHECK(f.configurations[i].pareto == (dominated_by[i] == 0));
  }
}

TEST_CASE("A cheaper cache dominates only where it diverges no more") {
  ReportInput input{.evals = {MakeEval({.name = "float cache", .kld = 0.02}),
                              MakeEval({.name = "kv4", .kld = 0.03}),
                              MakeEval({.name = "kv8", .kld = 0.02})}};
  input.evals[0].kv_bytes_per_token = 1024;
  input.evals[1].kv_bytes_per_token = 288;
  input.evals[2].kv_bytes_per_token = 544;
  const Findings f = Analyze(input);
  CHECK(f.configurations[0].dominated_by == 3);
  CHECK(f.configurations[1].pareto);
  CHECK(f.configurations[2].pareto);
}

TEST_CASE("Activations are named as most multiply-adds read them") {
  const auto activations = [](const std::string& act) {
    const ReportInput input{.evals = {MakeEval({.act = act})}};
    return FormatText(Analyze(input).configurations[0].activations);
  };
  CHECK(activations("float") == "float");
  CHECK(activations("s8t") == "INT8 static");
  CHECK(activations("u4r") == "INT4 per token, asymmetric");
  CHECK(activations("s4g64") == "INT4 in groups of 64");
  ReportInput input{.evals = {MakeEval({.act = "s4g64"})}};
  for (LinearDecision& d : input.evals[0].linears) {
    if (d.role == "q_proj" || d.role == "down_proj") d.act = "s8r";
  }
  CHECK_THAT(Analyze(input).configurations[0].verdict, Catch::EndsWith("activations INT4 in groups of 64."));
}

TEST_CASE("With a window a cache holds it, the pinned rows and a page, however long the text") {
  ReportInput input{.evals = {MakeEval(), MakeEval({.name = "windowed"})}};
  for (EvalDocument& e : input.evals) e.kv_bytes_per_token = 1000;
  input.evals[1].prefix.tokens = 2;
  input.evals[1].kv = Json::MakeObject().Set("k", "u4p").Set("sinks", 4).Set("window", 16).Set("evict", 4096);
  const Table t = SizeTable(Analyze(input));
  CHECK(t.rows[0][5].text == Bytes(1000 + 32768 * 1000));
  CHECK(t.rows[1][4].text == Bytes(1000 + 2048 * 1000));
  CHECK(t.rows[1][5].text == Bytes(1000 + (2 + 4 + 4096 + 64) * 1000));
}

TEST_CASE("A simulation does not beat real kernels, and its gap to them is told") {
  EvalDocument real = MakeEval({.kld = 0.021}),
               simulated = MakeEval({.backend = "cpu-simulated", .kld = 0.02});
  const ReportInput input{.evals = {real, simulated}};
  const Findings f = Analyze(input);
  CHECK(f.configurations[0].pareto);
  CHECK(f.configurations[1].name == "w8a8 (cpu-simulated)");
  REQUIRE(f.gaps.size() == 1);
  CHECK(f.gaps[0].real == 1);
  CHECK(f.gaps[0].kld_gap == Approx(0.001));
}

TEST_CASE("A treated configuration stands beside the untreated one of its scheme that is nearest in bits") {
  EvalDocument treated = MakeEval({.name = "treated", .bits = 9.5, .kld = 0.05, .ratio = 1.05});
  treated.prefix = {.tokens = 1, .kind = "tokens", .changes_function = true};
  treated.linears[3].kept = 64;
  EvalDocument other = MakeEval({.name = "other scheme", .bits = 9.5, .kld = 0.9});
  other.scheme = "w8a16";
  const ReportInput input{.evals = {MakeEval({.name = "far", .bits = 5, .kld = 0.7}), treated,
                                    MakeEval({.name = "near", .bits = 8, .kld = 0.6, .ratio = 1.7}), other}};
  const Findings f = Analyze(input);
  REQUIRE(f.treatments.size() == 1);
  CHECK(f.treatments[0].with == 2);
  CHECK(f.treatments[0].without == 3);
  CHECK_THAT(f.headline,
             Catch::Contains("Treating outliers (prefix of 1 token, 64 kept columns) takes w8a8 from "
                             "× 1.7000 ± 0.0010 to × 1.0500 ± 0.0010."));
}

TEST_CASE("Another text, protocol or number of tokens is flagged and takes no part in the Pareto set") {
  EvalDocument other_text = MakeEval({.name = "b", .kld = 0.001}),
               fewer = MakeEval({.name = "c", .kld = 0.001});
  other_text.text_sha256 = "ffff";
  other_text.text_source = "other.txt";
  fewer.result.num_scored = 512;
  fewer.result.bos = BosMode::kOnce;
  const ReportInput input{
      .evals = {other_text, MakeEval({.name = "a"}), MakeEval({.name = "d", .kld = 0.03}), fewer}};
  const Findings f = Analyze(input);
  CHECK(f.configurations[0].not_comparable == "another text (other.txt)");
  CHECK_FALSE(f.configurations[0].pareto);
  CHECK(f.configurations[1].comparable());
  CHECK(f.configurations[1].pareto);
  CHECK(f.configurations[2].dominated_by == 2);
  CHECK(f.configurations[3].not_comparable == "BOS once, not none; 512 scored tokens, not 10,220");
}

TEST_CASE("Grades follow KLD and same-top, and a gain over float is anomalous") {
  CHECK(GradeOf({.kld = 0.002, .ratio = 1.001, .same_top = 0.975}) == Grade::kNearLossless);
  CHECK(GradeOf({.kld = 0.0021, .ratio = 1.001, .same_top = 0.975}) == Grade::kSlight);
  CHECK(GradeOf({.kld = 0.002, .ratio = 1.001, .same_top = 0.96}) == Grade::kSlight);
  CHECK(GradeOf({.kld = 0.03, .ratio = 1.001, .same_top = 0.92}) == Grade::kModerate);
  CHECK(GradeOf({.kld = 0.03, .same_top = 0.9}) == Grade::kClear);
  CHECK(GradeOf({.kld = 0.5, .same_top = 0.5}) == Grade::kSevere);
  CHECK(GradeOf({.kld = 1.1, .same_top = 0.5}) == Grade::kBroken);
  CHECK(GradeOf({.kld = 0.5, .ratio = 2.5}) == Grade::kBroken);
  CHECK(GradeOf({.kld = kInfinity}) == Grade::kBroken);
  CHECK(GradeOf({.kld = 0.001, .ratio = 0.99, .ratio_se = 0.001, .same_top = 0.99}) == Grade::kAnomalous);
  CHECK(GradeOf({.kld = 0.001, .ratio = 0.99, .ratio_se = 0.01, .same_top = 0.99}) == Grade::kNearLossless);
  CHECK(GradeOf({.kld = 0.001, .ratio = 0.996, .ratio_se = 0.001, .same_top = 0.99}) == Grade::kNearLossless);
  EvalDocument self = MakeEval({.kld = 0, .ratio = 1, .ratio_se = 0, .same_top = 1});
  self.model = self.reference;
  const ReportInput input{.evals = {self}};
  CHECK(Analyze(input).configurations[0].grade == Grade::kReference);
}

TEST_CASE("Configurations of one name are told apart") {
  const ReportInput input{
      .evals = {MakeEval(), MakeEval(), MakeEval({.name = "w8a8 #2"}), MakeEval({.name = ""})}};
  const Findings f = Analyze(input);
  CHECK(f.configurations[0].name == "w8a8");
  CHECK(f.configurations[1].name == "w8a8 #2");
  CHECK(f.configurations[2].name == "w8a8 #2 #2");
  CHECK(f.configurations[3].name == "unnamed");
}

TEST_CASE("The tokens that a conclusive ratio needs grow with the square of its error") {
  EvalResult r = MakeEval({.ratio = 1, .ratio_se = 0.005 / 1.96}).result;
  CHECK(TokensForHalfPercent(r) == Approx(10220));
  r.ppl_ratio_se *= 2;
  CHECK(TokensForHalfPercent(r) == Approx(4 * 10220));
}

TEST_CASE(
    "Exceptions are the tensors unlike most of their role, the worst tensors those of the largest error") {
  EvalDocument e = MakeEval({.num_layers = 4});
  e.linears[6].weight = "bf16";  // model.layers.0.down_proj
  e.linears[6].reason = "site score 1900";
  e.linears[20].kept = 64;  // model.layers.2.down_proj
  e.linears[1].weight_error = 0.5;
  e.linears[2].weight_error = -1;
  const auto exceptions = Exceptions(e.linears);
  REQUIRE(exceptions.size() == 2);
  CHECK(exceptions[0]->reason == "site score 1900");
  CHECK(exceptions[1]->module == "model.layers.2.down_proj");
  const auto worst = WorstTensors(e.linears, 3);
  REQUIRE(worst.size() == 3);
  CHECK(worst[0]->module == "model.layers.0.k_proj");
  CHECK(worst[1]->weight_error == 0.004);
  const auto roles = SummarizeRoles(e.linears);
  REQUIRE(roles.size() == 7);
  CHECK(roles[6].role == "down_proj");
  CHECK(roles[6].count == 4);
  CHECK(roles[6].exceptions == 2);
  CHECK(roles[6].kept_max == 64);
  CHECK(roles[6].weight == "s8c");
  CHECK(roles[1].worst == "model.layers.0.k_proj");
}

TEST_CASE("Numbers carry as many digits as their error allows") {
  CHECK(PlusMinus(1.02982, 0.00314) == "1.0298 ± 0.0031");
  CHECK(PlusMinus(35.9487, 1.13) == "35.9 ± 1.1");
  CHECK(PlusMinus(41234.5, 1234) == "41,234 ± 1,234");
  CHECK(PlusMinus(2, 0) == "2.000");
  CHECK(PlusMinus(kInfinity, kInfinity) == "∞");
  CHECK(Significant(0.0281) == "0.0281");
  CHECK(Significant(24123) == "24,100");
  CHECK(Significant(0.0000151, 2) == "1.5e-5");
  CHECK(Significant(-0.00001) == "-1.00e-5");
  CHECK(Significant(999.9) == "1,000");
  CHECK(Percent(0.891) == "89.1 %");
  CHECK(Percent(-1e-9) == "0.0 %");
  CHECK(Thousands(-1234567) == "-1,234,567");
  CHECK(Bytes(155549700) == "155.5 MB");
}

}  // namespace spikefold::testing
