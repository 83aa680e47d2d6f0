// The census in words.
#pragma once

#include <string>

#include "calib/census.h"

namespace spikefold {

// One or two sentences: which stages there are, which site is worst, what the prefix does about it.
std::string Verdict(const OutlierMap& map, const ModelGraph& graph);

// What sandwich norm, QK-norm and a residual beyond float16 mean for treatments.
void AddArchitectureNotes(const ModelConfig& config, OutlierMap& map);

}  // namespace spikefold
