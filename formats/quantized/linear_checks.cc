// The rules that a stored linear obeys.
#include <algorithm>
#include <cmath>
#include <utility>

#include "formats/base/status.h"
#include "formats/quantized/linear_parts.h"

namespace spikefold {
namespace {

constexpr int64_t kMaxDimension = (int64_t{1} << 31) - 1;
constexpr int64_t kMaxWeights = int64_t{1} << 40;

size_t Size(int64_t n) { return static_cast<size_t>(n); }

absl::Status CheckFloat(const QuantizedLinearSpec& s) {
  const LinearRule rule(s);
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
  const LinearRule rule(s);
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
      return LinearRule(q).Broken("scale ", i, " is ", s, "; it must be positive, finite",
                                  type == DType::kF32 ? "" : absl::StrCat(" and exact in ", DTypeName(type)));
    }
  }
  return absl::OkStatus();
}

// Without a way out of the loop it is done in vectors.
bool AllWithin(absl::Span<const int8_t> values, int lo, int hi) {
  int8_t least = 0, most = 0;
  for (const int8_t v : values) {
    least = v < least ? v : least;
    most = v > most ? v : most;
  }
  return values.empty() || (least >= lo && most <= hi);  // 0 is within every range
}

absl::Status CheckZeros(const QuantizedLinear& q) {
  if (q.zeros.empty()) return absl::OkStatus();  // a float weight has no range of codes
  const int lo = q.format.lo(), hi = q.format.hi();
  if (AllWithin(q.zeros, lo, hi)) return absl::OkStatus();
  for (size_t i = 0; i < q.zeros.size(); ++i) {
    if (q.zeros[i] >= lo && q.zeros[i] <= hi) continue;
    return LinearRule(q).Broken("zero point ", int{q.zeros[i]}, " at row ", i / Size(q.num_groups()),
                                ", group ", i % Size(q.num_groups()), " is outside ", lo, "..", hi);
  }
  return absl::OkStatus();
}

absl::Status CheckKept(const QuantizedLinear& q) {
  const LinearRule rule(q);
  for (size_t c = 0; c < q.kept_columns.size(); ++c) {
    const int32_t column = q.kept_columns[c];
    if (column < 0 || column >= q.k || (c > 0 && column <= q.kept_columns[c - 1])) {
      return rule.Broken("kept column ", column, " at place ", c, "; they must ascend strictly within 0..",
                         q.k - 1);
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
  const LinearRule rule(q);
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
    if (!std::isfinite(s.value)) return rule.Broken("super weight ", i, " is not finite");
  }
  return absl::OkStatus();
}

// What is stored apart has the code for 0.
absl::Status CheckZeroCodes(const QuantizedLinear& q, int64_t begin, absl::Span<const int8_t> codes) {
  const int64_t end = begin + static_cast<int64_t>(codes.size()) / q.k;
  for (const int32_t column : q.kept_columns) {
    for (int64_t row = begin; row < end; ++row) {
      const int code = codes[Size((row - begin) * q.k + column)], zero = ZeroAt(q, row, column);
      if (code == zero) continue;
      return LinearRule(q).Broken("kept column ", column, " holds the code ", code, " in row ", row,
                                  "; it must hold ", zero);
    }
  }
  const auto before = [](const SuperWeight& s, int64_t row) { return s.row < row; };
  auto s = std::lower_bound(q.supers.begin(), q.supers.end(), begin, before);
  for (; s != q.supers.end() && s->row < end; ++s) {
    const int code = codes[Size((s->row - begin) * q.k + s->col)], zero = ZeroAt(q, s->row, s->col);
    if (code == zero) continue;
    return LinearRule(q).Broken("super weight at row ", s->row, ", column ", s->col, " has the code ", code,
                                " as well; it must be ", zero);
  }
  return absl::OkStatus();
}

absl::Status CheckSizes(const QuantizedLinear& q) {
  const LinearRule rule(q);
  const auto check = [&](absl::string_view what, size_t is, int64_t should) {
    if (is == Size(should)) return absl::OkStatus();
    return rule.Broken(is, " ", what, "; its declaration says ", should);
  };
  SF_RETURN_IF_ERROR(check("scales", q.scales.size(), NumScales(q)));
  SF_RETURN_IF_ERROR(check("zero points", q.zeros.size(), NumZeros(q)));
  SF_RETURN_IF_ERROR(check("kept columns", q.kept_columns.size(), q.num_kept));
  SF_RETURN_IF_ERROR(check("kept weights", q.kept_weight_bf16.size(), q.n * q.num_kept));
  SF_RETURN_IF_ERROR(check("super weights", q.supers.size(), q.num_super));
  return check("bias values", q.bias.size(), q.has_bias ? q.n : 0);
}

}  // namespace

bool SameLayout(const QuantizedLinearSpec& a, const QuantizedLinearSpec& b) {
  return a.n == b.n && a.k == b.k && a.format == b.format && a.group == b.group && a.num_kept == b.num_kept &&
         a.num_super == b.num_super && a.has_bias == b.has_bias && a.act == b.act &&
         (!a.format.is_float() || a.float_dtype == b.float_dtype) &&
         (!a.format.grouped || a.scale_dtype == b.scale_dtype);
}

absl::Status CheckSpec(const QuantizedLinearSpec& s) {
  const LinearRule rule(s);
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

absl::Status CheckSides(const QuantizedLinear& q) {
  SF_RETURN_IF_ERROR(CheckSpec(q));
  SF_RETURN_IF_ERROR(CheckSizes(q));
  SF_RETURN_IF_ERROR(CheckScales(q));
  SF_RETURN_IF_ERROR(CheckZeros(q));
  SF_RETURN_IF_ERROR(CheckKept(q));
  SF_RETURN_IF_ERROR(CheckSupers(q));
  for (size_t i = 0; i < q.bias.size(); ++i) {
    if (!std::isfinite(q.bias[i])) return LinearRule(q).Broken("bias of row ", i, " is not finite");
  }
  if (q.act.is_static() && !(q.input_scale > 0 && std::isnormal(q.input_scale))) {
    return LinearRule(q).Broken("input_scale is ", q.input_scale,
                                "; it must be a positive float, not subnormal");
  }
  const int lo = HasInputZero(q) ? q.act.lo() : 0, hi = HasInputZero(q) ? q.act.hi() : 0;
  if (q.input_zero < lo || q.input_zero > hi) {
    return LinearRule(q).Broken("input_zero_point is ", q.input_zero, "; it is outside ", lo, "..", hi);
  }
  return absl::OkStatus();
}

absl::Status CheckCodeRows(const QuantizedLinear& q, int64_t begin, absl::Span<const int8_t> codes) {
  const int lo = q.format.lo(), hi = q.format.hi();
  if (AllWithin(codes, lo, hi)) return CheckZeroCodes(q, begin, codes);
  for (size_t i = 0; i < codes.size(); ++i) {
    if (codes[i] >= lo && codes[i] <= hi) continue;
    return LinearRule(q).Broken("code ", int{codes[i]}, " at row ", Size(begin) + i / Size(q.k), ", column ",
                                i % Size(q.k), " is outside ", lo, "..", hi);
  }
  return absl::OkStatus();
}

absl::Status CheckFloatRows(const QuantizedLinear& q, int64_t begin, const TensorView& rows) {
  const auto broken = [&](size_t i) {
    return LinearRule(q).Broken("weight at row ", Size(begin) + i / Size(q.k), ", column ", i % Size(q.k),
                                " is not finite");
  };
  if (rows.dtype == DType::kF32) {
    const auto x = rows.as<float>();
    for (size_t i = 0; i < x.size(); ++i) {
      if (!std::isfinite(x[i])) return broken(i);
    }
    return absl::OkStatus();
  }
  const uint16_t exponent = rows.dtype == DType::kBF16 ? 0x7f80 : 0x7c00;
  const auto x = rows.as<uint16_t>();
  uint16_t any = 0;  // without a way out of the loop it is done in vectors
  for (const uint16_t bits : x) any |= (bits & exponent) == exponent ? 1 : 0;
  for (size_t i = 0; any != 0 && i < x.size(); ++i) {
    if ((x[i] & exponent) == exponent) return broken(i);
  }
  return absl::OkStatus();
}

absl::Status CheckLinear(const QuantizedLinear& q) {
  SF_RETURN_IF_ERROR(CheckSides(q));
  const size_t num_codes = q.format.is_float() ? 0 : Size(q.n * q.k);
  if (q.codes.size() != num_codes) {
    return LinearRule(q).Broken(q.codes.size(), " codes; its declaration says ", num_codes);
  }
  if (!q.format.is_float()) return CheckCodeRows(q, 0, q.codes);
  const Tensor& w = q.float_weight;
  if (w.empty() || w.dtype() != q.float_dtype || w.shape() != Shape{q.n, q.k}) {
    return LinearRule(q).Broken("its weight is not ", DTypeName(q.float_dtype), " [", q.n, ", ", q.k, "]");
  }
  return CheckFloatRows(q, 0, w.view());
}

}  // namespace spikefold
