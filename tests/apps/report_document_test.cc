// eval.json: written, read again, and refused when it is not what it should be.
#include <cmath>
#include <limits>

#include "apps/report/eval_document.h"
#include "quant/apply.h"
#include "tests/apps/report_kit.h"
#include "tests/quant/quant_kit.h"
#include "tests/testing/status_matchers.h"

namespace spikefold::testing {
namespace {

constexpr char kWhere[] = "w8a8.eval.json";
constexpr double kInfinity = std::numeric_limits<double>::infinity();

Json Parsed(const EvalDocument& document) {
  auto json = ParseJson(EvalDocumentToJson(document), kWhere);
  REQUIRE(json.ok());
  return *std::move(json);
}
absl::Status Reading(const Json& json) { return EvalDocumentFromJson(json.Dump(), kWhere).status(); }

}  // namespace

TEST_CASE("An evaluation document comes back from JSON as it was") {
  EvalDocument e = MakeEval();
  e.result.protocol = Protocol::kLlamaCpp;
  e.result.bos = BosMode::kWindow;
  e.prefix = {.tokens = 1, .kind = "tokens", .changes_function = true};
  e.linears[3].super = 5;
  e.linears[3].weight_error = -1;
  e.kernel_notes = Json::MakeArray();
  e.kernel_notes.Append("3 linears: as bytes");
  e.parity = {.tokens = 64, .outputs = 1000, .different = 3, .rounded = 2, .kld_mean = 1e-5, .same_top = 0.5};
  const auto back = EvalDocumentFromJson(EvalDocumentToJson(e), kWhere);
  CAPTURE(back.status().ToString());
  REQUIRE(back.ok());
  CHECK(EvalDocumentToJson(*back) == EvalDocumentToJson(e));
  CHECK(back->result.protocol == Protocol::kLlamaCpp);
  CHECK(back->result.bos == BosMode::kWindow);
  CHECK(back->result.ppl_ratio == e.result.ppl_ratio);
  CHECK(back->result.kld.p99 == e.result.kld.p99);
  CHECK(back->result.kld_by_position == e.result.kld_by_position);
  CHECK(back->model.file_bytes == 1000);
  CHECK(back->prefix.changes_function);
  CHECK(back->kernel_notes.array()[0].string_value() == "3 linears: as bytes");
  REQUIRE(back->parity.has_value());
  CHECK(back->parity->different == 3);
  CHECK(back->parity->kld_mean == 1e-5);
  CHECK(back->linears.size() == e.linears.size());
  CHECK(back->linears[3].super == 5);
  CHECK(back->calibration.Find("tokens")->int_value() == 4096);
}

TEST_CASE("Each metric has a member of its own") {
  Json json = Parsed(MakeEval());
  int64_t i = 0;
  for (auto& [key, value] : json.object()) {
    if (value.is_double()) value = Json(0.001 * static_cast<double>(++i));
    if (value.is_int() && key != "format_version") value = Json(100 + ++i);
  }
  CHECK(i > 40);
  const auto back = EvalDocumentFromJson(json.Dump(), kWhere);
  CAPTURE(back.status().ToString());
  REQUIRE(back.ok());
  CHECK(Parsed(*back).Dump() == json.Dump());
}

TEST_CASE("Infinite and missing values of a broken model survive as words") {
  EvalDocument e = MakeEval();
  e.result.ppl = kInfinity;
  e.result.ppl_se = std::nan("");
  e.result.ln_ratio = -kInfinity;
  const Json json = Parsed(e);
  CHECK(json.Find("ppl")->string_value() == "Infinity");
  const auto back = EvalDocumentFromJson(EvalDocumentToJson(e), kWhere);
  REQUIRE(back.ok());
  CHECK(back->result.ppl == kInfinity);
  CHECK(std::isnan(back->result.ppl_se));
  CHECK(back->result.ln_ratio == -kInfinity);
}

TEST_CASE("What gates and scripts read stands at the top level of eval.json, as numbers and words") {
  const Json json = Parsed(MakeEval());
  for (const char* key : {"ppl", "ppl_reference", "ppl_ratio", "ppl_ratio_se", "kld_mean", "kld_p99",
                          "same_top", "num_scored", "bits_linear", "bits_total"}) {
    CAPTURE(key);
    REQUIRE(json.Find(key) != nullptr);
    CHECK(json.Find(key)->is_number());
  }
  CHECK(json.Find("protocol")->string_value() == "chunks");
  CHECK(json.Find("bos")->string_value() == "none");
  CHECK(json.Find("backend")->string_value() == "cpu");
  CHECK(json.Find("scheme")->string_value() == "w8a8");
}

TEST_CASE("Every member of eval.json is needed, and must be of its type") {
  const Json whole = Parsed(MakeEval());
  REQUIRE(Reading(whole).ok());
  for (const auto& [key, value] : whole.object()) {
    CAPTURE(key);
    Json without = Json::MakeObject();
    for (const auto& [other, kept] : whole.object()) {
      if (other != key) without.Set(other, kept);
    }
    CHECK_THAT(Reading(without),
               Fails(absl::StatusCode::kDataLoss, absl::StrCat(kWhere, ": \"", key, "\" is missing")));
    Json wrong = whole;
    wrong.Set(key, true);
    CHECK_THAT(Reading(wrong), Fails(absl::StatusCode::kDataLoss, kWhere));
  }
}

TEST_CASE("Members of a decision are as strict, and the error says which one") {
  Json json = Parsed(MakeEval());
  json.object().back().second.array()[2].Set("bits", "eight");
  CHECK_THAT(Reading(json),
             Fails(absl::StatusCode::kDataLoss, "w8a8.eval.json: linears[2]: \"bits\" is a string"));
}

TEST_CASE("Values that no evaluation can have are refused") {
  struct Case {
    const char* key;
    Json value;
    const char* text;
  };
  for (const Case& c :
       {Case{"ppl", "inf", "\"ppl\" is neither a number nor"},
        Case{"ppl", "nan", "\"ppl\" is neither a number nor"}, Case{"ppl", -1.0, "\"ppl\" is -1"},
        Case{"same_top", 1.5, "\"same_top\" is 1.5; expected 0 to 1"},
        Case{"num_scored", 0, "\"num_scored\" is 0; expected 1 to"},
        Case{"num_scored", 1.5, "\"num_scored\" is a number with a fraction"},
        Case{"bits_linear", -4.0, "\"bits_linear\" is negative"},
        Case{"bits_linear", "Infinity", "\"bits_linear\" is a string"},
        Case{"protocol", "papers", "unknown (did you mean \"paper\"?)"},
        Case{"bos", "twice", "BOS mode \"twice\" is unknown"}}) {
    Json json = Parsed(MakeEval());
    json.Set(c.key, c.value);
    CAPTURE(c.key, c.value.Dump());
    CHECK_THAT(Reading(json), Fails(absl::StatusCode::kDataLoss, c.text));
  }
}

TEST_CASE("Documents of another version, with unknown members or of no JSON at all are refused") {
  Json json = Parsed(MakeEval());
  json.Set("x-note", "mine");
  CHECK(Reading(json).ok());
  json.Set("kld_median", 0.1);
  CHECK_THAT(Reading(json), Fails(absl::StatusCode::kUnimplemented, "unknown key \"kld_median\""));
  json.Set("format_version", 2);
  CHECK_THAT(Reading(json),
             Fails(absl::StatusCode::kUnimplemented, "w8a8.eval.json: format_version 2; this"));
  CHECK_THAT(Reading(Json(Json::Array{})), Fails(absl::StatusCode::kDataLoss, "not a JSON object"));
  const std::string text = EvalDocumentToJson(MakeEval());
  CHECK_THAT(EvalDocumentFromJson(text.substr(0, text.size() / 2), kWhere).status(),
             Fails(absl::StatusCode::kDataLoss, "w8a8.eval.json: not valid JSON"));
}

TEST_CASE(
    "The document of a quantized checkpoint says its bits, roles and calibration as the plan has them") {
  const Scanned s = ScanTiny(PlainModel());
  const auto plan = MakePlan({.scheme = "w8a8-static", .keep_columns = 4}, s.input());
  REQUIRE(plan.ok());
  const TempDirectory directory;
  const std::string path = directory / "quantized";
  REQUIRE(ApplyPlan(*plan, *s.tiny.checkpoint, {.pool = &TestPool(), .stats = &s.scan.stats, .output = path})
              .ok());
  const auto reader = CheckpointReader::Open(path);
  REQUIRE(reader.ok());
  const EvalResult result = MakeEval().result;
  const TokenStream text{.source = "text.raw", .sha256 = "173c"};
  const auto e = MakeEvalDocument({.result = &result,
                                   .model = reader->get(),
                                   .reference = s.tiny.checkpoint.get(),
                                   .text = &text,
                                   .threads = 2});
  CAPTURE(e.status().ToString());
  REQUIRE(e.ok());
  CHECK(e->name == "quantized");
  CHECK(e->scheme == "w8a8-static");
  CHECK(e->bits_linear == Approx(plan->totals.bits_linear()));
  CHECK(e->bits_total == Approx(plan->totals.bits_total()));
  CHECK(e->activation_bits == Approx(plan->totals.activation_bits));
  CHECK(e->reference.fingerprint == s.fingerprint);
  CHECK(e->calibration.Find("tokens")->int_value() == 8 * 64);
  REQUIRE(e->linears.size() == plan->linears.size() + 2);  // embedding and head
  CHECK(e->linears[0].role == "embedding");
  const LinearDecision& down = e->linears[7];
  CHECK(down.role == "down_proj");
  CHECK(down.layer == 0);
  CHECK(down.weight == "s8c");
  CHECK(down.act == "s8t");
  CHECK(down.kept == 4);
  CHECK(down.weight_error > 0);
  CHECK(down.bits == Approx(plan->linears[6].bits()));
  CHECK(EvalDocumentFromJson(EvalDocumentToJson(*e), kWhere).ok());
}

TEST_CASE("The document of a float checkpoint counts its stored tensors") {
  const TinyModel tiny = MakeTinyModel({.hidden = 64, .intermediate = 96, .num_layers = 2, .head_dim = 16});
  const EvalResult result = MakeEval().result;
  const TokenStream text;
  const auto e = MakeEvalDocument({.result = &result,
                                   .model = tiny.checkpoint.get(),
                                   .reference = tiny.checkpoint.get(),
                                   .text = &text,
                                   .name = "float"});
  REQUIRE(e.ok());
  CHECK(e->name == "float");
  CHECK(e->scheme == "float");
  CHECK(e->bits_linear == 32);
  CHECK(e->activation_bits == 16);
  CHECK(e->linears.size() == 2 * 7 + 2);
  CHECK(e->kv_bytes_per_token == 2 * 2 * 2 * 2 * 16);  // K and V, 2 bytes, 2 layers, 2 heads of 16
}

}  // namespace spikefold::testing
