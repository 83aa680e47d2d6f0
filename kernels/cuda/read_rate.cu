#include <algorithm>

#include "formats/base/status.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/memory.h"
#include "kernels/cuda/read_rate.h"

namespace spikefold::kernels::cuda {
namespace {

__global__ void ReadKernel(const uint4* from, int64_t count, uint32_t* sink) {
  uint32_t sum = 0;
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  for (; i + 3 * step < count; i += 4 * step) {
    const uint4 a = from[i], b = from[i + step], c = from[i + 2 * step], d = from[i + 3 * step];
    sum += a.x ^ a.y ^ a.z ^ a.w ^ b.x ^ b.y ^ b.z ^ b.w ^ c.x ^ c.y ^ c.z ^ c.w ^ d.x ^ d.y ^ d.z ^ d.w;
  }
  if (sum == 0x12345678) *sink = sum;
}

}  // namespace

absl::Status ReadAll(const void* from, int64_t bytes, uint32_t* sink, const DeviceInfo& device,
                     const Stream& stream) {
  return Launch("read", ReadKernel,
                {.grid = dim3(static_cast<unsigned>(device.num_sms * 8)), .block = dim3(512)}, stream,
                static_cast<const uint4*>(from), bytes / 16, sink);
}

absl::StatusOr<double> MeasureReadRate(const DeviceInfo& device, const Stream& stream) {
  constexpr int64_t kBytes = int64_t{2} << 30;
  constexpr int kPasses = 6;
  DeviceMemory memory, sink;
  SF_RETURN_IF_ERROR(memory.Reserve(kBytes));
  SF_RETURN_IF_ERROR(sink.Reserve(sizeof(uint32_t)));
  SF_RETURN_IF_ERROR(Fill(memory.as<void>(), 0, kBytes, stream));
  Timer timer(stream);
  double best = 0;
  for (int pass = 0; pass < kPasses; ++pass) {
    SF_RETURN_IF_ERROR(timer.Start());
    SF_RETURN_IF_ERROR(ReadAll(memory.as<void>(), kBytes, sink.as<uint32_t>(), device, stream));
    SF_ASSIGN_OR_RETURN(const double seconds, timer.Stop());
    if (pass > 0) best = std::max(best, kBytes / seconds);
  }
  return best;
}

double PeakClockHz() {
  int khz = 0;
  const cudaError_t error = cudaDeviceGetAttribute(&khz, cudaDevAttrClockRate, 0);
  return ToStatus(error, "clock rate").ok() ? 1e3 * khz : 0;
}

double PeakOps(const DeviceInfo& device) {
  const int each = device.sm == 90 ? 4096 : device.sm == 80 ? 2048 : 0;  // of a multiprocessor, each tick
  return PeakClockHz() * device.num_sms * each;
}

}  // namespace spikefold::kernels::cuda
