// spikefold bench MODEL: prefill and decode speed, defined and printed as llama-bench does.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "apps/spikefold/context.h"
#include "apps/spikefold/kv_flags.h"

namespace spikefold {

struct BenchCommandOptions {
  std::string backend = "cpu";
  std::string model;
  int64_t prefill = 512, decode = 128;  // tokens; 0: not measured
  int64_t batch = 1;                    // sequences
  KvFlags kv;
  int64_t repeat = 5;
  bool bf16_rows = false;
  std::optional<bool> kernels;  // what each kind of kernel takes, too; not said: with backend "cuda"
};
absl::Status RunBench(const BenchCommandOptions& options, Context& context);

}  // namespace spikefold
