// Scripts that let a shell complete the commands, options and words of the command line.
#pragma once

#include <string>

#include "apps/spikefold/command_shape.h"

namespace spikefold {

std::string BashCompletion(const ToolShape& tool);
std::string ZshCompletion(const ToolShape& tool);
std::string FishCompletion(const ToolShape& tool);

}  // namespace spikefold
