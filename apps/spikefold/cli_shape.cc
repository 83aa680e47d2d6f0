#include "apps/spikefold/cli_shape.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "apps/spikefold/option_groups.h"
#include "formats/base/version.h"

namespace spikefold {
namespace {

// "-o DIR"
std::string UsageOf(const CLI::Option* option) {
  if (option->get_positional()) {
    const bool many = option->get_items_expected_max() > 1;
    return absl::StrCat(option->get_name(true, false), many ? "..." : "");
  }
  const auto& short_names = option->get_snames();
  const std::string name =
      short_names.empty() ? "--" + option->get_lnames().front() : "-" + short_names.front();
  return absl::StrCat(name, " ", option->get_type_name());
}
// "-o, --output DIR"; positionals by their name.
std::string LeftOf(const CLI::Option* option) {
  if (option->get_positional()) return option->get_name(true, false);
  std::string names = absl::StrReplaceAll(option->get_name(false, true), {{",", ", "}, {"{false}", ""}});
  if (option->get_type_size() != 0 && !option->get_type_name().empty()) {
    absl::StrAppend(&names, " ", option->get_type_name());
  }
  return names;
}
std::string RightOf(const CLI::Option* option) {
  std::string text = option->get_description();
  const std::string value = option->get_default_str();
  if (!value.empty()) absl::StrAppend(&text, " [", value, "]");
  return text;
}

bool IsPage(const CLI::Option* option) {
  return option->get_name() == "--help" || option->get_name() == "--version";
}

// The words that OneOf() allows.
std::vector<std::string> WordsOf(CLI::Option* option) {
  try {
    absl::string_view name = option->get_validator(0)->get_name();
    if (absl::ConsumePrefix(&name, kWordsPrefix)) return absl::StrSplit(name, '|');
  } catch (const CLI::OptionNotFound&) {
  }
  return {};
}

std::vector<OptionShape> OptionsOf(CLI::App& app, bool with_pages) {
  std::vector<OptionShape> options;
  for (CLI::Option* option : app.get_options([](const CLI::Option*) { return true; })) {
    if (option->get_positional() || (!with_pages && IsPage(option))) continue;
    OptionShape shape{.names = {}, .text = option->get_description(), .value = "", .words = WordsOf(option)};
    for (const std::string& name : option->get_snames()) shape.names.push_back("-" + name);
    for (const std::string& name : option->get_lnames()) shape.names.push_back("--" + name);
    if (option->get_type_size() != 0) shape.value = option->get_type_name();
    options.push_back(std::move(shape));
  }
  return options;
}

}  // namespace

HelpPage PageOf(const CLI::App& root, const CLI::App& app) {
  HelpPage page{.summary = app.get_description(), .examples = app.get_footer()};
  HelpPage::Group arguments{.title = "Arguments"}, own{.title = "Options"};
  page.usage = &app == &root ? "spikefold COMMAND" : "spikefold " + app.get_name();
  for (const CLI::Option* option : app.get_options()) {
    if (option->get_positional() || option->get_required())
      absl::StrAppend(&page.usage, " ", UsageOf(option));
    (option->get_positional() ? arguments : own).rows.emplace_back(LeftOf(option), RightOf(option));
  }
  page.usage += " [options]";
  if (&app == &root) {
    HelpPage::Group commands{.title = "Commands"};
    for (const CLI::App* command : root.get_subcommands([](const CLI::App*) { return true; })) {
      commands.rows.emplace_back(command->get_name(), command->get_description());
    }
    page.groups = {commands, own};
    page.ending = "Options stand before or after the command. `spikefold COMMAND --help` says more.";
    return page;
  }
  HelpPage::Group global{.title = "Options of every command"};
  for (const CLI::Option* option : root.get_options()) {
    if (!IsPage(option)) global.rows.emplace_back(LeftOf(option), RightOf(option));
  }
  for (HelpPage::Group* group : {&arguments, &own, &global}) {
    if (!group->rows.empty()) page.groups.push_back(std::move(*group));
  }
  return page;
}

ToolShape ShapeOf(CLI::App& root) {
  ToolShape tool{.version = ToolVersion(), .commands = {}, .options = OptionsOf(root, false)};
  for (CLI::App* command : root.get_subcommands([](CLI::App*) { return true; })) {
    tool.commands.push_back({.name = command->get_name(),
                             .summary = command->get_description(),
                             .options = OptionsOf(*command, true),
                             .page = PageOf(root, *command)});
  }
  return tool;
}

}  // namespace spikefold
