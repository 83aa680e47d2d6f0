// What to say of a command line that makes no sense.
#pragma once

#include <string>

namespace CLI {
class App;
class ParseError;
}  // namespace CLI

namespace spikefold {

// What was wrong, in one line. The parser stops at the first thing it minds, which is often a missing
// argument; a name that does not exist is the likelier cause, so it is looked for first. `chosen`: the
// command, or `app` itself.
std::string UsageError(const CLI::ParseError& error, const CLI::App& app, const CLI::App& chosen, int argc,
                       char** argv);

// Of a value that is empty, as of an unset variable in a script (`--name ""`, `--name=`, which the parser
// takes for `--name`): it must not turn an option off. Text to continue may be. Empty if none is.
std::string EmptyValue(const CLI::App& app, const CLI::App& chosen, int argc, char** argv);

}  // namespace spikefold
