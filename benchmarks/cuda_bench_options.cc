#include "benchmarks/cuda_bench_options.h"

#include <cstdio>
#include <cstdlib>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "formats/base/status.h"

namespace spikefold::benchmarks {

bool ParseOptions(int argc, char** argv, Options& options) {
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    if (arg == "--csv") {
      options.csv = true;
    } else if (arg == "--plans" && i + 1 < argc) {
      options.plans = absl::StrSplit(argv[++i], ',');
    } else if (arg == "--only" && i + 1 < argc) {
      options.only = absl::StrSplit(argv[++i], ',');
    } else if (arg == "--rounds" && i + 1 < argc) {
      options.rounds = std::atoi(argv[++i]);
    } else if (arg == "--m" && i + 1 < argc) {
      options.m.clear();
      for (const auto word : absl::StrSplit(argv[++i], ',')) {
        if (!absl::SimpleAtoi(word, &options.m.emplace_back())) return false;
      }
    } else if (arg == "--shape" && i + 1 < argc) {
      options.shapes.clear();
      for (const auto word : absl::StrSplit(argv[++i], ',')) {
        const std::vector<std::string> nk = absl::StrSplit(word, 'x');
        auto& shape = options.shapes.emplace_back();
        if (nk.size() != 2 || !absl::SimpleAtoi(nk[0], &shape.first) ||
            !absl::SimpleAtoi(nk[1], &shape.second)) {
          return false;
        }
      }
    } else {
      return false;
    }
  }
  return options.rounds > 0 && !options.m.empty() && !options.shapes.empty();
}

int RunMain(int argc, char** argv, const char* usage, Options options, absl::FunctionRef<Run> run) {
  if (!ParseOptions(argc, argv, options)) {
    std::fprintf(stderr, "usage: %s\n", usage);
    return 2;
  }
  const absl::Status status = [&]() -> absl::Status {
    SF_ASSIGN_OR_RETURN(const kernels::cuda::DeviceInfo device, kernels::cuda::QueryDevice());
    SF_ASSIGN_OR_RETURN(const auto stream, kernels::cuda::Stream::Make());
    return run(options, device, *stream);
  }();
  if (!status.ok()) std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
  return status.ok() ? 0 : 1;
}

}  // namespace spikefold::benchmarks
