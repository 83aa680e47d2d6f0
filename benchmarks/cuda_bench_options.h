// What cuda_bench and rows_bench are asked for, and how they run; cuda_bench.cc says what the options mean.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/stream.h"

namespace spikefold::benchmarks {

struct Options {
  std::vector<int64_t> m = {16, 64, 256, 1024, 4096};
  std::vector<std::pair<int64_t, int64_t>> shapes = {
      {4096, 4096}, {6144, 4096}, {28672, 4096}, {4096, 14336}};
  int rounds = 5;
  bool csv = false;
  std::vector<std::string> plans;  // kernels
  std::vector<std::string> only;   // beginnings of names; empty: all
};

// False: the command line is not one of these options.
bool ParseOptions(int argc, char** argv, Options& options);

// main() of a benchmark: `run` on device 0 with what the command line says over `options`. 1: an error, 2:
// other options, each after a line on stderr.
using Run = absl::Status(const Options&, const kernels::cuda::DeviceInfo&, const kernels::cuda::Stream&);
int RunMain(int argc, char** argv, const char* usage, Options options, absl::FunctionRef<Run> run);

}  // namespace spikefold::benchmarks
