#include "quant/folds/learned_rotations.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/strings/str_cat.h"
#include "formats/base/status.h"
#include "quant/folds/fold_builder.h"

namespace spikefold {
namespace {

constexpr int kPolarSteps = 4;

constexpr int64_t kRows = 64;  // of a block that one thread takes

void ForBlocks(int64_t order, ThreadPool* pool, absl::FunctionRef<void(int64_t first, int64_t count)> body) {
  const auto run = [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      body(block * kRows, std::min(kRows, order - block * kRows));
    }
  };
  const int64_t num_blocks = (order + kRows - 1) / kRows;
  pool == nullptr ? run(0, num_blocks) : pool->ParallelFor(num_blocks, 1, run);
}

std::vector<double> Product(std::vector<double> a, DenseMatrix b, int64_t order, ThreadPool* pool) {
  const Transform times = Transform::Dense(std::move(b), order);
  ForBlocks(order, pool,
            [&](int64_t first, int64_t count) { times.ApplyRows(a.data() + first * order, count, order); });
  return a;
}
DenseMatrix Shared(std::vector<double> m) {
  return std::make_shared<const std::vector<double>>(std::move(m));
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
  return Shared(std::move(m));
}

absl::Status CheckMatrix(const std::string& name, const DenseMatrix& m, int64_t order, int64_t wanted,
                         ThreadPool* pool) {
  const std::string where = absl::StrCat("learned rotation ", name);
  if (order != wanted || m == nullptr || static_cast<int64_t>(m->size()) != wanted * wanted) {
    return absl::InvalidArgumentError(
        absl::StrCat(where, ": is of width ", order, "; this model needs ", wanted));
  }
  const double error = OrthogonalityError(*m, order, pool);
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
  std::vector<double> x = Product(*m, Shared(q), order, nullptr);
  for (int step = 0; step < kPolarSteps; ++step) {
    std::vector<double> correction = Product(Transposed(x, order), Shared(x), order, nullptr);
    for (double& c : correction) c *= -0.5;
    for (int64_t i = 0; i < order; ++i) correction[static_cast<size_t>(i * order + i)] += 1.5;
    x = Product(std::move(x), Shared(std::move(correction)), order, nullptr);
  }
  return Shared(std::move(x));
}

DenseMatrix Multiplied(const DenseMatrix& a, const DenseMatrix& b, int64_t order, ThreadPool* pool) {
  return Shared(Product(*a, b, order, pool));
}

double OrthogonalityError(const std::vector<double>& m, int64_t order, ThreadPool* pool) {
  const Transform transposed = Transform::Dense(Shared(Transposed(m, order)), order);
  std::vector<double> worst(static_cast<size_t>((order + kRows - 1) / kRows));
  ForBlocks(order, pool, [&](int64_t first, int64_t count) {
    std::vector<double> rows(m.begin() + first * order, m.begin() + (first + count) * order);
    transposed.ApplyRows(rows.data(), count, order);
    for (int64_t i = 0; i < count; ++i) rows[static_cast<size_t>(i * order + first + i)] -= 1;
    double most = 0;
    for (const double error : rows) {
      if (!(std::fabs(error) <= most)) most = std::fabs(error);
      if (!std::isfinite(most)) break;
    }
    worst[static_cast<size_t>(first / kRows)] =
        std::isfinite(most) ? most : std::numeric_limits<double>::infinity();
  });
  return *std::max_element(worst.begin(), worst.end());
}

absl::Status CheckLearnedRotations(const LearnedRotations& r, const CheckpointReader& base,
                                   ThreadPool* pool) {
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
    SF_RETURN_IF_ERROR(CheckMatrix(n.name, n.matrix, n.order, wanted, pool));
  }
  return absl::OkStatus();
}

}  // namespace spikefold
