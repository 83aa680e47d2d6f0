// A plan for people: by role, and in all.
#pragma once

#include <string>

#include "apps/spikefold/console.h"
#include "quant/plan.h"

namespace spikefold {

std::string PlanText(const Plan& plan, const Console& console);

}  // namespace spikefold
