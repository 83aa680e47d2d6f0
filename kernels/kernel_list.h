// The explicit list of all CPU kernels. tests/kernels/conformance_test.cc checks each against its reference
// at every instruction level; benchmarks/kernel_bench.cc times each. A new kernel adds a row in
// kernel_list.cc.
#pragma once

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "formats/base/thread_pool.h"
#include "kernels/kernel_check.h"

namespace spikefold::kernels {

struct KernelEntry {
  absl::string_view name;
  // Runs all cases at ActiveIsa() against the reference.
  CheckReport (*check)(ThreadPool& pool, Fault fault);
  // Times the shapes that matter at ActiveIsa().
  void (*bench)(Bench& bench);
  bool int8_operands = false;  // both operands are codes: the ceiling is that of int8 dot products
};

absl::Span<const KernelEntry> KernelList();

}  // namespace spikefold::kernels
