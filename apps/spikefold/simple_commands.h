// Commands whose options are words, lists of words and switches, described as data: main.cc turns a
// description into options. Commands with numbers and shared groups of options stand in main.cc itself.
#pragma once

#include <functional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "apps/spikefold/context.h"

namespace spikefold {

struct OptionSpec {
  std::string names;  // "-o,--output"; a positional's name in capitals
  std::variant<std::string*, std::vector<std::string>*, bool*> value;
  std::string text;
  std::string type_name;  // "FILE"; "" for switches and positionals
  bool required = false;
  std::vector<std::string> words;  // the only ones allowed; empty: any
};

struct CommandSpec {
  std::string name, summary, examples;
  std::vector<OptionSpec> options;  // point into what `run` owns
  std::function<absl::Status(Context&)> run;
};

// merge, export, gate, diff, report, verify, doctor; in the order of the help.
std::vector<CommandSpec> SimpleCommands();

}  // namespace spikefold
