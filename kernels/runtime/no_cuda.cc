#include "kernels/runtime/ops.h"

namespace spikefold {

absl::StatusOr<std::unique_ptr<Ops>> MakeCudaOps(ThreadPool*) {
  return absl::UnimplementedError("backend \"cuda\": built without CUDA; configure with -DSPIKEFOLD_CUDA=ON");
}

}  // namespace spikefold
