// Linears of the CPU backend on every pair of weight kind and activation form, against float64.
#include "kernels/runtime/ops.h"

#include <cmath>
#include <random>

#include "tests/kernels/runtime/runtime_kit.h"

namespace spikefold::testing {
namespace {

constexpr int64_t kN = 70, kK = 96, kRows = 13, kGroup = 32, kSpikeRow = 4;
constexpr double kTolerance = 5e-6, kWrong = 2e-4;

double Bf16(double x) { return Bf16ToFloat(FloatToBf16(static_cast<float>(x))); }

// A linear and what it means in float64: dense codes * scale, kept columns, super weights, bias.
struct Case {
  LinearWeights packed;
  std::vector<double> dense, kept, super;  // [n, k], disjoint; they add up to the weight
  const ActivationForm* form = nullptr;
};

class OpsTest {
 public:
  OpsTest() : ops_(MakeCpuOps(&Pool())), random_(3) {
    x_.resize(static_cast<size_t>(kRows * kK));
    for (int64_t i = 0; i < kRows * kK; ++i) {
      const bool kept = i % kK == 11 || i % kK == 40;
      x_[static_cast<size_t>(i)] = static_cast<float>(Normal() * (kept ? 50 : 1));
    }
    x_[kSpikeRow * kK + 5] = 900;
  }

  // A word of ParseActivationFormat().
  ActivationForm Form(absl::string_view word, bool outliers) const {
    ActivationForm form;
    form.format = *ParseActivationFormat(word);
    if (form.format.is_static()) form.static_scale = form.format.bits == 8 ? 0.03f : 0.4f;
    if (form.format.is_static() && !form.format.symmetric) form.static_zero = form.format.bits == 8 ? -31 : 3;
    if (!outliers) return form;
    form.kept = {11, 40};
    form.super_columns = {5, 60};
    if (!form.format.is_float()) form.spike_threshold = 100;
    return form;
  }

  // A word of ParseWeightFormat(), or "f32".
  Case MakeLinear(absl::string_view word, const ActivationForm& form) {
    Case c;
    c.form = &form;
    c.dense.assign(kN * kK, 0);
    c.kept = c.super = c.dense;
    for (int64_t n = 0; n < kN; ++n) c.packed.bias.push_back(static_cast<float>(Normal()));
    if (word == "f32") {
      Tensor w(DType::kF32, {kN, kK});
      for (size_t i = 0; i < c.dense.size(); ++i) {
        w.as<float>()[i] = static_cast<float>(Normal());
        c.dense[i] = w.as<float>()[i];
      }
      REQUIRE(ops_->PackF32(w, c.packed).ok());
      return c;
    }
    CodeMatrix m{.n = kN, .k = kK, .format = *ParseWeightFormat(word)};
    m.group = m.format.grouped ? kGroup : 0;
    const int64_t width = m.format.grouped ? kGroup : kK, groups = kK / width;
    std::vector<int8_t> codes, zeros;
    std::vector<float> scales;
    const auto code = [&] {
      return static_cast<int8_t>(m.format.lo() + std::lround(Uniform() * (m.format.hi() - m.format.lo())));
    };
    for (int64_t i = 0; i < kN * kK; ++i) codes.push_back(code());
    for (int64_t i = 0; i < kN * groups; ++i) {
      scales.push_back(static_cast<float>((0.1 + 0.1 * Uniform()) / m.format.hi()));
      if (!m.format.symmetric) zeros.push_back(code());
    }
    AddOutliers(form, c);
    for (int64_t i = 0; i < kN * kK; ++i) {
      const size_t at = static_cast<size_t>(i), group = static_cast<size_t>(i / kK * groups + i % kK / width);
      const int8_t zero = zeros.empty() ? int8_t{0} : zeros[group];
      const bool elsewhere = c.super[at] != 0 || std::count(form.kept.begin(), form.kept.end(), i % kK) > 0;
      if (elsewhere) codes[at] = zero;
      c.dense[at] = (codes[at] - zero) * double{scales[group]};
    }
    m.codes = codes;
    m.scales = scales;
    m.zeros = zeros;
    const absl::Status status = ops_->PackCodes(m, form.format, c.packed);
    INFO(status);
    REQUIRE(status.ok());
    REQUIRE(ops_->Prepare(c.packed).ok());
    return c;
  }

  std::vector<float> Run(const Case& c) {
    auto activation = ops_->NewActivation(kK);
    REQUIRE(ops_->Reserve(*activation, kRows).ok());
    std::copy(x_.begin(), x_.end(), activation->floats().host());
    activation->form = c.form;
    activation->rows = kRows;
    REQUIRE(ops_->Reform(*activation).ok());
    auto y = ops_->NewBuffer(kN);
    REQUIRE(ops_->Reserve(*y, kRows).ok());
    std::fill_n(y->host(), kRows * kN, NAN);
    const LinearWeights* w = &c.packed;
    Buffer* out = y.get();
    const absl::Status status = ops_->Linears(*activation, {&w, 1}, {&out, 1});
    INFO(status);
    REQUIRE(status.ok());
    CheckSetRows(c, {y->host(), y->host() + kRows * kN});
    return {y->host(), y->host() + kRows * kN};
  }

  // Rows of the caller's memory give the same, although the activation's own hold something else.
  void CheckSetRows(const Case& c, const std::vector<float>& expected) {
    const auto ops = MakeCpuOps(&Pool());  // whose counters are its own
    auto activation = ops->NewActivation(kK);
    REQUIRE(ops->Reserve(*activation, kRows).ok());
    std::fill_n(activation->floats().host(), kRows * kK, 3.0f);
    activation->form = c.form;
    activation->rows = kRows;
    const std::vector<float> rows(x_.begin(), x_.end());
    REQUIRE(ops->SetRows(rows.data(), *activation).ok());
    auto y = ops->NewBuffer(kN);
    REQUIRE(ops->Reserve(*y, kRows).ok());
    const LinearWeights* w = &c.packed;
    Buffer* out = y.get();
    REQUIRE(ops->Linears(*activation, {&w, 1}, {&out, 1}).ok());
    CHECK(std::vector<float>(y->host(), y->host() + kRows * kN) == expected);
  }

  // y = sum over x^ dense + bf16(x) (kept + super) + bias; in a spike row x^ is x.
  std::vector<double> Expected(const Case& c) const {
    std::vector<double> y(kRows * kN);
    for (int64_t m = 0; m < kRows; ++m) {
      const std::vector<double> rounded = RoundedRow(m, *c.form);
      for (int64_t n = 0; n < kN; ++n) {
        double sum = c.packed.bias[static_cast<size_t>(n)];
        for (int64_t k = 0; k < kK; ++k) {
          const size_t at = static_cast<size_t>(n * kK + k);
          const double x = x_[static_cast<size_t>(m * kK + k)];
          sum += rounded[static_cast<size_t>(k)] * c.dense[at] + Bf16(x) * (c.kept[at] + c.super[at]);
        }
        y[static_cast<size_t>(m * kN + n)] = sum;
      }
    }
    return y;
  }

  std::vector<float>& x() { return x_; }
  Ops& ops() { return *ops_; }

 private:
  double Normal() { return normal_(random_); }
  double Uniform() { return std::generate_canonical<double, 53>(random_); }

  // Kept columns in bf16, and two super weights.
  void AddOutliers(const ActivationForm& form, Case& c) {
    if (form.kept.empty()) return;
    for (int64_t n = 0; n < kN; ++n) {
      for (const int32_t k : form.kept) {
        c.packed.kept_weight.push_back(FloatToBf16(static_cast<float>(Normal())));
        c.kept[static_cast<size_t>(n * kK + k)] = Bf16ToFloat(c.packed.kept_weight.back());
      }
    }
    c.packed.super_row = {69, 3};
    c.packed.super_slot = {0, 1};
    c.packed.super_value = {7.5f, -3.25f};
    for (size_t s = 0; s < 2; ++s) {
      const size_t at = static_cast<size_t>(c.packed.super_row[s] * kK + form.super_columns[s]);
      c.super[at] = c.packed.super_value[s];
    }
  }

  // The row that its codes stand for, in float32 as the quantizer defines it: ties decide differently in
  // float64.
  std::vector<double> RoundedRow(int64_t m, const ActivationForm& form) const {
    const float* x = &x_[static_cast<size_t>(m * kK)];
    std::vector<double> row(x, x + kK);
    const ActivationFormat& f = form.format;
    if (f.is_float() || (form.spike_threshold > 0 && m == kSpikeRow)) return row;
    const auto kept = [&](int64_t k) { return std::count(form.kept.begin(), form.kept.end(), k) > 0; };
    const int64_t width = f.group > 0 ? f.group : kK;
    for (int64_t begin = 0; begin < kK; begin += width) {
      float low = 0, high = 0;
      for (int64_t k = begin; k < begin + width; ++k) {
        if (kept(k)) continue;
        low = std::min(low, x[k]);
        high = std::max(high, x[k]);
      }
      float scale = std::max(-low, high) / static_cast<float>(f.hi());
      float zero = 0;
      if (!f.symmetric) {
        scale = (high - low) / static_cast<float>(f.hi() - f.lo());
        zero = std::nearbyint(static_cast<float>(f.lo()) - low / scale);
      }
      if (f.is_static()) scale = form.static_scale;
      if (f.is_static()) zero = static_cast<float>(form.static_zero);
      for (int64_t k = begin; k < begin + width; ++k) {
        const float code = std::clamp(std::nearbyint(x[k] * (1.0f / scale)) + zero,
                                      static_cast<float>(f.lo()), static_cast<float>(f.hi()));
        row[static_cast<size_t>(k)] = double{scale} * double{code - zero};
      }
    }
    return row;
  }

  std::unique_ptr<Ops> ops_;
  std::mt19937_64 random_;
  std::normal_distribution<double> normal_;
  std::vector<float> x_;
};

// The largest relative error of a row: the spike row is a thousand times larger than the others.
double RowError(const std::vector<float>& y, const std::vector<double>& want) {
  double error = 0;
  for (int64_t m = 0; m < kRows; ++m) {
    const std::vector<double> row(want.begin() + m * kN, want.begin() + (m + 1) * kN);
    error =
        std::max(error, RelativeError(std::vector<float>(y.begin() + m * kN, y.begin() + (m + 1) * kN), row));
  }
  return error;
}

constexpr const char* kWeights[] = {"s8c", "s8g", "u8c", "u8g", "s4c", "s4g", "u4c", "u4g",
                                    "s3c", "s3g", "u3c", "u3g", "s2c", "s2g", "u2c", "u2g"};
constexpr const char* kActivations[] = {"float", "s8r", "u8r", "s8t",   "u8t",  "s4r",
                                        "u4r",   "s4t", "u4t", "s4g32", "u4g32"};

}  // namespace

TEST_CASE("Every format of weights on every format of activations gives the sum that its codes mean") {
  OpsTest t;
  {
    const ActivationForm form = t.Form("float", false);
    const Case c = t.MakeLinear("f32", form);
    CHECK(RowError(t.Run(c), t.Expected(c)) < kTolerance);
  }
  for (const char* w : kWeights) {
    for (const char* a : kActivations) {
      for (const bool outliers : {false, true}) {
        INFO(w << " on " << a << (outliers ? " with outliers" : ""));
        const ActivationForm form = t.Form(a, outliers);
        Case c = t.MakeLinear(w, form);
        CHECK(RowError(t.Run(c), t.Expected(c)) < kTolerance);
        // Canaries: one super weight's row, one kept weight, one bias.
        if (outliers) {
          c.packed.super_row[0] = 68;
          CHECK(RowError(t.Run(c), t.Expected(c)) > kWrong);
          c.packed.super_row[0] = 69;
          c.packed.kept_packed.clear();
          c.packed.kept_weight[5] ^= 0x40;
          CHECK(RowError(t.Run(c), t.Expected(c)) > kWrong);
          c.packed.kept_weight[5] ^= 0x40;
        }
        CHECK(RowError(t.Run(c), t.Expected(c)) < kTolerance);
        const std::vector<double> before = t.Expected(c);
        c.packed.bias[17] += 0.5f;
        CHECK(RowError(t.Run(c), before) > kWrong);
      }
    }
  }
}

TEST_CASE("A spike row is computed in float from the same weights, and counted") {
  OpsTest t;
  for (const auto& [w, a] : {std::pair("s8c", "s8r"), std::pair("u4g", "s8r"), std::pair("s8c", "u8r"),
                             std::pair("u3c", "u8t"), std::pair("s4g", "s4g32")}) {
    const ActivationForm with = t.Form(a, true);
    ActivationForm without = with;
    without.spike_threshold = 0;
    Case c = t.MakeLinear(w, with);
    t.ops().ResetCounters();
    const std::vector<float> split = t.Run(c);
    CHECK(t.ops().counters().spike_rows == 1);
    CHECK(t.ops().counters().missed_spike_rows == 0);
    c.form = &without;
    const std::vector<float> plain = t.Run(c);
    for (int64_t m = 0; m < kRows; ++m) {  // only the spike row differs
      const bool same =
          std::equal(split.begin() + m * kN, split.begin() + (m + 1) * kN, plain.begin() + m * kN);
      CHECK(same == (m != kSpikeRow));
    }
  }
}

TEST_CASE("Spike rows without room are quantized and counted as missed") {
  OpsTest t;
  for (int64_t m = 0; m < 6; ++m) t.x()[static_cast<size_t>(m * kK + 7)] = 500;
  const ActivationForm form = t.Form("s8r", true);
  const Case c = t.MakeLinear("s8c", form);
  t.Run(c);
  CHECK(t.ops().counters().spike_rows == 4);
  CHECK(t.ops().counters().missed_spike_rows == 2);
}

TEST_CASE("The simulated form carries the codes' values: a float linear of dequantized weights agrees") {
  OpsTest t;
  for (const absl::string_view a : kActivations) {
    const ActivationForm real = t.Form(a, true);
    ActivationForm simulated = real;
    simulated.simulate = true;
    const Case c = t.MakeLinear("s8c", real);
    Case s;
    s.form = &simulated;
    Tensor w(DType::kF32, {kN, kK});
    for (size_t i = 0; i < c.dense.size(); ++i) w.as<float>()[i] = static_cast<float>(c.dense[i] + c.kept[i]);
    REQUIRE(t.ops().PackF32(w, s.packed).ok());
    s.packed.bias = c.packed.bias;
    s.packed.super_row = c.packed.super_row;
    s.packed.super_slot = c.packed.super_slot;
    s.packed.super_value = c.packed.super_value;
    CHECK(RowError(t.Run(s), t.Expected(c)) < kTolerance);
    s.packed.float_input = true;
    if (a != "float") CHECK(RowError(t.Run(s), t.Expected(c)) > kWrong);
  }
}

TEST_CASE("A quantized table serves embedding look-up, kept columns and super weights included") {
  OpsTest t;
  const ActivationForm form = t.Form("s8r", true);
  for (const char* w : {"f32", "s8c", "s4g", "u3c", "u2g"}) {
    const Case c = t.MakeLinear(w, form);
    auto out = t.ops().NewBuffer(kK);
    REQUIRE(t.ops().Reserve(*out, 3).ok());
    const std::vector<int32_t> tokens = {69, 0, 3};
    REQUIRE(t.ops().Embed(c.packed, form, tokens, 2.0f, *out).ok());
    for (size_t i = 0; i < 3 * kK; ++i) {
      const size_t at = static_cast<size_t>(tokens[i / kK] * kK) + i % kK;
      CHECK(out->host()[i] == Approx(2 * (c.dense[at] + c.kept[at] + c.super[at])));
    }
  }
}

}  // namespace spikefold::testing
