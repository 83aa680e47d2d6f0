// The manual page spikefold(1), in man's macros.
#pragma once

#include <string>

#include "apps/spikefold/command_shape.h"

namespace spikefold {

std::string ManPage(const ToolShape& tool);

}  // namespace spikefold
