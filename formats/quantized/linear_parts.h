// What every part of the code for stored linears needs. Included by formats/quantized/*.cc only.
#pragma once

#include <string>

#include "absl/strings/str_cat.h"
#include "formats/base/json.h"
#include "formats/quantized/native.h"

namespace spikefold {

// Builds "module: ..." errors.
class LinearRule {
 public:
  explicit LinearRule(const QuantizedLinearSpec& spec) : spec_(spec) {}
  template <typename... Parts>
  absl::Status Broken(const Parts&... parts) const {
    return absl::InvalidArgumentError(absl::StrCat(Printable(spec_.module), ": ", parts...));
  }

 private:
  const QuantizedLinearSpec& spec_;
};

inline int64_t NumScales(const QuantizedLinearSpec& s) {
  return s.format.is_float() ? 0 : s.n * s.num_groups();
}
inline int64_t NumZeros(const QuantizedLinearSpec& s) { return s.format.symmetric ? 0 : NumScales(s); }
inline bool IsPacked(const QuantizedLinearSpec& s) { return !s.format.is_float() && s.format.bits < 8; }
inline bool HasInputZero(const QuantizedLinearSpec& s) { return s.act.is_static() && !s.act.symmetric; }
inline DType ScaleType(const QuantizedLinearSpec& s) {
  return s.format.grouped ? s.scale_dtype : DType::kF32;
}
// Of the tensor with the codes, or with the float weight.
inline std::string CodesName(const QuantizedLinearSpec& s) {
  return s.module + (IsPacked(s) ? ".weight_packed" : ".weight");
}

inline uint16_t ToHalf(DType dtype, float value) {
  return dtype == DType::kBF16 ? FloatToBf16(value) : FloatToF16(value);
}
inline float FromHalf(DType dtype, uint16_t bits) {
  return dtype == DType::kBF16 ? Bf16ToFloat(bits) : F16ToFloat(bits);
}

// The code that means 0 at (row, column).
inline int ZeroAt(const QuantizedLinear& q, int64_t row, int64_t column) {
  if (q.zeros.empty()) return 0;
  return q.zeros[static_cast<size_t>(row * q.num_groups() + (q.group > 0 ? column / q.group : 0))];
}

// CheckLinear() without what is said of codes and float weights, which may be absent.
absl::Status CheckSides(const QuantizedLinear& q);
// What it says of the codes [rows, k] of rows from `begin` on, and of float values.
absl::Status CheckCodeRows(const QuantizedLinear& sides, int64_t begin, absl::Span<const int8_t> codes);
absl::Status CheckFloatRows(const QuantizedLinear& sides, int64_t begin, const TensorView& rows);

// Codes from packed words [rows, words], of rows from `begin` on, into [rows, k].
absl::Status UnpackCodeRows(const QuantizedLinearSpec& spec, int64_t begin, const TensorView& packed,
                            int8_t* codes);
// Rows of Dequantize() from `begin` on, of codes [rows, k] (levels of trellis codes).
void DequantizeRows(const QuantizedLinear& sides, int64_t begin, int64_t rows, const int8_t* codes,
                    float* out);

}  // namespace spikefold
