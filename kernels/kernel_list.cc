#include "kernels/kernel_list.h"

namespace spikefold::kernels {

absl::Span<const KernelEntry> KernelList() {
  static const std::vector<KernelEntry> kKernels = {};
  return kKernels;
}

}  // namespace spikefold::kernels
