#include "apps/spikefold/eval_command.h"

#include <chrono>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "apps/spikefold/eval_text.h"
#include "apps/spikefold/machine.h"
#include "apps/spikefold/oracle_command.h"
#include "apps/spikefold/output_path.h"
#include "apps/spikefold/parity_command.h"
#include "calib/static_ranges.h"
#include "formats/base/file.h"
#include "formats/base/status.h"
#include "formats/quantized/native.h"
#include "kernels/cpu/cpu_features.h"
#include "kernels/runtime/ops.h"

namespace spikefold {
namespace {

struct EvalModels {
  OpenedModel model, reference;  // reference is empty if the model is its own
  bool own_reference = false;
  const OpenedModel& the_reference() const { return own_reference ? model : reference; }
};

absl::StatusOr<EvalModels> OpenModels(const EvalCommandOptions& options, Context& context) {
  if (options.simulate && options.backend == "cuda") {
    return absl::InvalidArgumentError("--simulate: runs on the CPU; leave out --backend cuda");
  }
  EvalModels models;
  models.own_reference = options.reference.empty() || SamePath(options.model, options.reference);
  SF_ASSIGN_OR_RETURN(auto reader, CheckpointReader::Open(options.model));
  if (options.simulate && reader->kind() != CheckpointKind::kNative) {
    return absl::InvalidArgumentError(
        absl::StrCat(Printable(options.model, 1024), ": is not quantized; leave out --simulate"));
  }
  if (models.own_reference && reader->kind() == CheckpointKind::kNative) {
    return absl::InvalidArgumentError(
        absl::StrCat(Printable(options.model, 1024),
                     ": is quantized; give the float model it came from with --reference"));
  }
  if (!models.own_reference) {
    SF_ASSIGN_OR_RETURN(models.reference,
                        OpenModel(context, options.reference, {.backend = BackendOf(options.backend)}));
  }
  SF_ASSIGN_OR_RETURN(models.model,
                      OpenModel(context, options.model,
                                {.backend = BackendOf(options.backend), .simulate = options.simulate}));
  SF_RETURN_IF_ERROR(OverrideKv(options.kv, *models.model.model));
  return models;
}

// What the checkpoint keeps of its calibration; null of a float model.
absl::StatusOr<Json> CalibrationOf(const CheckpointReader& reader) {
  if (reader.kind() != CheckpointKind::kNative) return Json();
  SF_ASSIGN_OR_RETURN(const auto native, NativeReader::Open(reader.path()));
  return native->info().calibration;
}

// What makes the numbers mean something else than they seem to.
absl::Status WarnOfDoubts(const EvalModels& models, const std::vector<std::string>& texts,
                          const TokenStream& text, const EvalDocument& document, Console& console) {
  const OpenedModel& reference = models.the_reference();
  // The same tokenizer has other fingerprints in other formats.
  if (models.model.tokenizer->fingerprint() != reference.tokenizer->fingerprint()) {
    const absl::StatusOr<TokenStream> own = TokenizeFiles(*models.model.tokenizer, texts);
    if (!own.ok() || own->ids != text.ids) {
      console.Warn(
          "the two models' tokenizers make other tokens of this text; the reference's was used for both");
    }
  }
  if (reference.reader->kind() == CheckpointKind::kNative) {
    console.Warn("the reference is quantized itself: ratio and divergence are not those from a float model");
  }
  if (models.model.reader->kind() != CheckpointKind::kNative) return absl::OkStatus();
  SF_ASSIGN_OR_RETURN(const auto native, NativeReader::Open(models.model.reader->path()));
  const std::string& base = native->info().base_fingerprint;
  if (base != document.reference.fingerprint) {
    console.Warn(absl::StrCat("the model was quantized from ", Printable(base.substr(0, 12)),
                              "..., the reference is ", document.reference.fingerprint.substr(0, 12), "..."));
  }
  const Json* calibration = document.calibration.Find("sha256");
  if (calibration != nullptr && calibration->is_string() &&
      calibration->string_value() == document.text_sha256) {
    console.Warn("the model was calibrated on this very text, which flatters it; use another");
  }
  return absl::OkStatus();
}

// The worst site of those that go beyond what calibration saw, and how many others do.
void WarnOfRanges(const std::vector<SiteRange>& ranges, const ModelGraph& graph, Console& console) {
  const SiteRange* worst = nullptr;
  int64_t others = -1;
  for (const SiteRange& range : ranges) {
    if (!range.fires()) continue;
    ++others;
    const bool more =
        worst == nullptr || range.unseen_columns.size() > worst->unseen_columns.size() ||
        (range.unseen_columns.size() == worst->unseen_columns.size() && range.share() > worst->share());
    if (more) worst = &range;
  }
  if (worst == nullptr) return;
  std::string text = absl::StrFormat("site %s: %.2g of its values are beyond its static range",
                                     graph.sites[static_cast<size_t>(worst->site)].name, worst->share());
  if (worst->calibrated_share >= 0)
    absl::StrAppendFormat(&text, ", %.2g in calibration", worst->calibrated_share);
  if (!worst->unseen_columns.empty()) {
    absl::StrAppendFormat(&text, "; %d columns more than twice as large as calibration saw them (%d first)",
                          worst->unseen_columns.size(), worst->unseen_columns.front());
  }
  if (others > 0) absl::StrAppend(&text, "; ", others, " more sites");
  console.Warn(absl::StrCat(text, ": calibrated on other text than this"));
}

const char* BackendName(const EvalCommandOptions& options) {
  if (options.backend == "cuda") return "cuda";
  return options.simulate ? "cpu-simulated" : "cpu";
}

// "INTEL ..., avx512, NVIDIA H200"
std::string MachineText(const RuntimeModel& model) {
  const std::string device = model.ops().device();
  return absl::StrCat(ReadMachine().cpu, ", ", kernels::IsaName(kernels::ActiveIsa()),
                      device.empty() ? "" : ", ", device);
}

}  // namespace

absl::StatusOr<EvalOptions> ParseEvalOptions(const EvalCommandOptions& options, const Tokenizer& tokenizer) {
  EvalOptions out{
      .context = options.context, .max_windows = options.windows, .noise_floor = options.noise_floor};
  const bool llama = options.protocol == "llamacpp";
  SF_ASSIGN_OR_RETURN(out.protocol, ParseProtocol(llama ? "llama.cpp" : options.protocol));
  if (options.bos != "auto") {
    SF_ASSIGN_OR_RETURN(out.bos, ParseBosMode(options.bos));
    if (llama && tokenizer.add_bos() && out.bos != BosMode::kWindow) {
      return absl::InvalidArgumentError(
          absl::StrCat("--bos ", options.bos,
                       ": llama.cpp's protocol begins each window with the BOS token that this model's "
                       "tokenizer adds; use \"auto\" or another protocol"));
    }
  } else if (tokenizer.add_bos() && tokenizer.bos_id() >= 0) {
    out.bos = out.protocol == Protocol::kPaper ? BosMode::kOnce : BosMode::kWindow;
  }
  return out;
}

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

absl::StatusOr<EvalDocument> EvaluateTask(const EvalTask& task, Context& context) {
  const OpenedModel &model = *task.model, &reference = *task.reference;
  EvalOptions how = task.how;
  how.progress = context.console.progress();
  SF_ASSIGN_OR_RETURN(const Json calibration, CalibrationOf(*model.reader));
  RangeObserver ranges(*model.model, calibration);
  if (!ranges.empty() && task.backend != "cuda") how.watch = &ranges;
  SF_ASSIGN_OR_RETURN(const EvalResult result,
                      Evaluate(*model.model, *reference.model, *reference.tokenizer, *task.text, how));
  context.console.EndProgress();
  const ModelGraph& graph = model.model->graph();
  const bool watched = how.watch != nullptr;
  if (watched) WarnOfRanges(ranges.Ranges(), graph, context.console);
  return MakeEvalDocument({.result = &result,
                           .model = model.reader.get(),
                           .reference = reference.reader.get(),
                           .text = task.text,
                           .static_ranges = watched ? RangesToJson(ranges.Ranges(), graph) : Json(),
                           .kernel_notes = model.model->ops().notes(),
                           .kv = model.model->kv(),
                           .name = task.name,
                           .backend = task.backend,
                           .command = absl::StrCat("spikefold ", context.command),
                           .machine = MachineText(*model.model),
                           .threads = context.num_threads(),
                           .seconds = Now() - task.start});
}

absl::Status RunEval(const EvalCommandOptions& options, Context& context) {
  if (options.backend == "torch") return RunOracle(options, context);
  if (options.parity) return RunParity(options, context);
  const double start = Now();
  Console& console = context.console;
  std::vector<std::string> inputs = options.texts;
  inputs.insert(inputs.end(), {options.model, options.reference});
  if (!options.output.empty()) SF_RETURN_IF_ERROR(CheckOutputFile(options.output, inputs));
  SF_ASSIGN_OR_RETURN(const EvalModels models, OpenModels(options, context));
  const OpenedModel& reference = models.the_reference();
  SF_ASSIGN_OR_RETURN(const EvalOptions how, ParseEvalOptions(options, *reference.tokenizer));
  SF_ASSIGN_OR_RETURN(const TokenStream text, TokenizeFiles(*reference.tokenizer, options.texts));
  SF_ASSIGN_OR_RETURN(EvalDocument document, EvaluateTask({.model = &models.model,
                                                           .reference = &reference,
                                                           .text = &text,
                                                           .how = how,
                                                           .name = options.name,
                                                           .backend = BackendName(options),
                                                           .start = start},
                                                          context));
  SF_RETURN_IF_ERROR(WarnOfDoubts(models, options.texts, text, document, console));
  for (const std::string& note : models.model.model->ops().notes()) console.Warn(note);
  absl::Status compared;  // an interruption leaves what was measured
  if (options.backend == "cuda" && options.parity_tokens > 0) {
    // What was measured is safe before a second model is loaded.
    if (!options.output.empty()) {
      SF_RETURN_IF_ERROR(WriteFileAtomically(options.output, EvalDocumentToJson(document)));
    }
    const auto parity = CompareBeginning(options, models.model, *reference.tokenizer, text, how, context);
    compared = parity.status();
    if (parity.ok()) document.parity = *parity;
    document.seconds = Now() - start;
  }
  const std::string json = EvalDocumentToJson(document);
  if (!options.output.empty()) SF_RETURN_IF_ERROR(WriteFileAtomically(options.output, json));
  if (console.json()) {
    console.Print(json);
  } else {
    std::string prefix;
    if (const KvPrefix* p = models.model.model->prefix(); p != nullptr) {
      prefix = Printable(reference.tokenizer->Decode(p->tokens));
    }
    console.Print(EvalText(document, prefix, console));
  }
  SF_RETURN_IF_ERROR(console.Flush());
  if (!options.output.empty()) console.Detail(absl::StrCat("wrote ", Printable(options.output, 1024)));
  SF_RETURN_IF_ERROR(compared);
  return CheckParity(options, document.parity ? document.parity->different : 0,
                     models.model.model->ops().device());
}

}  // namespace spikefold
