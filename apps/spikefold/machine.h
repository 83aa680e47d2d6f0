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

// Bytes of memory that this process has now, and the most it ever had; 0 if not known. Files that it reads
// are not mapped, so they are no part of it.
uint64_t MemoryInUse();
uint64_t PeakMemory();

// Buffers of a MiB and more go back to the system as soon as they are freed. Else the allocator keeps those
// of up to 32 MiB, and between what stays few of them fit again: w8a16 of SmolLM2 took 346 MB instead of 70.
void ReturnLargeBuffers();

// What --isa asks for; empty: nothing. InvalidArgument: no such level here.
absl::Status ChooseIsa(const std::string& name);

}  // namespace spikefold
