// A quantized linear: what it stores, its rules, and the way between memory and tensors.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "formats/base/status.h"
#include "formats/quantized/native_parts.h"

namespace spikefold {
namespace {

constexpr int64_t kMaxDimension = (int64_t{1} << 31) - 1;
constexpr int64_t kMaxWeights = int64_t{1} << 40;
constexpr int kZeroNibble = 8;  // code 0 of a packed nibble

size_t Size(int64_t n) { return static_cast<size_t>(n); }

std::string Name(const QuantizedLinearSpec& spec, absl::string_view suffix) {
  return absl::StrCat(spec.module, ".", suffix);
}

// Builds "module: ..." errors.
class Rule {
 public:
  explicit Rule(const QuantizedLinearSpec& spec) : spec_(spec) {}
  template <typename... Parts>
  absl::Status Broken(const Parts&... parts) const {
    return absl::InvalidArgumentError(absl::StrCat(Printable(spec_.module), ": ", parts...));
  }

 private:
  const QuantizedLinearSpec& spec_;
};

int64_t NumScales(const QuantizedLinearSpec& s) {
  return s.format == WeightFormat::kFloat ? 0 : s.format == WeightFormat::kS8c ? s.n : s.n * (s.k / s.group);
}

uint16_t ToHalf(DType dtype, float value) {
  return dtype == DType::kBF16 ? FloatToBf16(value) : FloatToF16(value);
}
float FromHalf(DType dtype, uint16_t bits) {
  return dtype == DType::kBF16 ? Bf16ToFloat(bits) : F16ToFloat(bits);
}

absl::Status CheckFormat(const QuantizedLinearSpec& s) {
  const Rule rule(s);
  switch (s.format) {
    case WeightFormat::kFloat:
      if (s.float_dtype != DType::kBF16 && s.float_dtype != DType::kF16 && s.float_dtype != DType::kF32) {
        return rule.Broken("a float weight of ", DTypeName(s.float_dtype), "; use BF16, F16 or F32");
      }
      if (s.num_kept != 0 || s.num_super != 0) {
        return rule.Broken("a float weight with ", s.num_kept, " kept columns and ", s.num_super,
                           " super weights; it takes none");
      }
      if (s.act != ActivationFormat::kFloat)
        return rule.Broken("a float weight takes float activations only");
      break;
    case WeightFormat::kS8c:
      break;
    case WeightFormat::kS4g:
      if (s.group < 1 || s.k % s.group != 0) {
        return rule.Broken("K=", s.k, " is not a multiple of group_size=", s.group);
      }
      if (s.scale_dtype != DType::kBF16 && s.scale_dtype != DType::kF16) {
        return rule.Broken("scales of ", DTypeName(s.scale_dtype), "; use BF16 or F16");
      }
      break;
  }
  if (s.format != WeightFormat::kS4g && s.group != 0) {
    return rule.Broken("group_size=", s.group, " for a weight without groups; use 0");
  }
  return absl::OkStatus();
}

// Scales are positive, finite and held exactly by their stored type.
absl::Status CheckScales(const QuantizedLinear& q) {
  for (size_t i = 0; i < q.scales.size(); ++i) {
    const float s = q.scales[i];
    const bool exact = q.format == WeightFormat::kS8c ||
                       (std::isfinite(s) && FromHalf(q.scale_dtype, ToHalf(q.scale_dtype, s)) == s);
    if (!(s > 0) || !std::isfinite(s) || !exact) {
      return Rule(q).Broken(
          "scale ", i, " is ", s, "; it must be positive, finite",
          q.format == WeightFormat::kS4g ? absl::StrCat(" and exact in ", DTypeName(q.scale_dtype)) : "");
    }
  }
  return absl::OkStatus();
}

absl::Status CheckCodes(const QuantizedLinear& q) {
  const int lo = q.format == WeightFormat::kS8c ? -127 : -8, hi = q.format == WeightFormat::kS8c ? 127 : 7;
  for (size_t i = 0; i < q.codes.size(); ++i) {
    if (q.codes[i] < lo || q.codes[i] > hi) {
      return Rule(q).Broken("code ", int{q.codes[i]}, " at row ", i / Size(q.k), ", column ", i % Size(q.k),
                            " is outside ", lo, "..", hi);
    }
  }
  return absl::OkStatus();
}

absl::Status CheckKept(const QuantizedLinear& q) {
  const Rule rule(q);
  for (size_t c = 0; c < q.kept_columns.size(); ++c) {
    const int32_t column = q.kept_columns[c];
    if (column < 0 || column >= q.k || (c > 0 && column <= q.kept_columns[c - 1])) {
      return rule.Broken("kept column ", column, " at place ", c, "; they must ascend strictly within 0..",
                         q.k - 1);
    }
    for (int64_t row = 0; row < q.n; ++row) {
      if (q.codes[Size(row * q.k + column)] != 0) {
        return rule.Broken("kept column ", column, " holds the code ", int{q.codes[Size(row * q.k + column)]},
                           " in row ", row, "; it must hold 0");
      }
    }
  }
  for (size_t i = 0; i < q.kept_weight_bf16.size(); ++i) {
    if (!std::isfinite(Bf16ToFloat(q.kept_weight_bf16[i]))) {
      return rule.Broken("kept weight ", i, " is not finite");
    }
  }
  return absl::OkStatus();
}

absl::Status CheckSupers(const QuantizedLinear& q) {
  const Rule rule(q);
  for (size_t i = 0; i < q.supers.size(); ++i) {
    const SuperWeight& s = q.supers[i];
    if (s.row < 0 || s.row >= q.n || s.col < 0 || s.col >= q.k) {
      return rule.Broken("super weight ", i, " at row ", s.row, ", column ", s.col, " lies outside [", q.n,
                         ", ", q.k, "]");
    }
    if (i > 0 && std::make_pair(q.supers[i - 1].row, q.supers[i - 1].col) >= std::make_pair(s.row, s.col)) {
      return rule.Broken("super weight ", i, " does not follow its predecessor in order of (row, column)");
    }
    if (std::binary_search(q.kept_columns.begin(), q.kept_columns.end(), s.col)) {
      return rule.Broken("super weight ", i, " lies in the kept column ", s.col);
    }
    if (q.codes[Size(int64_t{s.row} * q.k + s.col)] != 0) {
      return rule.Broken("super weight at row ", s.row, ", column ", s.col, " has the code ",
                         int{q.codes[Size(int64_t{s.row} * q.k + s.col)]}, " as well; it must be 0");
    }
    if (!std::isfinite(s.value)) return rule.Broken("super weight ", i, " is not finite");
  }
  return absl::OkStatus();
}

absl::Status CheckFloatWeight(const QuantizedLinear& q) {
  const Rule rule(q);
  const Tensor& w = q.float_weight;
  if (w.empty() || w.dtype() != q.float_dtype || w.shape() != Shape{q.n, q.k}) {
    return rule.Broken("its weight is not ", DTypeName(q.float_dtype), " [", q.n, ", ", q.k, "]");
  }
  const auto broken = [&](size_t i) {
    return rule.Broken("weight at row ", i / Size(q.k), ", column ", i % Size(q.k), " is not finite");
  };
  if (q.float_dtype == DType::kF32) {
    const auto x = w.as<float>();
    for (size_t i = 0; i < x.size(); ++i) {
      if (!std::isfinite(x[i])) return broken(i);
    }
    return absl::OkStatus();
  }
  const uint16_t exponent = q.float_dtype == DType::kBF16 ? 0x7f80 : 0x7c00;
  const auto x = w.as<uint16_t>();
  for (size_t i = 0; i < x.size(); ++i) {
    if ((x[i] & exponent) == exponent) return broken(i);
  }
  return absl::OkStatus();
}

absl::Status CheckSizes(const QuantizedLinear& q) {
  const Rule rule(q);
  const int64_t num_codes = q.format == WeightFormat::kFloat ? 0 : q.n * q.k;
  const auto check = [&](absl::string_view what, size_t is, int64_t should) {
    if (is == Size(should)) return absl::OkStatus();
    return rule.Broken(is, " ", what, "; its declaration says ", should);
  };
  SF_RETURN_IF_ERROR(check("codes", q.codes.size(), num_codes));
  SF_RETURN_IF_ERROR(check("scales", q.scales.size(), NumScales(q)));
  SF_RETURN_IF_ERROR(check("kept columns", q.kept_columns.size(), q.num_kept));
  SF_RETURN_IF_ERROR(check("kept weights", q.kept_weight_bf16.size(), q.n * q.num_kept));
  SF_RETURN_IF_ERROR(check("super weights", q.supers.size(), q.num_super));
  return check("bias values", q.bias.size(), q.has_bias ? q.n : 0);
}

Tensor PackS4(const QuantizedLinear& q) {
  const int64_t words = (q.k + 7) / 8;
  Tensor packed(DType::kI32, {q.n, words});
  uint32_t* out = reinterpret_cast<uint32_t*>(packed.data());
  for (int64_t row = 0; row < q.n; ++row) {
    const int8_t* codes = q.codes.data() + row * q.k;
    for (int64_t word = 0; word < words; ++word) {
      uint32_t bits = 0;
      for (int64_t i = 0; i < 8; ++i) {
        const int64_t column = word * 8 + i;
        const int code = column < q.k ? codes[column] + kZeroNibble : kZeroNibble;
        bits |= static_cast<uint32_t>(code) << (4 * i);
      }
      out[row * words + word] = bits;
    }
  }
  return packed;
}

absl::Status UnpackS4(const Tensor& packed, QuantizedLinear* q) {
  const int64_t words = (q->k + 7) / 8;
  const uint32_t* in = reinterpret_cast<const uint32_t*>(packed.data());
  for (int64_t row = 0; row < q->n; ++row) {
    int8_t* codes = q->codes.data() + row * q->k;
    for (int64_t column = 0; column < words * 8; ++column) {
      const int code =
          static_cast<int>((in[row * words + column / 8] >> (4 * (column % 8))) & 15) - kZeroNibble;
      if (column < q->k) {
        codes[column] = static_cast<int8_t>(code);
      } else if (code != 0) {
        return Rule(*q).Broken("row ", row, " has the code ", code, " in its padding; it must be 0");
      }
    }
  }
  return absl::OkStatus();
}

template <typename T>
TensorView ViewOf(DType dtype, Shape shape, const std::vector<T>& values) {
  return {dtype, std::move(shape), values.data()};
}

absl::Status CheckShapeTensor(const QuantizedLinearSpec& spec, const Tensor& shape) {
  const auto s = shape.as<int64_t>();
  if (s[0] == spec.n && s[1] == spec.k) return absl::OkStatus();
  return Rule(spec).Broken("weight_shape is [", s[0], ", ", s[1], "]; the sidecar says [", spec.n, ", ",
                           spec.k, "]");
}

template <typename T>
std::vector<T> ToVector(const Tensor& tensor) {
  const auto values = tensor.as<T>();
  return std::vector<T>(values.begin(), values.end());
}

}  // namespace

absl::Status CheckSpec(const QuantizedLinearSpec& s) {
  const Rule rule(s);
  if (s.module.empty()) return absl::InvalidArgumentError("a linear without a module name");
  if (s.n < 1 || s.k < 1 || s.n > kMaxDimension || s.k > kMaxDimension || s.n > kMaxWeights / s.k) {
    return rule.Broken("impossible shape [", s.n, ", ", s.k, "]");
  }
  SF_RETURN_IF_ERROR(CheckFormat(s));
  if (s.num_kept < 0 || s.num_kept > s.k) {
    return rule.Broken(s.num_kept, " kept columns of K=", s.k);
  }
  if (s.num_super < 0 || s.num_super > s.n * s.k) return rule.Broken(s.num_super, " super weights");
  if (!(s.spike_threshold >= 0) || !std::isfinite(s.spike_threshold) || s.max_spike_rows < 0 ||
      s.max_spike_rows > 512) {
    return rule.Broken("spike rows above ", s.spike_threshold, ", at most ", s.max_spike_rows,
                       "; both must be finite, from 0, and at most 512 rows");
  }
  return absl::OkStatus();
}

std::vector<SafetensorsWriter::Spec> TensorSpecs(const QuantizedLinearSpec& s) {
  std::vector<SafetensorsWriter::Spec> out;
  const auto add = [&](absl::string_view suffix, DType dtype, Shape shape) {
    out.push_back({Name(s, suffix), dtype, std::move(shape)});
  };
  if (s.format == WeightFormat::kFloat) add("weight", s.float_dtype, {s.n, s.k});
  if (s.format == WeightFormat::kS8c) {
    add("weight", DType::kI8, {s.n, s.k});
    add("weight_scale", DType::kF32, {s.n, 1});
  }
  if (s.format == WeightFormat::kS4g) {
    add("weight_packed", DType::kI32, {s.n, (s.k + 7) / 8});
    add("weight_scale", s.scale_dtype, {s.n, s.k / s.group});
    add("weight_shape", DType::kI64, {2});
  }
  if (s.num_kept > 0) {
    add("kept_columns", DType::kI32, {s.num_kept});
    add("kept_weight", DType::kBF16, {s.n, s.num_kept});
  }
  if (s.num_super > 0) {
    add("super_index", DType::kI32, {s.num_super, 2});
    add("super_value", DType::kF32, {s.num_super});
  }
  if (s.has_bias) add("bias", DType::kF32, {s.n});
  if (s.act == ActivationFormat::kS8Static) add("input_scale", DType::kF32, {1});
  return out;
}

int64_t StoredBytes(const QuantizedLinearSpec& spec) {
  int64_t bytes = 0;
  for (const SafetensorsWriter::Spec& t : TensorSpecs(spec))
    bytes += NumElements(t.shape) * DTypeBytes(t.dtype);
  return bytes;
}

absl::Status CheckLinear(const QuantizedLinear& q) {
  SF_RETURN_IF_ERROR(CheckSpec(q));
  SF_RETURN_IF_ERROR(CheckSizes(q));
  if (q.format == WeightFormat::kFloat) {
    SF_RETURN_IF_ERROR(CheckFloatWeight(q));
  } else {
    SF_RETURN_IF_ERROR(CheckScales(q));
    SF_RETURN_IF_ERROR(CheckCodes(q));
    SF_RETURN_IF_ERROR(CheckKept(q));
    SF_RETURN_IF_ERROR(CheckSupers(q));
  }
  for (size_t i = 0; i < q.bias.size(); ++i) {
    if (!std::isfinite(q.bias[i])) return Rule(q).Broken("bias of row ", i, " is not finite");
  }
  const bool is_static = q.act == ActivationFormat::kS8Static;
  if (is_static && (!(q.input_scale > 0) || !std::isfinite(q.input_scale))) {
    return Rule(q).Broken("input_scale is ", q.input_scale, "; it must be positive and finite");
  }
  return absl::OkStatus();
}

Tensor Dequantize(const QuantizedLinear& q) {
  if (q.format == WeightFormat::kFloat) return ToF32(q.float_weight.view());
  Tensor out(DType::kF32, {q.n, q.k});
  float* w = out.as<float>().data();
  const int64_t group = q.format == WeightFormat::kS8c ? q.k : q.group;
  const int64_t groups = q.k / group;
  for (int64_t row = 0; row < q.n; ++row) {
    for (int64_t column = 0; column < q.k; ++column) {
      w[row * q.k + column] = q.scales[Size(row * groups + column / group)] *
                              static_cast<float>(q.codes[Size(row * q.k + column)]);
    }
    for (size_t c = 0; c < q.kept_columns.size(); ++c) {
      w[row * q.k + q.kept_columns[c]] = Bf16ToFloat(q.kept_weight_bf16[Size(row * q.num_kept) + c]);
    }
  }
  for (const SuperWeight& s : q.supers) w[int64_t{s.row} * q.k + s.col] = s.value;
  return out;
}

absl::Status EncodeLinear(const QuantizedLinear& q,
                          absl::FunctionRef<absl::Status(const std::string&, const TensorView&)> write) {
  if (q.format == WeightFormat::kFloat) {
    SF_RETURN_IF_ERROR(write(Name(q, "weight"), q.float_weight.view()));
  } else if (q.format == WeightFormat::kS8c) {
    SF_RETURN_IF_ERROR(write(Name(q, "weight"), ViewOf(DType::kI8, {q.n, q.k}, q.codes)));
    SF_RETURN_IF_ERROR(write(Name(q, "weight_scale"), ViewOf(DType::kF32, {q.n, 1}, q.scales)));
  } else {
    SF_RETURN_IF_ERROR(write(Name(q, "weight_packed"), PackS4(q).view()));
    std::vector<uint16_t> scales(q.scales.size());
    for (size_t i = 0; i < scales.size(); ++i) scales[i] = ToHalf(q.scale_dtype, q.scales[i]);
    SF_RETURN_IF_ERROR(write(Name(q, "weight_scale"), ViewOf(q.scale_dtype, {q.n, q.k / q.group}, scales)));
    const std::vector<int64_t> shape = {q.n, q.k};
    SF_RETURN_IF_ERROR(write(Name(q, "weight_shape"), ViewOf(DType::kI64, {2}, shape)));
  }
  if (q.num_kept > 0) {
    SF_RETURN_IF_ERROR(write(Name(q, "kept_columns"), ViewOf(DType::kI32, {q.num_kept}, q.kept_columns)));
    SF_RETURN_IF_ERROR(
        write(Name(q, "kept_weight"), ViewOf(DType::kBF16, {q.n, q.num_kept}, q.kept_weight_bf16)));
  }
  if (q.num_super > 0) {
    std::vector<int32_t> index;
    std::vector<float> value;
    for (const SuperWeight& s : q.supers) {
      index.insert(index.end(), {s.row, s.col});
      value.push_back(s.value);
    }
    SF_RETURN_IF_ERROR(write(Name(q, "super_index"), ViewOf(DType::kI32, {q.num_super, 2}, index)));
    SF_RETURN_IF_ERROR(write(Name(q, "super_value"), ViewOf(DType::kF32, {q.num_super}, value)));
  }
  if (q.has_bias) SF_RETURN_IF_ERROR(write(Name(q, "bias"), ViewOf(DType::kF32, {q.n}, q.bias)));
  if (q.act == ActivationFormat::kS8Static) {
    SF_RETURN_IF_ERROR(write(Name(q, "input_scale"), TensorView{DType::kF32, {1}, &q.input_scale}));
  }
  return absl::OkStatus();
}

absl::StatusOr<QuantizedLinear> DecodeLinear(
    const QuantizedLinearSpec& spec, absl::FunctionRef<absl::StatusOr<Tensor>(const std::string&)> read) {
  QuantizedLinear q(spec);
  if (q.format == WeightFormat::kFloat) {
    SF_ASSIGN_OR_RETURN(q.float_weight, read(Name(q, "weight")));
  } else if (q.format == WeightFormat::kS8c) {
    SF_ASSIGN_OR_RETURN(const Tensor codes, read(Name(q, "weight")));
    SF_ASSIGN_OR_RETURN(const Tensor scales, read(Name(q, "weight_scale")));
    q.codes = ToVector<int8_t>(codes);
    q.scales = ToVector<float>(scales);
  } else {
    SF_ASSIGN_OR_RETURN(const Tensor shape, read(Name(q, "weight_shape")));
    SF_RETURN_IF_ERROR(CheckShapeTensor(q, shape));
    SF_ASSIGN_OR_RETURN(const Tensor packed, read(Name(q, "weight_packed")));
    q.codes.resize(Size(q.n * q.k));
    SF_RETURN_IF_ERROR(UnpackS4(packed, &q));
    SF_ASSIGN_OR_RETURN(const Tensor scales, read(Name(q, "weight_scale")));
    for (const uint16_t s : scales.as<uint16_t>()) q.scales.push_back(FromHalf(q.scale_dtype, s));
  }
  if (q.num_kept > 0) {
    SF_ASSIGN_OR_RETURN(const Tensor columns, read(Name(q, "kept_columns")));
    SF_ASSIGN_OR_RETURN(const Tensor weight, read(Name(q, "kept_weight")));
    q.kept_columns = ToVector<int32_t>(columns);
    q.kept_weight_bf16 = ToVector<uint16_t>(weight);
  }
  if (q.num_super > 0) {
    SF_ASSIGN_OR_RETURN(const Tensor index, read(Name(q, "super_index")));
    SF_ASSIGN_OR_RETURN(const Tensor value, read(Name(q, "super_value")));
    for (size_t i = 0; i < Size(q.num_super); ++i) {
      q.supers.push_back({index.as<int32_t>()[2 * i], index.as<int32_t>()[2 * i + 1], value.as<float>()[i]});
    }
  }
  if (q.has_bias) {
    SF_ASSIGN_OR_RETURN(const Tensor bias, read(Name(q, "bias")));
    q.bias = ToVector<float>(bias);
  }
  if (q.act == ActivationFormat::kS8Static) {
    SF_ASSIGN_OR_RETURN(const Tensor scale, read(Name(q, "input_scale")));
    q.input_scale = scale.as<float>()[0];
  }
  SF_RETURN_IF_ERROR(CheckLinear(q));
  return q;
}

}  // namespace spikefold
