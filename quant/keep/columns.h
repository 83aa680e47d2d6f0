// Which input channels of a site stay in bf16.
#pragma once

#include <cstdint>
#include <vector>

#include "calib/stats.h"
#include "quant/recipe.h"

namespace spikefold {

// Static scales: alternates "best scale for these columns" and "the columns that cost most at this scale";
// both steps lower the same weighted squared error, so it converges. Per-token scales: the columns with the
// largest 99.9 % quantile of |x|, weighted by nothing, since a row's scale follows its largest entry. Returns
// `count` columns (fewer if the site is narrower), ascending. `ceiling` and `hi` as ChooseActivationScale().
std::vector<int32_t> ChooseKeptColumns(const SiteStats& stats, int count, bool static_scale,
                                       ScaleMethod method, float ceiling = 0, int hi = 127);
// The control arm: as many at random; equal seeds and sites give equal columns.
std::vector<int32_t> RandomColumns(const SiteStats& stats, int count, uint64_t seed);

}  // namespace spikefold
