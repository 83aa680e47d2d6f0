// The text of --help: examples first, then usage and options, at most 100 columns.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace spikefold {

struct HelpPage {
  std::string summary;   // one line: what the command does
  std::string examples;  // lines as they are
  std::string usage;     // "spikefold scan MODEL [options]"
  struct Group {
    std::string title;
    std::vector<std::pair<std::string, std::string>> rows;  // "--windows N", what it does
  };
  std::vector<Group> groups;
  std::string ending;
};
std::string HelpText(const HelpPage& page);

}  // namespace spikefold
