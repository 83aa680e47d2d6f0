// What a parser of CLI11 knows of its commands and options, as data.
#pragma once

#include <CLI/CLI.hpp>

#include "apps/spikefold/command_shape.h"

namespace spikefold {

// The page of --help: of `app`, which is `root` or one of its commands.
HelpPage PageOf(const CLI::App& root, const CLI::App& app);

ToolShape ShapeOf(CLI::App& root);

}  // namespace spikefold
