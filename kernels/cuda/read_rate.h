// What a GPU can do at best, measured where it is asked for: times mean little alone.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/stream.h"

namespace spikefold::kernels::cuda {

// Reads `bytes`, a multiple of 16, of device memory; `sink`: 4 bytes that are hardly ever written.
absl::Status ReadAll(const void* from, int64_t bytes, uint32_t* sink, const DeviceInfo& device,
                     const Stream& stream);
// Bytes a second that the device reads beyond its caches: the best of a few passes over 2 GiB, a few
// milliseconds. ResourceExhausted: there is no room for them.
absl::StatusOr<double> MeasureReadRate(const DeviceInfo& device, const Stream& stream);

// The highest clock of device 0's multiprocessors; cards throttle. 0: not known.
double PeakClockHz();
// Dense operations a second of all tensor cores at that clock, 2 a multiplication: of 16-bit floats; of 8-bit
// integers twice as many. 0: not known for this chip.
double PeakOps(const DeviceInfo& device);

}  // namespace spikefold::kernels::cuda
