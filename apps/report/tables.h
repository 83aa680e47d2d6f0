// The report's tables as plain text cells, which HTML and Markdown both render.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "apps/report/analysis.h"

namespace spikefold {

struct Cell {
  std::string text;
  std::string css;  // of the HTML page: "g-broken" (a grade), "good", "bad"; not from files
  Cell(std::string t, std::string c = "") : text(std::move(t)), css(std::move(c)) {}
  Cell(const char* t) : text(t) {}
};
struct Table {
  struct Column {
    std::string head;
    bool number = true;  // aligned to the right, never wrapped
  };
  std::string caption;
  std::vector<Column> columns;
  std::vector<std::vector<Cell>> rows;
};
std::string HtmlTable(const Table& table);
std::string MarkdownTable(const Table& table);

Table AccuracyTable(const Findings& findings);
Table DistributionTable(
    const Findings& findings);  // percentiles of the KLD, and what the rest of a result says
Table SizeTable(const Findings& findings);
Table TreatmentTable(const Findings& findings);
Table GapTable(const Findings& findings);

Table RoleTable(const Configuration& configuration);
Table ExceptionTable(const Configuration& configuration, size_t max_rows);
Table DecisionTable(const Configuration& configuration);  // every tensor
Table WorstTensorTable(const Configuration& configuration, size_t count);

Table StageTable(const OutlierMap& map);
Table WorstSiteTable(const ReportScan& scan, size_t count);
Table PrefixTable(const OutlierMap& map);
Table SuperWeightTable(const OutlierMap& map, size_t count);

// Facts that all evaluations share, once, and those that differ, a column an evaluation.
struct Provenance {
  Table common, different;
};
Provenance ProvenanceTables(const ReportInput& input, const Findings& findings);

}  // namespace spikefold
