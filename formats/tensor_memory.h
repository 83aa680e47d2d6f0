// Tensors that were costly to make, remembered for the next reader of the same model.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "formats/base/thread_pool.h"
#include "formats/tensor.h"

namespace spikefold {

// Of one model at a time: whoever asks for another's forgets what is here. Any number of threads.
class TensorMemory {
 public:
  // Keeps up to so many bytes of values, those that come first: a model is read in the same order each time.
  explicit TensorMemory(uint64_t max_bytes) : max_bytes_(max_bytes) {}

  // A copy; `model` is a fingerprint that decides every value.
  std::optional<Tensor> Find(absl::string_view model, absl::string_view name, ThreadPool* pool);
  void Remember(absl::string_view model, absl::string_view name, const Tensor& tensor);  // F32

  int64_t num_found() const;  // how often Find() found one
  uint64_t bytes() const;

 private:
  void TakeModel(absl::string_view model);

  const uint64_t max_bytes_;
  mutable std::mutex mutex_;  // guards what follows; values are copied outside of it
  std::string model_;
  absl::flat_hash_map<std::string, std::shared_ptr<const Tensor>> tensors_;
  uint64_t bytes_ = 0;
  int64_t num_found_ = 0;
};

}  // namespace spikefold
