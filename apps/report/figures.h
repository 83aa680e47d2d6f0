// The report's charts: each a title, a drawing and the finding in words, which is also its text alternative.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "apps/report/analysis.h"

namespace spikefold {

struct Figure {
  std::string title, svg, finding;
};

Figure KldOverBits(const Findings& findings);
Figure RatioOverBits(const Findings& findings);
Figure KldOverTotalBits(const Findings& findings);
Figure KldByPosition(const Findings& findings);
// Rounding errors by layer and role; none without at least one measured error.
std::optional<Figure> RoundingErrors(const Configuration& configuration);

// Of the scan. `bos`: the windows that begin with BOS; none if the scan has none.
std::optional<Figure> SpikeLife(const OutlierMap& map, bool bos);
std::optional<Figure> Sinks(const OutlierMap& map, bool bos);
std::vector<Figure> SiteRanges(const ReportScan& scan);  // one a kind of site

}  // namespace spikefold
