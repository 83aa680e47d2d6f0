// What the operating system says about this machine.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"

namespace spikefold {

struct Machine {
  std::string cpu;            // "AMD EPYC 9354 32-Core Processor"; empty if not known
  int online_cores = 0;       // of the machine; DefaultNumThreads() says how many this process may use
  uint64_t memory_total = 0;  // bytes; 0 if not known. Not more than a container's limit
  uint64_t memory_available = 0;
  std::string huge_pages;  // "always", "madvise", "never"; empty if not known
};
Machine ReadMachine();

// What --isa asks for; empty: nothing. InvalidArgument: no such level here.
absl::Status ChooseIsa(const std::string& name);

}  // namespace spikefold
