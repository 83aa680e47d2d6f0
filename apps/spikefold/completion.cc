#include "apps/spikefold/completion.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"

namespace spikefold {
namespace {

std::vector<std::string> CommandNames(const ToolShape& tool) {
  std::vector<std::string> names;
  for (const CommandShape& command : tool.commands) names.push_back(command.name);
  return names;
}

// Its own and those of every command.
std::vector<OptionShape> AllOptions(const ToolShape& tool, const CommandShape& command) {
  std::vector<OptionShape> all = command.options;
  all.insert(all.end(), tool.options.begin(), tool.options.end());
  return all;
}

std::string NamesOf(const std::vector<OptionShape>& options) {
  std::vector<std::string> names;
  for (const OptionShape& option : options)
    names.insert(names.end(), option.names.begin(), option.names.end());
  return absl::StrJoin(names, " ");
}

// The first line of a text, which is enough beside a word.
std::string Brief(const std::string& text) { return text.substr(0, text.find('\n')); }

bool TakesFile(const OptionShape& option) {
  return option.value.find("FILE") != std::string::npos || option.value == "DIR" || option.value == "PATH";
}

// What compgen prints, a line each: file names may hold blanks.
std::string BashReply(absl::string_view compgen) {
  return absl::StrCat("mapfile -t COMPREPLY < <(compgen ", compgen, " -- \"$current\")");
}

// Branches of a case over the word before: options with a value.
std::string BashValues(const std::vector<OptionShape>& options) {
  std::string out;
  for (const OptionShape& option : options) {
    if (option.value.empty()) continue;
    absl::StrAppend(&out, "        ", absl::StrJoin(option.names, "|"), ") ");
    if (TakesFile(option)) absl::StrAppend(&out, BashReply("-f"), "; ");
    if (!option.words.empty()) {
      absl::StrAppend(&out, BashReply(absl::StrCat("-W \"", absl::StrJoin(option.words, " "), "\"")), "; ");
    }
    absl::StrAppend(&out, "return ;;\n");
  }
  return out;
}

// Inside '...[text]' of zsh's _arguments.
std::string ZshText(const std::string& text) {
  return absl::StrReplaceAll(Brief(text),
                             {{"\\", "\\\\"}, {"[", "\\["}, {"]", "\\]"}, {":", "\\:"}, {"'", "'\\''"}});
}

std::string FishText(const std::string& text) {
  return absl::StrReplaceAll(Brief(text), {{"\\", "\\\\"}, {"'", "\\'"}});
}

std::string ZshOption(const OptionShape& option) {
  std::string out;
  for (const std::string& name : option.names) {
    const std::string others =
        option.names.size() > 1 ? absl::StrCat("(", absl::StrJoin(option.names, " "), ")") : "";
    absl::StrAppend(&out, "        '", others, name, "[", ZshText(option.text), "]");
    if (!option.value.empty()) {
      absl::StrAppend(&out, ":", ZshText(option.value), ":",
                      !option.words.empty() ? absl::StrCat("(", absl::StrJoin(option.words, " "), ")")
                      : TakesFile(option)   ? "_files"
                                            : " ");
    }
    absl::StrAppend(&out, "' \\\n");
  }
  return out;
}

std::string FishOption(const std::string& condition, const OptionShape& option) {
  std::string out = absl::StrCat("complete -c spikefold", condition);
  for (const std::string& name : option.names) {
    absl::StrAppend(
        &out, name.size() == 2 ? absl::StrCat(" -s ", name.substr(1)) : absl::StrCat(" -l ", name.substr(2)));
  }
  if (!option.value.empty()) {
    absl::StrAppend(
        &out, option.words.empty() ? " -r" : absl::StrCat(" -x -a '", absl::StrJoin(option.words, " "), "'"));
  }
  return absl::StrCat(out, " -d '", FishText(option.text), "'\n");
}

}  // namespace

std::string BashCompletion(const ToolShape& tool) {
  std::string out = absl::StrCat(
      "# bash completion for spikefold; source it, or put it into bash-completion's directory\n"
      "_spikefold() {\n"
      "  COMPREPLY=()\n"
      "  local current=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} command= word\n"
      "  for word in \"${COMP_WORDS[@]:1:COMP_CWORD - 1}\"; do\n"
      "    case $word in\n"
      "      ",
      absl::StrJoin(CommandNames(tool), "|"),
      ") command=$word; break ;;\n"
      "    esac\n"
      "  done\n"
      "  case $command in\n"
      "    '')\n"
      "      case $before in\n",
      BashValues(tool.options), "      esac\n      ",
      BashReply(absl::StrCat("-W \"", absl::StrJoin(CommandNames(tool), " "), " --version --help ",
                             NamesOf(tool.options), "\"")),
      " ;;\n");
  for (const CommandShape& command : tool.commands) {
    const auto options = AllOptions(tool, command);
    absl::StrAppend(&out, "    ", command.name, ")\n      case $before in\n", BashValues(options),
                    "      esac\n", "      if [[ $current == -* ]]; then\n        ",
                    BashReply(absl::StrCat("-W \"", NamesOf(options), "\"")), "\n      else\n        ",
                    BashReply("-f"), "\n      fi ;;\n");
  }
  return absl::StrCat(out, "  esac\n}\ncomplete -o filenames -F _spikefold spikefold\n");
}

std::string ZshCompletion(const ToolShape& tool) {
  std::string out =
      "#compdef spikefold\n"
      "# zsh completion for spikefold; put it as _spikefold into a directory of $fpath\n"
      "_spikefold() {\n"
      "  local -a commands\n"
      "  commands=(\n";
  for (const CommandShape& command : tool.commands) {
    absl::StrAppend(&out, "    '", command.name, ":", ZshText(command.summary), "'\n");
  }
  absl::StrAppend(&out,
                  "  )\n"
                  "  local command= word\n"
                  "  for word in ${words[2,CURRENT-1]}; do\n"
                  "    case $word in\n"
                  "      ",
                  absl::StrJoin(CommandNames(tool), "|"),
                  ") command=$word; break ;;\n"
                  "    esac\n"
                  "  done\n"
                  "  case $command in\n"
                  "    '')\n      _arguments \\\n");
  for (const OptionShape& option : tool.options) absl::StrAppend(&out, ZshOption(option));
  absl::StrAppend(&out, "        '*:command:{_describe command commands}' ;;\n");
  for (const CommandShape& command : tool.commands) {
    absl::StrAppend(&out, "    ", command.name, ")\n      _arguments \\\n");
    for (const OptionShape& option : AllOptions(tool, command)) absl::StrAppend(&out, ZshOption(option));
    absl::StrAppend(&out, "        '*:file:_files' ;;\n");
  }
  return absl::StrCat(out, "  esac\n}\n_spikefold \"$@\"\n");
}

std::string FishCompletion(const ToolShape& tool) {
  std::string out = "# fish completion for spikefold; put it into a directory of $fish_complete_path\n";
  for (const CommandShape& command : tool.commands) {
    absl::StrAppend(&out, "complete -c spikefold -n __fish_use_subcommand -f -a ", command.name, " -d '",
                    FishText(command.summary), "'\n");
  }
  for (const OptionShape& option : tool.options) absl::StrAppend(&out, FishOption("", option));
  for (const CommandShape& command : tool.commands) {
    for (const OptionShape& option : command.options) {
      absl::StrAppend(
          &out, FishOption(absl::StrCat(" -n '__fish_seen_subcommand_from ", command.name, "'"), option));
    }
  }
  return out;
}

}  // namespace spikefold
