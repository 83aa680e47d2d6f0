// The CPU backend: host buffers, and the kernels of kernels/ called with them.
#pragma once

#include <vector>

#include "kernels/runtime/ops.h"

namespace spikefold {

// Grow-only scratch: decoding reuses what prefill made.
template <typename T>
class Scratchpad {
 public:
  T* Get(int64_t elements) {
    if (static_cast<int64_t>(data_.size()) < elements) data_.resize(static_cast<size_t>(elements));
    return data_.data();
  }
  T* data() { return data_.data(); }
  const T* data() const { return data_.data(); }

 private:
  std::vector<T> data_;
};

class CpuBuffer : public Buffer {
 public:
  explicit CpuBuffer(int64_t width) { width_ = width; }
  float* host() override { return static_cast<float*>(data_.data()); }
  const float* host() const override { return static_cast<const float*>(data_.data()); }
  void Reserve(int64_t rows) {
    if (rows <= capacity_) return;
    data_ = Tensor();
    data_ = Tensor(DType::kF32, {rows, width_});
    capacity_ = rows;
  }

 private:
  Tensor data_;
};

class CpuActivation : public Activation {
 public:
  explicit CpuActivation(int64_t width) : buffer(width) {}
  Buffer& floats() override { return buffer; }
  const Buffer& floats() const override { return buffer; }

  CpuBuffer buffer;               // [rows, k]
  const float* source = nullptr;  // [rows, k] the float rows: the buffer's, or those of SetRows()
  // What the linears read in a float form: the float rows, or those rounded to codes and back (simulate).
  const float* values = nullptr;  // [rows, k]
  Scratchpad<float> simulated;
  Scratchpad<int8_t> codes;   // [rows, k]
  Scratchpad<float> scale;    // [rows], or [rows, k/group]
  Scratchpad<int32_t> zero;   // [rows], of asymmetric 8-bit codes
  Scratchpad<float> kept_x;   // [rows, num kept]
  Scratchpad<float> super_x;  // [rows, num super]
  Scratchpad<int32_t> spike_rows;
  int64_t num_spike_rows = 0;
};

class CpuOps : public Ops {
 public:
  explicit CpuOps(ThreadPool* pool) : pool_(*pool), host_x_(0) {}
  const char* name() const override { return "cpu"; }

  // cpu_pack.cc
  absl::Status PackF32(const Tensor& w, LinearWeights& out) override;
  absl::Status PackCodes(const CodeMatrix& w, const ActivationFormat& act, LinearWeights& out) override;
  absl::Status Prepare(LinearWeights& weights) override;

  std::unique_ptr<Buffer> NewBuffer(int64_t width) override;
  std::unique_ptr<Activation> NewActivation(int64_t width) override;
  absl::Status Reserve(Buffer& buffer, int64_t rows) override;
  absl::Status Reserve(Activation& buffer, int64_t rows) override;
  absl::Status ReadFrom(const Buffer& buffer, int64_t first, int64_t rows, float* host) override;
  absl::Status Write(const float* host, int64_t rows, Buffer& buffer) override;

  absl::Status Embed(const LinearWeights& table, const ActivationForm& form, absl::Span<const int32_t> tokens,
                     float scale, Buffer& out) override;
  absl::Status AddNorm(const AddNormArgs& args) override;
  absl::Status Linears(const Activation& x, absl::Span<const LinearWeights* const> w,
                       absl::Span<Buffer* const> y) override;
  absl::Status HeadNormRope(const HeadNormRopeArgs& args) override;
  absl::Status Attention(const AttentionArgs& args) override;
  absl::Status GatedMul(GateActivation activation, int64_t rows, const Buffer& gate, const Buffer& up,
                        const ActivationForm& form, Activation& out) override;
  absl::Status Reform(Activation& x) override;
  absl::Status SetRows(const float* rows, Activation& x) override;
  absl::Status SetForm(const ActivationForm& form, int64_t rows, Activation& x) override;
  absl::Status Head(const LinearWeights& w, const ActivationForm& form, int64_t rows, const float* hidden,
                    float* logits) override;

  absl::StatusOr<double> MeasureReadRate() override;
  OpCounters counters() const override { return counters_; }
  void ResetCounters() override { counters_ = {}; }

 private:
  // cpu_form.cc. Rotates and shifts float rows `x` in place if the form says so.
  absl::Status Turn(float* x, int64_t rows, const ActivationForm& form);
  // Float rows `x`, rotated and shifted -> the form's codes, kept columns, ...
  absl::Status Form(const float* x, int64_t rows, int64_t k, const ActivationForm& form, CpuActivation& out);
  absl::Status TurnAndForm(float* x, int64_t rows, int64_t k, const ActivationForm& form, CpuActivation& out);
  // Rows from `row` on, which are those from `first` on of the cache's sequence.
  absl::Status Attend(const AttentionArgs& args, const SequenceRows& sequence);
  absl::Status Quantize(const float* x, CpuActivation& out, int64_t k);
  void Simulate(const float* x, CpuActivation& out, int64_t k);
  void GatherColumns(const float* x, CpuActivation& out, int64_t k);

  // cpu_linear.cc
  absl::Status Linear(const CpuActivation& x, const float* floats, const LinearWeights& w, float* y);
  absl::Status FloatLinear(const CpuActivation& x, const float* floats, const LinearWeights& w, float* y);
  absl::Status FloatGroup(const CpuActivation& x, absl::Span<const LinearWeights* const> w,
                          absl::Span<Buffer* const> y);
  absl::Status CodeLinear(const CpuActivation& x, const LinearWeights& w, float* y);
  // Rows `x` in float against weights of any kind.
  absl::Status MixedLinear(const float* x, int64_t rows, const float* kept_x, const float* super_x,
                           const ActivationForm& form, const LinearWeights& w, float* y);
  absl::Status SpikeRows(const CpuActivation& x, const float* floats, const LinearWeights& w, float* y);

  ThreadPool& pool_;
  CpuActivation host_x_;  // Head's input
  Scratchpad<float> spike_x_, spike_kept_, spike_super_, spike_y_;
  OpCounters counters_;
};

}  // namespace spikefold
