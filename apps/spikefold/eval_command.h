// spikefold eval MODEL --reference MODEL --text FILE: what quantization costs, measured on text.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "apps/report/eval_document.h"
#include "apps/spikefold/context.h"
#include "apps/spikefold/kv_flags.h"
#include "calib/evaluate.h"

namespace spikefold {

struct EvalCommandOptions {
  std::string model;
  std::string reference;  // empty: a float model is compared with itself, which gives its perplexity
  std::vector<std::string> texts;
  std::string output;  // eval.json; empty: none
  std::string name;    // what a report calls it; empty: the model's file name
  std::string protocol = "chunks";
  KvFlags kv;
  std::string bos = "auto";  // none, once, window; auto: as the model's tokenizer says
  int64_t context = 0;       // 0: the protocol's own
  int64_t windows = 100;     // 0: all
  std::string backend = "cpu";
  int64_t parity_tokens = 256;  // of an evaluation on a GPU that the CPU runs, too; 0: none. Beyond
                                // 64 rows: other kernels take fewer
  bool simulate = false, noise_floor = false, parity = false;
};
// Protocol, BOS and counts as the library takes them.
absl::StatusOr<EvalOptions> ParseEvalOptions(const EvalCommandOptions& options, const Tokenizer& tokenizer);

// One model beside its reference on one text, measured and put down. All outlive the call.
struct EvalTask {
  const OpenedModel *model = nullptr, *reference = nullptr;
  const TokenStream* text = nullptr;
  EvalOptions how;  // its progress is the console's
  std::string name, backend = "cpu";
  double start = 0;  // of the command, as Now() gives it; the document counts seconds from here
};
double Now();  // seconds of a steady clock
absl::StatusOr<EvalDocument> EvaluateTask(const EvalTask& task, Context& context);

absl::Status RunEval(const EvalCommandOptions& options, Context& context);

}  // namespace spikefold
