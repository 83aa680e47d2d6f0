#include "apps/spikefold/parity_command.h"

#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "apps/spikefold/guard.h"
#include "apps/spikefold/kv_flags.h"
#include "apps/spikefold/text.h"
#include "apps/spikefold/text_table.h"
#include "calib/format_count.h"
#include "calib/parity.h"
#include "formats/base/status.h"
#include "kernels/runtime/ops.h"

namespace spikefold {
namespace {

void AddLinears(const char* what, const LinearParity& p, TextTable& table) {
  if (p.num_outputs == 0) return;
  if (p.num_different == 0) {
    table.Row({what, absl::StrCat("all ", FormatCount(p.num_outputs), " outputs equal bit for bit"),
               p.num_rounded == 0 ? ""
                                  : absl::StrCat("but for the last bits of ", FormatCount(p.num_rounded),
                                                 " to which kept columns were added in another order")});
    return;
  }
  table.Row(
      {what,
       absl::StrCat(FormatCount(p.num_different), " of ", FormatCount(p.num_outputs), " outputs differ"),
       absl::StrFormat("by at most %.2g of their size, in %s", p.worst, Printable(p.worst_linear))});
}

std::string Text(const ParityResult& r, const std::string& device) {
  TextTable table("lll");
  AddLinears("integer linears", r.integer, table);
  AddLinears("float linears", r.floating, table);
  table.Row({"logits", absl::StrFormat("differ by at most %.4g", r.logits_worst),
             absl::StrFormat("KL divergence %.2g, at most %.2g", r.kld_mean, r.kld_max)});
  table.Row({"same top token", absl::StrFormat("%.2f %%", 100 * r.same_top), ""});
  const double tokens = static_cast<double>(r.num_tokens);
  table.Row({"tokens a second", absl::StrFormat("%.0f", tokens / r.seconds_device),
             absl::StrFormat("CPU %.0f", tokens / r.seconds_host)});
  return absl::StrCat(Printable(device), " beside the CPU, ", r.num_windows, " windows, ",
                      FormatCount(r.num_tokens), " tokens\n", table.Text());
}

Json LinearsJson(const LinearParity& p) {
  return Json::MakeObject()
      .Set("outputs", p.num_outputs)
      .Set("different", p.num_different)
      .Set("rounded", p.num_rounded)
      .Set("worst", p.worst)
      .Set("worst_linear", p.worst_linear);
}

Json Document(const ParityResult& r, const std::string& device, const std::string& path) {
  return NewDocument("eval-parity")
      .Set("path", path)
      .Set("device", device)
      .Set("windows", r.num_windows)
      .Set("tokens", r.num_tokens)
      .Set("integer_linears", LinearsJson(r.integer))
      .Set("float_linears", LinearsJson(r.floating))
      .Set("logits_worst", r.logits_worst)
      .Set("kld_mean", r.kld_mean)
      .Set("kld_max", r.kld_max)
      .Set("same_top", r.same_top)
      .Set("seconds_device", r.seconds_device)
      .Set("seconds_host", r.seconds_host);
}

}  // namespace

absl::Status CheckParityOptions(const EvalCommandOptions& options) {
  const bool alone = options.output.empty() && options.reference.empty() && !options.noise_floor;
  if (alone) return absl::OkStatus();
  return absl::InvalidArgumentError(
      "--parity: compares one model with itself; leave out --output, --reference and --noise-floor");
}

absl::StatusOr<std::vector<EvalWindow>> ParityWindows(const EvalCommandOptions& options,
                                                      const OpenedModel& model) {
  SF_ASSIGN_OR_RETURN(const EvalOptions how, ParseEvalOptions(options, *model.tokenizer));
  SF_ASSIGN_OR_RETURN(const TokenStream text, TokenizeFiles(*model.tokenizer, options.texts));
  SF_ASSIGN_OR_RETURN(EvalWindows plan,
                      MakeEvalWindows(text.ids, model.tokenizer->bos_id(), model.tokenizer->add_bos(), how));
  return HoldsBos(model.model->prefix(), *model.tokenizer) ? DropLeadingBos(plan.windows) : plan.windows;
}

absl::Status CheckParity(const EvalCommandOptions& options, int64_t different, const std::string& device) {
  if (different == 0) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(Printable(options.model, 1024), ": ", different,
                                                    " outputs of integer linears differ between ", device,
                                                    " and the CPU; none may: please report it"));
}

namespace {

absl::StatusOr<ParityResult> RunBeginning(const EvalCommandOptions& options, const OpenedModel& device,
                                          const Tokenizer& tokenizer, const TokenStream& text,
                                          EvalOptions how, Context& context) {
  SF_ASSIGN_OR_RETURN(const OpenedModel host, OpenModel(context, options.model));
  SF_RETURN_IF_ERROR(OverrideKv(options.kv, *host.model));
  how.max_windows = 1;
  SF_ASSIGN_OR_RETURN(EvalWindows plan,
                      MakeEvalWindows(text.ids, tokenizer.bos_id(), tokenizer.add_bos(), how));
  const auto windows =
      HoldsBos(host.model->prefix(), tokenizer) ? DropLeadingBos(plan.windows) : std::move(plan.windows);
  return CompareBackends(*device.model, *host.model, {BeginningOf(windows.front(), options.parity_tokens)},
                         context.console.progress());
}

}  // namespace

absl::StatusOr<std::optional<EvalDocument::Parity>> CompareBeginning(const EvalCommandOptions& options,
                                                                     const OpenedModel& device,
                                                                     const Tokenizer& tokenizer,
                                                                     const TokenStream& text, EvalOptions how,
                                                                     Context& context) {
  ParityResult result;
  const auto compare = [&](Context& c) -> absl::Status {
    SF_ASSIGN_OR_RETURN(result, RunBeginning(options, device, tokenizer, text, std::move(how), c));
    return absl::OkStatus();
  };
  const absl::Status status = RunGuarded(compare, context);
  context.console.EndProgress();
  if (absl::IsResourceExhausted(status) || absl::IsUnimplemented(status)) {
    context.console.Warn(
        absl::StrCat("the GPU's results were not compared with the CPU's: ", status.message()));
    return std::nullopt;
  }
  SF_RETURN_IF_ERROR(status);
  return EvalDocument::Parity{.tokens = result.num_tokens,
                              .outputs = result.integer.num_outputs,
                              .different = result.integer.num_different,
                              .rounded = result.integer.num_rounded,
                              .logits_worst = result.logits_worst,
                              .kld_mean = result.kld_mean,
                              .kld_max = result.kld_max,
                              .same_top = result.same_top};
}

absl::Status RunParity(const EvalCommandOptions& options, Context& context) {
  if (options.backend == "cpu" || options.simulate) {
    return absl::InvalidArgumentError("--parity: compares a GPU with the CPU; add --backend cuda");
  }
  SF_RETURN_IF_ERROR(CheckParityOptions(options));
  Console& console = context.console;
  SF_ASSIGN_OR_RETURN(const OpenedModel device,
                      OpenModel(context, options.model, {.backend = BackendOf(options.backend)}));
  SF_ASSIGN_OR_RETURN(const OpenedModel host, OpenModel(context, options.model));
  SF_RETURN_IF_ERROR(OverrideKv(options.kv, *device.model));
  SF_RETURN_IF_ERROR(OverrideKv(options.kv, *host.model));
  SF_ASSIGN_OR_RETURN(const std::vector<EvalWindow> windows, ParityWindows(options, host));
  SF_ASSIGN_OR_RETURN(const ParityResult result,
                      CompareBackends(*device.model, *host.model, windows, console.progress()));
  console.EndProgress();
  const std::string name = device.model->ops().device();
  if (console.json()) {
    SF_RETURN_IF_ERROR(console.PrintJson(Document(result, name, host.reader->path())));
  } else {
    console.Print(Text(result, name));
    SF_RETURN_IF_ERROR(console.Flush());
  }
  return CheckParity(options, result.integer.num_different, name);
}

}  // namespace spikefold
