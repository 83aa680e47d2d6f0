#include "kernels/cuda/device.h"

#include <cuda_runtime.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "formats/base/status.h"
#include "kernels/cuda/status.h"

namespace spikefold::kernels::cuda {
namespace {

constexpr int kLeastSm = 80;

absl::Status NoDevice(cudaError_t error) {
  if (error == cudaErrorInsufficientDriver) {
    int driver = 0;
    (void)cudaDriverGetVersion(&driver);
    if (driver == 0) {
      return absl::AbortedError(
          "backend \"cuda\": no NVIDIA driver on this machine; install one, or use --backend cpu");
    }
    return absl::AbortedError(absl::StrCat("backend \"cuda\": the driver supports CUDA ", driver / 1000, ".",
                                           driver % 1000 / 10, "; this build needs ", CUDART_VERSION / 1000,
                                           ".", CUDART_VERSION % 1000 / 10,
                                           "; update it, or use --backend cpu"));
  }
  if (error == cudaErrorNoDevice) {
    return absl::AbortedError(
        "backend \"cuda\": the NVIDIA driver shows no GPU; check CUDA_VISIBLE_DEVICES, or use --backend cpu");
  }
  return ToStatus(error, "cudaGetDeviceCount");
}

}  // namespace

namespace {

// 10 * major + minor of the compute capability; 0 where it cannot be asked.
int ComputeCapability() {
  static const int sm = [] {
    int major = 0, minor = 0;
    const bool known = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0) == cudaSuccess &&
                       cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0) == cudaSuccess;
    return known ? 10 * major + minor : 0;
  }();
  return sm;
}

}  // namespace

bool CanOverlap() { return ComputeCapability() >= 90; }
bool IsHopper() { return ComputeCapability() == 90; }

int NumSms() {
  static const int count = [] {
    int sms = 0;
    return cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, 0) == cudaSuccess ? sms : 1;
  }();
  return count;
}

int64_t MaxSharedBytes() {
  static const int64_t most = [] {
    int bytes = 0;
    const cudaError_t error = cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0);
    return int64_t{error == cudaSuccess ? bytes : 48 << 10};
  }();
  return most;
}

int64_t BlocksOfShared(int64_t bytes) {
  static const int64_t all = [] {
    int most = 0;
    const cudaError_t error = cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerMultiprocessor, 0);
    return int64_t{error == cudaSuccess ? most : 0};
  }();
  constexpr int64_t kOfSystem = 1 << 10;  // that a block takes besides
  return std::max<int64_t>(1, all / (bytes + kOfSystem));
}

absl::StatusOr<DeviceInfo> QueryDevice() {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess || count == 0) return NoDevice(error == cudaSuccess ? cudaErrorNoDevice : error);
  cudaDeviceProp p;
  SF_RETURN_IF_ERROR(ToStatus(cudaGetDeviceProperties(&p, 0), "cudaGetDeviceProperties"));
  DeviceInfo info{.name = p.name,
                  .sm = p.major * 10 + p.minor,
                  .num_sms = p.multiProcessorCount,
                  .memory_bytes = static_cast<int64_t>(p.totalGlobalMem),
                  .l2_bytes = p.l2CacheSize,
                  .max_shared_bytes = static_cast<int64_t>(p.sharedMemPerBlockOptin)};
  SF_RETURN_IF_ERROR(ToStatus(cudaDriverGetVersion(&info.driver), "cudaDriverGetVersion"));
  SF_RETURN_IF_ERROR(ToStatus(cudaRuntimeGetVersion(&info.runtime), "cudaRuntimeGetVersion"));
  if (info.sm < kLeastSm) {
    return absl::AbortedError(absl::StrCat("backend \"cuda\": ", info.name, " is sm_", info.sm, "; sm_",
                                           kLeastSm, " or newer is needed; use --backend cpu"));
  }
  return info;
}

}  // namespace spikefold::kernels::cuda
