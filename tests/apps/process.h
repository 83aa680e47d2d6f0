// Runs build/spikefold as a person or a script does: as a process, with its streams caught.
#pragma once

#include <functional>
#include <string>
#include <vector>

namespace spikefold::testing {

// Under a sanitizer, which needs terabytes of address space and memory of its own, memory is neither limited
// nor measured.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif

struct Finished {
  int exit = -1;   // of a process that ended by itself
  int signal = 0;  // that killed it
  std::string out, err;
};

struct ProcessOptions {
  std::vector<std::string> environment;  // "NAME=value", added to ours
  bool close_stdout = false;             // started as `spikefold ... >&-`
  bool unread_stdout = false;            // a pipe whose reader has gone
  uint64_t max_memory = 0;               // bytes of address space; 0: no limit; kSanitized
  uint64_t max_file = 0;                 // bytes of a file it writes; 0: no limit
  // Called with what was said so far whenever there is more. True: send `signals` (once).
  std::function<bool(const Finished&)> when;
  std::vector<int> signals;  // all pending before the first is delivered
};
Finished RunSpikefold(const std::vector<std::string>& arguments, const ProcessOptions& options = {});

}  // namespace spikefold::testing
