#include "kernels/quantized_case.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "formats/base/dtype.h"

namespace spikefold::kernels {
namespace {

constexpr int64_t kRows[] = {1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12,
                             13, 14, 15, 16, 17, 31, 32, 33, 64, 65, 127};
constexpr int64_t kKept[] = {0, 1, 16, 64};

template <size_t size>
int64_t Cycle(const int64_t (&values)[size], size_t i) {
  return values[i % size];
}

float RoundMantissa(float value, int bits) {
  int exponent = 0;
  const double fraction = std::frexp(value, &exponent);
  return static_cast<float>(std::ldexp(std::rint(std::ldexp(fraction, bits + 1)), exponent - bits - 1));
}

std::vector<float> RandomScales(int64_t count, int mantissa_bits, uint64_t seed) {
  std::vector<float> scales = RandomFloats(count, seed);
  for (float& s : scales) s = RoundMantissa(0.01f * (std::fabs(s) + 0.1f), mantissa_bits);
  return scales;
}

void MakeExtreme(std::vector<int8_t>& codes, int min, int max) {
  for (int8_t& c : codes) c = static_cast<int8_t>(c % 3 == 0 ? min : max);
}

std::vector<float> RoundToBf16(std::vector<float> values) {
  for (float& v : values) v = Bf16ToFloat(FloatToBf16(v));
  return values;
}

// Sum of the magnitudes of what kept columns, super weights and bias add to output (m, n).
double TailMagnitude(const QuantizedOperands& o, int64_t m, int64_t n) {
  const QuantizedCase& c = o.shape;
  double sum = o.bias.empty() ? 0 : std::fabs(o.bias[static_cast<size_t>(n)]);
  for (int64_t i = 0; i < c.num_kept; ++i) {
    sum += std::fabs(double{o.kept_x[static_cast<size_t>(m * c.num_kept + i)]} *
                     Bf16ToFloat(o.kept_w[static_cast<size_t>(n * c.num_kept + i)]));
  }
  for (size_t s = 0; s < o.super_row.size(); ++s) {
    const size_t at = static_cast<size_t>(m * c.num_super + o.super_slot[s]);
    if (o.super_row[s] == n) sum += std::fabs(double{o.super_value[s]} * o.super_x[at]);
  }
  return sum;
}

// [n, k/group] random multiples of `unit` [n] with which no code leaves -127 to 127.
std::vector<float> Multiples(const QuantizedOperands& o, uint64_t seed) {
  const QuantizedCase& c = o.shape;
  const int64_t num_groups = c.k / c.group;
  std::vector<float> scales;
  const std::vector<int8_t> wishes = RandomCodes(c.n * num_groups, 1, 16, seed);
  for (size_t i = 0; i < wishes.size(); ++i) {
    int largest = 1;
    for (int64_t k = 0; k < c.group; ++k) {
      const int code = o.codes[i * static_cast<size_t>(c.group) + static_cast<size_t>(k)];
      largest = std::max(largest, std::abs(code - (o.w_zero.empty() ? 0 : o.w_zero[i])));
    }
    const int factor = std::min<int>(c.extremes ? 16 : wishes[i], 127 / largest);
    scales.push_back(static_cast<float>(factor) * o.unit[i / static_cast<size_t>(num_groups)]);
  }
  return scales;
}

}  // namespace

std::string CaseName(const QuantizedCase& c) {
  std::string name = absl::StrCat("M=", c.m, " N=", c.n, " K=", c.k);
  if (c.group > 0) absl::StrAppend(&name, c.w_zeros ? " u" : " s", c.bits, " group=", c.group);
  if (c.multiples) name += " multiples";
  if (c.x_group > 0) absl::StrAppend(&name, " x_group=", c.x_group);
  if (c.x_zeros) absl::StrAppend(&name, " x_zeros");
  if (c.num_kept > 0) absl::StrAppend(&name, " r=", c.num_kept);
  if (c.num_super > 0) absl::StrAppend(&name, " super=", c.num_super);
  return name;
}

std::vector<QuantizedCase> ChannelCases() {
  constexpr int64_t kChannels[] = {1, 31, 32, 33, 63, 64, 65, 17, 16, 97};
  constexpr int64_t kInputs[] = {64, 65, 63, 1, 130, 96, 257};
  std::vector<QuantizedCase> cases;
  for (size_t i = 0; i < std::size(kRows); ++i) {
    const int64_t k = Cycle(kInputs, i);
    cases.push_back({.m = kRows[i],
                     .n = Cycle(kChannels, i),
                     .k = k,
                     .x_zeros = i % 4 > 1,
                     .num_kept = std::min(Cycle(kKept, i), k),
                     .num_super = i % 3 == 1 ? 2 : 0,
                     .bias = i % 2 == 1,
                     .extremes = i % 5 == 2,
                     .one_x_scale = i % 4 == 3,
                     .pack_kept = i % 8 != 2});
  }
  cases.push_back({.m = 25, .n = 192, .k = 576, .num_kept = 16, .bias = true});
  cases.push_back({.m = 13, .n = 96, .k = 1536, .num_kept = 64, .num_super = 3});
  cases.push_back({.m = 6, .n = 33, .k = 1535, .extremes = true});
  cases.push_back(
      {.m = 119, .n = 70, .k = 324, .x_zeros = true, .num_kept = 17, .bias = true});  // chunks of 64, 55 rows
  cases.push_back({.m = 40, .n = 33, .k = 192, .extremes = true});
  return cases;
}

std::vector<QuantizedCase> GroupCases() {
  constexpr int64_t kGroups[] = {16, 32, 48, 64, 128, 256, 80, 0};
  constexpr int kMantissaBits[] = {10, 7, 23};
  constexpr int kBits[] = {4, 3, 2, 8};
  std::vector<QuantizedCase> cases;
  for (const bool zeros : {false, true}) {
    for (QuantizedCase c : ChannelCases()) {
      const size_t i = cases.size();
      c.group = Cycle(kGroups, i) == 0 ? c.k : Cycle(kGroups, i);
      if (c.group != c.k) c.k = (c.k / c.group + 1) * c.group;
      c.mantissa_bits = kMantissaBits[i % 3];
      c.bits = kBits[(i + i / 4) % 4];  // not in step with the groups
      c.w_zeros = zeros;
      c.x_group = i % 5 == 3 ? c.group * (c.k / c.group % 2 == 0 ? 2 : 1) : 0;
      c.x_zeros = c.x_zeros && c.x_group == 0;
      cases.push_back(c);
    }
  }
  return cases;
}

std::vector<QuantizedCase> MultipleCases() {
  std::vector<QuantizedCase> cases;
  for (QuantizedCase c : GroupCases()) {
    if (c.bits > 4) c.bits = 4;
    c.multiples = true;
    c.x_group = 0;
    c.x_zeros = false;
    cases.push_back(c);
  }
  return cases;
}

QuantizedOperands::QuantizedOperands(const QuantizedCase& c, uint64_t seed) : shape(c) {
  const int code_max = (1 << (c.bits - 1)) - 1, code_min = c.group > 0 ? -code_max - 1 : -code_max;
  const int64_t num_groups = c.group > 0 ? c.k / c.group : 1;
  codes = RandomCodes(c.n * c.k, code_min, code_max, seed);
  x_codes = RandomCodes(c.m * c.k, -127, 127, seed + 1);
  if (c.w_zeros) w_zero = RandomCodes(c.n * num_groups, code_min, code_max, seed + 10);
  if (c.extremes) {
    MakeExtreme(codes, code_min, code_max);
    MakeExtreme(x_codes, -127, 127);
    MakeExtreme(w_zero, code_max, code_min);
  }
  if (c.multiples) {
    unit = RandomScales(c.n, c.mantissa_bits - 4, seed + 2);
    w_scale = Multiples(*this, seed + 12);
  } else {
    w_scale = RandomScales(c.n * num_groups, c.mantissa_bits, seed + 2);
  }
  x_scale = RandomScales(c.x_group > 0 ? c.m * (c.k / c.x_group) : c.one_x_scale ? 1 : c.m, 23, seed + 3);
  if (c.x_zeros) {
    for (const int8_t z : RandomCodes(c.m, -127, 127, seed + 11)) x_zero.push_back(z);
    for (int64_t n = 0; n < c.n; ++n) {
      int32_t sum = 0;
      double weights = 0;
      for (int64_t k = 0; k < c.k; ++k) {
        sum += codes[static_cast<size_t>(n * c.k + k)];
        weights += Weight(n, k);
      }
      w_code_sum.push_back(sum);
      w_row_sum.push_back(static_cast<float>(weights));
    }
  }
  x = RandomFloats(c.m * c.k, seed + 4);
  kept_x = RoundToBf16(RandomFloats(c.m * c.num_kept, seed + 5));
  for (float v : RandomFloats(c.n * c.num_kept, seed + 6)) kept_w.push_back(FloatToBf16(v));
  if (c.pack_kept) {
    kept_packed.resize(PackedKeptWords(c.n, c.num_kept));
    PackKeptColumns(kept_w.data(), c.n, c.num_kept, kept_packed.data());
  }
  super_x = RoundToBf16(RandomFloats(c.m * c.num_super, seed + 7));
  super_value = RandomFloats(c.num_super, seed + 8);
  for (int64_t s = 0; s < c.num_super; ++s) {
    super_slot.push_back(static_cast<int32_t>(c.num_super - 1 - s));
    super_row.push_back(static_cast<int32_t>((c.n - 1) * s / std::max<int64_t>(1, c.num_super - 1)));
  }
  if (c.bias) bias = RandomFloats(c.n, seed + 9);
}

OutlierTail QuantizedOperands::Tail() const {
  return {.num_kept = shape.num_kept,
          .kept_x = kept_x.data(),
          .kept_w = kept_w.data(),
          .kept_packed = kept_packed.empty() ? nullptr : kept_packed.data(),
          .num_super = shape.num_super,
          .super_x = super_x.data(),
          .super_x_stride = shape.num_super,
          .super_slot = super_slot.data(),
          .super_row = super_row.data(),
          .super_value = super_value.data(),
          .bias = bias.empty() ? nullptr : bias.data()};
}

GroupWeights QuantizedOperands::Groups() const {
  return {.n = shape.n,
          .k = shape.k,
          .group = shape.group,
          .bits = shape.bits,
          .codes = codes.data(),
          .scales = w_scale.data(),
          .zeros = w_zero.empty() ? nullptr : w_zero.data()};
}

std::vector<int8_t> QuantizedOperands::WholeCodes() const {
  std::vector<int8_t> whole;
  for (int64_t i = 0; i < shape.n * shape.k; ++i) {
    const int64_t n = i / shape.k, k = i % shape.k;
    whole.push_back(static_cast<int8_t>(std::lround(Weight(n, k) / unit[static_cast<size_t>(n)])));
  }
  return whole;
}

double QuantizedOperands::Weight(int64_t n, int64_t k) const {
  const size_t at = static_cast<size_t>(shape.group > 0 ? n * (shape.k / shape.group) + k / shape.group : n);
  const int zero = w_zero.empty() ? 0 : w_zero[at];
  return double{w_scale[at]} * (codes[static_cast<size_t>(n * shape.k + k)] - zero);
}

std::vector<double> QuantizedOperands::CodeRows() const {
  std::vector<double> rows(x_codes.begin(), x_codes.end());
  for (size_t i = 0; i < rows.size(); ++i) {
    const size_t row = i / static_cast<size_t>(shape.k);
    const size_t scale = shape.x_group > 0   ? i / static_cast<size_t>(shape.x_group)
                         : shape.one_x_scale ? 0
                                             : row;
    const int zero = x_zero.empty() ? 0 : x_zero[row];
    rows[i] = (std::fabs(rows[i]) + std::abs(zero)) * x_scale[scale];
  }
  return rows;
}

std::vector<double> QuantizedOperands::FloatRows() const { return {x.begin(), x.end()}; }

std::vector<double> Tolerances(const QuantizedOperands& o, const std::vector<double>& x,
                               const std::vector<float>& expected, double float_terms) {
  const QuantizedCase& c = o.shape;
  std::vector<double> magnitude(static_cast<size_t>(c.n * c.k));  // of the weights
  for (int64_t i = 0; i < c.n * c.k; ++i) {
    magnitude[static_cast<size_t>(i)] = std::fabs(o.Weight(i / c.k, i % c.k));
  }
  std::vector<double> tolerances;
  for (int64_t m = 0; m < c.m; ++m) {
    for (int64_t n = 0; n < c.n; ++n) {
      double terms = TailMagnitude(o, m, n);
      const double *row = &x[static_cast<size_t>(m * c.k)], *w = &magnitude[static_cast<size_t>(n * c.k)];
      for (int64_t k = 0; k < c.k; ++k) terms += std::fabs(row[k]) * w[k];
      const double value = expected[static_cast<size_t>(m * c.n + n)];
      tolerances.push_back(0x1p-24 * std::fabs(value) + 1e-30 + 4 * std::sqrt(float_terms) * 0x1p-23 * terms);
    }
  }
  return tolerances;
}

std::vector<BenchShape> BenchShapes(absl::FunctionRef<size_t(int64_t n, int64_t k)> packed_bytes) {
  constexpr int64_t kLayerShapes[][2] = {{576, 576}, {192, 576}, {1536, 576}, {576, 1536}};
  constexpr int64_t kBeyondCache = int64_t{96} << 20;
  std::vector<BenchShape> shapes;
  for (const int64_t m : {1, 8, 512}) {
    for (const auto& [n, k] : kLayerShapes) {
      const int64_t copies = m > 8 ? 1 : kBeyondCache / static_cast<int64_t>(packed_bytes(n, k)) + 1;
      shapes.push_back({m, n, k, 0, copies});
      if (m == 512 && n >= 576) shapes.push_back({m, n, k, 16, copies});
      if (n == 576) shapes.push_back({m, n, k, 64, copies});
    }
  }
  shapes.push_back({1, 49152, 576, 0, 4});
  shapes.push_back({64, 49152, 576, 0, 1});
  return shapes;
}

std::vector<BenchShape> GroupBenchShapes(const QuantizedCase& form, bool all) {
  std::vector<BenchShape> shapes = BenchShapes([&](int64_t n, int64_t k) {
    return GroupPackedBytes({.n = n,
                             .k = k,
                             .group = form.group,
                             .bits = form.bits,
                             .zeros = form.w_zeros,
                             .scales = ScaleType::kF16});
  });
  std::erase_if(shapes,
                [&](const BenchShape& s) { return !all && (s.num_kept > 0 || (s.k < 1536 && s.n < 49152)); });
  return shapes;
}

QuantizedCase WithShape(QuantizedCase form, const BenchShape& s) {
  form.m = s.m;
  form.n = s.n;
  form.k = s.k;
  form.num_kept = s.num_kept;
  return form;
}

}  // namespace spikefold::kernels
