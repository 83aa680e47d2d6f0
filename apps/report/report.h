// The report: what quantization cost, what it bought and why, from evaluations and (optionally) the scan.
//
//   ReportInput input{.evals = {...}, .scan = scan};
//   SF_RETURN_IF_ERROR(WriteFileAtomically("report.html", RenderHtml(input)));
//
// Equal input gives equal bytes: no dates, no random ids. Any number of evaluations (none as well), with or
// without a scan; what was not measured is left out or said to be missing. Names and texts from files are
// escaped. What each part says: docs/report.md.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "apps/report/eval_document.h"
#include "calib/census.h"
#include "formats/model_graph.h"

namespace spikefold {

// The outlier map with the names of the sites that it counts by, so that no model is needed.
struct ReportScan {
  std::string source;  // the file; may be empty
  OutlierMap map;
  std::vector<std::string> sites;  // by SiteReport::site
};
ReportScan MakeReportScan(OutlierMap map, const ModelGraph& graph, std::string source);
// From the bytes of outliers.json. Errors: those of ParseJson and OutlierMapFromJson.
absl::StatusOr<ReportScan> ReportScanFromJson(absl::string_view text, absl::string_view where);

struct ReportInput {
  std::string title;                // empty: made from the reference's name
  std::string command;              // as typed; may be empty
  std::vector<EvalDocument> evals;  // a row each, in this order
  std::optional<ReportScan> scan;
};

inline constexpr size_t kMaxHtmlBytes = 2'000'000, kMaxMarkdownBytes = 60'000;

// One file: inline SVG and CSS, no script, nothing loaded from elsewhere. Below kMaxHtmlBytes for up to 40
// evaluations of models of up to 64 layers; long lists are cut with a note.
std::string RenderHtml(const ReportInput& input);
// At most kMaxMarkdownBytes; sections that do not fit any more are named at the end.
std::string RenderMarkdown(const ReportInput& input);
std::string RenderJson(const ReportInput& input);  // report.json, format_version 1
std::string RenderCsv(const ReportInput& input);   // a header, then a row an evaluation

}  // namespace spikefold
