#include "apps/spikefold/man_page.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "apps/spikefold/exit_code.h"

namespace spikefold {
namespace {

// Text for roff: hyphens as they are typed, and no line that begins like a request.
std::string Roff(const std::string& text) {
  std::string out;
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    const bool request = !line.empty() && (line[0] == '.' || line[0] == '\'');
    absl::StrAppend(&out, out.empty() ? "" : "\n", request ? "\\&" : "",
                    absl::StrReplaceAll(line, {{"\\", "\\e"}, {"-", "\\-"}}));
  }
  return out;
}

std::string Rows(const HelpPage::Group& group) {
  std::string out;
  for (const auto& [left, right] : group.rows) {
    // A line of a text with several stands alone, as it does in --help.
    absl::StrAppend(&out, ".TP\n\\fB", Roff(left), "\\fR\n",
                    absl::StrReplaceAll(Roff(right), {{"\n", "\n.br\n"}}), "\n");
  }
  return out;
}

}  // namespace

std::string ManPage(const ToolShape& tool) {
  std::string out =
      absl::StrCat(".TH SPIKEFOLD 1 \"\" \"spikefold ", Roff(tool.version),
                   "\" \"User Commands\"\n.SH NAME\nspikefold \\- outlier\\-aware quantization of "
                   "language models\n.SH SYNOPSIS\n.B spikefold\n\\fICOMMAND\\fR [\\fIoptions\\fR]\n");
  absl::StrAppend(&out, ".SH COMMANDS\n");
  for (const CommandShape& command : tool.commands) {
    absl::StrAppend(&out, ".SS ", Roff(command.page.usage), "\n", Roff(command.summary), ".\n.PP\n.nf\n",
                    Roff(command.page.examples), "\n.fi\n");
    for (const HelpPage::Group& group : command.page.groups) {
      if (group.title != "Options of every command") absl::StrAppend(&out, Rows(group));
    }
  }
  absl::StrAppend(&out, ".SH OPTIONS OF EVERY COMMAND\n");
  for (const HelpPage::Group& group : tool.commands.front().page.groups) {
    if (group.title == "Options of every command") absl::StrAppend(&out, Rows(group));
  }
  absl::StrAppend(&out, ".SH EXIT STATUS\n");
  for (const auto& [code, meaning] : ExitCodes()) {
    absl::StrAppend(&out, ".TP\n", static_cast<int>(code), "\n", Roff(meaning), "\n");
  }
  return out;
}

}  // namespace spikefold
