// Ops: what a backend implements so that Forward() can walk a graph on it.
//
// The ops that make a site's input rotate it (ActivationForm::rotation), then give it its form.
//
// The granularity is that of fused kernels: residual add + norm + quantize is one op, the linears of a site
// are one op, rotary embedding of q and k is one op. Values live in buffers that the backend makes; the host
// reads them through Read/Write (or Buffer::host() where memory is shared). Weights, gains and rope tables
// are host objects at fixed addresses for as long as the model lives: a device backend keys its copies by
// address.
//
// Not thread-safe: one Forward at a time. Ops are asynchronous for a device backend; Read synchronises.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "formats/base/thread_pool.h"
#include "formats/model_config.h"
#include "kernels/argmax_s32_f32/argmax_s32_f32.h"
#include "kernels/kld_f64_f32_f32/kld_f64_f32_f32.h"
#include "kernels/runtime/activation.h"
#include "kernels/runtime/code_product_sum.h"
#include "kernels/runtime/kv_cache.h"
#include "kernels/runtime/rope.h"
#include "kernels/runtime/weights.h"

namespace spikefold {

// What the quantizers met since the model was loaded (or since ResetCounters).
struct OpCounters {
  int64_t spike_rows = 0;         // rows computed in float
  int64_t missed_spike_rows = 0;  // rows above the threshold for which there was no room
  int64_t saturated = 0;          // codes clamped under a static scale
};

// residual += branch_norm(branch); out = norm(residual), in `form`.
struct AddNormArgs {
  int64_t rows = 0;
  Buffer* residual = nullptr;                       // [rows, d]
  Buffer* branch = nullptr;                         // [rows, d], overwritten if branch_gain; nullptr: no add
  const std::vector<float>* branch_gain = nullptr;  // [d]; nullptr: the branch is added as it is
  const std::vector<float>* gain = nullptr;         // [d]; nullptr: only the add
  float eps = 0;
  const ActivationForm* form = nullptr;
  Activation* out = nullptr;
};

// Some rows of a call, [begin, begin + rows), that go on from one sequence: row begin + i is at position
// first + i of the cache.
struct SequenceRows {
  KvCache* cache = nullptr;
  int64_t first = 0, begin = 0, rows = 0;
};

// Per-head RMSNorm (where a gain is given), then RoPE of each row at its position, then the rotation that
// queries and keys share (where there is one), in place.
struct HeadNormRopeArgs {
  int64_t rows = 0;
  absl::Span<const SequenceRows> sequences;  // in order, all rows; either one, or of one row each
  int64_t num_heads = 0, num_kv_heads = 0, head_dim = 0;
  Buffer* q = nullptr;                         // [rows, num_heads * head_dim]
  Buffer* k = nullptr;                         // [rows, num_kv_heads * head_dim]
  const std::vector<float>* q_gain = nullptr;  // [head_dim]
  const std::vector<float>* k_gain = nullptr;  // [head_dim]
  float eps = 0;
  const RopeTable* rope = nullptr;        // covers the positions of all rows
  const RowRotation* rotation = nullptr;  // [head_dim]
};

// One token of each sequence, that nobody watches. Time(): or a block of one.
struct StepArgs {
  const ModelConfig* config = nullptr;
  absl::Span<const int32_t> tokens;          // [rows]
  absl::Span<const SequenceRows> sequences;  // of one row each; Time(): or one of all rows
  int64_t rope_positions = 0;                // of the tables, which move when they grow
  bool finds_best = false;                   // the walk ends with FindBest()
};

// Appends each sequence's k and v to its cache, then attends to that cache; the context in `form`.
struct AttentionArgs {
  int64_t rows = 0;
  absl::Span<const SequenceRows> sequences;  // as HeadNormRopeArgs
  int64_t num_heads = 0, num_kv_heads = 0, head_dim = 0;
  float scale = 1;
  int64_t window = 0;            // 0: all positions
  int64_t hidden_position = -1;  // AttentionView
  int layer = 0;
  const Buffer* q = nullptr;      // [rows, num_heads * head_dim]
  const Buffer* k = nullptr;      // [rows, num_kv_heads * head_dim]
  const Buffer* v = nullptr;      // as k
  double* column_mass = nullptr;  // of one sequence: host [num_heads, first + rows] or null; added to
  const ActivationForm* form = nullptr;
  // What multiplies the context: a backend may round no less than it will. Null: it is not known.
  const LinearWeights* reader = nullptr;
  Activation* out = nullptr;
};

// Whose logits a backend keeps.
enum class LogitsOf { kReference, kOther };

class Ops {
 public:
  virtual ~Ops() = default;
  virtual const char* name() const = 0;              // "cpu", "cuda", "float64"
  virtual std::string device() const { return ""; }  // "NVIDIA H200"; empty: the host's processor

  // Weights, packed for this backend's kernels. Each sets kind, n, k, group and packed.
  virtual absl::Status PackF32(const Tensor& w /* [n, k] F32 */, LinearWeights& out) = 0;
  // For the activations that they will multiply. Unimplemented: no kernel for the pair or the group size.
  virtual absl::Status PackCodes(const CodeMatrix& w, const ActivationFormat& act, LinearWeights& out) = 0;
  // Last step of loading a linear, when its bias, kept columns and super weights are in place.
  virtual absl::Status Prepare(LinearWeights& weights) = 0;

  // Memory.
  virtual std::unique_ptr<Buffer> NewBuffer(int64_t width) = 0;
  virtual std::unique_ptr<Activation> NewActivation(int64_t width) = 0;
  virtual absl::Status Reserve(Buffer& buffer, int64_t rows) = 0;  // contents are lost if it grows
  virtual absl::Status Reserve(Activation& buffer, int64_t rows) = 0;
  // Rows from `first` on.
  virtual absl::Status ReadFrom(const Buffer& buffer, int64_t first, int64_t rows, float* host) = 0;
  absl::Status Read(const Buffer& buffer, int64_t rows, float* host) {
    return ReadFrom(buffer, 0, rows, host);
  }
  virtual absl::Status Write(const float* host, int64_t rows, Buffer& buffer) = 0;

  // out[i, :] = scale * table[tokens[i], :]. `form`: the head's, whose kept and super columns complete the
  // rows of a quantized table.
  virtual absl::Status Embed(const LinearWeights& table, const ActivationForm& form,
                             absl::Span<const int32_t> tokens, float scale, Buffer& out) = 0;
  virtual absl::Status AddNorm(const AddNormArgs& args) = 0;
  // y[i] = x * w[i]^T + bias for all linears of a site.
  virtual absl::Status Linears(const Activation& x, absl::Span<const LinearWeights* const> w,
                               absl::Span<Buffer* const> y) = 0;
  virtual absl::Status HeadNormRope(const HeadNormRopeArgs& args) = 0;
  virtual absl::Status Attention(const AttentionArgs& args) = 0;
  virtual absl::Status GatedMul(GateActivation activation, int64_t rows, const Buffer& gate, const Buffer& up,
                                const ActivationForm& form, Activation& out) = 0;
  // Makes the form again after floats() was edited. They are as a tap sees them: rotated already. Not after
  // SetRows().
  virtual absl::Status Reform(Activation& x) = 0;
  // Fills x, whose form and number of rows are set, with rows as a tap saw them. They stay as they are until
  // the linears have read x: a backend of the host's memory need not copy them.
  virtual absl::Status SetRows(const float* rows, Activation& x) = 0;
  // The head on rows in host memory: logits [rows, n] = hidden [rows, k] * w^T.
  virtual absl::Status Head(const LinearWeights& w, const ActivationForm& form, int64_t rows,
                            const float* hidden, float* logits) = 0;

  // The likeliest token behind each row of `hidden`, which holds what the head reads: by the logits of
  // Head(), which need not leave the backend. ReadBest() hands them out; Step() may record FindBest().
  using Best = kernels::argmax_s32_f32::Result;
  virtual absl::Status FindBest(const LinearWeights& w, const ActivationForm& form, int64_t rows,
                                const Buffer& hidden);
  virtual absl::Status ReadBest(int64_t rows, Best* best);

  // Logits of Head() that stay where they are made, one model's beside another's, each until the next ones.
  // Unimplemented: they come to the host.
  virtual absl::Status KeepLogits(LogitsOf of, const LinearWeights& w, const ActivationForm& form,
                                  int64_t rows, const float* hidden);
  // Rows of the reference's logits, kept here, beside those that `other` keeps (it may be this Ops; null: the
  // reference beside itself). targets[i]: a class of row i. Unimplemented: `other` is another backend.
  using TargetRow = kernels::kld_f64_f32_f32::TargetRow;
  virtual absl::Status CompareLogits(int64_t rows, Ops* other, const int32_t* targets, TargetRow* out);

  // Rows that one pass of the walk takes at once: bounds the scratch.
  virtual int64_t block_rows() const { return 512; }  // 28 MiB a buffer of a 14,336-wide FFN
  // Runs `walk`, which calls this Ops as for every other step of as many sequences that finds_best as this
  // one, but for the tokens, the caches and their lengths: a device backend may record the calls and repeat
  // the recording instead. Weights may not be replaced between steps.
  virtual absl::Status Step(const StepArgs&, absl::FunctionRef<absl::Status()> walk) { return walk(); }

  // Makes the cache's host rows current; for a backend that keeps its own.
  virtual absl::Status ReadCache(KvCache&) { return absl::OkStatus(); }

  // For codes of k channels, all 0 at first, to live no longer than this Ops; null: whoever sums does so on
  // the host, to the same bits.
  virtual absl::StatusOr<std::unique_ptr<CodeProductSum>> NewCodeProductSum(int64_t) {
    return std::unique_ptr<CodeProductSum>();
  }

  // Bytes a second that this backend's memory gives at best, measured now; 0: not known. ResourceExhausted:
  // there is no room to measure in.
  virtual absl::StatusOr<double> MeasureReadRate() { return 0.0; }

  // Seconds of one run of `walk`, which calls this Ops as in Step() or for a block of rows: the mean of
  // `times` runs behind one that is not timed. A device backend records them where it can, so that the host
  // has no part in them.
  struct Timing {
    double seconds = 0;
    bool has_host = false;  // a device's: it could not be recorded, and the host's calls are in it
  };
  virtual absl::StatusOr<Timing> Time(const StepArgs& args, int times,
                                      absl::FunctionRef<absl::Status()> walk);
  // Makes x what an op leaves in this form, of whatever values lie there: for linears that are timed without
  // the op that makes their input, after a whole walk. Rows that a backend's host lists for another product
  // (spikes) may be left out.
  virtual absl::Status SetForm(const ActivationForm& form, int64_t rows, Activation& x);
  // Seconds of one product of bf16 rows [m, k] and bf16 weights [n, k] by the vendor's library, weights
  // beyond the caches. Unimplemented: there is none, or none for the shape. ResourceExhausted: no room.
  virtual absl::StatusOr<double> TimePeer(int64_t m, int64_t n, int64_t k);
  // What the arithmetic of the device could do at its highest clock; 0: not known.
  struct Limits {
    double ops = 0, int8_ops = 0;  // a second: of 16-bit floats, of 8-bit integers; 2 a multiplication
    double clock_hz = 0;
    uint64_t cache_bytes = 0;  // weights of no more may stay there when they are read again and again
  };
  virtual Limits limits() const { return {}; }

  // Weights for which there is no kernel of their form on this device, and what runs instead: a line a
  // reason, with the number of linears.
  virtual std::vector<std::string> notes() const { return {}; }

  virtual OpCounters counters() const = 0;
  virtual void ResetCounters() = 0;

  // The walk's scratch: made by Forward on first use, kept between calls so that decoding allocates nothing.
  struct Scratch {
    virtual ~Scratch() = default;
  };
  std::unique_ptr<Scratch> scratch;

 private:
  std::vector<float> best_hidden_, best_logits_;
  std::vector<Best> best_;
};

std::unique_ptr<Ops> MakeCpuOps(ThreadPool* pool);
// The reference: float models, all values and sums in float64 (float64/float64_ops.h).
std::unique_ptr<Ops> MakeFloat64Ops(ThreadPool* pool);
// On the GPU that the driver shows first; `pool` (may be null) helps to copy results. Unimplemented where
// CUDA was not built in, and on a machine without a driver or a GPU.
absl::StatusOr<std::unique_ptr<Ops>> MakeCudaOps(ThreadPool* pool);

}  // namespace spikefold
