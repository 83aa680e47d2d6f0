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

}  // namespace

std::string CaseName(const QuantizedCase& c) {
  std::string name = absl::StrCat("M=", c.m, " N=", c.n, " K=", c.k);
  if (c.group > 0) absl::StrAppend(&name, " group=", c.group);
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
  return cases;
}

std::vector<QuantizedCase> GroupCases() {
  constexpr int64_t kGroups[] = {16, 32, 48, 64, 128, 256, 80};
  constexpr int kBits[] = {10, 7, 23};
  std::vector<QuantizedCase> cases = ChannelCases();
  for (size_t i = 0; i < cases.size(); ++i) {
    cases[i].group = Cycle(kGroups, i);
    cases[i].k = (cases[i].k / cases[i].group + 1) * cases[i].group;
    cases[i].mantissa_bits = kBits[i % 3];
  }
  return cases;
}

QuantizedOperands::QuantizedOperands(const QuantizedCase& c, int code_max, uint64_t seed) : shape(c) {
  const int code_min = code_max == 7 ? -8 : -code_max;
  codes = RandomCodes(c.n * c.k, code_min, code_max, seed);
  x_codes = RandomCodes(c.m * c.k, -127, 127, seed + 1);
  if (c.extremes) {
    MakeExtreme(codes, code_min, code_max);
    MakeExtreme(x_codes, -127, 127);
  }
  w_scale = RandomScales(c.group > 0 ? c.n * (c.k / c.group) : c.n, c.mantissa_bits, seed + 2);
  x_scale = RandomScales(c.one_x_scale ? 1 : c.m, 23, seed + 3);
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

double QuantizedOperands::WeightScale(int64_t n, int64_t k) const {
  const size_t at = static_cast<size_t>(shape.group > 0 ? n * (shape.k / shape.group) + k / shape.group : n);
  return w_scale[at];
}

std::vector<double> QuantizedOperands::CodeRows() const {
  std::vector<double> rows(x_codes.begin(), x_codes.end());
  for (size_t i = 0; i < rows.size(); ++i) {
    rows[i] *= x_scale[shape.one_x_scale ? 0 : i / static_cast<size_t>(shape.k)];
  }
  return rows;
}

std::vector<double> QuantizedOperands::FloatRows() const { return {x.begin(), x.end()}; }

double QuantizedOperands::TermSum(const std::vector<double>& rows, int64_t m, int64_t n) const {
  double sum = bias.empty() ? 0 : std::fabs(bias[static_cast<size_t>(n)]);
  for (int64_t k = 0; k < shape.k; ++k) {
    sum += std::fabs(rows[static_cast<size_t>(m * shape.k + k)] *
                     codes[static_cast<size_t>(n * shape.k + k)] * WeightScale(n, k));
  }
  for (int64_t c = 0; c < shape.num_kept; ++c) {
    sum += std::fabs(double{kept_x[static_cast<size_t>(m * shape.num_kept + c)]} *
                     Bf16ToFloat(kept_w[static_cast<size_t>(n * shape.num_kept + c)]));
  }
  for (size_t s = 0; s < super_row.size(); ++s) {
    const size_t at = static_cast<size_t>(m * shape.num_super + super_slot[s]);
    if (super_row[s] == n) sum += std::fabs(double{super_value[s]} * super_x[at]);
  }
  return sum;
}

std::vector<double> Tolerances(const QuantizedOperands& o, const std::vector<double>& x,
                               const std::vector<float>& expected, double float_terms) {
  std::vector<double> tolerances;
  for (int64_t m = 0; m < o.shape.m; ++m) {
    for (int64_t n = 0; n < o.shape.n; ++n) {
      const double value = expected[static_cast<size_t>(m * o.shape.n + n)];
      tolerances.push_back(0x1p-24 * std::fabs(value) + 1e-30 +
                           4 * std::sqrt(float_terms) * 0x1p-23 * o.TermSum(x, m, n));
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

}  // namespace spikefold::kernels
