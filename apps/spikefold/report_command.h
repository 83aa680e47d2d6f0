// spikefold report EVAL... -o report.html: accuracy against bits, from any number of evaluations.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "apps/report/report.h"
#include "apps/spikefold/context.h"

namespace spikefold {

struct ReportCommandOptions {
  std::vector<std::string> evals;  // what eval wrote
  std::string scan;                // what scan wrote, a directory or its outliers.json; empty: none
  std::string output;              // .html, .md, .json or .csv; empty: none
  std::string title;
};
// A row an evaluation. `marks`: empty, or one an evaluation, a last column.
struct TableMarks {
  std::string head;
  std::vector<std::string> cells;
};
std::string AccuracyText(const std::vector<EvalDocument>& evals, const TableMarks& marks = {});
absl::Status RunReport(const ReportCommandOptions& options, Context& context);

}  // namespace spikefold
