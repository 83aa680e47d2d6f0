#include "formats/tensor.h"

#include <cstdlib>
#include <cstring>
#include <new>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "formats/base/vector_clones.h"
#include "formats/base/weight_memory.h"

namespace spikefold {

std::string ShapeString(const Shape& shape) { return absl::StrCat("[", absl::StrJoin(shape, ", "), "]"); }

int64_t NumElements(const Shape& shape) {
  int64_t n = 1;
  for (const int64_t d : shape) n *= d;
  return n;
}

void Tensor::Free::operator()(void* p) const { weights ? FreeWeights(p) : std::free(p); }

Tensor::Tensor(DType dtype, Shape shape) : Tensor(ForOverwrite(dtype, std::move(shape))) {
  std::memset(data_.get(), 0, static_cast<size_t>(num_bytes()));
}

Tensor Tensor::ForOverwrite(DType dtype, Shape shape) {
  Tensor t;
  t.dtype_ = dtype;
  t.shape_ = std::move(shape);
  const size_t bytes = static_cast<size_t>(t.num_bytes()), lines = bytes / 64 * 64;
  void* p = std::aligned_alloc(64, lines + 128);
  if (p == nullptr) throw std::bad_alloc();            // caught at the edge of apps/, as ResourceExhausted
  std::memset(static_cast<char*>(p) + lines, 0, 128);  // the end, and what may be read behind it
  t.data_.reset(p);
  return t;
}

Tensor Tensor::ForWeights(DType dtype, Shape shape) {
  Tensor t;
  t.dtype_ = dtype;
  t.shape_ = std::move(shape);
  t.data_ = std::unique_ptr<void, Free>(AllocateWeights(static_cast<size_t>(t.num_bytes())), Free(true));
  return t;
}

Tensor Tensor::FromFloats(Shape shape, absl::Span<const float> values) {
  Tensor t(DType::kF32, std::move(shape));
  std::memcpy(t.data(), values.data(), values.size() * sizeof(float));
  return t;
}

Tensor Tensor::Clone() const {
  Tensor t(dtype_, shape_);
  std::memcpy(t.data(), data(), static_cast<size_t>(num_bytes()));
  return t;
}

bool IsFloat(DType dtype) {
  return dtype == DType::kF16 || dtype == DType::kBF16 || dtype == DType::kF32 || dtype == DType::kF64;
}

namespace {

SF_VECTOR_CLONES void FromBf16(const uint16_t* in, size_t count, float* out) {
  for (size_t i = 0; i < count; ++i) out[i] = Bf16ToFloat(in[i]);
}
SF_VECTOR_CLONES void FromF16(const uint16_t* in, size_t count, float* out) {
  for (size_t i = 0; i < count; ++i) out[i] = F16ToFloat(in[i]);
}
SF_VECTOR_CLONES void ToBf16(const float* in, size_t count, uint16_t* out) {
  for (size_t i = 0; i < count; ++i) out[i] = FloatToBf16(in[i]);
}
SF_VECTOR_CLONES void ToF16(const float* in, size_t count, uint16_t* out) {
  for (size_t i = 0; i < count; ++i) out[i] = FloatToF16(in[i]);
}

}  // namespace

Tensor RoundTo(DType dtype, const TensorView& values) {
  Tensor out(dtype, values.shape);
  RoundTo(dtype, values.as<float>(), out.data());
  return out;
}

void RoundTo(DType dtype, absl::Span<const float> values, void* out) {
  if (dtype == DType::kBF16) {
    ToBf16(values.data(), values.size(), static_cast<uint16_t*>(out));
  } else if (dtype == DType::kF16) {
    ToF16(values.data(), values.size(), static_cast<uint16_t*>(out));
  } else if (dtype == DType::kF32) {
    std::memcpy(out, values.data(), values.size() * sizeof(float));
  } else {
    std::abort();  // a caller's bug
  }
}

Tensor ToF32(const TensorView& tensor) {
  Tensor out(DType::kF32, tensor.shape);
  ToF32(tensor, out.as<float>().data());
  return out;
}

void ToF32(const TensorView& tensor, float* out) {
  const size_t count = static_cast<size_t>(tensor.num_elements());
  switch (tensor.dtype) {
    case DType::kF32:
      std::memcpy(out, tensor.data, count * sizeof(float));
      break;
    case DType::kBF16:
      FromBf16(tensor.as<uint16_t>().data(), count, out);
      break;
    case DType::kF16:
      FromF16(tensor.as<uint16_t>().data(), count, out);
      break;
    case DType::kF64: {
      const auto x = tensor.as<double>();
      for (size_t i = 0; i < count; ++i) out[i] = static_cast<float>(x[i]);
      break;
    }
    default:
      std::abort();  // a caller's bug: IsFloat() was not asked
  }
}

}  // namespace spikefold
