// What commands and options there are, as data: for completion scripts and the manual page.
#pragma once

#include <string>
#include <vector>

#include "apps/spikefold/help.h"

namespace spikefold {

struct OptionShape {
  std::vector<std::string> names;  // "-o", "--output"
  std::string text;                // what it does
  std::string value;               // "DIR"; empty: a switch
  std::vector<std::string> words;  // the only values; empty: any, files among them
};

struct CommandShape {
  std::string name, summary;
  std::vector<OptionShape> options;  // its own, --help included
  HelpPage page;
};

struct ToolShape {
  std::string version;
  std::vector<CommandShape> commands;
  std::vector<OptionShape> options;  // of every command
};

}  // namespace spikefold
