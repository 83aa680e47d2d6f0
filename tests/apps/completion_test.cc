// Completion scripts and the manual, from the command line that they describe.
#include <cstdlib>

#include "absl/strings/match.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "tests/apps/apps_kit.h"

namespace spikefold::testing {
namespace {

// What bash completes for words typed so far, the last one unfinished.
std::vector<std::string> Complete(const std::string& script, const std::vector<std::string>& words) {
  const TempDirectory directory;
  std::string line =
      "source " + script + "; cd " + directory.path() + "; touch model.gguf \"two words.gguf\"; COMP_WORDS=(";
  for (const std::string& word : words) line += "'" + word + "' ";
  line += "); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _spikefold; printf '%s\n' \"${COMPREPLY[@]}\" > out";
  REQUIRE(std::system(("bash -c '" + absl::StrReplaceAll(line, {{"'", "'\\''"}}) + "'").c_str()) == 0);
  const std::string out = ReadAll(directory / "out");
  std::vector<std::string> lines = absl::StrSplit(out, '\n', absl::SkipEmpty());
  return lines;
}

}  // namespace

TEST_CASE("bash completes commands, their options, words and files", "[apps]") {
  const TempDirectory directory;
  const std::string script = directory / "spikefold.bash";
  REQUIRE(WriteFileAtomically(script, Succeed({"completion", "bash"})).ok());
  using Words = std::vector<std::string>;
  CHECK(Complete(script, {"spikefold", "sca"}) == Words{"scan"});
  CHECK(Complete(script, {"spikefold", "quantize", "--rand"}) == Words{"--random-bits", "--random-columns"});
  CHECK(Complete(script, {"spikefold", "export", "m", "--to", "comp"}) == Words{"compressed-tensors"});
  CHECK(Complete(script, {"spikefold", "scan", "mod"}) == Words{"model.gguf"});
  CHECK(Complete(script, {"spikefold", "scan", "tw"}) == Words{"two words.gguf"});
  CHECK(Complete(script, {"spikefold", "report", "-o", "tw"}) == Words{"two words.gguf"});
  CHECK(Complete(script, {"spikefold", "--color", "n"}) == Words{"never"});
  CHECK(Complete(script, {"spikefold", "--threads", ""}).empty());
  CHECK(Complete(script, {"spikefold", "scan", "--windows", ""}).empty());
  CHECK(Complete(script, {"spikefold", "scan", "--rand"}).empty());  // another command's option
  CHECK(Complete(script, {"spikefold", "--threads", "2", "eval", "--color", "n"}) == Words{"never"});
}

TEST_CASE("Every command and option is in every shell's script and in the manual", "[apps]") {
  const std::string bash = Succeed({"completion", "bash"}), zsh = Succeed({"completion", "zsh"}),
                    fish = Succeed({"completion", "fish"}), man = Succeed({"man"});
  for (const std::string name : {"--dynamic-sites", "--max-kld", "--thresholds", "--progress", "--isa"}) {
    CAPTURE(name);
    CHECK(absl::StrContains(bash, name));
    CHECK(absl::StrContains(zsh, name + "["));
    CHECK(absl::StrContains(fish, " -l " + name.substr(2) + " "));
    CHECK(absl::StrContains(man, absl::StrReplaceAll(name, {{"-", "\\-"}})));
  }
  CHECK(absl::StrContains(zsh, "'scan:Finds a model'\\''s outliers\\: where"));
  for (const std::string& line : std::vector<std::string>(absl::StrSplit(man, '\n'))) {
    CAPTURE(line);
    const bool request = !line.empty() && line[0] == '.';
    CHECK((!request || line.find_first_of("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz") == 1));
  }
  CheckRefused({"completion", "csh"}, 2,
               "spikefold completion: SHELL: 'csh' is unknown (did you mean \"zsh\"?); use bash, zsh, fish; "
               "see spikefold completion "
               "--help");
}

}  // namespace spikefold::testing
