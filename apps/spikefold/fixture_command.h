// spikefold fixture: a checkpoint of a known shape with random weights, to measure speed and memory where the
// real weights are not at hand.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "apps/spikefold/context.h"

namespace spikefold {

struct FixtureCommandOptions {
  std::string shape = "tiny";  // or "smollm2", "llama3-8b", "llama3-70b"
  std::string output;
  int64_t layers = 0;   // 0: as the shape has
  bool sparse = false;  // matrices are zeros that take no room on the disk
  bool force = false;
};
// One tensor is in memory at a time. Equal seeds give equal files.
absl::Status RunFixture(const FixtureCommandOptions& options, Context& context);

}  // namespace spikefold
