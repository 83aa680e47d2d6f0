// R1 and R2 that were learnt instead of drawn (quant/refine/learn_rotations.h): dense orthogonal matrices,
// one for the residual stream and one a layer for the values of its heads. Folds use them in place of their
// Hadamard matrices; nothing else of a fold changes.
//
// On disk: safetensors, float64, so that whatever reads those can read it: "R1" [hidden, hidden] and
// "layers.N.R2" [head_dim, head_dim]. The metadata say kind, format version, the model's fingerprint, how
// they were learnt, and the SHA-256 of the matrices, which plans and checkpoints name. (Not in a zstd frame
// as scan.spike is: such matrices do not compress.)
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "formats/base/json.h"
#include "formats/base/thread_pool.h"
#include "formats/checkpoint.h"

namespace spikefold {

// How far Q Q^T may be from the identity, entry by entry.
inline constexpr double kOrthogonal = 1e-10;

using DenseMatrix = std::shared_ptr<const std::vector<double>>;  // square, row-major: v <- v * M

struct LearnedRotations {
  int64_t hidden = 0, head_dim = 0;
  DenseMatrix residual;             // [hidden, hidden]; null: none
  std::vector<DenseMatrix> values;  // by layer, [head_dim, head_dim]; empty: none
  std::string model_fingerprint;    // of the float model, not folded
  std::string sha256;               // of the matrices: SealRotations()
  Json record;                      // how they were learnt; for people
  bool any() const { return residual != nullptr || !values.empty(); }
};

// The dense form of what the folds draw from this seed: where learning starts.
LearnedRotations DrawnRotations(const ModelGraph& graph, bool r1, bool r2, uint64_t seed);
// M <- M * q, brought back to the nearest orthogonal matrix. `q` is nearly orthogonal.
DenseMatrix Turned(const DenseMatrix& m, const std::vector<double>& q, int64_t order);
DenseMatrix Multiplied(const DenseMatrix& a, const DenseMatrix& b, int64_t order, ThreadPool* pool);
// The largest entry of |M M^T - 1|; infinite where M is not finite.
double OrthogonalityError(const std::vector<double>& m, int64_t order, ThreadPool* pool = nullptr);
struct NamedRotation {
  std::string name;  // "R1", "layers.3.R2"
  DenseMatrix matrix;
  int64_t order;
};
std::vector<NamedRotation> ListRotations(const LearnedRotations& rotations);
std::string RotationTensorName(int64_t layer);  // of R2
// Sets sha256.
void SealRotations(LearnedRotations& rotations);

// That they are this model's, of its sizes and orthogonal. InvalidArgument, naming the rotation.
absl::Status CheckLearnedRotations(const LearnedRotations& rotations, const CheckpointReader& base,
                                   ThreadPool* pool);

absl::Status SaveRotations(const LearnedRotations& rotations, const std::string& path);
// DataLoss: not such a file, or damaged. Unimplemented: another format version.
absl::StatusOr<LearnedRotations> LoadRotations(const std::string& path);

}  // namespace spikefold
