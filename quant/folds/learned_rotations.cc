#include "quant/folds/learned_rotations.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "formats/base/status.h"
#include "quant/folds/fold_builder.h"

namespace spikefold {
namespace {

constexpr int kPolarSteps = 4;

std::vector<double> Product(const std::vector<double>& a, const std::vector<double>& b, int64_t order) {
  std::vector<double> c = a;
  Transform::Dense(std::make_shared<const std::vector<double>>(b), order).ApplyRows(c.data(), order, order);
  return c;
}

std::vector<double> Transposed(const std::vector<double>& m, int64_t order) {
  std::vector<double> t(m.size());
  for (int64_t i = 0; i < order; ++i) {
    for (int64_t j = 0; j < order; ++j) {
      t[static_cast<size_t>(j * order + i)] = m[static_cast<size_t>(i * order + j)];
    }
  }
  return t;
}

DenseMatrix DenseOf(const Rotation& rotation) {
  const int64_t order = rotation.width();
  std::vector<double> m(static_cast<size_t>(order * order));
  for (int64_t i = 0; i < order; ++i) m[static_cast<size_t>(i * order + i)] = 1;
  Transform::Rotate(rotation).ApplyRows(m.data(), order, order);
  return std::make_shared<const std::vector<double>>(std::move(m));
}

absl::Status CheckMatrix(const std::string& name, const DenseMatrix& m, int64_t order, int64_t wanted) {
  const std::string where = absl::StrCat("learned rotation ", name);
  if (order != wanted || m == nullptr || static_cast<int64_t>(m->size()) != wanted * wanted) {
    return absl::InvalidArgumentError(
        absl::StrCat(where, ": is of width ", order, "; this model needs ", wanted));
  }
  const double error = OrthogonalityError(*m, order);
  if (error <= kOrthogonal) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(where, ": is not orthogonal, M M^T is ", error,
                                                 " from the identity; ", kOrthogonal,
                                                 " is allowed; learn it again"));
}

}  // namespace

LearnedRotations DrawnRotations(const ModelGraph& graph, bool r1, bool r2, uint64_t seed) {
  const ModelConfig& c = graph.config;
  LearnedRotations r{.hidden = c.hidden, .head_dim = c.head_dim};
  if (r1) r.residual = DenseOf(RandomRotation("R1", RotationPlace::kResidual, c.hidden, seed));
  if (r2) {
    const DenseMatrix all = DenseOf(RandomRotation("R2", RotationPlace::kValues, c.head_dim, seed));
    r.values.assign(static_cast<size_t>(c.num_layers), all);
  }
  return r;
}

// Newton's iteration for the polar factor, M <- M (3 - M^T M) / 2: the error is squared in each step. (N. J.
// Higham, "Computing the polar decomposition", 1986.)
DenseMatrix Turned(const DenseMatrix& m, const std::vector<double>& q, int64_t order) {
  std::vector<double> x = Product(*m, q, order);
  for (int step = 0; step < kPolarSteps; ++step) {
    std::vector<double> correction = Product(Transposed(x, order), x, order);
    for (double& c : correction) c *= -0.5;
    for (int64_t i = 0; i < order; ++i) correction[static_cast<size_t>(i * order + i)] += 1.5;
    x = Product(x, correction, order);
  }
  return std::make_shared<const std::vector<double>>(std::move(x));
}

double OrthogonalityError(const std::vector<double>& m, int64_t order) {
  const std::vector<double> product = Product(m, Transposed(m, order), order);
  double worst = 0;
  for (int64_t i = 0; i < order; ++i) {
    for (int64_t j = 0; j < order; ++j) {
      const double error = std::fabs(product[static_cast<size_t>(i * order + j)] - (i == j ? 1.0 : 0.0));
      if (!std::isfinite(error)) return std::numeric_limits<double>::infinity();
      worst = std::max(worst, error);
    }
  }
  return worst;
}

absl::Status CheckLearnedRotations(const LearnedRotations& r, const CheckpointReader& base) {
  SF_ASSIGN_OR_RETURN(const std::string fingerprint, base.Fingerprint());
  if (r.model_fingerprint != fingerprint) {
    return absl::InvalidArgumentError(absl::StrCat("the learned rotations are of model ", r.model_fingerprint,
                                                   ", this is model ", fingerprint, "; learn this model's"));
  }
  const ModelConfig& c = base.graph().config;
  if (!r.values.empty() && static_cast<int64_t>(r.values.size()) != c.num_layers) {
    return absl::InvalidArgumentError(absl::StrCat("learned rotation R2: is of ", r.values.size(),
                                                   " layers; this model has ", c.num_layers));
  }
  for (const NamedRotation& n : ListRotations(r)) {
    const int64_t wanted = n.matrix == r.residual ? c.hidden : c.head_dim;
    SF_RETURN_IF_ERROR(CheckMatrix(n.name, n.matrix, n.order, wanted));
  }
  return absl::OkStatus();
}

}  // namespace spikefold
