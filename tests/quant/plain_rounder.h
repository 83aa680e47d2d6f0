// A device in plain loops, with the additions that a GPU makes: for what lies on this side of it.
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>
#include <vector>

#include "kernels/runtime/site_rounder.h"
#include "quant/rounding/cholesky.h"
#include "quant/rounding/row_descent.h"
#include "quant/rounding/weight_grid.h"
#include "tests/quant/quant_kit.h"
#include "tests/testing/plain_product_sum.h"

namespace spikefold::testing {

// When a device has no room any more.
enum class NoRoom { kNever, kSum, kRounder, kFactor, kRows, kFit, kWeights };

class PlainRounder : public SiteRounder {
 public:
  // `alive`: how many there are.
  PlainRounder(std::vector<float> h, int64_t k, int64_t rows_at_once, std::shared_ptr<int> alive = {})
      : h_(std::move(h)), k_(k), rows_at_once_(rows_at_once), alive_(std::move(alive)) {
    if (alive_ != nullptr) ++*alive_;
  }
  ~PlainRounder() override {
    if (alive_ != nullptr) --*alive_;
  }

  absl::Status ReadDiagonal(float* to) override {
    for (int64_t j = 0; j < k_; ++j) to[j] = H(j, j);
    return absl::OkStatus();
  }

  absl::StatusOr<bool> Factor(absl::Span<const int32_t> order, double damping, double dead) override {
    if (no_room == NoRoom::kFactor) return absl::ResourceExhaustedError("device: full");
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

  absl::StatusOr<int64_t> RowsAtOnce(int64_t n, int64_t) override {
    if (no_room == NoRoom::kRows) return absl::ResourceExhaustedError("device: full");
    return std::min(n, rows_at_once_);
  }

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
    if (no_room == NoRoom::kFit) return absl::ResourceExhaustedError("device: full");
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
        codes[r * k_ + c] = static_cast<int8_t>(code_[Size(r * k_ + c)] + zero[r * groups_ + c / width_]);
      }
    }
    return absl::OkStatus();
  }

  NoRoom no_room = NoRoom::kNever;

 private:
  static size_t Size(int64_t n) { return static_cast<size_t>(n); }
  // sum_i a[i] b[i] as matmul_f32_f32_f32.h adds.
  static float Dot(const float* a, const float* b, int64_t count) {
    float total = 0;
    for (int64_t first = 0; first < count; first += 64) {
      float sum = 0;
      for (int64_t i = first; i < std::min(first + 64, count); ++i) sum = std::fma(a[i], b[i], sum);
      total += sum;
    }
    return total;
  }
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
  const std::shared_ptr<int> alive_;
  std::vector<int32_t> order_;
  std::vector<float> feedback_;
  double damping_ = 0;
  int64_t n_ = 0, width_ = 0, groups_ = 0;
  std::vector<float> w_, code_, scale_, lo_, hi_;
  std::vector<uint8_t> fixed_;
  std::vector<double> power_;
};

// Second moments whose rounder is a PlainRounder.
class RoundingSum : public PlainProductSum {
 public:
  RoundingSum(int64_t k, NoRoom no_room, std::shared_ptr<int> rounders)
      : PlainProductSum(k), no_room_(no_room), rounders_(std::move(rounders)) {}
  absl::StatusOr<std::unique_ptr<SiteRounder>> NewRounder() override {
    if (no_room_ == NoRoom::kRounder) return absl::ResourceExhaustedError("device: full");
    for (int64_t i = 0; i < k() * k(); ++i) {  // the upper triangle counts
      if (i % k() < i / k())
        sum()[static_cast<size_t>(i)] = sum()[static_cast<size_t>(i % k() * k() + i / k())];
    }
    auto rounder = std::make_unique<PlainRounder>(sum(), k(), 5, rounders_);
    rounder->no_room = no_room_;
    return rounder;
  }

 private:
  const NoRoom no_room_;
  const std::shared_ptr<int> rounders_;
};

}  // namespace spikefold::testing
