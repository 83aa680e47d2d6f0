// usage: kernel_bench [FILTER] [--threads N] [--isa LEVEL] [--seconds S]
// Times every kernel whose name contains FILTER on the shapes of its cases: best round of S seconds a shape.
#include <cstdio>
#include <cstdlib>
#include <string>

#include "formats/base/thread_pool.h"
#include "kernels/cpu/cpu_features.h"
#include "kernels/kernel_list.h"

namespace spikefold::kernels {
namespace {

struct Options {
  std::string filter, isa;
  int threads = DefaultNumThreads();
  double seconds = 0.3;
};

int RunBenches(const Options& options) {
  if (!options.isa.empty()) {
    const absl::StatusOr<Isa> isa = ParseIsa(options.isa);
    const absl::Status status = isa.ok() ? SetIsa(*isa) : isa.status();
    if (!status.ok()) {
      std::fprintf(stderr, "kernel_bench: %s\n", std::string(status.message()).c_str());
      return 2;
    }
  }
  ThreadPool pool(options.threads);
  std::printf("%-22s %-34s %12s %10s %9s\n", "kernel", "shape", "us", "Gop/s", "GB/s");
  for (const KernelEntry& kernel : KernelList()) {
    if (std::string(kernel.name).find(options.filter) == std::string::npos) continue;
    Bench bench(pool, options.seconds);
    kernel.bench(bench);
    for (const BenchLine& line : bench.lines()) {
      std::printf("%-22s %-34s %12.2f %10.1f %9.2f\n", std::string(kernel.name).c_str(), line.shape.c_str(),
                  line.seconds * 1e6, line.ops / line.seconds * 1e-9, line.bytes / line.seconds * 1e-9);
    }
    std::fflush(stdout);
  }
  return 0;
}

}  // namespace
}  // namespace spikefold::kernels

int main(int argc, char** argv) {
  spikefold::kernels::Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    if (arg == "--threads" && i + 1 < argc) {
      options.threads = std::atoi(argv[++i]);
    } else if (arg == "--isa" && i + 1 < argc) {
      options.isa = argv[++i];
    } else if (arg == "--seconds" && i + 1 < argc) {
      options.seconds = std::atof(argv[++i]);
    } else if (arg.rfind("--", 0) == 0 || !options.filter.empty()) {
      std::fprintf(stderr, "usage: kernel_bench [FILTER] [--threads N] [--isa LEVEL] [--seconds S]\n");
      return 2;
    } else {
      options.filter = arg;
    }
  }
  return spikefold::kernels::RunBenches(options);
}
