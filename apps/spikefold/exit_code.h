// What the process says to scripts. The table is docs/command_line.md's.
#pragma once

#include "absl/status/status.h"
#include "absl/types/span.h"

namespace spikefold {

enum ExitCode : int {
  kExitOk = 0,
  kExitInternal = 1,     // our own bug
  kExitUsage = 2,        // the command line asks for something impossible
  kExitBadInput = 3,     // a file is not what its format demands
  kExitUnsupported = 4,  // a well-formed file or request that is not supported
  kExitGate = 5,         // a comparison did not hold
  kExitIo = 6,           // the file system or a closed pipe said no
  kExitMemory = 7,
  kExitNoDevice = 8,  // no usable GPU
  kExitInterrupted = 130
};
struct ExitMeaning {
  ExitCode code;
  const char* text;
};
absl::Span<const ExitMeaning> ExitCodes();  // all, by number
ExitCode ExitCodeOf(const absl::Status& status);

}  // namespace spikefold
