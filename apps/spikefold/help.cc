#include "apps/spikefold/help.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "apps/spikefold/text.h"

namespace spikefold {
namespace {

constexpr size_t kWidth = 100, kLeft = 28;

std::string RowText(const std::string& left, const std::string& right) {
  std::string line = absl::StrCat("  ", left);
  if (right.empty()) return line + "\n";
  if (DisplayWidth(line) + 2 > kLeft) {
    absl::StrAppend(&line, "\n", std::string(kLeft, ' '));
  } else {
    line.append(kLeft - DisplayWidth(line), ' ');
  }
  return absl::StrCat(line, Wrap(right, kLeft, kWidth), "\n");
}

}  // namespace

std::string HelpText(const HelpPage& page) {
  std::string text = absl::StrCat(Wrap(page.summary, 0, kWidth), "\n");
  if (!page.examples.empty()) {
    text += "\nExamples:\n";
    for (const absl::string_view line : absl::StrSplit(page.examples, '\n')) {
      absl::StrAppend(&text, "  ", line, "\n");
    }
  }
  absl::StrAppend(&text, "\nUsage: ", Wrap(page.usage, 7, kWidth), "\n");
  for (const HelpPage::Group& group : page.groups) {
    absl::StrAppend(&text, "\n", group.title, ":\n");
    for (const auto& [left, right] : group.rows) text += RowText(left, right);
  }
  if (!page.ending.empty()) absl::StrAppend(&text, "\n", Wrap(page.ending, 0, kWidth), "\n");
  return text;
}

}  // namespace spikefold
