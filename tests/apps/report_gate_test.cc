#include <catch2/catch.hpp>
#include <cmath>

#include "apps/report/gate.h"
#include "tests/apps/report_kit.h"
#include "tests/testing/status_matchers.h"

namespace spikefold {
namespace {

using absl::StatusCode;
using testing::Fails;
using testing::MakeEval;

EvalDocument Eval(double ratio, double se = 0.001) {
  EvalDocument e = MakeEval({.ratio = ratio, .ratio_se = se});
  e.result.ln_ratio = std::log(ratio);
  e.result.kld_se = 0.001;  // beside kld 0.02
  return e;
}

GateVerdict VerdictOf(const EvalDocument& e, const char* thresholds) {
  const auto parsed = GateThresholdsFromJson(thresholds, "gate.json");
  REQUIRE(parsed.status() == absl::OkStatus());
  return JudgeEval(e, "e.json", *parsed)->verdict;
}

TEST_CASE("A threshold passes or fails by the 95 % bound, and what lies between is inconclusive", "[gate]") {
  // 1.02 +- 1.96 * 0.001
  CHECK(VerdictOf(Eval(1.02), R"({"max_ppl_ratio": 1.0225})") == GateVerdict::kPass);
  CHECK(VerdictOf(Eval(1.02), R"({"max_ppl_ratio": 1.0215})") == GateVerdict::kInconclusive);
  CHECK(VerdictOf(Eval(1.02), R"({"max_ppl_ratio": 1.0190})") == GateVerdict::kInconclusive);
  CHECK(VerdictOf(Eval(1.02), R"({"max_ppl_ratio": 1.0175})") == GateVerdict::kFail);
  CHECK(VerdictOf(Eval(1.02), R"({"max_kld": 0.0221})") == GateVerdict::kPass);
  CHECK(VerdictOf(Eval(1.02), R"({"max_kld": 0.0210})") == GateVerdict::kInconclusive);
  CHECK(VerdictOf(Eval(1.02), R"({"max_kld": 0.0170})") == GateVerdict::kFail);
  CHECK(VerdictOf(Eval(1.02), R"({"min_same_top": 0.94})") == GateVerdict::kPass);
  CHECK(VerdictOf(Eval(1.02), R"({"min_same_top": 0.949})") == GateVerdict::kInconclusive);
  CHECK(VerdictOf(Eval(1.02), R"({"max_bits_linear": 8})") == GateVerdict::kPass);
  CHECK(VerdictOf(Eval(1.02), R"({"max_bits_linear": 7.99})") == GateVerdict::kFail);
  CHECK(VerdictOf(Eval(1.02), R"({"min_scored": 10221})") == GateVerdict::kFail);
}

TEST_CASE("Dependent tokens widen the interval of the divergence", "[gate]") {
  EvalDocument e = Eval(1.02);
  e.result.design_effect = 4;
  CHECK(VerdictOf(e, R"({"max_kld": 0.0221})") == GateVerdict::kInconclusive);
}

TEST_CASE("Below 20 windows the ratio's error, which is from tokens, is widened, too", "[gate]") {
  EvalDocument e = Eval(1.02);
  e.result.design_effect = 4;
  CHECK(VerdictOf(e, R"({"max_ppl_ratio": 1.0225})") == GateVerdict::kPass);  // from 20 windows
  e.result.num_windows = 19;
  CHECK(VerdictOf(e, R"({"max_ppl_ratio": 1.0225})") == GateVerdict::kInconclusive);
}

TEST_CASE("Few tokens that agree by luck do not pass", "[gate]") {
  EvalDocument e = Eval(1, 0);
  e.result.kld_mean = e.result.kld_se = 0;
  e.result.same_top = 1;
  // Of n that all agree, Wilson's bound is n / (n + 1.96^2).
  e.result.num_scored = 1000;
  CHECK(VerdictOf(e, R"({"min_same_top": 0.9960})") == GateVerdict::kPass);
  CHECK(VerdictOf(e, R"({"min_same_top": 0.9964})") == GateVerdict::kInconclusive);
  e.result.same_top = 0;
  CHECK(VerdictOf(e, R"({"min_same_top": 0.003})") == GateVerdict::kInconclusive);
  CHECK(VerdictOf(e, R"({"min_same_top": 0.005})") == GateVerdict::kFail);
  e.result.same_top = 1;
  for (const char* limit :
       {R"({"max_kld": 0.01})", R"({"max_ppl_ratio": 1.01})", R"({"min_same_top": 0.1})"}) {
    CAPTURE(limit);
    e.result.num_scored = 30;
    CHECK(VerdictOf(e, limit) == GateVerdict::kPass);
    e.result.num_scored = 29;
    CHECK(VerdictOf(e, limit) == GateVerdict::kInconclusive);
  }
  const auto judged = JudgeEval(e, "e.json", *GateThresholdsFromJson(R"({"max_kld": 0.01})", "g"));
  CHECK(judged->checks[0].reason ==
        "0 from 29 scored tokens; at least 30 are needed for an error: score more tokens (--windows)");
}

TEST_CASE("A gain beyond noise is anomalous, whatever the thresholds, and logits that are not finite fail",
          "[gate]") {
  CHECK(VerdictOf(Eval(0.99), R"({"max_kld": 1})") == GateVerdict::kAnomalous);
  CHECK(VerdictOf(Eval(0.999), R"({"max_ppl_ratio": 1.1})") == GateVerdict::kPass);
  CHECK(VerdictOf(Eval(0.99), R"({"max_kld": 1, "max_ppl_gain": 0.05})") == GateVerdict::kPass);
  EvalDocument e = Eval(1.02);
  e.result.nonfinite_share = 0.01;
  CHECK(VerdictOf(e, R"({"max_kld": 1})") == GateVerdict::kFail);
  e = Eval(1.02);
  e.result.kld_mean = INFINITY;
  CHECK(VerdictOf(e, R"({"max_kld": 1})") == GateVerdict::kFail);
  e = Eval(1.02);
  e.parity = {.tokens = 64, .outputs = 1000, .rounded = 3};
  CHECK(VerdictOf(e, R"({"max_kld": 1})") == GateVerdict::kPass);
  e.parity->different = 1;
  CHECK(VerdictOf(e, R"({"max_kld": 1})") == GateVerdict::kFail);
}

TEST_CASE("Thresholds that say nothing, or something unknown, are refused", "[gate]") {
  const auto parse = [](const char* text) { return GateThresholdsFromJson(text, "gate.json").status(); };
  CHECK_THAT(parse(R"({"max_kdl": 1})"), Fails(StatusCode::kUnimplemented, "did you mean \"max_kld\"?"));
  CHECK_THAT(parse(R"({"format_version": 1})"), Fails(StatusCode::kDataLoss, "anything would pass"));
  CHECK_THAT(parse(R"({"min_same_top": 97.5})"), Fails(StatusCode::kDataLoss, "not percent"));
  CHECK_THAT(parse(R"({"max_kld": "1"})"), Fails(StatusCode::kDataLoss, "max_kld"));
  CHECK_THAT(parse(R"({"format_version": 2, "max_kld": 1})"), Fails(StatusCode::kUnimplemented, "only 1"));
  EvalDocument same = Eval(1);
  same.reference.fingerprint = same.model.fingerprint;
  CHECK_THAT(JudgeEval(same, "e.json", *GateThresholdsFromJson(R"({"max_kld": 1})", "g")).status(),
             Fails(StatusCode::kInvalidArgument, "compares a model with itself"));
}

TEST_CASE("Texts from files are escaped in XML, Markdown and annotations, and a summary stays below 1 MiB",
          "[gate]") {
  EvalDocument e = Eval(1.5);
  e.name = "a\"<b>&|*,:\n::error::x";
  const auto eval = JudgeEval(e, "e.json", *GateThresholdsFromJson(R"({"max_ppl_ratio": 1.1})", "g"));
  const std::string xml = GateJUnit({*eval}), lines = GateAnnotations({*eval}),
                    markdown = GateMarkdown({*eval});
  CHECK(xml.find("a&quot;&lt;b&gt;&amp;|*") != std::string::npos);
  CHECK(xml.find("failures=\"1\"") != std::string::npos);
  CHECK(std::count(lines.begin(), lines.end(), '\n') == 1);
  CHECK(lines.rfind("::error title=", 0) == 0);
  CHECK(markdown.find("<b>") == std::string::npos);
  CHECK(std::count(markdown.begin(), markdown.end(), '\n') == 5);
  const std::vector<GateEval> many(20000, *eval);
  CHECK(GateMarkdown(many).size() < (1 << 20));
  CHECK(GateMarkdown(many).find("more checks are left out") != std::string::npos);
}

}  // namespace
}  // namespace spikefold
