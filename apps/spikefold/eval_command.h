// spikefold eval MODEL --reference MODEL --text FILE: what quantization costs, measured on text.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
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
  bool simulate = false, noise_floor = false, parity = false;
};
// Protocol, BOS and counts as the library takes them.
absl::StatusOr<EvalOptions> ParseEvalOptions(const EvalCommandOptions& options, const Tokenizer& tokenizer);
absl::Status RunEval(const EvalCommandOptions& options, Context& context);

}  // namespace spikefold
