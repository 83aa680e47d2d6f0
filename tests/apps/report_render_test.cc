// The four outputs: what they hold, how large they are, and that texts from files stay texts.
#include <catch2/catch.hpp>
#include <limits>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "apps/report/report.h"
#include "tests/apps/report_kit.h"
#include "tests/testing/tiny_model.h"

namespace spikefold::testing {
namespace {

// NUL, markup of every output, a formula, a link, a mention.
const std::string kHostile =
    std::string("=<script>alert(\"1\")</script>'&|`*_\0\n", 36) + "\x1b[31m @all http://x.y \xff";

EvalDocument HostileEval() {
  EvalDocument e = MakeEval({.name = kHostile});
  e.text_source = e.command = e.machine = e.scheme = e.model.path = e.reference.path = kHostile;
  e.calibration.Set(kHostile, kHostile);
  for (LinearDecision& d : e.linears) d.module = d.reason = d.role = d.weight = d.act = kHostile;
  return e;
}
ReportScan HostileScan() {
  ReportScan scan = MakeScan(3, 2);
  scan.map.verdict = scan.map.prefixes[0].text = scan.source = kHostile;
  scan.map.warnings = scan.map.notes = {kHostile};
  scan.map.stages[0].tokens = {{kHostile, 1.0}};
  for (std::string& site : scan.sites) site += kHostile;
  return scan;
}

// The first tag that does not close, "" if all do.
std::string Unbalanced(const std::string& html) {
  static const std::set<std::string> kVoid = {"meta", "!doctype"};
  std::vector<std::string> open;
  for (size_t at = html.find('<'); at != std::string::npos; at = html.find('<', at + 1)) {
    const size_t end = html.find('>', at);
    std::string tag = html.substr(at + 1, html.find_first_of(" >\n", at) - at - 1);
    if (html[end - 1] == '/' || kVoid.count(tag) > 0) continue;
    if (tag[0] != '/') {
      open.push_back(tag);
    } else if (open.empty() || open.back() != tag.substr(1)) {
      return tag;
    } else {
      open.pop_back();
    }
  }
  return open.empty() ? "" : open.back();
}

int Count(absl::string_view text, absl::string_view part) {
  return static_cast<int>(std::vector<std::string>(absl::StrSplit(text, part)).size()) - 1;
}

ReportInput Large() {
  ReportInput input{.scan = MakeScan(64, 64)};
  input.scan->map.life_bos = input.scan->map.life_plain;
  input.scan->map.sinks_bos = input.scan->map.sinks_plain;
  for (int i = 0; i < 40; ++i) {
    EvalValues v{.name = absl::StrCat("configuration with a long name number ", i), .num_layers = 64};
    v.bits = 4 + 0.1 * i;
    v.kld = 0.3 - 0.005 * i;
    EvalDocument e = MakeEval(v);
    for (LinearDecision& d : e.linears) d.reason = std::string(150, 'r');
    input.evals.push_back(std::move(e));
  }
  return input;
}

}  // namespace

TEST_CASE("Names from files stay text in HTML") {
  const std::string html = RenderHtml(
      {.title = kHostile, .command = kHostile, .evals = {HostileEval(), MakeEval()}, .scan = HostileScan()});
  CHECK_FALSE(absl::StrContains(html, "<script"));
  CHECK_FALSE(absl::StrContains(html, std::string(1, '\0')));
  CHECK_FALSE(absl::StrContains(html, "\x1b"));
  CHECK(absl::StrContains(
      html, "&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;&#39;&amp;|`*_\\x00\\n\\x1b[31m"));
  CHECK(Unbalanced(html).empty());
}

TEST_CASE("Names from files stay text in Markdown, CSV and JSON") {
  const ReportInput input{.evals = {HostileEval()}, .scan = HostileScan()};
  const std::string markdown = RenderMarkdown(input);
  CHECK_FALSE(absl::StrContains(markdown, "<script"));
  CHECK_FALSE(absl::StrContains(markdown, "http://"));
  CHECK_FALSE(absl::StrContains(markdown, "@all"));
  CHECK(absl::StrContains(markdown,
                          "=&lt;script&gt;alert(\"1\")&lt;/script&gt;'&amp;\\|\\`\\*\\_\\\\x00\\\\n"));
  const std::string csv = RenderCsv(input);
  CHECK(absl::StrContains(
      csv, "\r\n\"'=<script>alert(\"\"1\"\")</script>'&|`*_\\x00\\n\\x1b[31m @all http://x.y \\xff\","));
  CHECK(Count(csv, "\r\n") == 2);
  const auto json = ParseJson(RenderJson(input), "report.json");
  REQUIRE(json.ok());
  CHECK(absl::StartsWith(json->Find("configurations")->array()[0].Find("name")->string_value(), "=<script>"));
}

TEST_CASE("The page loads nothing, runs nothing and gives every chart its words") {
  const std::string html =
      RenderHtml({.evals = {MakeEval(), MakeEval({.name = "b"})}, .scan = MakeScan(3, 2)});
  for (const char* outside : {"http:", "https:", "//www", "src=", "url(", "@import", "<link", "<script",
                              "<iframe", "<object", "onload", "javascript:"}) {
    CAPTURE(outside);
    CHECK_FALSE(absl::StrContains(html, outside));
  }
  CHECK(Unbalanced(html).empty());
  const int charts = Count(html, "<svg ");
  CHECK(charts == 4 + 2 + 4 + 2);  // accuracy, life and sinks, ranges, rounding errors
  CHECK(Count(html, "<figcaption>") == charts);
  CHECK(Count(html, "<figure><h3>") == charts);
  CHECK(Count(html, "role=\"img\" aria-label=\"") == charts);
  CHECK(absl::StrContains(html, "prefers-color-scheme:dark"));
}

TEST_CASE("Forty evaluations of a model of 64 layers stay within the sizes") {
  const ReportInput input = Large();
  const std::string html = RenderHtml(input), markdown = RenderMarkdown(input);
  CHECK(html.size() < kMaxHtmlBytes);
  CHECK(absl::StrContains(html, "Left out for size: the full lists of"));
  CHECK(Unbalanced(html).empty());
  CHECK(markdown.size() <= kMaxMarkdownBytes);
  CHECK(absl::StrContains(markdown, "Left out for size: "));
  for (const EvalDocument& e : input.evals) {  // every verdict is there all the same
    CHECK(absl::StrContains(markdown, absl::StrCat("- **", e.name, "**")));
  }
}

TEST_CASE("A report of nothing, of a scan, of one evaluation says what there is and no more") {
  const std::string nothing = RenderHtml({}), scan = RenderHtml({.scan = MakeScan(3, 2)}),
                    one = RenderHtml({.evals = {MakeEval()}});
  CHECK(absl::StrContains(nothing, "There is nothing to report"));
  CHECK(absl::StrContains(RenderMarkdown({}), "There is nothing to report"));
  CHECK(Count(nothing, "<section") == 1);
  CHECK(absl::StrContains(scan, "Life of the spike"));
  CHECK_FALSE(absl::StrContains(scan, "id=\"accuracy\""));
  CHECK(absl::StrContains(one, "KLD over bits of the decoder"));
  CHECK_FALSE(absl::StrContains(one, "id=\"outliers\""));
  for (const std::string& html : {nothing, scan, one}) CHECK(Unbalanced(html).empty());
  CHECK(ParseJson(RenderJson({}), "report.json").ok());
}

TEST_CASE("A report says whether a GPU's results were compared with the CPU's") {
  EvalDocument equal = MakeEval({.name = "equal", .backend = "cuda"}), different = equal, alone = equal;
  equal.parity = {.tokens = 64, .outputs = 81000, .rounded = 5, .kld_mean = 1e-5};
  different.name = "different";
  different.parity = {.tokens = 64, .outputs = 81000, .different = 12, .kld_mean = 1e-5};
  alone.name = "alone";
  alone.kernel_notes = Json::MakeArray();
  alone.kernel_notes.Append("3 linears: as bytes");
  const std::string text = RenderMarkdown({.evals = {equal, different, alone}});
  CHECK(
      absl::StrContains(text, "all 81,000 outputs of integer linears equal but for kept columns' rounding"));
  CHECK(absl::StrContains(text, "12 of 81,000 outputs of integer linears differ"));
  CHECK(absl::StrContains(text, "not compared"));
  CHECK(absl::StrContains(text, "3 linears: as bytes"));
}

TEST_CASE("The columns of report.csv are a contract") {
  CHECK(
      RenderCsv({}) ==
      "name,grade,scheme,backend,bits_linear,bits_total,activation_bits,activations,ppl,ppl_se,ppl_reference,"
      "ppl_ratio,ppl_ratio_se,kld_mean,kld_se,kld_p50,kld_p99,kld_p999,kld_max,same_top,same_top_se,num_"
      "scored,"
      "protocol,bos,context,prefix_tokens,prefix_ratio,nonfinite_share,noise_floor_kld,file_bytes,"
      "kv_bytes_per_token,tokens_per_second,pareto,dominated_by,comparable,not_comparable,text_sha256,"
      "model_fingerprint,reference_fingerprint,tool_version\r\n");
  EvalDocument e = MakeEval({.kld = std::numeric_limits<double>::infinity()});
  const std::vector<std::string> lines = absl::StrSplit(RenderCsv({.evals = {e}}), "\r\n");
  const std::vector<std::string> header = absl::StrSplit(lines[0], ','), row = absl::StrSplit(lines[1], ',');
  REQUIRE(row.size() == header.size());
  CHECK(row[0] == "w8a8");
  CHECK(row[4] == "8.0");
  CHECK(row[13] == "Infinity");
}

TEST_CASE("A scan comes from outliers.json without its model") {
  const TinyModel tiny = MakeTinyModel({.num_layers = 3});
  const ModelGraph& graph = tiny.checkpoint->graph();
  OutlierMap map = MakeScan(3, 2).map;
  map.hidden = graph.config.hidden;
  map.sites.resize(2);
  map.sites[1].site = 3;
  const std::string text = OutlierMapToJson(map, graph).Dump();
  const auto scan = ReportScanFromJson(text, "scan/outliers.json");
  CAPTURE(scan.status().ToString());
  REQUIRE(scan.ok());
  REQUIRE(scan->map.sites.size() == 2);
  CHECK(scan->sites[static_cast<size_t>(scan->map.sites[1].site)] == graph.sites[3].name);
  CHECK(scan->map.sinks_plain.num_heads == 2);
  CHECK(ReportScanFromJson("{}", "outliers.json").status().code() == absl::StatusCode::kDataLoss);
}

}  // namespace spikefold::testing
