#include "apps/spikefold/gate_command.h"

#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "apps/report/gate.h"
#include "apps/spikefold/output_path.h"
#include "apps/spikefold/text_table.h"
#include "formats/base/file.h"
#include "formats/base/hash.h"
#include "formats/base/status.h"

namespace spikefold {
namespace {

constexpr uint64_t kMaxInputBytes = uint64_t{64} << 20;

absl::Status Print(const GateCommandOptions& options, const std::vector<GateEval>& evals,
                   const std::string& thresholds_sha256, Console& console) {
  const GateVerdict worst = WorstVerdict(evals);
  if (console.json()) {
    return console.PrintJson(NewDocument("gate")
                                 .Set("verdict", GateVerdictName(worst))
                                 .Set("thresholds", options.thresholds)
                                 .Set("thresholds_sha256", thresholds_sha256)
                                 .Set("evals", GateToJson(evals)));
  }
  TextTable table("llll");
  for (const GateEval& eval : evals) {
    for (const GateCheck& c : eval.checks) {
      table.Row({Printable(eval.name, 40), c.name, GateVerdictName(c.verdict), c.reason});
    }
  }
  console.Print(table.Text());
  console.Print(absl::StrCat(
      "\n", worst == GateVerdict::kPass ? console.Good("pass") : console.Bad(GateVerdictName(worst)), "\n"));
  const char* actions = std::getenv("GITHUB_ACTIONS");
  if (actions != nullptr && std::string(actions) == "true") console.Print(GateAnnotations(evals));
  return console.Flush();
}

}  // namespace

absl::Status RunGate(const GateCommandOptions& options, Context& context) {
  std::vector<std::string> inputs = options.evals;
  inputs.push_back(options.thresholds);
  for (const std::string& output : {options.junit, options.markdown}) {
    if (!output.empty()) SF_RETURN_IF_ERROR(CheckOutputFile(output, inputs));
  }
  SF_ASSIGN_OR_RETURN(const std::string text, ReadFileToString(options.thresholds, 1 << 20));
  SF_ASSIGN_OR_RETURN(const GateThresholds thresholds, GateThresholdsFromJson(text, options.thresholds));
  std::vector<GateEval> evals;
  for (const std::string& path : options.evals) {
    SF_ASSIGN_OR_RETURN(const std::string json, ReadFileToString(path, kMaxInputBytes));
    SF_ASSIGN_OR_RETURN(const EvalDocument document, EvalDocumentFromJson(json, path));
    SF_ASSIGN_OR_RETURN(GateEval eval, JudgeEval(document, path, thresholds));
    evals.push_back(std::move(eval));
  }
  if (!options.junit.empty()) SF_RETURN_IF_ERROR(WriteFileAtomically(options.junit, GateJUnit(evals)));
  if (!options.markdown.empty())
    SF_RETURN_IF_ERROR(WriteFileAtomically(options.markdown, GateMarkdown(evals)));
  SF_RETURN_IF_ERROR(Print(options, evals, Sha256Hex(text), context.console));
  size_t total = 0, bad = 0;
  for (const GateEval& eval : evals) {
    for (const GateCheck& c : eval.checks) {
      ++total;
      bad += c.verdict == GateVerdict::kPass ? 0 : 1;
    }
  }
  if (bad == 0) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(bad, " of ", total,
                                                    " checks did not pass; the worst verdict is ",
                                                    GateVerdictName(WorstVerdict(evals))));
}

}  // namespace spikefold
