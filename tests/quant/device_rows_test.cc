// GPTQ through a SiteRounder, here one in plain loops with the additions that a device makes: what lies on
// this side of it (chunks of rows, scales, super weights, fits) against panels on the host.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <random>

#include "kernels/cpu/cpu_features.h"
#include "kernels/runtime/site_rounder.h"
#include "quant/rounding/cholesky.h"
#include "quant/rounding/gptq.h"
#include "quant/rounding/row_descent.h"
#include "tests/quant/quant_kit.h"

namespace spikefold {
namespace {

using testing::TestPool;

size_t Size(int64_t n) { return static_cast<size_t>(n); }

// sum_i a[i] b[i] as matmul_f32_f32_f32.h adds.
float Dot(const float* a, const float* b, int64_t count) {
  float total = 0;
  for (int64_t first = 0; first < count; first += 64) {
    float sum = 0;
    for (int64_t i = first; i < std::min(first + 64, count); ++i) sum = std::fma(a[i], b[i], sum);
    total += sum;
  }
  return total;
}

class PlainRounder : public SiteRounder {
 public:
  PlainRounder(std::vector<float> h, int64_t k, int64_t rows_at_once)
      : h_(std::move(h)), k_(k), rows_at_once_(rows_at_once) {}

  absl::Status ReadDiagonal(float* to) override {
    for (int64_t j = 0; j < k_; ++j) to[j] = H(j, j);
    return absl::OkStatus();
  }

  absl::StatusOr<bool> Factor(absl::Span<const int32_t> order, double damping, double dead) override {
    if (has_no_room) return absl::ResourceExhaustedError("device: full");
    order_.assign(order.begin(), order.end());
    damping_ = damping;
    const int64_t m = static_cast<int64_t>(order.size());
    const auto column = [&](int64_t i) { return order_[Size(m - 1 - i)]; };
    std::vector<double> l(Size(m * m));
    for (int64_t c = 0; c < m; ++c) {
      for (int64_t r = c; r < m; ++r) l[Size(c * m + r)] = static_cast<double>(H(column(c), column(r)));
      double& own = l[Size(c * m + c)];
      own = own == 0 ? dead : own + damping;
    }
    if (!CholeskyInPlace(l.data(), m, TestPool())) return false;
    feedback_.assign(Size(m * m), 0);
    for (int64_t j = 0; j < m; ++j) {
      const double* from = l.data() + (m - 1 - j) * m;
      for (int64_t i = 0; i < j; ++i) {
        feedback_[Size(j * m + i)] = static_cast<float>(from[m - 1 - i] / from[m - 1 - j]);
      }
    }
    return true;
  }

  absl::StatusOr<int64_t> RowsAtOnce(int64_t n, int64_t) override { return std::min(n, rows_at_once_); }

  absl::Status Load(const Rows& rows) override {
    n_ = rows.n;
    width_ = rows.width;
    groups_ = k_ / width_;
    const auto copy = [](const float* from, int64_t count) { return std::vector<float>(from, from + count); };
    w_ = copy(rows.w, n_ * k_);
    scale_ = copy(rows.scale, n_ * groups_);
    lo_ = copy(rows.lo, n_ * groups_);
    hi_ = copy(rows.hi, n_ * groups_);
    code_.assign(Size(n_ * k_), 0);
    fixed_.assign(Size(n_ * k_), 0);
    power_.clear();
    for (int64_t r = 0; r < n_; ++r) {
      power_.push_back(Quadratic(w_.data() + r * k_));
      for (const int32_t c : rows.kept) fixed_[Size(r * k_ + c)] = 1;
      for (int32_t s = rows.super_begin[Size(r)]; s < rows.super_begin[Size(r + 1)]; ++s) {
        fixed_[Size(r * k_ + rows.super_column[Size(s)])] = 1;
      }
      for (int64_t c = 0; c < k_; ++c) {
        if (fixed_[Size(r * k_ + c)] != 0) w_[Size(r * k_ + c)] = 0;
      }
    }
    return absl::OkStatus();
  }

  absl::Status Round() override {
    const int64_t m = static_cast<int64_t>(order_.size());
    for (int64_t r = 0; r < n_; ++r) {
      std::vector<float> left(Size(m));
      for (int64_t j = 0; j < m; ++j) {
        const int64_t at = r * k_ + order_[Size(j)], g = r * groups_ + order_[Size(j)] / width_;
        const int64_t block = j / 32 * 32;
        const float* u = feedback_.data() + j * m;
        float target = Dot(left.data(), u, block);
        for (int64_t i = block; i < j; ++i) target += u[i] * left[Size(i)];
        if (fixed_[Size(at)] != 0) continue;  // a super weight leaves nothing
        code_[Size(at)] = GridPoint(w_[Size(at)] + target, scale_[Size(g)], lo_[Size(g)], hi_[Size(g)]);
        left[Size(j)] = w_[Size(at)] - scale_[Size(g)] * code_[Size(at)];
      }
    }
    return absl::OkStatus();
  }

  absl::Status Descend(int max_passes) override {
    const float damping = static_cast<float>(damping_);
    for (int64_t r = 0; r < n_; ++r) {
      std::vector<float> error = Errors(r), gradient = TimesHessian(error);
      for (int64_t c = 0; c < k_; ++c) gradient[Size(c)] += damping * error[Size(c)];
      DescendRow({.k = k_,
                  .width = width_,
                  .h = h_.data(),
                  .damping = damping,
                  .code = code_.data() + r * k_,
                  .error = error.data(),
                  .gradient = gradient.data(),
                  .scale = scale_.data() + r * groups_,
                  .lo = lo_.data() + r * groups_,
                  .hi = hi_.data() + r * groups_,
                  .fixed = fixed_.data() + r * k_},
                 max_passes);
    }
    return absl::OkStatus();
  }

  absl::Status FitScales(Fit fit, const float* scale) override {
    constexpr int64_t kRows = 3;
    for (int64_t first = 0; first < n_; first += kRows) {
      const int64_t count = std::min(kRows, n_ - first);
      std::vector<double> a(Size(count * groups_ * groups_)), b(Size(count * groups_));
      for (int64_t i = 0; i < count; ++i) {
        const float* code = code_.data() + (first + i) * k_;
        const std::vector<float> error = Errors(first + i), gradient = TimesHessian(error);
        for (int64_t c = 0; c < k_; ++c) {
          const double value = double{code[c]};
          b[Size(i * groups_ + c / width_)] +=
              value * (double{gradient[Size(c)]} + damping_ * double{error[Size(c)]});
          for (int64_t g = 0; g < groups_; ++g) {
            const double ridge = c / width_ == g ? damping_ : 0;
            const double y = double{Dot(h_.data() + c * k_ + g * width_, code + g * width_, width_)};
            a[Size((i * groups_ + g) * groups_ + c / width_)] += value * (y + ridge * value);
          }
        }
      }
      fit(first, count, a.data(), b.data());
    }
    std::copy_n(scale, n_ * groups_, scale_.begin());
    return absl::OkStatus();
  }

  absl::Status Store(const float* zero, int8_t* codes, double* error, double* power) override {
    std::copy(power_.begin(), power_.end(), power);
    for (int64_t r = 0; r < n_; ++r) {
      error[r] = Quadratic(Errors(r).data());
      for (int64_t c = 0; c < k_; ++c) {
        const float offset = zero == nullptr ? 0 : zero[r * groups_ + c / width_];
        codes[r * k_ + c] = static_cast<int8_t>(code_[Size(r * k_ + c)] + offset);
      }
    }
    return absl::OkStatus();
  }

  bool has_no_room = false;

 private:
  float H(int64_t i, int64_t j) const { return h_[Size(i * k_ + j)]; }
  std::vector<float> Errors(int64_t r) const {
    std::vector<float> e;
    for (int64_t c = 0; c < k_; ++c) {
      e.push_back(w_[Size(r * k_ + c)] - scale_[Size(r * groups_ + c / width_)] * code_[Size(r * k_ + c)]);
    }
    return e;
  }
  std::vector<float> TimesHessian(const std::vector<float>& x) const {
    std::vector<float> y;
    for (int64_t c = 0; c < k_; ++c) y.push_back(Dot(h_.data() + c * k_, x.data(), k_));
    return y;
  }
  double Quadratic(const float* x) const {
    double sum = 0;
    for (int64_t c = 0; c < k_; ++c) sum += double{x[c]} * double{Dot(h_.data() + c * k_, x, k_)};
    return sum;
  }

  const std::vector<float> h_;
  const int64_t k_, rows_at_once_;
  std::vector<int32_t> order_;
  std::vector<float> feedback_;
  double damping_ = 0;
  int64_t n_ = 0, width_ = 0, groups_ = 0;
  std::vector<float> w_, code_, scale_, lo_, hi_;
  std::vector<uint8_t> fixed_;
  std::vector<double> power_;
};

// H of correlated columns of unequal size, one of them dead, in values that float32 holds.
std::vector<float> SomeHessian(int64_t k) {
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  std::vector<float> h(Size(k * k)), x(Size(k));
  for (int64_t t = 0; t < 2 * k; ++t) {
    float common = normal(random);
    for (int64_t c = 0; c < k; ++c) {
      common = 0.9f * common + 0.45f * normal(random);
      x[Size(c)] = c == 9 ? 0 : common * static_cast<float>(1 + c % 7);
    }
    for (int64_t i = 0; i < k * k; ++i) h[Size(i)] += x[Size(i / k)] * x[Size(i % k)];
  }
  return h;
}

}  // namespace

TEST_CASE("Rows rounded through a device in chunks are those of panels on the host") {
  if (kernels::ActiveIsa() < kernels::Isa::kAvx2)
    return;  // whose matrix product fuses multiplications with additions
  constexpr int64_t kK = 192, kN = 37;
  const std::vector<float> h = SomeHessian(kK);
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> w(Size(kN * kK));
  for (float& v : w) v = normal(random);
  const std::vector<int32_t> kept = {3, 100};
  // Out of order, two in a row, the ends of a chunk.
  const std::vector<PlannedSuper> supers = {
      {.row = 36, .column = 191}, {.row = 4, .column = 7}, {.row = 5, .column = 0}, {.row = 4, .column = 60}};
  const RoundingInput inputs[] = {{.w = w, .n = kN, .k = kK},
                                  {.w = w, .n = kN, .k = kK, .kept = kept, .supers = supers}};
  const WeightGrid grids[] = {{.bits = 4, .symmetric = false, .group = 32},
                              {.bits = 3, .symmetric = true, .group = 64},
                              {.bits = 4, .symmetric = false, .group = 64, .multiples = true},
                              {.bits = 8, .symmetric = true, .scale_dtype = DType::kF32}};
  for (const RoundingInput& input : inputs) {
    PlainRounder device(h, kK, 5);
    const auto host =
        FactorHessian(std::vector<double>(h.begin(), h.end()), kK, {.kept = input.kept}, TestPool());
    const auto factor = FactorHessian(device, kK, {.kept = input.kept});
    REQUIRE(host.ok());
    REQUIRE(factor.ok());
    CHECK(factor->order == host->order);
    CHECK(factor->damping == host->damping);
    CHECK(factor->num_dead == 1);
    for (const WeightGrid& grid : grids) {
      CAPTURE(grid.bits, grid.group, input.kept.size());
      const auto expected = Gptq(input, *host, grid, {}, TestPool()),
                 actual = Gptq(input, *factor, grid, {}, TestPool());
      REQUIRE(expected.ok());
      REQUIRE(actual.ok());
      CHECK(actual->codes == expected->codes);
      CHECK(actual->scales == expected->scales);
      CHECK(actual->zeros == expected->zeros);
      CHECK(actual->relative_error == Approx(expected->relative_error).epsilon(1e-9));
    }
  }
}

TEST_CASE("What a device cannot round is refused, what it has no room for is said") {
  PlainRounder device(SomeHessian(64), 64, 5);
  const auto factor = FactorHessian(device, 64, {});
  REQUIRE(factor.ok());
  const std::vector<float> w(64, 1.0f);
  const RoundingInput input{.w = w, .n = 1, .k = 64};
  CHECK(CanRoundOnDevice({.bits = 4, .group = 32}));
  for (const WeightGrid& grid : {WeightGrid{.bits = 3, .trellis = true}, WeightGrid{.bits = 4, .group = 2}}) {
    CHECK_FALSE(CanRoundOnDevice(grid));
    CHECK(absl::IsInvalidArgument(Gptq(input, *factor, grid, {}, TestPool()).status()));
  }
  device.has_no_room = true;
  CHECK(absl::IsResourceExhausted(FactorHessian(device, 64, {}).status()));
}

}  // namespace spikefold
