// The CUDA backend: buffers in device memory, and the kernels of kernels/ called on one stream.
#pragma once

#include <limits>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "kernels/attention_f32_f32/attention_f32_f32_cuda.h"
#include "kernels/cuda/copy.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/read_rate.h"
#include "kernels/cuda/simt_matmul.h"
#include "kernels/cuda/stream.h"
#include "kernels/quantize_s8r_f32/quantize_s8r_f32_cuda.h"
#include "kernels/runtime/cuda_kv.h"
#include "kernels/runtime/cuda_rounder.h"
#include "kernels/runtime/cuda_state.h"
#include "kernels/runtime/ops.h"

namespace spikefold {

class CudaOps : public Ops {
 public:
  static absl::StatusOr<std::unique_ptr<CudaOps>> Make(ThreadPool* pool);
  const char* name() const override { return "cuda"; }
  std::string device() const override { return device_.name; }

  // cuda_linear.cc
  absl::Status PackF32(const Tensor& w, LinearWeights& out) override;
  absl::Status PackCodes(const CodeMatrix& w, const ActivationFormat& act, LinearWeights& out) override;
  absl::Status Prepare(LinearWeights&) override { return absl::OkStatus(); }
  absl::Status Linears(const Activation& x, absl::Span<const LinearWeights* const> w,
                       absl::Span<Buffer* const> y) override;
  // cuda_head.cc
  absl::Status Head(const LinearWeights& w, const ActivationForm& form, int64_t rows, const float* hidden,
                    float* logits) override;
  absl::Status FindBest(const LinearWeights& w, const ActivationForm& form, int64_t rows,
                        const Buffer& hidden) override;
  absl::Status ReadBest(int64_t rows, Best* best) override;
  absl::Status KeepLogits(LogitsOf of, const LinearWeights& w, const ActivationForm& form, int64_t rows,
                          const float* hidden) override;
  absl::Status CompareLogits(int64_t rows, Ops* other, const int32_t* targets, TargetRow* out) override;

  std::unique_ptr<Buffer> NewBuffer(int64_t width) override;
  std::unique_ptr<Activation> NewActivation(int64_t width) override;
  absl::Status Reserve(Buffer& buffer, int64_t rows) override;
  absl::Status Reserve(Activation& buffer, int64_t rows) override;
  absl::Status ReadFrom(const Buffer& buffer, int64_t first, int64_t rows, float* host) override;
  absl::Status Write(const float* host, int64_t rows, Buffer& buffer) override;

  absl::Status Embed(const LinearWeights& table, const ActivationForm& form, absl::Span<const int32_t> tokens,
                     float scale, Buffer& out) override;
  absl::Status AddNorm(const AddNormArgs& args) override;
  absl::Status HeadNormRope(const HeadNormRopeArgs& args) override;
  absl::Status Attention(const AttentionArgs& args) override;
  absl::Status GatedMul(GateActivation activation, int64_t rows, const Buffer& gate, const Buffer& up,
                        const ActivationForm& form, Activation& out) override;
  absl::Status Reform(Activation& x) override;
  absl::Status SetRows(const float* rows, Activation& x) override;
  int64_t block_rows() const override { return 2048; }
  absl::Status Step(const StepArgs& args, absl::FunctionRef<absl::Status()> walk) override;
  absl::Status ReadCache(KvCache& cache) override;
  absl::StatusOr<std::unique_ptr<CodeProductSum>> NewCodeProductSum(int64_t k) override;

  absl::StatusOr<double> MeasureReadRate() override { return cuda::MeasureReadRate(device_, *stream_); }
  // cuda_time.cc
  absl::StatusOr<Timing> Time(const StepArgs& args, int times,
                              absl::FunctionRef<absl::Status()> walk) override;
  absl::Status SetForm(const ActivationForm& form, int64_t rows, Activation& x) override;
  absl::StatusOr<double> TimePeer(int64_t m, int64_t n, int64_t k) override;
  Limits limits() const override;
  std::vector<std::string> notes() const override;
  OpCounters counters() const override;
  void ResetCounters() override;

 private:
  CudaOps(std::unique_ptr<cuda::Stream> stream, const cuda::DeviceInfo& device, ThreadPool* pool);

  // What is to become of the float rows of a site's input.
  struct Target {
    kernels::hadamard_f32_f32::CudaPlan rotation;  // num_factors 0: none
    const float* shift = nullptr;                  // [k] or null
    bool quantizes = false;
    bool fused = false;  // the kernel that makes the rows can rotate and quantize them as well
    kernels::quantize_s8r_f32::CudaParams quantize;
  };
  absl::StatusOr<Target> TargetOf(int64_t rows, const ActivationForm& form, CudaActivation& out,
                                  bool rotated);
  absl::Status Finish(const Target& target, CudaActivation& out);  // of float rows that are there
  absl::StatusOr<kernels::quantize_s8r_f32::CudaParams> QuantizeParams(CudaActivation& out, int64_t k);
  absl::StatusOr<CudaRows*> RowsOf(const SequenceRows& sequence, int64_t width);
  absl::Status Attend(const AttentionArgs& args, const SequenceRows& sequence);
  // Adds to args.column_mass.
  absl::Status CountMass(const AttentionArgs& args, const kernels::attention_f32_f32::CudaParams& params);
  // cuda_step.cc
  struct StepPlan {
    bool records = false;        // the step reads what is in step_.state alone
    CudaPages* pages = nullptr;  // of the one sequence, if it is in pages
  };
  absl::StatusOr<StepPlan> PrepareStep(const StepArgs& args);
  absl::Status SetStep(const StepArgs& args);
  absl::Status SetSplits(const StepArgs& args);
  absl::Status RunStep(Recordings& recordings, const StepArgs& args, absl::FunctionRef<absl::Status()> walk);
  absl::Status ReserveSplits(int64_t partial_floats, int64_t num_counters);
  absl::Status DecodeAttention(const AttentionArgs& args);
  // Over a cache in pages.
  absl::StatusOr<CudaPages*> PagesOf(const SequenceRows& sequence);
  absl::Status AttendPaged(const AttentionArgs& args, const SequenceRows& sequence);
  absl::Status AttendPages(const AttentionArgs& args, CudaPages& pages, const SequenceRows& part);
  // cuda_time.cc
  absl::StatusOr<Timing> TimeWalks(int times, absl::FunctionRef<absl::Status()> walk);
  // Device to pageable host memory, through two pinned buffers.
  absl::Status ReadOut(const float* device, int64_t count, float* host);

  // cuda_head.cc
  absl::Status ReserveHead(const LinearWeights& w, int64_t rows, cuda::DeviceMemory& logits);
  // Of rows that are in head_x_, or come there.
  absl::Status HeadLogits(const LinearWeights& w, const ActivationForm& form, int64_t rows,
                          const cuda::DeviceMemory& logits);
  absl::Status HeadLogits(const LinearWeights& w, const ActivationForm& form, int64_t rows,
                          const float* hidden, cuda::DeviceMemory& logits);
  // Device to pageable host memory.
  template <typename T>
  absl::Status ReadArray(const cuda::DeviceMemory& memory, int64_t count, T* host);

  // cuda_linear.cc
  absl::StatusOr<const CudaWeights*> Complete(const LinearWeights& w);
  absl::Status FloatLinears(const CudaActivation& x, absl::Span<const LinearWeights* const> w,
                            absl::Span<float* const> y);
  absl::Status Bf16Linears(const cuda::SimtParams& params);
  absl::StatusOr<bool> HasRoom(size_t bytes);  // in row_parts_
  absl::Status TiledLinears(const cuda::SimtParams& params);
  absl::Status RowLinears(const cuda::SimtParams& params);
  // Whether that many rows of x are rounded to f16 where they meet these weights.
  bool TakesF16(const LinearWeights* w, int64_t rows) const;
  absl::Status CodeLinears(const CudaActivation& x, absl::Span<const LinearWeights* const> w,
                           absl::Span<float* const> y);
  // Float rows times codes: all rows, or the spike rows alone.
  absl::Status MixedLinears(const CudaActivation& x, absl::Span<const LinearWeights* const> w,
                            absl::Span<float* const> y, bool spikes_only);
  absl::Status AddSupers(const CudaActivation& x, const LinearWeights& w, float* y);
  absl::Status KindTo(LinearWeights::Kind kind, const CudaActivation& x,
                      absl::Span<const LinearWeights* const> w, absl::Span<float* const> y);
  absl::Status LinearsTo(const CudaActivation& x, absl::Span<const LinearWeights* const> w,
                         absl::Span<float* const> y);

  std::unique_ptr<cuda::Stream> stream_;
  const cuda::DeviceInfo device_;
  ThreadPool* pool_;
  CudaConstants constants_;
  std::unique_ptr<CudaActivation> head_x_;
  size_t best_parts_ = 0;  // of a row, in best_
  cuda::DeviceMemory logits_, best_, tokens_, counters_, row_parts_;
  cuda::DeviceMemory kept_logits_[2];  // by LogitsOf
  int64_t kept_width_ = 0;
  cuda::DeviceMemory targets_, target_rows_;             // of a comparison
  size_t no_room_ = std::numeric_limits<size_t>::max();  // what row_parts_ could not grow to
  cuda::DeviceMemory mass_;                              // of columns, and what making it needs
  cuda::DeviceMemory attention_tiles_;                   // keys and values of one layer in f16
  cuda::PinnedMemory staging_;
  RounderHost rounder_host_;
  const CudaConstants::Rope* rope_ = nullptr;  // of the last rows that were turned
  std::map<std::string, int64_t> notes_;       // a reason: linears

  // cuda_step.cc: one token a sequence at a time.
  struct StepData {
    bool active = false;   // reads `state` alone, and can be recorded
    bool timed = false;    // no room for once, no room for as long as it is
    bool repeats = false;  // the same walk again: the tokens are there
    bool paged = false;
    int64_t splits = 0;
    int64_t room = 0;  // sequences in `state`
    cuda::PinnedMemory host_memory;
    cuda::DeviceMemory memory;
    StepState host, state;                 // in the pinned and in the device memory
    cuda::DeviceMemory partial, finished;  // of the attention
    Recordings recordings;                 // of sequences in float caches
    // Rotary embedding that the attention takes over.
    const CudaConstants::Rope* rope = nullptr;
  } step_;
};

}  // namespace spikefold
