// usage: kernel_bench [FILTER] [--threads N] [--isa LEVEL] [--seconds S]
// Times every kernel whose name contains FILTER on the shapes of its cases: best round of S seconds a shape.
// "of ceiling" is the least time that this machine's read rate and arithmetic rate, measured in the same run,
// allow the shape's bytes and operations, divided by the time taken.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "formats/base/thread_pool.h"
#include "kernels/ceiling/ceiling.h"
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
  const Ceilings ceilings = MeasureCeilings(pool);
  std::printf("# %s, %d threads: read %.1f GB/s, float32 %.1f Gop/s, int8 %.1f Gop/s\n",
              std::string(IsaName(ActiveIsa())).c_str(), pool.num_threads(), ceilings.read_bytes * 1e-9,
              ceilings.float_ops * 1e-9, ceilings.int8_ops * 1e-9);
  std::printf("%-22s %-34s %12s %10s %9s %10s\n", "kernel", "shape", "us", "Gop/s", "GB/s", "of ceiling");
  for (const KernelEntry& kernel : KernelList()) {
    if (std::string(kernel.name).find(options.filter) == std::string::npos) continue;
    Bench bench(pool, options.seconds);
    kernel.bench(bench);
    for (const BenchLine& line : bench.lines()) {
      const double peak = kernel.int8_operands ? ceilings.int8_ops : ceilings.float_ops;
      const double least = std::max(line.ops / peak, line.bytes / ceilings.read_bytes);
      std::printf("%-22s %-34s %12.2f %10.1f %9.2f %10.2f\n", std::string(kernel.name).c_str(),
                  line.shape.c_str(), line.seconds * 1e6, line.ops / line.seconds * 1e-9,
                  line.bytes / line.seconds * 1e-9, least / line.seconds);
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
