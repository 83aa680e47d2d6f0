// The model as data: a list of nodes over named values. The runtime walks it, calib names its taps by it, and
// quant derives from it which linears share an input, which norm feeds them and which folds are legal. Nobody
// looks at tensor names to decide.
//
// One layer of a Llama-type model (values in quotes are ValueKind names):
//
//   kResidual -kNorm-> kAttnIn -kLinear x3-> kQ kK kV -kRope-> kQ kK -kAttention-> kCtx -kLinear-> kAttnOut
//   -kAdd-> kResidual kResidual -kNorm-> kFfnIn -kLinear x2-> kGate kUp -kGatedMul-> kDownIn -kLinear->
//   kFfnOut -kAdd-> kResidual
//
// QK-norm inserts kHeadNorm before kRope; sandwich norm inserts kNorm (kAttnOut -> kAttnOut) before kAdd.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "formats/model_config.h"
#include "formats/rotation.h"

namespace spikefold {

enum class Op : uint8_t { kEmbed, kNorm, kLinear, kHeadNorm, kRope, kAttention, kGatedMul, kAdd };

enum class ValueKind : uint8_t {
  kTokens,
  kResidual,
  kAttnIn,
  kQ,
  kK,
  kV,
  kCtx,
  kAttnOut,
  kFfnIn,
  kGate,
  kUp,
  kDownIn,
  kFfnOut,
  kFinal,
  kLogits
};
absl::string_view ValueKindName(ValueKind kind);  // "residual", "attn_in", ...

// The part a weight plays. Quantization decisions are made by role and layer, never by name.
enum class Role : uint8_t {
  kEmbedding,
  kHead,
  kAttnNorm,
  kFfnNorm,
  kPostAttnNorm,
  kPostFfnNorm,
  kFinalNorm,
  kQNorm,
  kKNorm,
  kQProj,
  kKProj,
  kVProj,
  kOProj,
  kGateProj,
  kUpProj,
  kDownProj
};
absl::string_view RoleName(Role role);  // "q_proj", "attn_norm", ...
bool IsLinearRole(Role role);           // the seven projections and the head

struct Node {
  Op op;
  Role role = Role::kEmbedding;  // of ops with a weight (kEmbed, kNorm, kLinear, kHeadNorm)
  int layer = -1;                // -1: outside the blocks
  std::string module;     // HF module path, e.g. "model.layers.3.mlp.down_proj"; weight = module + ".weight"
  bool has_bias = false;  // bias = module + ".bias"
  ValueKind in0 = ValueKind::kResidual, in1 = ValueKind::kResidual;  // in1: kAdd's branch, kGatedMul's up
  ValueKind out = ValueKind::kResidual;
  int64_t n = 0, k = 0;  // kLinear: weight [n, k]. kNorm, kHeadNorm: k = width of the gain. kEmbed: [n, k]
};

// Linears that read the same activation and so share its quantization and its kept columns:
// {q,k,v}, {o}, {gate,up}, {down} of a layer, and {head}.
struct Site {
  int id = 0;  // index in ModelGraph::sites; order of execution
  int layer = -1;
  ValueKind value;           // kAttnIn, kCtx, kFfnIn, kDownIn, kFinal
  int64_t k = 0;             // width
  std::vector<int> linears;  // indices into ModelGraph::nodes
  std::string name;          // "layers.3.down_in", "final"
  int rotation = -1;         // index into ModelGraph::rotations: the linears read rotated rows; -1: none
  std::vector<float>
      shift;  // [k] taken off those rows, its product with the weights being in the biases; or empty
};

struct ModelGraph {
  ModelConfig config;
  std::vector<Node> nodes;  // order of execution
  std::vector<Site> sites;
  // What weights were rotated by; BuildGraph() makes none. Queries and keys are turned by
  // rotations[qk_rotation].
  std::vector<Rotation> rotations;
  int qk_rotation = -1;
  // Index of the site whose linears include node `node`, or -1.
  int SiteOf(int node) const;
  // Index of the node with this module path, or -1.
  int FindModule(absl::string_view module) const;
  // Every tensor the model needs, as HF names, in execution order. Head omitted when tied: its node is
  // there all the same (module "lm_head") and its weight is model.embed_tokens.weight.
  struct TensorSpec {
    std::string name;
    std::vector<int64_t> shape;
    int node = -1;
  };
  std::vector<TensorSpec> Tensors() const;
};

// Builds the graph of a config of any family. DataLoss if sizes contradict each other (heads
// not dividing, 0 layers, more than 1024 layers ...). Names follow HF for all supported families.
absl::StatusOr<ModelGraph> BuildGraph(const ModelConfig& config);
// Appends a rotation and, if it is online, marks the sites (or queries and keys) that it turns.
// InvalidArgument: CheckRotation(), another width than the model's, a layer that is not there, or a second
// rotation of that name or place.
absl::Status AddRotation(Rotation rotation, ModelGraph* graph);

}  // namespace spikefold
