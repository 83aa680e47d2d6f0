// report.html: the page and its sections.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "apps/report/decisions.h"
#include "apps/report/figures.h"
#include "apps/report/style.h"
#include "apps/report/tables.h"
#include "apps/report/text.h"

namespace spikefold {
namespace {

constexpr size_t kWorst = 10, kMaxExceptions = 60, kMaxOpen = 4;
// What one evaluation adds beside its rows stops here, so that the fixed parts still fit under kMaxHtmlBytes.
constexpr size_t kDetailsBudget = 900'000;

std::string Paragraph(absl::string_view text, absl::string_view css = "") {
  return absl::StrCat("<p", css.empty() ? "" : absl::StrCat(" class=\"", css, "\""), ">", Html(text),
                      "</p>\n");
}

std::string FigureHtml(const Figure& figure) {
  return absl::StrCat("<figure><h3>", Html(figure.title), "</h3>\n", figure.svg, "<figcaption>",
                      Html(figure.finding), "</figcaption></figure>\n");
}

class Figures {
 public:
  void Add(const Figure& figure) { html_ += FigureHtml(figure); }
  void Add(const std::optional<Figure>& figure) {
    if (figure) Add(*figure);
  }
  std::string Html() const {
    return html_.empty() ? "" : absl::StrCat("<div class=\"figures\">\n", html_, "</div>\n");
  }

 private:
  std::string html_;
};

std::string Details(absl::string_view summary, absl::string_view html, bool open = false) {
  return absl::StrCat(open ? "<details open><summary>" : "<details><summary>", Html(summary), "</summary>\n",
                      html, "</details>\n");
}

std::string List(const std::vector<std::string>& items) {
  if (items.empty()) return "";
  std::string out = "<ul>";
  for (const std::string& item : items) absl::StrAppend(&out, "<li>", Html(item), "</li>");
  return out + "</ul>\n";
}

class Page {
 public:
  explicit Page(const ReportInput& input) : input_(input), findings_(Analyze(input)) {}

  std::string Render() {
    const bool evals = !input_.evals.empty();
    Section("verdict", "Verdict", Verdict());
    if (evals) Section("accuracy", "Accuracy against bits", Accuracy());
    if (input_.scan) Section("outliers", "Outliers of the float model", Outliers());
    Section("worst", "Worst tensors", Worst());
    if (evals) Section("decisions", "Decisions", Decisions());
    Section("provenance", "Provenance", ProvenanceSection());
    return absl::StrCat(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
        "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n"
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src "
        "'unsafe-inline'\">\n"
        "<title>",
        Html(findings_.title), "</title>\n<style>", kReportStyle, "</style>\n</head>\n<body>\n<header><h1>",
        Html(findings_.title), "</h1>\n", Paragraph(findings_.headline, "lead"), "</header>\n<nav>", nav_,
        "</nav>\n<main>\n", body_, "</main>\n</body>\n</html>\n");
  }

 private:
  void Section(const char* id, const char* title, const std::string& html) {
    if (html.empty()) return;
    absl::StrAppend(&nav_, "<a href=\"#", id, "\">", title, "</a>\n");
    absl::StrAppend(&body_, "<section id=\"", id, "\"><h2>", title, "</h2>\n", html, "</section>\n");
  }

  std::string Verdict() const {
    std::string out = "<ol class=\"verdicts\">\n";
    for (const Configuration& c : findings_.configurations) {
      std::vector<std::string> notes = c.flags;
      if (!c.comparable())
        notes.insert(notes.begin(), absl::StrCat("not comparable with the others: ", c.not_comparable));
      absl::StrAppend(&out, "<li><span class=\"grade g-",
                      absl::StrReplaceAll(GradeName(c.grade), {{" ", "-"}}), "\">", GradeName(c.grade),
                      "</span><strong>", Html(c.name), "</strong>: ", Html(c.verdict), List(notes),
                      "</li>\n");
    }
    if (findings_.configurations.empty())
      out.clear();
    else
      out += "</ol>\n";
    if (input_.scan) {
      absl::StrAppend(&out, "<h3>Outliers</h3>\n", Paragraph(input_.scan->map.verdict),
                      List(input_.scan->map.warnings));
    }
    if (out.empty())
      return Paragraph("There is nothing to report: neither an evaluation nor a scan was given.");
    return out;
  }

  std::string Accuracy() const {
    Figures figures;
    figures.Add(KldOverBits(findings_));
    figures.Add(RatioOverBits(findings_));
    figures.Add(KldOverTotalBits(findings_));
    figures.Add(KldByPosition(findings_));
    std::string noise = "The noise floor was not measured.";
    if (findings_.noise_floor > 0) {
      noise =
          absl::StrCat("Noise floor: the float model against itself with 16-bit activations has a KLD of ",
                       Significant(findings_.noise_floor), " nats. Smaller differences are ties.");
    }
    std::string out = absl::StrCat(HtmlTable(AccuracyTable(findings_)), figures.Html(), Paragraph(noise),
                                   HtmlTable(DistributionTable(findings_)), HtmlTable(SizeTable(findings_)));
    if (!findings_.treatments.empty()) out += HtmlTable(TreatmentTable(findings_));
    if (!findings_.gaps.empty()) out += HtmlTable(GapTable(findings_));
    return out;
  }

  std::string Outliers() const {
    const OutlierMap& map = input_.scan->map;
    Figures life, ranges;
    life.Add(SpikeLife(map, false));
    life.Add(Sinks(map, false));
    life.Add(SpikeLife(map, true));
    life.Add(Sinks(map, true));
    for (const Figure& figure : SiteRanges(*input_.scan)) ranges.Add(figure);
    std::string out = life.Html();
    if (!map.stages.empty()) out += HtmlTable(StageTable(map));
    if (!map.prefixes.empty()) out += HtmlTable(PrefixTable(map));
    if (!map.sites.empty())
      absl::StrAppend(&out, "<h3>Ranges of linear inputs, before and behind the prefix</h3>\n",
                      ranges.Html());
    if (!map.super_weights.empty()) out += HtmlTable(SuperWeightTable(map, 20));
    return out + List(map.notes);
  }

  std::string Worst() {
    std::string out;
    if (input_.scan && !input_.scan->map.sites.empty())
      out += HtmlTable(WorstSiteTable(*input_.scan, kWorst));
    int left_out = 0;
    std::string tables, figures;
    for (const Configuration& c : findings_.configurations) {
      const std::optional<Figure> errors = RoundingErrors(c);
      if (!errors) continue;
      const std::string figure = FigureHtml(*errors), table = HtmlTable(WorstTensorTable(c, kWorst));
      if (!Spend(figure.size() + table.size(), kDetailsBudget / 2)) {
        ++left_out;
        continue;
      }
      figures += figure;
      tables += Details(absl::StrCat("Worst tensors of ", c.name), table);
    }
    if (!figures.empty()) absl::StrAppend(&out, "<div class=\"figures\">\n", figures, "</div>\n", tables);
    if (left_out > 0)
      out += Paragraph(absl::StrCat("Left out for size: ", left_out,
                                    " more configurations; their errors are in their evaluations."),
                       "soft");
    return out;
  }

  std::string Decisions() {
    std::string out;
    int left_out = 0;
    for (const Configuration& c : findings_.configurations) {
      if (c.eval->linears.empty()) continue;
      std::string html = HtmlTable(RoleTable(c));
      const Table exceptions = ExceptionTable(c, kMaxExceptions);
      if (!exceptions.rows.empty()) html += HtmlTable(exceptions);
      const std::string all = HtmlTable(DecisionTable(c));
      const bool fits = Spend(html.size() + all.size(), kDetailsBudget);
      if (fits) html += Details("Every tensor", all);
      left_out += !fits;
      out += Details(absl::StrCat(c.name, ": ", Significant(c.eval->bits_linear), " bits a decoder weight, ",
                                  exceptions.rows.size(), " exceptions"),
                     html, findings_.configurations.size() <= kMaxOpen);
    }
    if (left_out > 0)
      out += Paragraph(absl::StrCat("Left out for size: the full lists of ", left_out,
                                    " configurations; they are in their evaluations."),
                       "soft");
    return out;
  }

  std::string ProvenanceSection() const {
    const Provenance tables = ProvenanceTables(input_, findings_);
    std::string out;
    if (!tables.common.rows.empty()) out += HtmlTable(tables.common);
    if (!tables.different.rows.empty())
      out += Details("What differs between the configurations", HtmlTable(tables.different));
    return out;
  }

  // Whether that many bytes are left of the details' budget; takes them.
  bool Spend(size_t bytes, size_t budget) {
    if (spent_ + bytes > budget) return false;
    spent_ += bytes;
    return true;
  }

  const ReportInput& input_;
  const Findings findings_;
  size_t spent_ = 0;
  std::string nav_, body_;
};

}  // namespace

std::string RenderHtml(const ReportInput& input) { return Page(input).Render(); }

}  // namespace spikefold
