#include "apps/spikefold/refine_command.h"

#include <algorithm>
#include <chrono>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "apps/spikefold/output_path.h"
#include "apps/spikefold/text.h"
#include "apps/spikefold/text_table.h"
#include "calib/dataset.h"
#include "calib/format_count.h"
#include "formats/base/status.h"
#include "formats/quantized/native.h"
#include "kernels/runtime/torch/torch_plugin.h"
#include "quant/refine/refine.h"

namespace spikefold {
namespace {

constexpr int64_t kHeldOutShare = 16;  // one window of so many is held out,
constexpr int64_t kMinHeldOut = 4, kMaxHeldOut = 16;

// Windows from all over the text; those held out lie evenly among the others.
absl::StatusOr<RefineOptions> MakeOptions(const RefineCommandOptions& options, const Tokenizer& tokenizer,
                                          const TokenStream& text, bool has_prefix) {
  const int64_t held_out = std::clamp(options.windows / kHeldOutShare, kMinHeldOut, kMaxHeldOut);
  SF_ASSIGN_OR_RETURN(auto windows, CutWindows(text, options.windows + held_out, options.length));
  RefineOptions out{.rate = options.rate, .device = options.backend};
  const int64_t every = static_cast<int64_t>(windows.size()) / held_out;
  for (size_t i = 0; i < windows.size(); ++i) {
    if (!has_prefix && tokenizer.add_bos() && tokenizer.bos_id() >= 0) windows[i][0] = tokenizer.bos_id();
    const bool hold =
        static_cast<int64_t>(i) % every == every / 2 && static_cast<int64_t>(out.held_out.size()) < held_out;
    (hold ? out.held_out : out.windows).push_back(std::move(windows[i]));
  }
  return out;
}

Json Document(const RefineCommandOptions& options, const Refined& r, double seconds) {
  Json curve = Json::MakeArray();
  for (const RefinePoint& p : r.curve) {
    curve.Append(
        Json::MakeObject().Set("step", p.step).Set("learnt_kld", p.learnt).Set("held_out_kld", p.held_out));
  }
  return NewDocument("refine")
      .Set("output", options.output)
      .Set("parameters", r.num_parameters)
      .Set("held_out_kld_before", r.before)
      .Set("held_out_kld", r.after)
      .Set("best_step", r.best_step)
      .Set("seconds", seconds)
      .Set("curve", std::move(curve));
}

std::string Text(const Refined& r, double seconds) {
  TextTable table("rrr");
  table.Row({"step", "learnt on", "held out"});
  for (const RefinePoint& p : r.curve) {
    table.Row({absl::StrCat(p.step), p.step == 0 ? "" : absl::StrFormat("%.4f", p.learnt),
               absl::StrCat(absl::StrFormat("%.4f", p.held_out), p.step == r.best_step ? " *" : "")});
  }
  return absl::StrCat("KL divergence from the float model, of ", FormatCount(r.num_parameters),
                      " scales, biases and gains\n", table.Text(),
                      absl::StrFormat("%.0f s; * is what was written\n", seconds));
}

}  // namespace

absl::Status RunRefine(const RefineCommandOptions& options, Context& context) {
  const auto start = std::chrono::steady_clock::now();
  Console& console = context.console;
  std::vector<std::string> inputs = options.texts;
  inputs.insert(inputs.end(), {options.model, options.reference});
  SF_RETURN_IF_ERROR(CheckOutputDirectory(options.output, options.force, inputs));
  SF_RETURN_IF_ERROR(LoadTorchPlugin().status());  // before a model is read
  SF_ASSIGN_OR_RETURN(const auto quantized, CheckpointReader::Open(options.model));
  if (quantized->kind() != CheckpointKind::kNative) {
    return absl::InvalidArgumentError(
        absl::StrCat(Printable(options.model, 1024), ": is not quantized; give what quantize wrote"));
  }
  SF_ASSIGN_OR_RETURN(const auto native, NativeReader::Open(options.model));
  SF_ASSIGN_OR_RETURN(const auto reference, OpenFloatReader(context, options.reference));
  SF_ASSIGN_OR_RETURN(const auto tokenizer, reference->LoadTokenizer());
  SF_ASSIGN_OR_RETURN(const std::string fingerprint, reference->Fingerprint());
  if (fingerprint != native->info().base_fingerprint) {
    return absl::InvalidArgumentError(absl::StrCat(Printable(options.reference, 1024),
                                                   ": is not the model that ", Printable(options.model, 1024),
                                                   " was quantized from; give that one"));
  }
  SF_ASSIGN_OR_RETURN(const TokenStream text, TokenizeFiles(*tokenizer, options.texts));
  SF_ASSIGN_OR_RETURN(RefineOptions how,
                      MakeOptions(options, *tokenizer, text, native->info().prefix.num_tokens > 0));
  how.num_threads = context.num_threads();
  how.progress = console.progress();
  SF_ASSIGN_OR_RETURN(const Refined refined, Refine(*quantized, *reference, how));
  console.EndProgress();
  SF_RETURN_IF_ERROR(WriteRefined(*quantized, refined,
                                  {.text = text.source,
                                   .sha256 = text.sha256,
                                   .tokens = options.windows * options.length,
                                   .rate = options.rate},
                                  {.path = options.output,
                                   .overwrite = options.force,
                                   .command = absl::StrCat("spikefold ", context.command)}));
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (refined.best_step == 0)
    console.Warn("no step was better than what was there; the parameters are unchanged");
  if (console.json()) return console.PrintJson(Document(options, refined, seconds));
  console.Print(Text(refined, seconds));
  console.Print(
      absl::StrCat("Wrote ", console.Bold(Printable(options.output, 1024)), ", of the size it had.\n"));
  return console.Flush();
}

}  // namespace spikefold
