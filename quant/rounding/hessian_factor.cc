#include "quant/rounding/hessian_factor.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <memory>
#include <numeric>

#include "absl/functional/function_ref.h"
#include "absl/strings/str_cat.h"
#include "formats/base/status.h"
#include "quant/rounding/cholesky.h"

namespace spikefold {
namespace {

constexpr int64_t kRowGrain = 16;
constexpr double kMaxDamping = 1.0;

// H_jj of all columns; all may be zero: what a linear of zeros feeds reads nothing else, and any codes are as
// good.
absl::Status SetDiagonal(absl::Span<const float> diagonal, HessianFactor& out) {
  for (size_t j = 0; j < diagonal.size(); ++j) {
    if (diagonal[j] >= 0 && diagonal[j] < 1e37f) continue;
    return absl::InvalidArgumentError(absl::StrCat("hessian: diagonal element ", j, " is ", diagonal[j],
                                                   "; it must be finite and not negative"));
  }
  out.diagonal.assign(diagonal.begin(), diagonal.end());
  return absl::OkStatus();
}

// Sets `order` and `num_dead`; returns the mean of the diagonal over `order`.
double OrderColumns(const FactorOptions& options, HessianFactor& out) {
  const std::vector<float>& h = out.diagonal;
  std::vector<bool> kept(h.size());
  for (const int32_t c : options.kept) kept[static_cast<size_t>(c)] = true;
  double sum = 0;
  for (size_t j = 0; j < h.size(); ++j) {
    if (kept[j]) continue;
    out.order.push_back(static_cast<int32_t>(j));
    out.num_dead += h[j] == 0;
    sum += static_cast<double>(h[j]);
  }
  if (options.act_order) {
    std::stable_sort(out.order.begin(), out.order.end(), [&h](int32_t a, int32_t b) {
      return h[static_cast<size_t>(a)] > h[static_cast<size_t>(b)];
    });
  }
  return sum > 0 ? sum / static_cast<double>(out.order.size()) : 1;  // dead columns alone: any weight will do
}

// Factors with as little damping as makes H positive definite: `factor` says whether so much does.
absl::Status Damp(double share, double mean, absl::FunctionRef<absl::StatusOr<bool>(double damping)> factor,
                  HessianFactor& out) {
  for (;; share = std::min(kMaxDamping, share * 10)) {
    out.damping_share = share;
    out.damping = share * mean;
    SF_ASSIGN_OR_RETURN(const bool done, factor(out.damping));
    if (done) return absl::OkStatus();
    if (share >= kMaxDamping) {
      return absl::InternalError("hessian: not positive definite, although its diagonal was doubled");
    }
    if (share <= 0) share = 1e-5;
  }
}

class Factoring {
 public:
  Factoring(absl::Span<const double> h, int64_t k, const FactorOptions& options, ThreadPool& pool)
      : h_(h), k_(k), options_(options), pool_(pool) {}

  absl::StatusOr<HessianFactor> Run() {
    SF_RETURN_IF_ERROR(Check());
    out_.k = k_;
    std::vector<float> diagonal;
    for (int64_t j = 0; j < k_; ++j) diagonal.push_back(static_cast<float>(H(j, j)));
    SF_RETURN_IF_ERROR(SetDiagonal(diagonal, out_));
    mean_ = OrderColumns(options_, out_);
    SF_RETURN_IF_ERROR(Narrow());
    SF_RETURN_IF_ERROR(Factor());
    return std::move(out_);
  }

 private:
  double H(int64_t i, int64_t j) const { return h_[static_cast<size_t>(i * k_ + j)]; }
  int64_t Column(int64_t step) const { return out_.order[static_cast<size_t>(step)]; }

  absl::Status Check() const {
    if (k_ >= 1 && static_cast<int64_t>(h_.size()) == k_ * k_) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("hessian: ", h_.size(), " values; K=", k_, " needs ", k_ * k_));
  }

  absl::Status Narrow() {
    out_.h = Tensor(DType::kF32, {k_, k_});
    float* narrow = out_.h.as<float>().data();
    std::atomic<bool> finite{true};
    pool_.ParallelFor(k_, kRowGrain, [&](int64_t begin, int64_t end) {
      double sum = 0;
      for (int64_t i = begin * k_; i < end * k_; ++i) {
        narrow[i] = static_cast<float>(h_[static_cast<size_t>(i)]);
        sum += h_[static_cast<size_t>(i)];
      }
      if (!std::isfinite(sum)) finite = false;
    });
    if (finite) return absl::OkStatus();
    return absl::InvalidArgumentError("hessian: not finite; calibrate again");
  }

  // H = U D U^T is the factorisation L L^T of H with rows and columns reversed.
  absl::Status Factor() {
    const int64_t m = static_cast<int64_t>(out_.order.size());
    if (m == 0) return absl::OkStatus();  // everything is kept
    const auto l = std::make_unique_for_overwrite<double[]>(static_cast<size_t>(m * m));
    SF_RETURN_IF_ERROR(Damp(
        options_.damping, mean_,
        [&](double) {
          Load(l.get(), m);
          return CholeskyInPlace(l.get(), m, pool_);
        },
        out_));
    Store(l.get(), m);
    return absl::OkStatus();
  }

  // The lower triangle, column-major, reversed, damped. A dead column stands alone with the mean's weight.
  void Load(double* l, int64_t m) const {
    pool_.ParallelFor(m, kRowGrain, [&](int64_t begin, int64_t end) {
      for (int64_t c = begin; c < end; ++c) {
        const int64_t column = Column(m - 1 - c);
        std::fill_n(l + c * m, c, 0.0);
        for (int64_t r = c; r < m; ++r) l[c * m + r] = H(column, Column(m - 1 - r));
        const double d = H(column, column);
        l[c * m + c] = d == 0 ? mean_ : d + out_.damping;
      }
    });
  }

  void Store(const double* l, int64_t m) {
    out_.feedback = Tensor(DType::kF32, {m, m});
    out_.pivot.resize(static_cast<size_t>(m));
    float* feedback = out_.feedback.as<float>().data();
    pool_.ParallelFor(m, kRowGrain, [&](int64_t begin, int64_t end) {
      for (int64_t j = begin; j < end; ++j) {
        const double* column = l + (m - 1 - j) * m;
        const double root = column[m - 1 - j];
        out_.pivot[static_cast<size_t>(j)] = static_cast<float>(root * root);
        for (int64_t i = 0; i < j; ++i) {
          feedback[j * m + i] = static_cast<float>(column[m - 1 - i] / root);
        }
      }
    });
  }

  const absl::Span<const double> h_;
  const int64_t k_;
  const FactorOptions& options_;
  ThreadPool& pool_;
  HessianFactor out_;
  double mean_ = 0;
};

}  // namespace

absl::StatusOr<HessianFactor> FactorHessian(absl::Span<const double> h, int64_t k,
                                            const FactorOptions& options, ThreadPool& pool) {
  return Factoring(h, k, options, pool).Run();
}

absl::StatusOr<HessianFactor> FactorHessian(SiteRounder& device, int64_t k, const FactorOptions& options) {
  HessianFactor out;
  out.k = k;
  out.device = &device;
  std::vector<float> diagonal(static_cast<size_t>(k));
  SF_RETURN_IF_ERROR(device.ReadDiagonal(diagonal.data()));
  SF_RETURN_IF_ERROR(SetDiagonal(diagonal, out));
  const double mean = OrderColumns(options, out);
  if (out.order.empty()) {  // everything is kept
    SF_RETURN_IF_ERROR(device.Factor({}, 0, mean).status());
    return out;
  }
  SF_RETURN_IF_ERROR(Damp(
      options.damping, mean, [&](double damping) { return device.Factor(out.order, damping, mean); }, out));
  return out;
}

}  // namespace spikefold
