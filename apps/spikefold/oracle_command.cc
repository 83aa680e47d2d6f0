#include "apps/spikefold/oracle_command.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "apps/spikefold/parity_command.h"
#include "apps/spikefold/text.h"
#include "apps/spikefold/text_table.h"
#include "calib/format_count.h"
#include "calib/oracle.h"
#include "formats/base/status.h"

namespace spikefold {
namespace {

// Of the largest logit: float32 sums in another order, over the layers of a model, stay below it.
constexpr double kTolerance = 1e-4;

std::string Text(const OracleResult& r) {
  TextTable table("lll");
  table.Row({"logits", absl::StrFormat("differ by at most %.3g", r.logits_worst),
             absl::StrFormat("the largest is %.4g", r.logits_range)});
  table.Row(
      {"KL divergence", absl::StrFormat("%.3g", r.kld_mean), absl::StrFormat("at most %.2g", r.kld_max)});
  table.Row({"same top token", absl::StrFormat("%.2f %%", 100 * r.same_top), ""});
  const double tokens = static_cast<double>(r.num_tokens);
  table.Row({"tokens a second", absl::StrFormat("%.0f", tokens / r.seconds),
             absl::StrFormat("LibTorch %.0f", tokens / r.seconds_oracle)});
  return absl::StrCat("This program beside LibTorch, ", r.num_windows, " windows, ",
                      FormatCount(r.num_scored), " rows of logits\n", table.Text());
}

Json Document(const OracleResult& r, const std::string& path) {
  return NewDocument("eval-oracle")
      .Set("path", path)
      .Set("windows", r.num_windows)
      .Set("tokens", r.num_tokens)
      .Set("scored", r.num_scored)
      .Set("logits_worst", r.logits_worst)
      .Set("logits_range", r.logits_range)
      .Set("kld_mean", r.kld_mean)
      .Set("kld_max", r.kld_max)
      .Set("same_top", r.same_top)
      .Set("seconds_oracle", r.seconds_oracle)
      .Set("seconds", r.seconds);
}

}  // namespace

absl::Status RunOracle(const EvalCommandOptions& options, Context& context) {
  if (!options.parity) {
    return absl::InvalidArgumentError(
        "--backend torch: is an oracle for this program's own results; add --parity, or use cpu or cuda");
  }
  SF_RETURN_IF_ERROR(CheckParityOptions(options));
  if (options.kv.any()) {
    return absl::InvalidArgumentError("--backend torch: keeps float keys and values; leave out --kv");
  }
  Console& console = context.console;
  SF_RETURN_IF_ERROR(LoadTorchPlugin().status());  // before a model is read
  SF_ASSIGN_OR_RETURN(const OpenedModel opened,
                      OpenModel(context, options.model, {.simulate = options.simulate}));
  SF_ASSIGN_OR_RETURN(const auto oracle,
                      TorchModel::Load(*opened.reader, {.num_threads = context.num_threads(),
                                                        .progress = console.progress()}));
  SF_ASSIGN_OR_RETURN(const std::vector<EvalWindow> windows, ParityWindows(options, opened));
  SF_ASSIGN_OR_RETURN(const OracleResult result,
                      CompareWithOracle(*opened.model, *oracle, windows, console.progress()));
  console.EndProgress();
  if (console.json()) {
    SF_RETURN_IF_ERROR(console.PrintJson(Document(result, opened.reader->path())));
  } else {
    console.Print(Text(result));
    SF_RETURN_IF_ERROR(console.Flush());
  }
  // Codes of activations fall on the other side of a half here and there, which rounding does not explain.
  const bool is_float = opened.reader->kind() != CheckpointKind::kNative;
  if (!is_float || result.logits_worst <= kTolerance * result.logits_range) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrFormat("%s: logits differ from LibTorch's by %.3g; %.3g is allowed; please report it",
                      Printable(options.model, 1024), result.logits_worst, kTolerance * result.logits_range));
}

}  // namespace spikefold
