// What a comparison shows of one scan: everything that outliers.json and the model's graph tell.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "apps/spikefold/fold_legality.h"
#include "calib/census.h"
#include "formats/model_graph.h"

namespace spikefold {

struct SchemeAdvice {
  std::string scheme, options, reason;  // "w8a8-static", "--outliers fold --rotate online", in words
};
struct ComparedScan {
  std::string name;  // its directory
  ModelGraph graph;
  OutlierMap map;
  std::vector<FoldLegality> folds;
  std::vector<SchemeAdvice> advice;
  // The map of sinks of text as the model wants it: behind BOS where its tokenizer adds one.
  const SinkMap& sinks() const { return bos() ? map.sinks_bos : map.sinks_plain; }
  const std::vector<LayerLife>& life() const { return bos() ? map.life_bos : map.life_plain; }
  bool bos() const;
};
// DataLoss: corrupt. Unimplemented: of a version that did not write the model's config; scan again.
absl::StatusOr<ComparedScan> LoadForComparison(const std::string& directory);

double MedianOf(std::vector<double> values);  // 0 of none

// The largest excess kurtosis and where.
const LayerLife* HeaviestTail(const std::vector<LayerLife>& life);
// The site with the widest range between its rows, behind the prefix or not; null if there are none.
const SiteReport* WidestSite(const OutlierMap& map, bool behind_prefix);

Json ComparisonToJson(const std::vector<ComparedScan>& scans);

}  // namespace spikefold
