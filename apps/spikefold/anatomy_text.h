// A scan for people: where the outliers are, who writes and removes them, what helps.
#pragma once

#include <string>

#include "apps/spikefold/console.h"
#include "calib/census.h"
#include "formats/model_graph.h"

namespace spikefold {

std::string AnatomyText(const OutlierMap& map, const ModelGraph& graph, const Console& console);

}  // namespace spikefold
