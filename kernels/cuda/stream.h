// An ordered queue of device work. Everything of one model runs on one stream.
#pragma once

#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace spikefold::kernels::cuda {

class Stream {
 public:
  static absl::StatusOr<std::unique_ptr<Stream>> Make();
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  // Waits for everything queued. The place where errors of kernels surface.
  absl::Status Sync() const;
  void* handle() const { return handle_; }  // a cudaStream_t

 private:
  explicit Stream(void* handle) : handle_(handle) {}
  void* handle_;
};

// Device time between two points of a stream.
class Timer {
 public:
  explicit Timer(const Stream& stream);
  ~Timer();
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;
  absl::Status Start();
  absl::StatusOr<double> Stop();  // waits; seconds since Start

 private:
  const Stream& stream_;
  void *begin_ = nullptr, *end_ = nullptr;  // cudaEvent_t
};

}  // namespace spikefold::kernels::cuda
