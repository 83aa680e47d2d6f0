// A quantized linear: what it stores, and the way between memory and tensors.
#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "formats/base/status.h"
#include "formats/quantized/code_stream.h"
#include "formats/quantized/linear_parts.h"
#include "formats/quantized/native_parts.h"
#include "formats/quantized/trellis.h"

namespace spikefold {
namespace {

using TensorSink = absl::FunctionRef<absl::Status(const std::string&, const TensorView&)>;
using TensorSource = absl::FunctionRef<absl::StatusOr<Tensor>(const std::string&)>;

size_t Size(int64_t n) { return static_cast<size_t>(n); }

std::string Name(const QuantizedLinearSpec& spec, absl::string_view suffix) {
  return absl::StrCat(spec.module, ".", suffix);
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
      return LinearRule(*q).Broken("group ", g, " holds a zero point in its padding, element ", bad);
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
  return LinearRule(spec).Broken("weight_shape is [", s[0], ", ", s[1], "]; the sidecar says [", spec.n, ", ",
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

absl::Status EncodeCodes(const QuantizedLinear& q, TensorSink write) {
  if (q.format.is_float()) return write(CodesName(q), q.float_weight.view());
  if (IsPacked(q)) return write(CodesName(q), PackCodes(q).view());
  return write(CodesName(q), ViewOf(DType::kI8, {q.n, q.k}, q.codes));
}

absl::Status EncodeGrid(const QuantizedLinear& q, TensorSink write) {
  if (q.format.is_float()) return absl::OkStatus();
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
  SF_ASSIGN_OR_RETURN(Tensor stored, read(CodesName(*q)));
  if (q->format.is_float()) {
    q->float_weight = std::move(stored);
  } else if (IsPacked(*q)) {
    q->codes.resize(Size(q->n * q->k));
    return UnpackCodeRows(*q, 0, stored.view(), q->codes.data());
  } else {
    q->codes = ToVector<int8_t>(stored);
  }
  return absl::OkStatus();
}

absl::Status DecodeGrid(TensorSource read, QuantizedLinear* q) {
  if (q->format.is_float()) return absl::OkStatus();
  if (IsPacked(*q)) {
    SF_ASSIGN_OR_RETURN(const Tensor shape, read(Name(*q, "weight_shape")));
    SF_RETURN_IF_ERROR(CheckShapeTensor(*q, shape));
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

std::vector<int8_t> Levels(const QuantizedLinear& q) {
  std::vector<int8_t> levels(q.codes.size());
  DecodeTrellis(q.format.bits, q.codes.data(), q.n, q.k, levels.data());
  return levels;
}

void DequantizeRows(const QuantizedLinear& q, int64_t begin, int64_t rows, const int8_t* codes, float* out) {
  const int64_t groups = q.num_groups(), group = q.k / groups;
  for (int64_t i = 0; i < rows; ++i, codes += q.k, out += q.k) {
    const int64_t row = begin + i;
    for (int64_t g = 0; g < groups; ++g) {
      const int zero = ZeroAt(q, row, g * group);
      const float scale = q.scales[Size(row * groups + g)];
      for (int64_t column = g * group; column < (g + 1) * group; ++column) {
        out[column] = scale * static_cast<float>(codes[column] - zero);
      }
    }
    for (size_t c = 0; c < q.kept_columns.size(); ++c) {
      out[q.kept_columns[c]] = Bf16ToFloat(q.kept_weight_bf16[Size(row * q.num_kept) + c]);
    }
    const auto before = [](const SuperWeight& s, int64_t r) { return s.row < r; };
    auto s = std::lower_bound(q.supers.begin(), q.supers.end(), row, before);
    for (; s != q.supers.end() && s->row == row; ++s) out[s->col] = s->value;
  }
}

absl::Status UnpackCodeRows(const QuantizedLinearSpec& spec, int64_t begin, const TensorView& packed,
                            int8_t* codes) {
  const int64_t rows = packed.shape[0], words = packed.shape[1];
  const int32_t* in = packed.as<int32_t>().data();
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t bad = UnpackStream(spec.format.bits, in + i * words, 1, spec.k, 1, codes + i * spec.k);
    if (bad < 0) continue;
    return LinearRule(spec).Broken("row ", begin + i, " holds a code in its padding, element ", bad);
  }
  return absl::OkStatus();
}

Tensor Dequantize(const QuantizedLinear& q) {
  if (q.format.is_float()) return ToF32(q.float_weight.view());
  Tensor out(DType::kF32, {q.n, q.k});
  const std::vector<int8_t> levels = q.format.trellis ? Levels(q) : std::vector<int8_t>();
  const int8_t* codes = q.format.trellis ? levels.data() : q.codes.data();
  DequantizeRows(q, 0, q.n, codes, out.as<float>().data());
  return out;
}

namespace {

class StoredLinearRows : public LinearRows {
 public:
  StoredLinearRows(QuantizedLinear sides, ReadTensorRows read)
      : sides_(std::move(sides)), name_(CodesName(sides_)), read_(std::move(read)) {
    if (!sides_.format.trellis) return;
    trellis_ = QuantizedLinear(static_cast<const QuantizedLinearSpec&>(sides_));
    sides_.format = WeightFormat::kS8c;
  }

  const QuantizedLinear& sides() const override { return sides_; }
  int64_t rows_together() const override { return stored().format.trellis ? kTrellisSegment : 1; }

  absl::Status Codes(int64_t begin, int64_t end, int8_t* out) const override {
    SF_ASSIGN_OR_RETURN(const Tensor rows, read_(name_, begin, end));
    const size_t count = Size((end - begin) * sides_.k);
    if (IsPacked(stored())) {
      SF_RETURN_IF_ERROR(UnpackCodeRows(stored(), begin, rows.view(), out));
    } else {
      std::memcpy(out, rows.data(), count);
    }
    SF_RETURN_IF_ERROR(CheckCodeRows(stored(), begin, absl::MakeConstSpan(out, count)));
    if (stored().format.trellis) DecodeTrellis(stored().format.bits, out, end - begin, sides_.k, out);
    return absl::OkStatus();
  }

  absl::Status Read(int64_t begin, int64_t end, float* out) const override {
    if (sides_.format.is_float()) {
      SF_ASSIGN_OR_RETURN(const Tensor rows, read_(name_, begin, end));
      SF_RETURN_IF_ERROR(CheckFloatRows(sides_, begin, rows.view()));
      ToF32(rows.view(), out);
      return absl::OkStatus();
    }
    std::vector<int8_t> codes(Size((end - begin) * sides_.k));
    SF_RETURN_IF_ERROR(Codes(begin, end, codes.data()));
    DequantizeRows(sides_, begin, end - begin, codes.data(), out);
    return absl::OkStatus();
  }

 private:
  // Whose rules the stored codes obey.
  const QuantizedLinear& stored() const { return trellis_.format.trellis ? trellis_ : sides_; }

  QuantizedLinear sides_, trellis_;  // trellis_: the spec of trellis codes, which have nothing beside scales
  const std::string name_;
  const ReadTensorRows read_;
};

}  // namespace

absl::Status EncodeLinear(const QuantizedLinear& q, TensorSink write) {
  SF_RETURN_IF_ERROR(EncodeCodes(q, write));
  return EncodeSides(q, write);
}

absl::Status EncodeSides(const QuantizedLinear& q, TensorSink write) {
  SF_RETURN_IF_ERROR(EncodeGrid(q, write));
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

namespace {

absl::StatusOr<QuantizedLinear> DecodeSides(const QuantizedLinearSpec& spec, TensorSource read) {
  QuantizedLinear q(spec);
  SF_RETURN_IF_ERROR(DecodeGrid(read, &q));
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
  return q;
}

}  // namespace

absl::StatusOr<QuantizedLinear> DecodeLinear(const QuantizedLinearSpec& spec, TensorSource read) {
  SF_ASSIGN_OR_RETURN(QuantizedLinear q, DecodeSides(spec, read));
  SF_RETURN_IF_ERROR(DecodeCodes(read, &q));
  SF_RETURN_IF_ERROR(CheckLinear(q));
  return q;
}

absl::StatusOr<std::unique_ptr<LinearRows>> OpenLinearRows(const QuantizedLinearSpec& spec, TensorSource read,
                                                           ReadTensorRows read_rows) {
  SF_ASSIGN_OR_RETURN(QuantizedLinear sides, DecodeSides(spec, read));
  SF_RETURN_IF_ERROR(CheckSides(sides));
  return std::make_unique<StoredLinearRows>(std::move(sides), std::move(read_rows));
}

}  // namespace spikefold
