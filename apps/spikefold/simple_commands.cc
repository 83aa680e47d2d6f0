#include "apps/spikefold/simple_commands.h"

#include <memory>

#include "apps/spikefold/diff_command.h"
#include "apps/spikefold/doctor_command.h"
#include "apps/spikefold/export_command.h"
#include "apps/spikefold/gate_command.h"
#include "apps/spikefold/merge_command.h"
#include "apps/spikefold/report_command.h"
#include "apps/spikefold/verify_command.h"

namespace spikefold {
namespace {

// Fills run; the options live as long as it.
template <typename Options>
std::shared_ptr<Options> Bind(CommandSpec& spec, absl::Status (*run)(const Options&, Context&)) {
  auto options = std::make_shared<Options>();
  spec.run = [options, run](Context& context) { return run(*options, context); };
  return options;
}

CommandSpec ExportSpec() {
  CommandSpec c{.name = "export",
                .summary = "Writes a model for other engines, and says what their format could not take",
                .examples =
                    "spikefold export model-w4 --to gguf -o model.gguf                # llama.cpp\n"
                    "spikefold export model-w8a8 --to compressed-tensors -o model-ct  # vLLM, transformers\n"
                    "spikefold export model-w4 --to safetensors -o model-bf16         # any engine\n"
                    "spikefold export MODEL --to gguf --type q4_k --scan scan -o model.gguf\n"
                    "spikefold quantize MODEL --scan scan --scheme w4a16 --target llamacpp -o model-w4"};
  const auto o = Bind<ExportCommandOptions>(c, RunExport);
  c.options = {
      {"MODEL", &o->model, "A directory that quantize wrote with --target, or any float model", "", true},
      {"--to", &o->format,
       "gguf: a file for llama.cpp; compressed-tensors: a directory for vLLM and transformers; gptq, "
       "gptq_v2: one in GPTQ's layout; safetensors: "
       "bf16 values of the quantized weights",
       "FORMAT", true, ExportFormats()},
      {"-o,--output", &o->output, "Write here", "PATH", true},
      {"--type", &o->type,
       "GGUF only: what weights that are still float become: f32, f16, bf16, q8_0, q6_k, q5_k, q5_1, q5_0, "
       "q4_k, q4_1, q4_0 "
       "[what they are; of a GGUF file f16]",
       "TYPE", false, ExportTypes()},
      {"--scan", &o->scan,
       "GGUF of a float model: round by GPTQ on the text of this scan instead of to the nearest", "DIR"},
      {"--like", &o->like, "GGUF of a float model: each tensor gets the type that it has in this file",
       "FILE"},
      {"--rotate", &o->rotate,
       "GGUF of a float model: R2 (values), offline (R1+R2, a head of its own) [nothing]", "WORDS"},
      {"--qk-smooth", &o->qk_smooth,
       "A float model's keys scaled down and its queries up by rotary pairs, exactly, with this alpha, for "
       "caches "
       "that scale keys by row or block [0]",
       "ALPHA"},
      {"--rescale", &o->rescale,
       "A float model's residual stream divided by this power of two, exactly, for engines whose activations "
       "are float16; auto: until the spikes of --scan stay below 8192 [1]",
       "LAMBDA"},
      {"--force", &o->force, "Replace a directory that is there"}};
  return c;
}

CommandSpec GateSpec() {
  CommandSpec c{.name = "gate",
                .summary = "Holds evaluations against thresholds: exit code 0 if all pass, else 5",
                .examples =
                    "spikefold gate --thresholds gate.json model.eval.json\n"
                    "spikefold gate --thresholds gate.json *.eval.json --junit gate.xml --markdown gate.md"};
  const auto o = Bind<GateCommandOptions>(c, RunGate);
  c.options = {{"EVAL", &o->evals, "What eval wrote", "", true},
               {"--thresholds", &o->thresholds, "A JSON file of limits, see docs/gate.md", "FILE", true},
               {"--junit", &o->junit, "Write the verdicts as JUnit XML", "FILE"},
               {"--markdown", &o->markdown, "Write a summary for people, below 1 MiB", "FILE"}};
  return c;
}

CommandSpec DiffSpec() {
  CommandSpec c{
      .name = "diff",
      .summary = "Says what differs between two models, plans, scans or evaluations: exit code 5 if anything",
      .examples =
          "spikefold diff model-a model-b\n"
          "spikefold diff a.plan.json b.plan.json\n"
          "spikefold diff scan-a/outliers.json scan-b/outliers.json --json"};
  const auto o = Bind<DiffCommandOptions>(c, RunDiff);
  c.options = {
      {"A", &o->a, "A directory that quantize wrote, or a JSON file of plan, scan or eval", "", true},
      {"B", &o->b, "What to compare it with, of the same kind", "", true}};
  return c;
}

CommandSpec ReportSpec() {
  CommandSpec c{.name = "report",
                .summary = "Puts evaluations side by side: accuracy against bits, and why",
                .examples =
                    "spikefold report a.eval.json b.eval.json --scan scan -o report.html\n"
                    "spikefold report *.eval.json -o report.md"};
  const auto o = Bind<ReportCommandOptions>(c, RunReport);
  c.options = {
      {"EVAL", &o->evals, "What eval wrote", "", true},
      {"--scan", &o->scan, "What scan wrote, for the outliers' anatomy", "DIR"},
      {"-o,--output", &o->output, "Write here, as the ending says: .html, .md, .json or .csv", "FILE"},
      {"--title", &o->title, "The report's title", "TEXT"}};
  return c;
}

CommandSpec VerifySpec() {
  CommandSpec c{.name = "verify",
                .summary = "Recomputes every hash and rule of a quantized model",
                .examples = "spikefold verify model-w8a8"};
  const auto o = Bind<VerifyCommandOptions>(c, RunVerify);
  c.options = {{"MODEL", &o->model, "A directory that quantize wrote", "", true}};
  return c;
}

CommandSpec MergeSpec() {
  CommandSpec c{.name = "merge",
                .summary = "Puts the parts that quantize --shard wrote together to one model",
                .examples = "spikefold merge part-1 part-2 part-3 -o model-q"};
  const auto o = Bind<MergeCommandOptions>(c, RunMerge);
  c.options = {{"PART", &o->parts, "A directory that quantize --shard wrote; all of them", "", true},
               {"-o,--output", &o->output, "The quantized model's directory", "DIR", true},
               {"--force", &o->force, "Replace a model that is there"}};
  return c;
}

CommandSpec DoctorSpec() {
  CommandSpec c{.name = "doctor",
                .summary = "Says what this machine can do, and checks every kernel on it",
                .examples = "spikefold doctor\nspikefold doctor --isa avx2"};
  Bind<DoctorCommandOptions>(c, RunDoctor);
  return c;
}

}  // namespace

std::vector<CommandSpec> SimpleCommands() {
  return {MergeSpec(), ExportSpec(), GateSpec(), DiffSpec(), ReportSpec(), VerifySpec(), DoctorSpec()};
}

}  // namespace spikefold
