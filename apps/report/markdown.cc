// report.md: the same findings without drawings, for terminals and comments.
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "apps/report/figures.h"
#include "apps/report/tables.h"
#include "apps/report/text.h"

namespace spikefold {
namespace {

constexpr size_t kWorst = 10, kMaxExceptions = 20;
constexpr size_t kReserve = 2000;  // for the list of what did not fit

class Document {
 public:
  // Whole pieces only: a cut table is no table.
  void Add(const std::string& title, const std::string& text) {
    if (text.empty()) return;
    const std::string piece = absl::StrCat("## ", Markdown(title), "\n\n", text);
    if (out_.size() + piece.size() + kReserve > kMaxMarkdownBytes) {
      missing_.push_back(Markdown(Shortened(title, 60)));
    } else {
      out_ += piece;
    }
  }
  void Text(const std::string& text) { out_ += text; }
  std::string Finish() {
    if (missing_.empty()) return std::move(out_);
    constexpr size_t kMost = 12;
    const size_t all = missing_.size();
    if (all > kMost) missing_.resize(kMost);
    absl::StrAppend(&out_, "Left out for size: ", absl::StrJoin(missing_, "; "),
                    all > kMost ? absl::StrCat(" and ", all - kMost, " more sections") : "",
                    ". The HTML report has them.\n");
    return std::move(out_);
  }

 private:
  std::string out_;
  std::vector<std::string> missing_;
};

std::string Verdicts(const ReportInput& input, const Findings& findings) {
  std::string out;
  for (const Configuration& c : findings.configurations) {
    absl::StrAppend(&out, "- **", Markdown(c.name), "**: ", GradeName(c.grade), ": ", Markdown(c.verdict),
                    "\n");
    if (!c.comparable())
      absl::StrAppend(&out, "  - not comparable with the others: ", Markdown(c.not_comparable), "\n");
    for (const std::string& flag : c.flags) absl::StrAppend(&out, "  - ", Markdown(flag), "\n");
  }
  if (input.scan) absl::StrAppend(&out, "- Outliers: ", Markdown(input.scan->map.verdict), "\n");
  if (out.empty()) return "There is nothing to report: neither an evaluation nor a scan was given.\n";
  return out + "\n";
}

std::string Outliers(const ReportScan& scan) {
  std::string out;
  for (const bool bos : {false, true}) {
    for (const auto& figure : {SpikeLife(scan.map, bos), Sinks(scan.map, bos)}) {
      if (figure)
        absl::StrAppend(&out, "- ", Markdown(absl::StrCat(figure->title, ": ", figure->finding)), "\n");
    }
  }
  for (const Figure& figure : SiteRanges(scan)) {
    absl::StrAppend(&out, "- ", Markdown(absl::StrCat(figure.title, ": ", figure.finding)), "\n");
  }
  out += "\n";
  if (!scan.map.stages.empty()) out += MarkdownTable(StageTable(scan.map));
  if (!scan.map.prefixes.empty()) out += MarkdownTable(PrefixTable(scan.map));
  if (!scan.map.sites.empty()) out += MarkdownTable(WorstSiteTable(scan, kWorst));
  return out;
}

}  // namespace

std::string RenderMarkdown(const ReportInput& input) {
  const Findings findings = Analyze(input);
  Document document;
  document.Text(absl::StrCat("# ", Markdown(findings.title), "\n\n", Markdown(findings.headline), "\n\n"));
  document.Add("Verdict", Verdicts(input, findings));
  if (!input.evals.empty()) {
    document.Add("Accuracy against bits", MarkdownTable(AccuracyTable(findings)));
    document.Add("Distribution", MarkdownTable(DistributionTable(findings)));
    document.Add("Size and speed", MarkdownTable(SizeTable(findings)));
    if (!findings.treatments.empty()) {
      document.Add("What treating outliers buys", MarkdownTable(TreatmentTable(findings)));
    }
    if (!findings.gaps.empty())
      document.Add("Real kernels and simulation", MarkdownTable(GapTable(findings)));
  }
  const Provenance provenance = ProvenanceTables(input, findings);
  if (input.scan) document.Add("Outliers of the float model", Outliers(*input.scan));
  if (!provenance.common.rows.empty()) document.Add("Provenance", MarkdownTable(provenance.common));
  for (const Configuration& c : findings.configurations) {
    std::string text = MarkdownTable(RoleTable(c));
    const Table worst = WorstTensorTable(c, kWorst), exceptions = ExceptionTable(c, kMaxExceptions);
    if (!exceptions.rows.empty()) text += MarkdownTable(exceptions);
    if (!worst.rows.empty()) text += MarkdownTable(worst);
    if (!c.eval->linears.empty()) document.Add(absl::StrCat("Decisions of ", c.name), text);
  }
  if (!provenance.different.rows.empty()) {
    document.Add("Provenance that differs", MarkdownTable(provenance.different));
  }
  return document.Finish();
}

}  // namespace spikefold
