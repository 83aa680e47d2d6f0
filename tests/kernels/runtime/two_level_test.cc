// Weights whose group scales are whole multiples of one scale a channel: what is found, what is refused, and
// that the CPU computes them bit for bit as the INT8 matrix that they are.
#include "kernels/runtime/two_level.h"

#include <cmath>
#include <functional>
#include <random>

#include "kernels/cpu/cpu_features.h"
#include "kernels/runtime/ops.h"
#include "tests/kernels/runtime/runtime_kit.h"

namespace spikefold::testing {
namespace {

constexpr int64_t kN = 70, kK = 192, kGroup = 32, kGroups = kK / kGroup;

size_t Size(int64_t n) { return static_cast<size_t>(n); }

// Random codes whose factors keep them within INT8, and views of them.
struct Matrix {
  Matrix(int bits, bool symmetric, uint64_t seed) : format(WeightFormat{bits, true, symmetric}) {
    std::mt19937_64 random(seed);
    const auto within = [&](int lo, int hi) {
      return lo + static_cast<int>(random() % static_cast<uint64_t>(hi - lo + 1));
    };
    for (int64_t i = 0; i < kN * kK; ++i) {
      codes.push_back(static_cast<int8_t>(within(format.lo(), format.hi())));
    }
    for (int64_t n = 0; n < kN; ++n) {
      unit.push_back(static_cast<float>(within(64, 127)) * 0x1p-14f);
      for (int64_t g = 0; g < kGroups; ++g) {
        const int zero = symmetric ? 0 : within(format.lo(), format.hi());
        const int most = 127 / std::max(format.hi() - zero, zero - format.lo());
        factor.push_back(g == 0 ? 1 : within(1, std::min(16, most)));  // so that `unit` is what is found
        scales.push_back(static_cast<float>(factor.back()) * unit.back());
        if (!symmetric) zeros.push_back(static_cast<int8_t>(zero));
      }
    }
  }
  CodeMatrix View() const {
    return {.n = kN,
            .k = kK,
            .format = format,
            .group = kGroup,
            .codes = codes,
            .scales = scales,
            .zeros = zeros};
  }
  int Zero(size_t group) const { return zeros.empty() ? 0 : zeros[group]; }
  std::vector<int8_t> Whole() const {
    std::vector<int8_t> whole;
    for (size_t i = 0; i < codes.size(); ++i) {
      const size_t g = i / Size(kGroup);
      whole.push_back(static_cast<int8_t>(factor[g] * (codes[i] - Zero(g))));
    }
    return whole;
  }

  WeightFormat format;
  std::vector<int8_t> codes, zeros;
  std::vector<float> unit, scales;
  std::vector<int> factor;
};

std::vector<float> Product(const CodeMatrix& w, const std::vector<float>& x, int threads, bool* whole) {
  ThreadPool pool(threads);
  const auto ops = MakeCpuOps(&pool);
  ActivationForm form;
  form.format = ActivationFormat::kS8Token;
  LinearWeights packed;
  REQUIRE(ops->PackCodes(w, form.format, packed).ok());
  REQUIRE(ops->Prepare(packed).ok());
  *whole = !packed.scale.empty();
  const int64_t rows = static_cast<int64_t>(x.size()) / kK;
  auto activation = ops->NewActivation(kK);
  REQUIRE(ops->Reserve(*activation, rows).ok());
  std::copy(x.begin(), x.end(), activation->floats().host());
  activation->form = &form;
  activation->rows = rows;
  REQUIRE(ops->Reform(*activation).ok());
  auto y = ops->NewBuffer(kN);
  REQUIRE(ops->Reserve(*y, rows).ok());
  const LinearWeights* linear = &packed;
  Buffer* out = y.get();
  REQUIRE(ops->Linears(*activation, {&linear, 1}, {&out, 1}).ok());
  return {y->host(), y->host() + rows * kN};
}

}  // namespace

TEST_CASE("Scales that are whole multiples of one a channel are found, with the largest that there is") {
  for (const int bits : {2, 3, 4}) {
    for (const bool symmetric : {true, false}) {
      INFO(bits << (symmetric ? " bits" : " bits, zero points"));
      const Matrix m(bits, symmetric, 7);
      const std::optional<TwoLevel> found = FindTwoLevel(m.View());
      REQUIRE(found);
      CHECK(found->scale == m.unit);
      CHECK(std::equal(found->factor.begin(), found->factor.end(), m.factor.begin(), m.factor.end()));
    }
  }
  Matrix m(4, true, 8);
  for (int64_t n = 0; n < kN; ++n) {  // 2, 4, 6 of half of it are 1, 2, 3 of it; 3 and 5 stay
    for (int64_t g = 0; g < kGroups; ++g) {
      const int factor = n == 0 ? 3 + 2 * static_cast<int>(g % 2) : 2 + 2 * static_cast<int>(g % 3);
      m.scales[Size(n * kGroups + g)] = static_cast<float>(factor) * m.unit[Size(n)];
    }
  }
  const std::optional<TwoLevel> found = FindTwoLevel(m.View());
  REQUIRE(found);
  CHECK(found->scale[0] == m.unit[0]);
  CHECK(found->factor[1] == 5);
  CHECK(found->scale[1] == 2 * m.unit[1]);
  CHECK(found->factor[Size(kGroups) + 2] == 3);
}

TEST_CASE("What is no INT8 matrix is not taken for one") {
  const auto refused = [](const std::function<void(Matrix&)>& spoil) {
    Matrix m(4, false, 9);
    spoil(m);
    return !FindTwoLevel(m.View());
  };
  CHECK_FALSE(refused([](Matrix&) {}));
  CHECK(refused([](Matrix& m) { m.scales.back() = std::nextafter(m.scales.back(), 1.0f); }));
  CHECK(refused([](Matrix& m) { m.scales[0] *= 0.7f; }));
  CHECK(refused([](Matrix& m) { m.scales[1] = 17 * m.scales[0]; }));
  // 16 times 8 is 128; times 7 it is within.
  const auto product = [&](int code) {
    return refused([&](Matrix& m) {
      m.scales[1] = 16 * m.scales[0];
      m.zeros[1] = 0;
      for (int64_t k = kGroup; k < 2 * kGroup; ++k) m.codes[Size(k)] = static_cast<int8_t>(code);
    });
  };
  CHECK(product(-8));
  CHECK_FALSE(product(7));
  CHECK_FALSE(product(-7));
  const Matrix m(4, true, 10);
  CodeMatrix other = m.View();
  other.format.bits = 8;
  CHECK_FALSE(FindTwoLevel(other));
  other = m.View();
  other.group = 0;
  other.scales = m.unit;
  CHECK_FALSE(FindTwoLevel(other));
}

TEST_CASE("Such a weight gives the bits of its INT8 matrix at every level and any number of threads") {
  std::mt19937_64 random(11);
  std::normal_distribution<float> normal;
  for (const int bits : {2, 3, 4}) {
    for (const bool symmetric : {true, false}) {
      const Matrix m(bits, symmetric, 12);
      const std::vector<int8_t> codes = m.Whole();
      const CodeMatrix channels{
          .n = kN, .k = kK, .format = WeightFormat::kS8c, .codes = codes, .scales = m.unit, .zeros = {}};
      for (const int64_t rows : {1, 5, 16, 33, 130}) {
        std::vector<float> x(Size(rows * kK));
        for (float& v : x) v = normal(random);
        bool whole = false, also = false;
        const std::vector<float> expected = Product(channels, x, 1, &also);
        for (const kernels::Isa isa : kernels::AvailableIsas()) {
          INFO(bits << " bits, " << rows << " rows, " << std::string(kernels::IsaName(isa)));
          REQUIRE(kernels::SetIsa(isa).ok());
          CHECK(Product(m.View(), x, 1, &whole) == expected);
          CHECK(whole);
          CHECK(Product(m.View(), x, 3, &whole) == expected);
        }
        REQUIRE(kernels::SetIsa(kernels::DetectedIsa()).ok());
        Matrix wrong = m;  // the canary: one factor, and one scale that is no multiple
        wrong.scales[1] = (m.factor[1] == 1 ? 2 : 1) * m.unit[0];
        CHECK(Product(wrong.View(), x, 1, &whole) != expected);
        wrong.scales[1] = std::nextafter(m.scales[1], 1.0f);
        CHECK(Product(wrong.View(), x, 1, &whole) != expected);
        CHECK_FALSE(whole);
      }
    }
  }
}

}  // namespace spikefold::testing
