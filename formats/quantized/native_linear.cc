// A quantized linear: what it stores, its rules, and the way between memory and tensors.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "formats/base/status.h"
#include "formats/quantized/code_stream.h"
#include "formats/quantized/native_parts.h"
#include "formats/quantized/trellis.h"

namespace spikefold {
namespace {

constexpr int64_t kMaxDimension = (int64_t{1} << 31) - 1;
constexpr int64_t kMaxWeights = int64_t{1} << 40;

using TensorSink = absl::FunctionRef<absl::Status(const std::string&, const TensorView&)>;
using TensorSource = absl::FunctionRef<absl::StatusOr<Tensor>(const std::string&)>;

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

int64_t NumScales(const QuantizedLinearSpec& s) { return s.format.is_float() ? 0 : s.n * s.num_groups(); }
int64_t NumZeros(const QuantizedLinearSpec& s) { return s.format.symmetric ? 0 : NumScales(s); }
bool IsPacked(const QuantizedLinearSpec& s) { return !s.format.is_float() && s.format.bits < 8; }
bool HasInputZero(const QuantizedLinearSpec& s) { return s.act.is_static() && !s.act.symmetric; }
DType ScaleType(const QuantizedLinearSpec& s) { return s.format.grouped ? s.scale_dtype : DType::kF32; }

uint16_t ToHalf(DType dtype, float value) {
  return dtype == DType::kBF16 ? FloatToBf16(value) : FloatToF16(value);
}
float FromHalf(DType dtype, uint16_t bits) {
  return dtype == DType::kBF16 ? Bf16ToFloat(bits) : F16ToFloat(bits);
}

absl::Status CheckFloat(const QuantizedLinearSpec& s) {
  const Rule rule(s);
  if (s.float_dtype != DType::kBF16 && s.float_dtype != DType::kF16 && s.float_dtype != DType::kF32) {
    return rule.Broken("a float weight of ", DTypeName(s.float_dtype), "; use BF16, F16 or F32");
  }
  if (s.num_kept != 0 || s.num_super != 0) {
    return rule.Broken("a float weight with ", s.num_kept, " kept columns and ", s.num_super,
                       " super weights; it takes none");
  }
  if (!s.act.is_float()) return rule.Broken("a float weight takes float activations only");
  return absl::OkStatus();
}

absl::Status CheckFormat(const QuantizedLinearSpec& s) {
  const Rule rule(s);
  const WeightFormat& f = s.format;
  const auto named = ParseWeightFormat(FormatWord(f));
  const bool known = f.is_float() ? f == WeightFormat::kFloat : named.ok() && *named == f;
  if (!known)
    return rule.Broken("weights of ", f.bits, " bits; use 2, 3, 4 or 8, 2 to 6 in a trellis, or float");
  if (f.trellis && s.num_kept + s.num_super > 0) {
    return rule.Broken("trellis codes with ", s.num_kept, " kept columns and ", s.num_super,
                       " super weights; they take none");
  }
  if (!f.grouped && s.group != 0) {
    return rule.Broken("group_size=", s.group, " for a weight without groups; use 0");
  }
  if (f.grouped && (s.group < 1 || s.k % s.group != 0)) {
    return rule.Broken("K=", s.k, " is not a multiple of group_size=", s.group);
  }
  const DType scale = ScaleType(s);
  if (scale != DType::kBF16 && scale != DType::kF16 && scale != DType::kF32) {
    return rule.Broken("scales of ", DTypeName(scale), "; use BF16, F16 or F32");
  }
  if (f.is_float()) return CheckFloat(s);
  const auto act = ParseActivationFormat(FormatWord(s.act));
  if (!act.ok() || *act != s.act) {
    return rule.Broken("activations of ", s.act.bits, " bits in groups of ", s.act.group,
                       "; use 4 or 8 bits, or 4 in groups of 32, 64 or 128");
  }
  if (s.act.group > 0 && s.k % s.act.group != 0) {
    return rule.Broken("K=", s.k, " is not a multiple of its activations' group of ", s.act.group);
  }
  return absl::OkStatus();
}

// Scales are positive, finite and held exactly by their stored type.
absl::Status CheckScales(const QuantizedLinear& q) {
  const DType type = ScaleType(q);
  for (size_t i = 0; i < q.scales.size(); ++i) {
    const float s = q.scales[i];
    const bool exact = type == DType::kF32 || (std::isfinite(s) && FromHalf(type, ToHalf(type, s)) == s);
    if (!(s > 0) || !std::isfinite(s) || !exact) {
      return Rule(q).Broken("scale ", i, " is ", s, "; it must be positive, finite",
                            type == DType::kF32 ? "" : absl::StrCat(" and exact in ", DTypeName(type)));
    }
  }
  return absl::OkStatus();
}

// Without a way out of the loop it is done in vectors.
bool AllWithin(const std::vector<int8_t>& values, int lo, int hi) {
  int8_t least = 0, most = 0;
  for (const int8_t v : values) {
    least = v < least ? v : least;
    most = v > most ? v : most;
  }
  return values.empty() || (least >= lo && most <= hi);  // 0 is within every range
}

absl::Status CheckCodes(const QuantizedLinear& q) {
  if (q.format.is_float()) return absl::OkStatus();
  const int lo = q.format.lo(), hi = q.format.hi();
  if (AllWithin(q.codes, lo, hi) && AllWithin(q.zeros, lo, hi)) return absl::OkStatus();
  for (size_t i = 0; i < q.codes.size(); ++i) {
    if (q.codes[i] < lo || q.codes[i] > hi) {
      return Rule(q).Broken("code ", int{q.codes[i]}, " at row ", i / Size(q.k), ", column ", i % Size(q.k),
                            " is outside ", lo, "..", hi);
    }
  }
  for (size_t i = 0; i < q.zeros.size(); ++i) {
    if (q.zeros[i] < lo || q.zeros[i] > hi) {
      return Rule(q).Broken("zero point ", int{q.zeros[i]}, " at row ", i / Size(q.num_groups()), ", group ",
                            i % Size(q.num_groups()), " is outside ", lo, "..", hi);
    }
  }
  return absl::OkStatus();
}

// The code that means 0 at (row, column).
int ZeroAt(const QuantizedLinear& q, int64_t row, int64_t column) {
  if (q.zeros.empty()) return 0;
  return q.zeros[Size(row * q.num_groups() + (q.group > 0 ? column / q.group : 0))];
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
      const int code = q.codes[Size(row * q.k + column)], zero = ZeroAt(q, row, column);
      if (code != zero) {
        return rule.Broken("kept column ", column, " holds the code ", code, " in row ", row,
                           "; it must hold ", zero);
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
    const int code = q.codes[Size(int64_t{s.row} * q.k + s.col)], zero = ZeroAt(q, s.row, s.col);
    if (code != zero) {
      return rule.Broken("super weight at row ", s.row, ", column ", s.col, " has the code ", code,
                         " as well; it must be ", zero);
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
  uint16_t any = 0;  // without a way out of the loop it is done in vectors
  for (const uint16_t bits : x) any |= (bits & exponent) == exponent ? 1 : 0;
  for (size_t i = 0; any != 0 && i < x.size(); ++i) {
    if ((x[i] & exponent) == exponent) return broken(i);
  }
  return absl::OkStatus();
}

absl::Status CheckSizes(const QuantizedLinear& q) {
  const Rule rule(q);
  const int64_t num_codes = q.format.is_float() ? 0 : q.n * q.k;
  const auto check = [&](absl::string_view what, size_t is, int64_t should) {
    if (is == Size(should)) return absl::OkStatus();
    return rule.Broken(is, " ", what, "; its declaration says ", should);
  };
  SF_RETURN_IF_ERROR(check("codes", q.codes.size(), num_codes));
  SF_RETURN_IF_ERROR(check("scales", q.scales.size(), NumScales(q)));
  SF_RETURN_IF_ERROR(check("zero points", q.zeros.size(), NumZeros(q)));
  SF_RETURN_IF_ERROR(check("kept columns", q.kept_columns.size(), q.num_kept));
  SF_RETURN_IF_ERROR(check("kept weights", q.kept_weight_bf16.size(), q.n * q.num_kept));
  SF_RETURN_IF_ERROR(check("super weights", q.supers.size(), q.num_super));
  return check("bias values", q.bias.size(), q.has_bias ? q.n : 0);
}

Tensor PackCodes(const QuantizedLinear& q) {
  const int64_t words = StreamWords(q.format.bits, q.k);
  Tensor packed(DType::kI32, {q.n, words});
  int32_t* out = packed.as<int32_t>().data();
  for (int64_t row = 0; row < q.n; ++row) {
    PackStream(q.format.bits, q.codes.data() + row * q.k, q.k, 1, out + row * words, 1);
  }
  return packed;
}

absl::Status UnpackCodes(const Tensor& packed, QuantizedLinear* q) {
  const int64_t words = StreamWords(q->format.bits, q->k);
  const int32_t* in = packed.as<int32_t>().data();
  q->codes.resize(Size(q->n * q->k));
  for (int64_t row = 0; row < q->n; ++row) {
    const int64_t bad =
        UnpackStream(q->format.bits, in + row * words, 1, q->k, 1, q->codes.data() + row * q->k);
    if (bad >= 0) return Rule(*q).Broken("row ", row, " holds a code in its padding, element ", bad);
  }
  return absl::OkStatus();
}

// The zero points of a group are one stream over the rows.
Tensor PackZeros(const QuantizedLinear& q) {
  const int64_t groups = q.num_groups();
  Tensor packed(DType::kI32, {StreamWords(q.format.bits, q.n), groups});
  for (int64_t g = 0; g < groups; ++g) {
    PackStream(q.format.bits, q.zeros.data() + g, q.n, groups, packed.as<int32_t>().data() + g, groups);
  }
  return packed;
}

absl::Status UnpackZeros(const Tensor& packed, QuantizedLinear* q) {
  const int64_t groups = q->num_groups();
  q->zeros.resize(Size(q->n * groups));
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t bad = UnpackStream(q->format.bits, packed.as<int32_t>().data() + g, groups, q->n, groups,
                                     q->zeros.data() + g);
    if (bad >= 0) {
      return Rule(*q).Broken("group ", g, " holds a zero point in its padding, element ", bad);
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

absl::Status WriteScales(const QuantizedLinear& q, TensorSink write) {
  const Shape shape = {q.n, q.num_groups()};
  const DType type = ScaleType(q);
  if (type == DType::kF32) return write(Name(q, "weight_scale"), ViewOf(type, shape, q.scales));
  std::vector<uint16_t> halves(q.scales.size());
  for (size_t i = 0; i < halves.size(); ++i) halves[i] = ToHalf(type, q.scales[i]);
  return write(Name(q, "weight_scale"), ViewOf(type, shape, halves));
}

// Codes, scales and zero points, or the float weight.
absl::Status EncodeCodes(const QuantizedLinear& q, TensorSink write) {
  if (q.format.is_float()) return write(Name(q, "weight"), q.float_weight.view());
  if (!IsPacked(q)) {
    SF_RETURN_IF_ERROR(write(Name(q, "weight"), ViewOf(DType::kI8, {q.n, q.k}, q.codes)));
  } else {
    SF_RETURN_IF_ERROR(write(Name(q, "weight_packed"), PackCodes(q).view()));
  }
  SF_RETURN_IF_ERROR(WriteScales(q, write));
  if (!q.zeros.empty()) {
    const Tensor packed = IsPacked(q) ? PackZeros(q) : Tensor();
    const TensorView zeros = IsPacked(q) ? packed.view() : ViewOf(DType::kI8, {q.n, q.num_groups()}, q.zeros);
    SF_RETURN_IF_ERROR(write(Name(q, "weight_zero_point"), zeros));
  }
  if (!IsPacked(q)) return absl::OkStatus();
  const std::vector<int64_t> shape = {q.n, q.k};
  return write(Name(q, "weight_shape"), ViewOf(DType::kI64, {2}, shape));
}

absl::Status DecodeCodes(TensorSource read, QuantizedLinear* q) {
  if (q->format.is_float()) {
    SF_ASSIGN_OR_RETURN(q->float_weight, read(Name(*q, "weight")));
    return absl::OkStatus();
  }
  if (IsPacked(*q)) {
    SF_ASSIGN_OR_RETURN(const Tensor shape, read(Name(*q, "weight_shape")));
    SF_RETURN_IF_ERROR(CheckShapeTensor(*q, shape));
    SF_ASSIGN_OR_RETURN(const Tensor packed, read(Name(*q, "weight_packed")));
    SF_RETURN_IF_ERROR(UnpackCodes(packed, q));
  } else {
    SF_ASSIGN_OR_RETURN(const Tensor codes, read(Name(*q, "weight")));
    q->codes = ToVector<int8_t>(codes);
  }
  SF_ASSIGN_OR_RETURN(const Tensor scales, read(Name(*q, "weight_scale")));
  if (scales.dtype() == DType::kF32) {
    q->scales = ToVector<float>(scales);
  } else {
    for (const uint16_t s : scales.as<uint16_t>()) q->scales.push_back(FromHalf(scales.dtype(), s));
  }
  if (q->format.symmetric) return absl::OkStatus();
  SF_ASSIGN_OR_RETURN(const Tensor zeros, read(Name(*q, "weight_zero_point")));
  if (IsPacked(*q)) return UnpackZeros(zeros, q);
  q->zeros = ToVector<int8_t>(zeros);
  return absl::OkStatus();
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
  if (s.format.is_float()) add("weight", s.float_dtype, {s.n, s.k});
  if (s.format.bits == 8) add("weight", DType::kI8, {s.n, s.k});
  if (IsPacked(s)) add("weight_packed", DType::kI32, {s.n, StreamWords(s.format.bits, s.k)});
  if (!s.format.is_float()) add("weight_scale", ScaleType(s), {s.n, s.num_groups()});
  if (NumZeros(s) > 0 && IsPacked(s)) {
    add("weight_zero_point", DType::kI32, {StreamWords(s.format.bits, s.n), s.num_groups()});
  } else if (NumZeros(s) > 0) {
    add("weight_zero_point", DType::kI8, {s.n, s.num_groups()});
  }
  if (IsPacked(s)) add("weight_shape", DType::kI64, {2});
  if (s.num_kept > 0) {
    add("kept_columns", DType::kI32, {s.num_kept});
    add("kept_weight", DType::kBF16, {s.n, s.num_kept});
  }
  if (s.num_super > 0) {
    add("super_index", DType::kI32, {s.num_super, 2});
    add("super_value", DType::kF32, {s.num_super});
  }
  if (s.has_bias) add("bias", DType::kF32, {s.n});
  if (s.act.is_static()) add("input_scale", DType::kF32, {1});
  if (HasInputZero(s)) add("input_zero_point", DType::kI8, {1});
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
  if (q.format.is_float()) {
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
  if (q.act.is_static() && (!(q.input_scale > 0) || !std::isfinite(q.input_scale))) {
    return Rule(q).Broken("input_scale is ", q.input_scale, "; it must be positive and finite");
  }
  const int lo = HasInputZero(q) ? q.act.lo() : 0, hi = HasInputZero(q) ? q.act.hi() : 0;
  if (q.input_zero < lo || q.input_zero > hi) {
    return Rule(q).Broken("input_zero_point is ", q.input_zero, "; it is outside ", lo, "..", hi);
  }
  return absl::OkStatus();
}

std::vector<int8_t> Levels(const QuantizedLinear& q) {
  std::vector<int8_t> levels(q.codes.size());
  DecodeTrellis(q.format.bits, q.codes.data(), q.n, q.k, levels.data());
  return levels;
}

Tensor Dequantize(const QuantizedLinear& q) {
  if (q.format.is_float()) return ToF32(q.float_weight.view());
  Tensor out(DType::kF32, {q.n, q.k});
  float* w = out.as<float>().data();
  const int64_t groups = q.num_groups(), group = q.k / groups;
  const std::vector<int8_t> levels = q.format.trellis ? Levels(q) : std::vector<int8_t>();
  const int8_t* codes = q.format.trellis ? levels.data() : q.codes.data();
  for (int64_t row = 0; row < q.n; ++row) {
    for (int64_t column = 0; column < q.k; ++column) {
      const int code = codes[row * q.k + column] - ZeroAt(q, row, column);
      w[row * q.k + column] = q.scales[Size(row * groups + column / group)] * static_cast<float>(code);
    }
    for (size_t c = 0; c < q.kept_columns.size(); ++c) {
      w[row * q.k + q.kept_columns[c]] = Bf16ToFloat(q.kept_weight_bf16[Size(row * q.num_kept) + c]);
    }
  }
  for (const SuperWeight& s : q.supers) w[int64_t{s.row} * q.k + s.col] = s.value;
  return out;
}

absl::Status EncodeLinear(const QuantizedLinear& q, TensorSink write) {
  SF_RETURN_IF_ERROR(EncodeCodes(q, write));
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
  if (q.act.is_static()) {
    SF_RETURN_IF_ERROR(write(Name(q, "input_scale"), TensorView{DType::kF32, {1}, &q.input_scale}));
  }
  if (HasInputZero(q)) {
    const int8_t zero = static_cast<int8_t>(q.input_zero);
    SF_RETURN_IF_ERROR(write(Name(q, "input_zero_point"), TensorView{DType::kI8, {1}, &zero}));
  }
  return absl::OkStatus();
}

absl::StatusOr<QuantizedLinear> DecodeLinear(const QuantizedLinearSpec& spec, TensorSource read) {
  QuantizedLinear q(spec);
  SF_RETURN_IF_ERROR(DecodeCodes(read, &q));
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
  if (q.act.is_static()) {
    SF_ASSIGN_OR_RETURN(const Tensor scale, read(Name(q, "input_scale")));
    q.input_scale = scale.as<float>()[0];
  }
  if (HasInputZero(q)) {
    SF_ASSIGN_OR_RETURN(const Tensor zero, read(Name(q, "input_zero_point")));
    q.input_zero = zero.as<int8_t>()[0];
  }
  SF_RETURN_IF_ERROR(CheckLinear(q));
  return q;
}

}  // namespace spikefold
