// Verdicts as JSON, JUnit XML, Markdown and GitHub annotations. Texts from files are escaped for each.
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "apps/report/gate.h"
#include "apps/report/text.h"

namespace spikefold {
namespace {

constexpr size_t kMaxMarkdown = (size_t{1} << 20) - 4096;

// Html() also escapes what XML needs: & < > and both quotes; control characters become text.
std::string Xml(absl::string_view text) { return Html(text); }

// Workflow commands: properties and messages have their own escapes.
std::string CommandText(absl::string_view text) {
  return absl::StrReplaceAll(Printable(text, 2000), {{"%", "%25"}, {"\r", "%0D"}, {"\n", "%0A"}});
}
std::string CommandProperty(absl::string_view text) {
  return absl::StrReplaceAll(CommandText(text), {{":", "%3A"}, {",", "%2C"}});
}

std::string MarkdownRow(const GateEval& eval, const GateCheck& c) {
  return absl::StrCat("| ", Markdown(eval.name), " | ", c.name, " | **", GateVerdictName(c.verdict), "** | ",
                      Markdown(c.reason), " |\n");
}

}  // namespace

Json GateToJson(const std::vector<GateEval>& evals) {
  Json list = Json::MakeArray();
  for (const GateEval& eval : evals) {
    Json checks = Json::MakeArray();
    for (const GateCheck& c : eval.checks) {
      Json check = Json::MakeObject();
      check.Set("name", c.name).Set("verdict", GateVerdictName(c.verdict)).Set("value", c.value);
      check.Set("low", c.low).Set("high", c.high).Set("limit", c.limit).Set("reason", c.reason);
      checks.Append(std::move(check));
    }
    Json entry = Json::MakeObject();
    entry.Set("name", eval.name).Set("path", eval.path).Set("verdict", GateVerdictName(eval.verdict));
    entry.Set("checks", std::move(checks));
    list.Append(std::move(entry));
  }
  return list;
}

std::string GateJUnit(const std::vector<GateEval>& evals) {
  size_t tests = 0, failures = 0;
  std::string suites;
  for (const GateEval& eval : evals) {
    size_t bad = 0;
    std::string cases;
    for (const GateCheck& c : eval.checks) {
      absl::StrAppend(&cases, "    <testcase classname=\"", Xml(eval.name), "\" name=\"", Xml(c.name), "\"");
      if (c.verdict == GateVerdict::kPass) {
        cases += "/>\n";
        continue;
      }
      ++bad;
      absl::StrAppend(&cases, ">\n      <failure type=\"", GateVerdictName(c.verdict), "\" message=\"",
                      Xml(c.reason), "\"/>\n    </testcase>\n");
    }
    absl::StrAppend(&suites, "  <testsuite name=\"", Xml(eval.name), "\" tests=\"", eval.checks.size(),
                    "\" failures=\"", bad, "\">\n", cases, "  </testsuite>\n");
    tests += eval.checks.size();
    failures += bad;
  }
  return absl::StrCat(
      "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"spikefold gate\" tests=\"", tests,
      "\" failures=\"", failures, "\">\n", suites, "</testsuites>\n");
}

std::string GateMarkdown(const std::vector<GateEval>& evals) {
  std::string text = absl::StrCat("## spikefold gate: ", GateVerdictName(WorstVerdict(evals)),
                                  "\n\n| model | threshold | verdict | |\n|---|---|---|---|\n");
  size_t left_out = 0;
  for (const bool passed : {false, true}) {  // what needs attention first
    for (const GateEval& eval : evals) {
      for (const GateCheck& c : eval.checks) {
        if ((c.verdict == GateVerdict::kPass) != passed) continue;
        const std::string row = MarkdownRow(eval, c);
        if (text.size() + row.size() > kMaxMarkdown) {
          ++left_out;
        } else {
          text += row;
        }
      }
    }
  }
  if (left_out > 0) absl::StrAppend(&text, "\n", left_out, " more checks are left out here.\n");
  return text;
}

std::string GateAnnotations(const std::vector<GateEval>& evals) {
  std::string lines;
  for (const GateEval& eval : evals) {
    for (const GateCheck& c : eval.checks) {
      if (c.verdict == GateVerdict::kPass) continue;
      absl::StrAppend(&lines, "::error title=", CommandProperty(absl::StrCat(eval.name, " ", c.name)),
                      "::", GateVerdictName(c.verdict), ": ", CommandText(c.reason), "\n");
    }
  }
  return lines;
}

}  // namespace spikefold
