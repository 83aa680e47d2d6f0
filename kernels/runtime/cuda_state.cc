#include "kernels/runtime/cuda_state.h"

#include <algorithm>

#include "formats/base/status.h"

namespace spikefold {

absl::Status CudaBuffer::Reserve(int64_t rows) {
  if (rows <= capacity_) return absl::OkStatus();
  capacity_ = 0;  // the memory goes before there is more
  SF_RETURN_IF_ERROR(memory_.Reserve(static_cast<size_t>(rows * width_) * sizeof(float)));
  capacity_ = rows;
  return absl::OkStatus();
}

template <typename T>
absl::Status CudaConstants::Upload(const std::vector<T>& values, cuda::DeviceMemory& to) {
  const size_t bytes = values.size() * sizeof(T);
  SF_RETURN_IF_ERROR(to.Reserve(bytes));
  return cuda::CopyIn(to.as<T>(), values.data(), bytes, stream_);
}

absl::StatusOr<const float*> CudaConstants::Vector(const std::vector<float>& values) {
  Values& entry = vectors_[&values];
  if (entry.host != values) {
    SF_RETURN_IF_ERROR(Upload(values, entry.device));
    entry.host = values;
  }
  return entry.device.as<float>();
}

absl::StatusOr<const CudaConstants::Form*> CudaConstants::Columns(const ActivationForm& form, int64_t k) {
  Form& entry = forms_[&form];
  if (entry.kept != form.kept || entry.k != k) {
    std::vector<uint8_t> is_kept(static_cast<size_t>(k), 0);
    for (const int32_t column : form.kept) is_kept[static_cast<size_t>(column)] = 1;
    SF_RETURN_IF_ERROR(Upload(is_kept, entry.is_kept));
    SF_RETURN_IF_ERROR(Upload(form.kept, entry.device_kept));
    entry.kept = form.kept;
    entry.k = k;
  }
  if (entry.super_columns != form.super_columns) {
    SF_RETURN_IF_ERROR(Upload(form.super_columns, entry.device_super));
    entry.super_columns = form.super_columns;
  }
  return &entry;
}

absl::StatusOr<const kernels::hadamard_f32_f32::CudaPlan*> CudaConstants::Rotation(
    const RowRotation& rotation) {
  Turn& entry = rotations_[&rotation];
  if (entry.factors != rotation.factors || entry.scale != rotation.scale) {
    SF_RETURN_IF_ERROR(entry.device.Set(rotation.factors, rotation.scale, stream_));
    entry.factors = rotation.factors;
    entry.scale = rotation.scale;
  }
  return &entry.device.plan();
}

absl::StatusOr<const CudaConstants::Rope*> CudaConstants::Tables(const RopeTable& table, int64_t head_dim) {
  Rope& entry = ropes_[&table];
  const int64_t half = head_dim / 2, positions = table.positions();
  std::vector<float> last(table.cos(positions - 1), table.cos(positions - 1) + half);
  last.insert(last.end(), table.sin(positions - 1), table.sin(positions - 1) + half);
  if (entry.positions == positions && entry.last == last) return &entry;
  const size_t bytes = static_cast<size_t>(positions * half) * sizeof(float);
  SF_RETURN_IF_ERROR(entry.cos.Reserve(bytes));
  SF_RETURN_IF_ERROR(entry.sin.Reserve(bytes));
  SF_RETURN_IF_ERROR(cuda::CopyIn(entry.cos.as<float>(), table.cos(0), bytes, stream_));
  SF_RETURN_IF_ERROR(cuda::CopyIn(entry.sin.as<float>(), table.sin(0), bytes, stream_));
  entry.positions = positions;
  entry.last = std::move(last);
  return &entry;
}

}  // namespace spikefold
