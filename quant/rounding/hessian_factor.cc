#include "quant/rounding/hessian_factor.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <memory>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "formats/base/status.h"
#include "quant/rounding/cholesky.h"

namespace spikefold {
namespace {

constexpr int64_t kRowGrain = 16;
constexpr double kMaxDamping = 1.0;

class Factoring {
 public:
  Factoring(absl::Span<const double> h, int64_t k, const FactorOptions& options, ThreadPool& pool)
      : h_(h), k_(k), options_(options), pool_(pool) {}

  absl::StatusOr<HessianFactor> Run() {
    SF_RETURN_IF_ERROR(Check());
    out_.k = k_;
    SF_RETURN_IF_ERROR(ReadDiagonal());
    Order();
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

  // All may be zero: what a linear of zeros feeds reads nothing else, and any codes are as good.
  absl::Status ReadDiagonal() {
    for (int64_t j = 0; j < k_; ++j) {
      const double d = H(j, j);
      if (!(d >= 0 && d < 1e37)) {
        return absl::InvalidArgumentError(
            absl::StrCat("hessian: diagonal element ", j, " is ", d, "; it must be finite and not negative"));
      }
      out_.diagonal.push_back(static_cast<float>(d));
    }
    return absl::OkStatus();
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

  void Order() {
    std::vector<bool> kept(static_cast<size_t>(k_));
    for (const int32_t c : options_.kept) kept[static_cast<size_t>(c)] = true;
    for (int32_t j = 0; j < k_; ++j) {
      if (kept[static_cast<size_t>(j)]) continue;
      out_.order.push_back(j);
      out_.num_dead += H(j, j) == 0;
    }
    double sum = 0;
    for (const int32_t j : out_.order) sum += H(j, j);
    mean_ =
        sum > 0 ? sum / static_cast<double>(out_.order.size()) : 1;  // dead columns alone: any weight will do
    if (!options_.act_order) return;
    std::stable_sort(out_.order.begin(), out_.order.end(),
                     [&](int32_t a, int32_t b) { return H(a, a) > H(b, b); });
  }

  // H = U D U^T is the factorisation L L^T of H with rows and columns reversed.
  absl::Status Factor() {
    const int64_t m = static_cast<int64_t>(out_.order.size());
    if (m == 0) return absl::OkStatus();  // everything is kept
    const auto l = std::make_unique_for_overwrite<double[]>(static_cast<size_t>(m * m));
    for (double share = options_.damping;; share = std::min(kMaxDamping, share * 10)) {
      out_.damping_share = share;
      out_.damping = share * mean_;
      Load(l.get(), m);
      if (CholeskyInPlace(l.get(), m, pool_)) break;
      if (share >= kMaxDamping) {
        return absl::InternalError("hessian: not positive definite, although its diagonal was doubled");
      }
      if (share <= 0) share = 1e-5;
    }
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

}  // namespace spikefold
