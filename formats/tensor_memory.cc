#include "formats/tensor_memory.h"

#include <algorithm>

#include "formats/base/parallel_copy.h"

namespace spikefold {
namespace {

Tensor Copy(const Tensor& from, ThreadPool* pool) {
  if (pool == nullptr) return from.Clone();
  Tensor to(DType::kF32, from.shape());
  ParallelCopy(*pool, from.as<float>().data(), from.num_elements(), to.as<float>().data());
  return to;
}

}  // namespace

void TensorMemory::TakeModel(absl::string_view model) {
  if (model_ == model) return;
  tensors_.clear();
  bytes_ = 0;
  model_ = std::string(model);
}

std::optional<Tensor> TensorMemory::Find(absl::string_view model, absl::string_view name, ThreadPool* pool) {
  std::shared_ptr<const Tensor> known;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    TakeModel(model);
    const auto it = tensors_.find(name);
    if (it == tensors_.end()) return std::nullopt;
    ++num_found_;
    known = it->second;
  }
  return Copy(*known, pool);
}

void TensorMemory::Remember(absl::string_view model, absl::string_view name, const Tensor& tensor) {
  const std::lock_guard<std::mutex> lock(mutex_);
  TakeModel(model);
  const uint64_t bytes = static_cast<uint64_t>(tensor.num_bytes());
  if (bytes_ + bytes > max_bytes_ || tensors_.contains(name)) return;
  tensors_.emplace(std::string(name), std::make_shared<const Tensor>(tensor.Clone()));
  bytes_ += bytes;
}

int64_t TensorMemory::num_found() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return num_found_;
}

uint64_t TensorMemory::bytes() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return bytes_;
}

}  // namespace spikefold
