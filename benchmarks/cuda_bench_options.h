// What cuda_bench is asked for; cuda_bench.cc says what it means.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

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

}  // namespace spikefold::benchmarks
