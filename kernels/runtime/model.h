// A model in memory, ready to run: graph plus packed weights, float or quantized.
//
//   SF_ASSIGN_OR_RETURN(auto reader, CheckpointReader::Open(path));
//   SF_ASSIGN_OR_RETURN(auto model, LoadModel(*reader, {.pool = &pool}));
//   KvCache cache(model->graph().config, 512, model->prefix(), model->kv());
//   Tensor hidden(DType::kF32, {num_tokens, d});
//   SF_RETURN_IF_ERROR(Forward(*model, tokens, cache, hidden.as<float>(), {}));       // forward.h
//   SF_RETURN_IF_ERROR(Logits(*model, rows of hidden, logits));                        // [rows, vocab]
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "formats/base/progress.h"
#include "formats/base/thread_pool.h"
#include "formats/checkpoint.h"
#include "kernels/runtime/kv_cache.h"
#include "kernels/runtime/weights.h"

namespace spikefold {

class Ops;

class RuntimeModel {
 public:
  virtual ~RuntimeModel() = default;
  virtual const ModelGraph& graph() const = 0;
  virtual Ops& ops() const = 0;
  virtual ThreadPool& pool() const = 0;  // idle between ops: for whoever watches or scores the model
  // Weights of graph().nodes[node], the embedding's table included (a tied head shares it); nullptr for other
  // ops.
  virtual const LinearWeights* linear(int node) const = 0;
  virtual const std::vector<float>& gain(int node) const = 0;  // kNorm, kHeadNorm: offset already added
  virtual const ActivationForm& form(int site) const = 0;      // what the linears of a site ask for
  virtual const RowRotation* qk_rotation() const = 0;  // of queries and keys after RoPE; nullptr: none
  virtual const KvPrefix* prefix() const = 0;          // nullptr: none
  virtual void set_prefix(KvPrefix prefix) = 0;        // empty: none
  // How a sequence of this model keeps its keys and values: what its checkpoint says, float32 otherwise.
  virtual const KvOptions& kv() const = 0;
  virtual absl::Status set_kv(const KvOptions& options) = 0;  // InvalidArgument: CheckKvOptions
  virtual uint64_t weight_bytes() const = 0;                  // in memory
  // Puts other weights (packed and prepared by ops(), bias included) in the place of a linear's; a head that
  // shares the embedding's table no longer does. InvalidArgument: not a linear, or of another shape. Not
  // while a Forward runs.
  virtual absl::Status ReplaceLinear(int node, LinearWeights weights) = 0;
  // Gives its memory back; it cannot run until ReplaceLinear().
  virtual void ReleaseLinear(int node) = 0;
};

enum class Backend { kCpu, kCuda, kFloat64 };

struct LoadOptions {
  ThreadPool* pool = nullptr;  // required; outlives the model
  Backend backend = Backend::kCpu;
  // Run a quantized model in float: weights dequantized, activations rounded to their codes and back. The
  // check on the real kernels.
  bool simulate = false;
  // Float models only: false leaves out all linears and the embedding, linear() being null: whoever runs the
  // model part by part brings them by ReplaceLinear() and takes them away by ReleaseLinear().
  bool linears = true;
  Progress progress;
};
// Float models (any CheckpointKind) and native quantized ones. Tensors are read one at a time; peak memory is
// the packed weights plus one tensor.
absl::StatusOr<std::unique_ptr<RuntimeModel>> LoadModel(const CheckpointReader& reader,
                                                        const LoadOptions& options);

}  // namespace spikefold
