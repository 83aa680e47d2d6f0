// Linears of the CPU backend on every pair of weight kind and activation form, against float64.
#include "kernels/runtime/ops.h"

#include <cmath>
#include <random>

#include "tests/kernels/runtime/runtime_kit.h"

namespace spikefold::testing {
namespace {

constexpr int64_t kN = 70, kK = 96, kRows = 13, kGroup = 32, kSpikeRow = 4;
constexpr double kTolerance = 2e-6, kWrong = 1e-3;

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

  ActivationForm Form(ActivationForm::Kind kind, bool outliers) const {
    ActivationForm form;
    form.kind = kind;
    form.static_scale = kind == ActivationForm::Kind::kS8Static ? 0.03f : 0.0f;
    if (!outliers) return form;
    form.kept = {11, 40};
    form.super_columns = {5, 60};
    if (kind != ActivationForm::Kind::kFloat) form.spike_threshold = 100;
    return form;
  }

  Case MakeLinear(LinearWeights::Kind kind, const ActivationForm& form) {
    Case c;
    c.form = &form;
    c.dense.assign(kN * kK, 0);
    c.kept = c.super = c.dense;
    Tensor codes(DType::kI8, {kN, kK}), scales(DType::kF32, {kN, kK / kGroup}), w(DType::kF32, {kN, kK});
    c.packed.scale.resize(kN);
    const int limit = kind == LinearWeights::Kind::kS8c ? 127 : 7;
    for (float& s : c.packed.scale) s = static_cast<float>(0.001 + 0.001 * Uniform());
    for (float& s : scales.as<float>()) s = static_cast<float>(0.01 + 0.01 * Uniform());
    for (int64_t i = 0; i < kN * kK; ++i) {
      const int64_t n = i / kK, k = i % kK;
      const size_t at = static_cast<size_t>(i);
      const bool kept = std::count(form.kept.begin(), form.kept.end(), k) > 0;
      const int code = kept ? 0 : static_cast<int>(std::lround((Uniform() * 2 - 1) * limit));
      codes.as<int8_t>()[at] = static_cast<int8_t>(code);
      const double scale = kind == LinearWeights::Kind::kS8c
                               ? c.packed.scale[static_cast<size_t>(n)]
                               : scales.as<float>()[static_cast<size_t>(n * (kK / kGroup) + k / kGroup)];
      c.dense[at] = code * scale;
      w.as<float>()[at] = static_cast<float>(c.dense[at]);
    }
    if (kind == LinearWeights::Kind::kF32) {
      for (size_t i = 0; i < c.dense.size(); ++i) c.dense[i] = w.as<float>()[i];
      REQUIRE(ops_->PackF32(w, c.packed).ok());
      c.packed.scale.clear();
    } else {
      AddOutliers(form, codes, c);
      const auto all = codes.as<int8_t>();
      REQUIRE((kind == LinearWeights::Kind::kS8c
                   ? ops_->PackS8c(all, kN, kK, c.packed)
                   : ops_->PackS4g(all, scales.as<float>(), kN, kK, kGroup, c.packed))
                  .ok());
    }
    for (int64_t n = 0; n < kN; ++n) c.packed.bias.push_back(static_cast<float>(Normal()));
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
    return {y->host(), y->host() + kRows * kN};
  }

  // y = sum over x^ dense + bf16(x) (kept + super) + bias; in a spike row x^ is x.
  std::vector<double> Expected(const Case& c) const {
    std::vector<double> y(kRows * kN);
    for (int64_t m = 0; m < kRows; ++m) {
      const bool spike = c.form->spike_threshold > 0 && m == kSpikeRow;
      const double scale = RowScale(m, *c.form);
      for (int64_t n = 0; n < kN; ++n) {
        double sum = c.packed.bias[static_cast<size_t>(n)];
        for (int64_t k = 0; k < kK; ++k) {
          const double x = x_[static_cast<size_t>(m * kK + k)];
          const size_t at = static_cast<size_t>(n * kK + k);
          const bool exact = spike || scale == 0;
          const double code = exact ? 0 : Code(x, scale);
          sum += (exact ? x : code * scale) * c.dense[at] + Bf16(x) * (c.kept[at] + c.super[at]);
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

  // Kept columns in bf16, and two super weights whose codes are zero.
  void AddOutliers(const ActivationForm& form, Tensor& codes, Case& c) {
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
      codes.as<int8_t>()[at] = 0;
      c.dense[at] = 0;
      c.super[at] = c.packed.super_value[s];
    }
  }

  // In float32, as the quantizer defines it: ties decide differently in float64.
  static double Code(double x, double scale) {
    return std::clamp(std::nearbyint(static_cast<float>(x) * (1.0f / static_cast<float>(scale))), -127.0f,
                      127.0f);
  }
  double RowScale(int64_t m, const ActivationForm& form) const {
    if (form.kind == ActivationForm::Kind::kFloat) return 0;
    if (form.kind == ActivationForm::Kind::kS8Static) return form.static_scale;
    float top = 0;
    for (int64_t k = 0; k < kK; ++k) {
      if (std::count(form.kept.begin(), form.kept.end(), k) > 0) continue;
      top = std::max(top, std::abs(x_[static_cast<size_t>(m * kK + k)]));
    }
    return top / 127.0f;
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

using AKind = ActivationForm::Kind;
using WKind = LinearWeights::Kind;

}  // namespace

TEST_CASE("Every weight kind on every activation form gives the sum that its codes mean") {
  OpsTest t;
  for (const WKind w : {WKind::kF32, WKind::kS8c, WKind::kS4g}) {
    for (const AKind a : {AKind::kFloat, AKind::kS8Token, AKind::kS8Static}) {
      for (const bool outliers : {false, true}) {
        if (w == WKind::kF32 && (a != AKind::kFloat || outliers)) continue;
        INFO(static_cast<int>(w) << " on " << static_cast<int>(a) << (outliers ? " with outliers" : ""));
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
  for (const WKind w : {WKind::kS8c, WKind::kS4g}) {
    const ActivationForm with = t.Form(AKind::kS8Token, true);
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
  const ActivationForm form = t.Form(AKind::kS8Token, true);
  const Case c = t.MakeLinear(WKind::kS8c, form);
  t.Run(c);
  CHECK(t.ops().counters().spike_rows == 4);
  CHECK(t.ops().counters().missed_spike_rows == 2);
}

TEST_CASE("The simulated form carries the codes' values: a float linear of dequantized weights agrees") {
  OpsTest t;
  for (const AKind a : {AKind::kFloat, AKind::kS8Token, AKind::kS8Static}) {
    const ActivationForm real = t.Form(a, true);
    ActivationForm simulated = real;
    simulated.simulate = true;
    const Case c = t.MakeLinear(WKind::kS8c, real);
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
    if (a != AKind::kFloat) CHECK(RowError(t.Run(s), t.Expected(c)) > kWrong);
  }
}

TEST_CASE("A quantized table serves embedding look-up, kept columns and super weights included") {
  OpsTest t;
  const ActivationForm form = t.Form(AKind::kS8Token, true);
  for (const WKind w : {WKind::kF32, WKind::kS8c, WKind::kS4g}) {
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
