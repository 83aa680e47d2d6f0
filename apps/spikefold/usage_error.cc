#include "apps/spikefold/usage_error.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "formats/base/json.h"
#include "formats/base/suggest.h"

namespace spikefold {
namespace {

std::string NameOf(const CLI::App& app, const CLI::App& chosen) {
  return &chosen == &app ? "spikefold" : absl::StrCat("spikefold ", chosen.get_name());
}

}  // namespace

std::string UsageError(const CLI::ParseError& error, const CLI::App& app, const CLI::App& chosen, int argc,
                       char** argv) {
  std::vector<std::string> names, options;
  for (const CLI::App* command : app.get_subcommands({})) names.push_back(command->get_name());
  for (const CLI::App* of : {&app, &chosen}) {
    for (const CLI::Option* option : of->get_options()) {
      for (const std::string& name : option->get_lnames()) options.push_back("--" + name);
      for (const std::string& name : option->get_snames()) options.push_back("-" + name);
    }
  }
  const std::string start = absl::StrCat(NameOf(app, chosen), ": ");
  const std::string end = absl::StrCat("; see ", NameOf(app, chosen), " --help\n");
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i], name = argument.substr(0, argument.find('='));
    if (argument == "--") break;
    if (name.size() > 2 && name.substr(0, 2) == "--" &&
        std::count(options.begin(), options.end(), name) == 0) {
      return absl::StrCat(start, "option \"", Printable(name), "\" is unknown", DidYouMean(name, options),
                          end);
    }
    const bool extra = dynamic_cast<const CLI::ExtrasError*>(&error) != nullptr;
    if (&chosen == &app && name[0] != '-' && !extra) {
      return absl::StrCat(start, "\"", Printable(name), "\" is no command", DidYouMean(name, names), "; use ",
                          absl::StrJoin(names, ", "), "\n");
    }
  }
  return absl::StrCat(start, Printable(error.what(), 1000), end);
}

std::string EmptyValue(const CLI::App& app, const CLI::App& chosen, int argc, char** argv) {
  const auto say = [&](const std::string& name) {
    return absl::StrCat(NameOf(app, chosen), ": ", name, ": an empty value; see ", NameOf(app, chosen),
                        " --help\n");
  };
  for (const CLI::App* of : {&app, &chosen}) {
    for (const CLI::Option* option : of->get_options()) {
      for (int i = 1; i < argc && absl::string_view(argv[i]) != "--"; ++i) {
        absl::string_view name = argv[i];
        if (!absl::ConsumePrefix(&name, "--") || !absl::ConsumeSuffix(&name, "=")) continue;
        if (option->check_lname(std::string(name))) return say(absl::StrCat("--", name));
      }
      const std::vector<std::string>& values = option->results();
      if (option->check_lname("prompt") || std::count(values.begin(), values.end(), "") == 0) continue;
      return say(option->get_name(option->get_positional()));
    }
  }
  return "";
}

}  // namespace spikefold
