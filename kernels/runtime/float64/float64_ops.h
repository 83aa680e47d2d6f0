// The reference backend: float models with every value between embedding and final norm, and every sum, in
// float64. What crosses Ops' interface is float32: rows for the head, logits, and rows that somebody edits.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/runtime/ops.h"

namespace spikefold {

class Float64Buffer : public Buffer {
 public:
  explicit Float64Buffer(int64_t width) { width_ = width; }
  float* host() override { return nullptr; }
  const float* host() const override { return nullptr; }
  double* data() { return data_.data(); }
  const double* data() const { return data_.data(); }
  void Reserve(int64_t rows) {
    if (rows <= capacity_) return;
    data_.assign(static_cast<size_t>(rows * width_), 0.0);
    capacity_ = rows;
  }

 private:
  std::vector<double> data_;
};

class Float64Activation : public Activation {
 public:
  explicit Float64Activation(int64_t width) : buffer(width) {}
  Buffer& floats() override { return buffer; }
  const Buffer& floats() const override { return buffer; }

  Float64Buffer buffer;  // [rows, k]
};

// Weights stay in float32, [n, k] row-major, and are widened as they are read. Unimplemented: quantized
// models (LoadModel), caches of codes, watched or hidden positions.
class Float64Ops : public Ops {
 public:
  explicit Float64Ops(ThreadPool* pool) : pool_(*pool) {}
  const char* name() const override { return "float64"; }

  absl::Status PackF32(const Tensor& w, LinearWeights& out) override;
  absl::Status PackCodes(const CodeMatrix& w, const ActivationFormat& act, LinearWeights& out) override;
  absl::Status Prepare(LinearWeights&) override { return absl::OkStatus(); }

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
  absl::Status Reform(Activation&) override { return absl::OkStatus(); }
  absl::Status SetRows(const float* rows, Activation& x) override;
  absl::Status Head(const LinearWeights& w, const ActivationForm& form, int64_t rows, const float* hidden,
                    float* logits) override;
  absl::Status ReadCache(KvCache& cache) override;

  OpCounters counters() const override { return {}; }
  void ResetCounters() override {}

 private:
  void Attend(const AttentionArgs& args, const SequenceRows& sequence);
  // Rotates and shifts the rows that an op has left in `out`.
  void Finish(int64_t rows, const ActivationForm& form, Float64Activation& out);
  // y [rows, n] = x [rows, k] * w^T + bias
  void Linear(const double* x, int64_t rows, const LinearWeights& w, double* y);

  ThreadPool& pool_;
};

}  // namespace spikefold
