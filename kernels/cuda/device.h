// The GPU that this process uses: device 0 of those the driver shows (CUDA_VISIBLE_DEVICES chooses).
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace spikefold::kernels::cuda {

struct DeviceInfo {
  std::string name;  // "NVIDIA H200"
  int sm = 0;        // 90: compute capability 9.0
  int num_sms = 0;
  int64_t memory_bytes = 0, l2_bytes = 0;
  int64_t max_shared_bytes = 0;  // of one block, when asked for
  int driver = 0, runtime = 0;   // 13000: 13.0
};
// Unimplemented: no driver, no GPU, or one older than sm_80.
absl::StatusOr<DeviceInfo> QueryDevice();

// Whether it can start a kernel before the one it depends on has ended (sm_90 and newer).
bool CanOverlap();
// Whether it is of compute capability 9.0, for which kernels of *_sm90.cu are made.
bool IsHopper();
// Multiprocessors of device 0; 1 where it cannot be asked.
int NumSms();
// Shared memory that a block of device 0 may ask for; 48 KiB where it cannot be asked.
int64_t MaxSharedBytes();
// Blocks of `bytes` of shared memory each that a multiprocessor of device 0 holds, as far as that goes; at
// least 1.
int64_t BlocksOfShared(int64_t bytes);

}  // namespace spikefold::kernels::cuda
