#include "apps/spikefold/bench_command.h"

#include <algorithm>
#include <array>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "apps/spikefold/kernel_table.h"
#include "apps/spikefold/machine.h"
#include "apps/spikefold/text.h"
#include "formats/base/file.h"
#include "formats/base/status.h"
#include "kernels/cpu/cpu_features.h"
#include "kernels/runtime/bench.h"
#include "kernels/runtime/cuda_options.h"
#include "kernels/runtime/ops.h"

namespace spikefold {
namespace {

absl::Status CheckContext(const BenchCommandOptions& options, const RuntimeModel& model) {
  const int64_t positions = model.graph().config.max_positions;
  if (positions == 0) return absl::OkStatus();  // the model does not say
  const int64_t prefix = model.prefix() == nullptr ? 0 : model.prefix()->size();
  const int64_t allowed = positions - prefix;
  for (const int64_t tokens : {options.prefill, options.decode}) {
    if (tokens > allowed) {
      return absl::InvalidArgumentError(
          absl::StrCat(tokens, " tokens; the model allows ", allowed, "; ask for fewer"));
    }
  }
  return absl::OkStatus();
}

// Float rows of keys and values are made for all positions at once.
absl::Status CheckCaches(const BenchCommandOptions& options, const RuntimeModel& model) {
  const ModelConfig& c = model.graph().config;
  if (options.batch == 1 || !model.kv().is_float()) return absl::OkStatus();
  const uint64_t row = static_cast<uint64_t>(2 * c.num_layers * c.num_kv_heads * c.head_dim) * sizeof(float);
  const uint64_t rows = static_cast<uint64_t>(std::max(options.prefill, options.decode)),
                 need = static_cast<uint64_t>(options.batch) * rows * row,
                 have = ReadMachine().memory_available;
  if (have == 0 || need <= have) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat("--batch ", options.batch, ": keys and values of ", rows, " positions each need ",
                   BytesText(need), "; ", BytesText(have), " are available; ask for fewer, or for --kv 8"));
}

int64_t NumWeights(const CheckpointReader& reader) {
  int64_t weights = 0;
  for (const StoredTensor& tensor : reader.tensors()) weights += NumElements(tensor.shape);
  return weights;
}

// The columns of llama-bench, so that tables of both can be read side by side.
std::string TableRow(const std::vector<std::string>& cells) {
  constexpr std::array<size_t, 7> kWidths = {32, 10, 10, 7, 7, 9, 20};
  std::string row = "|";
  for (size_t c = 0; c < kWidths.size(); ++c) {
    const size_t width = DisplayWidth(cells[c]);
    const std::string padding(width < kWidths[c] ? kWidths[c] - width : 0, ' ');
    absl::StrAppend(&row, " ", c == 0 ? "" : padding, cells[c], c == 0 ? padding : "", " |");
  }
  return row + "\n";
}

// Bytes of weights a second while tokens are decoded.
double StepReadRate(const BenchCommandOptions& options, const BenchResult& result) {
  return result.decode.mean / static_cast<double>(options.batch) * static_cast<double>(result.step_bytes);
}
std::string GigabytesText(double rate) { return absl::StrFormat("%.1f GB/s", rate * 1e-9); }

std::string Text(const OpenedModel& opened, const BenchCommandOptions& options, int threads,
                 const BenchResult& result) {
  std::string text = TableRow({"model", "memory", "weights", "backend", "threads", "test", "t/s"});
  text += TableRow({"--------------------------------",
                    "---------:", "---------:", "------:", "------:", "--------:", "-------------------:"});
  const auto add = [&](const std::string& test, int64_t tokens, const Rate& rate) {
    if (tokens == 0) return;
    text +=
        TableRow({Basename(opened.reader->path()), BytesText(opened.model->weight_bytes()),
                  CompactCount(NumWeights(*opened.reader)), options.backend == "cuda" ? "CUDA" : "CPU",
                  absl::StrCat(threads), absl::StrCat(test, tokens), PlusMinus(rate.mean, rate.stddev, 2)});
  };
  add("pp", options.prefill, result.prefill);
  add(options.batch > 1 ? absl::StrCat(options.batch, "x tg") : "tg", options.decode, result.decode);
  const KernelLimits limits = {.read_rate = result.read_rate,
                               .device = opened.model->ops().limits(),
                               .is_gpu = options.backend == "cuda"};
  std::string kernels;
  for (const std::string& note : opened.model->ops().notes()) {
    absl::StrAppend(&kernels, "\nNote: ", Printable(note, 1024), ".");
  }
  if (!kernels.empty()) kernels += "\n";
  if (result.prefill_kernels.has_value()) {
    kernels += KernelText(absl::StrCat("A block of ", result.prefill_kernels->rows, " rows of the prompt"),
                          *result.prefill_kernels, limits);
  }
  if (result.decode_kernels.has_value()) {
    const std::string what =
        options.batch > 1 ? absl::StrCat("A step of ", options.batch, " sequences") : "A step of decoding";
    kernels += KernelText(what, *result.decode_kernels, limits);
  }
  if (!result.no_kernels.empty()) {
    absl::StrAppend(&kernels, "\nKernels were not all timed: ", Printable(result.no_kernels, 1024), "\n");
  }
  if (options.decode == 0) return text + kernels;
  const double rate = StepReadRate(options, result);
  absl::StrAppend(&text, "\nDecode reads ", BytesText(result.step_bytes), " of weights a step",
                  options.batch > 1 ? ", for all sequences once" : "", ": ", GigabytesText(rate));
  if (result.read_rate > 0) {
    absl::StrAppend(&text, absl::StrFormat(", %.2f of the ", rate / result.read_rate),
                    GigabytesText(result.read_rate), " that ",
                    options.backend == "cuda" ? "this GPU's" : "this machine's", " memory gives");
  }
  return absl::StrCat(text, "\n", kernels);
}

void AddKernelTimes(const BenchResult& result, const Ops::Limits& limits, bool is_gpu, Json& document) {
  Json kernels = Json::MakeArray();
  if (result.prefill_kernels.has_value()) {
    AddKernels("prefill", *result.prefill_kernels, is_gpu, kernels, document);
  }
  if (result.decode_kernels.has_value()) {
    AddKernels("decode", *result.decode_kernels, is_gpu, kernels, document);
  }
  document.Set("kernels", std::move(kernels));
  if (!result.no_kernels.empty()) document.Set("no_kernels", result.no_kernels);
  if (limits.ops > 0) {
    document.Set("peak_ops_per_second", limits.ops)
        .Set("peak_int8_ops_per_second", limits.int8_ops)
        .Set("peak_clock_hz", limits.clock_hz);
  }
  if (limits.cache_bytes > 0) document.Set("cache_bytes", limits.cache_bytes);
}

void AddNotes(const Ops& ops, Json& document) {
  Json notes = Json::MakeArray();
  for (const std::string& note : ops.notes()) notes.Append(note);
  document.Set("kernel_notes", std::move(notes));
}

void AddRate(const char* name, int64_t tokens, const Rate& rate, Json& document) {
  if (tokens == 0) return;
  Json seconds = Json::MakeArray();
  for (const double s : rate.seconds) seconds.Append(s);
  document.Set(absl::StrCat(name, "_tokens"), tokens)
      .Set(absl::StrCat(name, "_tokens_per_second"), rate.mean)
      .Set(absl::StrCat(name, "_stddev"), rate.stddev)
      .Set(absl::StrCat(name, "_best"), rate.best)
      .Set(absl::StrCat(name, "_seconds"), std::move(seconds));
}

}  // namespace

absl::Status RunBench(const BenchCommandOptions& options, Context& context) {
  if (options.prefill == 0 && options.decode == 0) {
    return absl::InvalidArgumentError("--prefill 0 and --decode 0 leave nothing to measure");
  }
  if (options.bf16_rows && options.backend != "cuda") {
    return absl::InvalidArgumentError(
        "--bf16-rows with --backend cpu: the CPU multiplies float rows as they are; add --backend "
        "cuda");
  }
  if (options.batch > 1 && options.decode == 0) {
    return absl::InvalidArgumentError(
        "--batch with --decode 0: a prompt is of one sequence; leave out --batch");
  }
  cuda_rounds_rows = options.bf16_rows;
  SF_ASSIGN_OR_RETURN(
      const OpenedModel opened,
      OpenModel(context, options.model, {.backend = BackendOf(options.backend), .tokenizer = false}));
  SF_RETURN_IF_ERROR(OverrideKv(options.kv, *opened.model));
  SF_RETURN_IF_ERROR(CheckContext(options, *opened.model));
  SF_RETURN_IF_ERROR(CheckCaches(options, *opened.model));
  const bool kernels = options.kernels.value_or(options.backend == "cuda");
  SF_ASSIGN_OR_RETURN(const BenchResult result,
                      Bench(*opened.model, {.prompt = options.prefill,
                                            .decode = options.decode,
                                            .batch = options.batch,
                                            .repetitions = options.repeat,
                                            .kernels = kernels,
                                            .seed = context.seed,
                                            .progress = context.console.progress()}));
  Console& console = context.console;
  if (!console.json()) {
    console.Print(Text(opened, options, context.num_threads(), result));
    SF_RETURN_IF_ERROR(console.Flush());
    return result.fault;
  }
  Json document = NewDocument("bench")
                      .Set("path", opened.reader->path())
                      .Set("weight_memory_bytes", opened.model->weight_bytes())
                      .Set("weights", NumWeights(*opened.reader))
                      .Set("backend", options.backend)
                      .Set("processor", ReadMachine().cpu)
                      .Set("isa", kernels::IsaName(kernels::ActiveIsa()))
                      .Set("threads", context.num_threads())
                      .Set("device", opened.model->ops().device())
                      .Set("repeat", options.repeat)
                      .Set("batch", options.batch);
  AddNotes(opened.model->ops(), document);
  AddRate("prefill", options.prefill, result.prefill, document);
  AddRate("decode", options.decode, result.decode, document);
  if (options.decode > 0) {
    document.Set("decode_step_bytes", result.step_bytes)
        .Set("decode_read_bytes_per_second", StepReadRate(options, result));
  }
  if (result.read_rate > 0) document.Set("memory_read_bytes_per_second", result.read_rate);
  if (kernels) AddKernelTimes(result, opened.model->ops().limits(), options.backend == "cuda", document);
  SF_RETURN_IF_ERROR(console.PrintJson(document));
  return result.fault;
}

}  // namespace spikefold
