// Tensors in host memory: Tensor owns, TensorView borrows. Row-major, contiguous.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "formats/base/dtype.h"

namespace spikefold {

using Shape = std::vector<int64_t>;
std::string ShapeString(const Shape& shape);  // "[576, 1536]"
int64_t NumElements(const Shape& shape);      // of a shape that was checked when it was read

struct TensorView {
  DType dtype = DType::kF32;
  Shape shape;
  const void* data = nullptr;

  int64_t num_elements() const { return NumElements(shape); }
  int64_t num_bytes() const { return num_elements() * DTypeBytes(dtype); }
  template <typename T>
  absl::Span<const T> as() const {
    return {static_cast<const T*>(data), static_cast<size_t>(num_elements())};
  }
};

class Tensor {
 public:
  Tensor() = default;
  Tensor(DType dtype, Shape shape);                      // zero-initialised, 64-byte aligned
  static Tensor ForOverwrite(DType dtype, Shape shape);  // the same, of values that nobody has set
  // The same in memory for weights (base/weight_memory.h): written once, read for every token.
  static Tensor ForWeights(DType dtype, Shape shape);
  static Tensor FromFloats(Shape shape, absl::Span<const float> values);

  DType dtype() const { return dtype_; }
  const Shape& shape() const { return shape_; }
  int64_t dim(size_t i) const { return shape_[i]; }
  int64_t num_elements() const { return NumElements(shape_); }
  int64_t num_bytes() const { return num_elements() * DTypeBytes(dtype_); }
  bool empty() const { return data_ == nullptr; }
  void* data() { return data_.get(); }
  const void* data() const { return data_.get(); }
  template <typename T>
  absl::Span<T> as() {
    return {static_cast<T*>(data()), static_cast<size_t>(num_elements())};
  }
  template <typename T>
  absl::Span<const T> as() const {
    return {static_cast<const T*>(data()), static_cast<size_t>(num_elements())};
  }
  TensorView view() const { return {dtype_, shape_, data_.get()}; }
  Tensor Clone() const;

 private:
  struct Free {
    Free() : weights(false) {}
    explicit Free(bool w) : weights(w) {}
    void operator()(void* p) const;
    bool weights;
  };
  DType dtype_ = DType::kF32;
  Shape shape_;
  std::unique_ptr<void, Free> data_;
};

// Converts F16, BF16, F32, F64 to F32. Other dtypes: CHECK-fails, the caller has tested IsFloat().
bool IsFloat(DType dtype);
Tensor ToF32(const TensorView& tensor);
void ToF32(const TensorView& tensor, float* out);  // [num_elements]
// F32 values in BF16, F16 or F32, rounded to nearest; other dtypes abort. `out` has their number.
Tensor RoundTo(DType dtype, const TensorView& values);
void RoundTo(DType dtype, absl::Span<const float> values, void* out);

}  // namespace spikefold
