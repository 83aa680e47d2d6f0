// SiteRounder on a GPU.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/memory.h"
#include "kernels/cuda/stream.h"
#include "kernels/runtime/site_rounder.h"

namespace spikefold {

// What rounders, one after the other, hand A and b to the host in: page-locking takes longer than filling it.
struct RounderHost {
  kernels::cuda::PinnedMemory fits[2];
};

// `h` [k, k] in device memory, of which the upper triangle counts and the lower one becomes the same;
// `feedback` [k, k]: room for what Factor() makes. They, `host` and the stream outlive the rounder. Null: no
// kernels for this k.
absl::StatusOr<std::unique_ptr<SiteRounder>> NewCudaRounder(float* h, float* feedback, int64_t k,
                                                            RounderHost& host,
                                                            const kernels::cuda::DeviceInfo& device,
                                                            const kernels::cuda::Stream& stream);

}  // namespace spikefold
