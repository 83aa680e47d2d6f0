#include <limits>

#include "absl/strings/str_cat.h"
#include "apps/report/report.h"
#include "formats/base/status.h"

namespace spikefold {

ReportScan MakeReportScan(OutlierMap map, const ModelGraph& graph, std::string source) {
  ReportScan scan{.source = std::move(source), .map = std::move(map)};
  for (const Site& site : graph.sites) scan.sites.push_back(site.name);
  return scan;
}

absl::StatusOr<ReportScan> ReportScanFromJson(absl::string_view text, absl::string_view where) {
  SF_ASSIGN_OR_RETURN(const Json json, ParseJson(text, where));
  // The reader checks a map against a model. Here the map is all there is: a graph with its sizes and sites.
  ModelGraph graph;
  SF_ASSIGN_OR_RETURN(graph.config.num_layers, json.GetInt("num_layers", where));
  SF_ASSIGN_OR_RETURN(graph.config.hidden, json.GetInt("hidden", where));
  graph.config.intermediate = std::numeric_limits<int64_t>::max();  // which the map does not say
  const Json* sites = json.Find("sites");
  if (sites == nullptr || !sites->is_array()) {
    return absl::DataLossError(absl::StrCat(where, ": \"sites\" is missing or no list; scan again"));
  }
  for (const Json& entry : sites->array()) {
    SF_ASSIGN_OR_RETURN(std::string name, entry.GetString("site", where));
    graph.sites.push_back({.id = static_cast<int>(graph.sites.size()), .name = std::move(name)});
  }
  SF_ASSIGN_OR_RETURN(OutlierMap map, OutlierMapFromJson(json, graph, where));
  return MakeReportScan(std::move(map), graph, std::string(where));
}

}  // namespace spikefold
