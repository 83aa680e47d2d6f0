#include "kernels/runtime/cuda_ops.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "formats/base/status.h"
#include "kernels/attention_f32_f32/attention_f32_f32_cuda.h"
#include "kernels/embed_f32/embed_f32_cuda.h"
#include "kernels/gatedmul_f32_f32/gatedmul_f32_f32_cuda.h"
#include "kernels/gatedmulquant_s8r_f32/gatedmulquant_s8r_f32_cuda.h"
#include "kernels/hadamardquant_s8r_f32/hadamardquant_s8r_f32_cuda.h"
#include "kernels/matmul_f32_s8r_s8c/matmul_f32_s8r_s8c_cuda.h"
#include "kernels/norm_f32_f32/norm_f32_f32_cuda.h"
#include "kernels/normquant_s8r_f32/normquant_s8r_f32_cuda.h"
#include "kernels/rope_f32_f32/rope_f32_f32_cuda.h"
#include "kernels/runtime/cuda_options.h"

namespace spikefold {
namespace {

namespace quantize = kernels::quantize_s8r_f32;
constexpr int64_t kSpikeRowsPer = 512;  // ActivationForm::max_spike_rows counts per so many rows

CudaActivation& Cuda(Activation& x) { return static_cast<CudaActivation&>(x); }
CudaBuffer& Cuda(Buffer& x) { return static_cast<CudaBuffer&>(x); }
const CudaBuffer& Cuda(const Buffer& x) { return static_cast<const CudaBuffer&>(x); }

}  // namespace

absl::StatusOr<std::unique_ptr<Ops>> MakeCudaOps(ThreadPool* pool) { return CudaOps::Make(pool); }

absl::StatusOr<std::unique_ptr<CudaOps>> CudaOps::Make(ThreadPool* pool) {
  SF_ASSIGN_OR_RETURN(const cuda::DeviceInfo device, cuda::QueryDevice());
  SF_ASSIGN_OR_RETURN(auto stream, cuda::Stream::Make());
  auto ops = std::unique_ptr<CudaOps>(new CudaOps(std::move(stream), device, pool));
  SF_RETURN_IF_ERROR(ops->counters_.Reserve(sizeof(quantize::CudaCounters)));
  SF_RETURN_IF_ERROR(cuda::Fill(ops->counters_.as<void>(), 0, sizeof(quantize::CudaCounters), *ops->stream_));
  return ops;
}

CudaOps::CudaOps(std::unique_ptr<cuda::Stream> stream, const cuda::DeviceInfo& device, ThreadPool* pool)
    : stream_(std::move(stream)), device_(device), pool_(pool), constants_(*stream_) {}

std::unique_ptr<Buffer> CudaOps::NewBuffer(int64_t width) { return std::make_unique<CudaBuffer>(width); }
std::unique_ptr<Activation> CudaOps::NewActivation(int64_t width) {
  return std::make_unique<CudaActivation>(width);
}
absl::Status CudaOps::Reserve(Buffer& buffer, int64_t rows) { return Cuda(buffer).Reserve(rows); }
absl::Status CudaOps::Reserve(Activation& buffer, int64_t rows) { return Cuda(buffer).buffer.Reserve(rows); }

absl::Status CudaOps::ReadFrom(const Buffer& buffer, int64_t first, int64_t rows, float* host) {
  return ReadOut(Cuda(buffer).data() + first * buffer.width(), rows * buffer.width(), host);
}

absl::Status CudaOps::Write(const float* host, int64_t rows, Buffer& buffer) {
  const size_t bytes = static_cast<size_t>(rows * buffer.width()) * sizeof(float);
  return cuda::CopyIn(Cuda(buffer).data(), host, bytes, *stream_);
}

absl::Status CudaOps::ReadOut(const float* device, int64_t count, float* host) {
  constexpr int64_t kPart = int64_t{1} << 21;  // floats: 8 MiB
  SF_RETURN_IF_ERROR(staging_.Reserve(static_cast<size_t>(std::min(2 * kPart, count)) * sizeof(float)));
  float* halves[2] = {staging_.as<float>(), staging_.as<float>() + std::min(kPart, count)};
  const auto part = [&](int64_t at) { return std::min(kPart, count - at); };
  const auto take = [&](int64_t at) {  // part `at` has arrived
    const float* from = halves[at / kPart % 2];
    const auto copy = [&](int64_t begin, int64_t end) {
      std::memcpy(host + at + begin, from + begin, static_cast<size_t>(end - begin) * sizeof(float));
    };
    constexpr int64_t kGrain = 64 << 10;
    if (pool_ != nullptr && part(at) > kGrain) {
      pool_->ParallelFor(part(at), kGrain, copy);
    } else {
      copy(0, part(at));
    }
  };
  for (int64_t at = 0; at < count; at += kPart) {
    if (at > 0) SF_RETURN_IF_ERROR(stream_->Sync());  // the part before
    SF_RETURN_IF_ERROR(cuda::CopyOut(halves[at / kPart % 2], device + at,
                                     static_cast<size_t>(part(at)) * sizeof(float), *stream_));
    if (at > 0) take(at - kPart);
  }
  SF_RETURN_IF_ERROR(stream_->Sync());
  if (count > 0) take((count - 1) / kPart * kPart);
  return absl::OkStatus();
}

absl::Status CudaOps::Embed(const LinearWeights& table, const ActivationForm& form,
                            absl::Span<const int32_t> tokens, float scale, Buffer& out) {
  if (table.kind == LinearWeights::Kind::kGroups) {
    return absl::UnimplementedError(
        "backend \"cuda\": no kernel for an embedding in groups; quantize with --head-bits 8, or use "
        "--backend cpu");
  }
  SF_ASSIGN_OR_RETURN(const CudaWeights* w, Complete(table));
  SF_ASSIGN_OR_RETURN(const CudaConstants::Form* columns, constants_.Columns(form, table.k));
  if (!step_.active && !step_.repeats) {
    SF_RETURN_IF_ERROR(tokens_.Reserve(tokens.size() * sizeof(int32_t)));
    SF_RETURN_IF_ERROR(
        cuda::CopyIn(tokens_.as<int32_t>(), tokens.data(), tokens.size() * sizeof(int32_t), *stream_));
  }
  const bool codes = table.kind == LinearWeights::Kind::kS8c;
  return kernels::embed_f32::RunCuda(
      {.m = static_cast<int64_t>(tokens.size()),
       .k = table.k,
       .tokens = step_.active ? step_.state.tokens : tokens_.as<int32_t>(),
       .scale = scale,
       .table = codes || w->bf16 ? nullptr : w->w.as<float>(),
       .bf16_table = w->bf16 ? w->w.as<uint16_t>() : nullptr,
       .codes = codes ? w->w.as<int8_t>() : nullptr,
       .code_stride = kernels::matmul_f32_s8r_s8c::RowBytes(table.k),
       .code_scale = w->scale.as<float>(),
       .num_kept = table.kept_weight.empty() ? 0 : static_cast<int64_t>(form.kept.size()),
       .kept_stride = table.n,
       .kept = columns->device_kept.as<int32_t>(),
       .kept_w = w->kept.as<uint16_t>(),
       .num_super = static_cast<int64_t>(table.super_row.size()),
       .super_column = columns->device_super.as<int32_t>(),
       .super_slot = w->super_slot.as<int32_t>(),
       .super_row = w->super_row.as<int32_t>(),
       .super_value = w->super_value.as<float>(),
       .y = Cuda(out).data()},
      *stream_);
}

absl::Status CudaOps::AddNorm(const AddNormArgs& a) {
  const float *branch_gain = nullptr, *gain = nullptr;
  if (a.branch_gain != nullptr) {
    SF_ASSIGN_OR_RETURN(branch_gain, constants_.Vector(*a.branch_gain));
  }
  if (a.gain != nullptr) {
    SF_ASSIGN_OR_RETURN(gain, constants_.Vector(*a.gain));
  }
  kernels::norm_f32_f32::CudaParams norm = {.m = a.rows,
                                            .k = a.residual->width(),
                                            .residual = Cuda(*a.residual).data(),
                                            .branch = a.branch == nullptr ? nullptr : Cuda(*a.branch).data(),
                                            .branch_gain = branch_gain,
                                            .gain = gain,
                                            .eps = a.eps,
                                            .y = a.gain == nullptr ? nullptr : Cuda(*a.out).buffer.data()};
  if (a.gain == nullptr) return kernels::norm_f32_f32::RunCuda(norm, *stream_);
  SF_ASSIGN_OR_RETURN(const Target target, TargetOf(a.rows, *a.form, Cuda(*a.out), false));
  if (target.fused) {
    if (!a.out->keep_floats) norm.y = nullptr;
    return kernels::normquant_s8r_f32::RunCuda(
        {.norm = norm, .rotation = target.rotation, .shift = target.shift, .quantize = target.quantize},
        *stream_);
  }
  SF_RETURN_IF_ERROR(kernels::norm_f32_f32::RunCuda(norm, *stream_));
  return Finish(target, Cuda(*a.out));
}

absl::Status CudaOps::HeadNormRope(const HeadNormRopeArgs& a) {
  const float *q_gain = nullptr, *k_gain = nullptr;
  if (a.q_gain != nullptr) {
    SF_ASSIGN_OR_RETURN(q_gain, constants_.Vector(*a.q_gain));
  }
  if (a.k_gain != nullptr) {
    SF_ASSIGN_OR_RETURN(k_gain, constants_.Vector(*a.k_gain));
  }
  SF_ASSIGN_OR_RETURN(const CudaConstants::Rope* rope, constants_.Tables(*a.rope, a.head_dim));
  rope_ = rope;
  if (step_.active && !step_.paged && q_gain == nullptr && k_gain == nullptr && a.rotation == nullptr) {
    step_.rope = rope;
    return absl::OkStatus();
  }
  // A step's positions lie on the device.
  const bool steps = step_.active || a.sequences.size() > 1;
  const int64_t left_out = steps ? 0 : a.sequences.front().first * (a.head_dim / 2);
  kernels::rope_f32_f32::CudaParams params = {
      .m = a.rows,
      .head_dim = a.head_dim,
      .q = {.num_heads = a.num_heads, .x = Cuda(*a.q).data(), .gain = q_gain},
      .k = {.num_heads = a.num_kv_heads, .x = Cuda(*a.k).data(), .gain = k_gain},
      .eps = a.eps,
      .cos = rope->cos.as<float>() + left_out,
      .sin = rope->sin.as<float>() + left_out,
      .positions = steps ? step_.state.positions : nullptr};
  if (a.rotation != nullptr) {
    SF_ASSIGN_OR_RETURN(const auto* plan, constants_.Rotation(*a.rotation));
    params.rotation = *plan;
  }
  return kernels::rope_f32_f32::RunCuda(params, *stream_);
}

// The cache's rows in device memory, `width` values each, with what the host has before the sequence's next
// row (the prefix) at the beginning.
absl::StatusOr<CudaRows*> CudaOps::RowsOf(const SequenceRows& sequence, int64_t width) {
  KvCache& cache = *sequence.cache;
  if (cache.device() != nullptr) return static_cast<CudaRows*>(cache.device());
  auto rows = std::make_unique<CudaRows>();
  rows->layer_floats = cache.capacity() * width;
  const size_t bytes = static_cast<size_t>(cache.num_layers() * rows->layer_floats) * sizeof(float);
  const int64_t allocations = cuda::NumAllocations();
  SF_RETURN_IF_ERROR(rows->k.Reserve(bytes));
  SF_RETURN_IF_ERROR(rows->v.Reserve(bytes));
  // Recordings find a cache through StepState: a new one leaves them valid.
  int64_t& valid_at = step_.recordings.valid_at.first;
  if (valid_at == allocations) valid_at = cuda::NumAllocations();
  const size_t filled = static_cast<size_t>(sequence.first * width) * sizeof(float);
  for (int layer = 0; layer < cache.num_layers(); ++layer) {
    const int64_t at = layer * rows->layer_floats;
    SF_RETURN_IF_ERROR(cuda::CopyIn(rows->k.as<float>() + at, cache.k(layer), filled, *stream_));
    SF_RETURN_IF_ERROR(cuda::CopyIn(rows->v.as<float>() + at, cache.v(layer), filled, *stream_));
  }
  cache.set_device(std::move(rows));
  return static_cast<CudaRows*>(cache.device());
}

absl::Status CudaOps::Attention(const AttentionArgs& a) {
  if (a.hidden_position >= 0) {
    return absl::UnimplementedError("backend \"cuda\": no position can be hidden; use --backend cpu");
  }
  if (step_.active && !step_.paged) {
    SF_RETURN_IF_ERROR(DecodeAttention(a));
  } else {
    for (const SequenceRows& sequence : a.sequences) SF_RETURN_IF_ERROR(Attend(a, sequence));
  }
  SF_ASSIGN_OR_RETURN(const Target target, TargetOf(a.rows, *a.form, Cuda(*a.out), false));
  return Finish(target, Cuda(*a.out));
}

absl::Status CudaOps::Attend(const AttentionArgs& a, const SequenceRows& s) {
  if (s.cache->pages() != nullptr) {
    if (a.column_mass == nullptr) return AttendPaged(a, s);
    return absl::UnimplementedError(
        "backend \"cuda\": the mass that each position receives is counted in a float cache only");
  }
  const int64_t width = a.num_kv_heads * a.head_dim, q_width = a.num_heads * a.head_dim;
  SF_ASSIGN_OR_RETURN(CudaRows * rows, RowsOf(s, width));
  float* k = rows->k.as<float>() + a.layer * rows->layer_floats;
  float* v = rows->v.as<float>() + a.layer * rows->layer_floats;
  SF_RETURN_IF_ERROR(cuda::CopyTwo({.to = k + s.first * width, .from = Cuda(*a.k).data() + s.begin * width},
                                   {.to = v + s.first * width, .from = Cuda(*a.v).data() + s.begin * width},
                                   s.rows * width, *stream_));
  namespace attention = kernels::attention_f32_f32;
  const attention::CudaParams params = {.m = s.rows,
                                        .num_heads = a.num_heads,
                                        .num_kv_heads = a.num_kv_heads,
                                        .head_dim = a.head_dim,
                                        .q = Cuda(*a.q).data() + s.begin * q_width,
                                        .k = k,
                                        .v = v,
                                        .first = s.first,
                                        .scale = a.scale,
                                        .window = a.window,
                                        .o = Cuda(*a.out).buffer.data() + s.begin * q_width};
  if (a.column_mass != nullptr) SF_RETURN_IF_ERROR(CountMass(a, params));
  // Codes round a context more coarsely than f16 does; some weights take it as f16.
  const bool rounds = cuda_rounds_rows || !a.form->format.is_float() || TakesF16(a.reader, a.rows);
  if (rounds && s.rows >= attention::kF16Rows && attention::SupportsF16(params, device_)) {
    SF_RETURN_IF_ERROR(attention_tiles_.Reserve(
        static_cast<size_t>(attention::F16Bytes(rows->layer_floats / width, a.num_kv_heads, a.head_dim))));
    return attention::RunF16(params, attention_tiles_.as<void>(), *stream_);
  }
  return attention::RunCuda(params, *stream_);
}

absl::Status CudaOps::CountMass(const AttentionArgs& a,
                                const kernels::attention_f32_f32::CudaParams& params) {
  namespace attention = kernels::attention_f32_f32;
  std::vector<double> mass(static_cast<size_t>(params.num_heads * (params.first + params.m)));
  const size_t bytes = mass.size() * sizeof(double);  // the state behind them is of 8 bytes a row and head
  SF_RETURN_IF_ERROR(mass_.Reserve(bytes + static_cast<size_t>(attention::MassStateBytes(params))));
  SF_RETURN_IF_ERROR(attention::RunMass(params, mass_.as<char>() + bytes, mass_.as<double>(), *stream_));
  SF_RETURN_IF_ERROR(cuda::CopyOut(mass.data(), mass_.as<double>(), bytes, *stream_));
  SF_RETURN_IF_ERROR(stream_->Sync());
  for (size_t i = 0; i < mass.size(); ++i) a.column_mass[i] += mass[i];
  return absl::OkStatus();
}

absl::Status CudaOps::ReadCache(KvCache& cache) {
  if (cache.device() == nullptr || cache.pages() != nullptr) return absl::OkStatus();
  const auto& rows = static_cast<const CudaRows&>(*cache.device());
  const size_t bytes =
      static_cast<size_t>(rows.layer_floats / std::max<int64_t>(cache.capacity(), 1) * cache.length()) *
      sizeof(float);
  for (int layer = 0; layer < cache.num_layers(); ++layer) {
    const int64_t at = layer * rows.layer_floats;
    SF_RETURN_IF_ERROR(cuda::CopyOut(cache.k(layer), rows.k.as<float>() + at, bytes, *stream_));
    SF_RETURN_IF_ERROR(cuda::CopyOut(cache.v(layer), rows.v.as<float>() + at, bytes, *stream_));
  }
  return stream_->Sync();
}

absl::Status CudaOps::GatedMul(GateActivation activation, int64_t rows, const Buffer& gate, const Buffer& up,
                               const ActivationForm& form, Activation& out) {
  namespace gatedmul = kernels::gatedmul_f32_f32;
  gatedmul::Params params = {.count = rows * gate.width(),
                             .activation = activation == GateActivation::kSilu
                                               ? gatedmul::Activation::kSilu
                                               : gatedmul::Activation::kGeluTanh,
                             .gate = Cuda(gate).data(),
                             .up = Cuda(up).data(),
                             .y = Cuda(out).buffer.data()};
  SF_ASSIGN_OR_RETURN(const Target target, TargetOf(rows, form, Cuda(out), false));
  if (target.fused) {
    if (!out.keep_floats) params.y = nullptr;
    return kernels::gatedmulquant_s8r_f32::RunCuda(
        {.gatedmul = params, .rotation = target.rotation, .shift = target.shift, .quantize = target.quantize},
        *stream_);
  }
  SF_RETURN_IF_ERROR(gatedmul::RunCuda(params, *stream_));
  return Finish(target, Cuda(out));
}

absl::Status CudaOps::SetRows(const float* rows, Activation& x) {
  SF_RETURN_IF_ERROR(Write(rows, x.rows, x.floats()));
  return Reform(x);
}

absl::Status CudaOps::Reform(Activation& x) {
  SF_ASSIGN_OR_RETURN(const Target target, TargetOf(x.rows, *x.form, Cuda(x), true));
  return Finish(target, Cuda(x));
}

absl::StatusOr<CudaOps::Target> CudaOps::TargetOf(int64_t rows, const ActivationForm& form,
                                                  CudaActivation& out, bool rotated) {
  out.form = &form;
  out.rows = rows;
  out.max_spike_rows = 0;
  if (form.simulate) {
    return absl::UnimplementedError("backend \"cuda\": no simulation in float; use --backend cpu");
  }
  Target target;
  if (form.rotation != nullptr && !rotated) {
    SF_ASSIGN_OR_RETURN(const auto* plan, constants_.Rotation(*form.rotation));
    target.rotation = *plan;
  }
  if (form.shift != nullptr && !rotated) {
    SF_ASSIGN_OR_RETURN(target.shift, constants_.Vector(*form.shift));
  }
  if (form.format.is_float()) return target;
  const int64_t k = out.buffer.width();
  SF_ASSIGN_OR_RETURN(target.quantize, QuantizeParams(out, k));
  target.quantizes = true;
  const bool plain = form.format.symmetric && form.format.group == 0;
  target.fused = plain && form.spike_threshold == 0 && quantize::Fits(k, device_.max_shared_bytes);
  return target;
}

absl::Status CudaOps::Finish(const Target& target, CudaActivation& out) {
  const bool rotates = target.rotation.num_factors > 0;
  const bool shifts = target.shift != nullptr;
  if ((rotates || shifts) && target.fused) {
    return kernels::hadamardquant_s8r_f32::RunCuda({.x = out.buffer.data(),
                                                    .rotation = target.rotation,
                                                    .shift = target.shift,
                                                    .quantize = target.quantize},
                                                   *stream_);
  }
  if (rotates) {
    SF_RETURN_IF_ERROR(kernels::hadamard_f32_f32::RunCuda(
        {.m = out.rows, .n = out.buffer.width(), .plan = target.rotation, .x = out.buffer.data()}, *stream_));
  }
  if (shifts) {
    SF_RETURN_IF_ERROR(
        cuda::SubtractFromRows(target.shift, out.rows, out.buffer.width(), out.buffer.data(), *stream_));
  }
  return target.quantizes ? quantize::RunCuda(target.quantize, *stream_) : absl::OkStatus();
}

absl::StatusOr<quantize::CudaParams> CudaOps::QuantizeParams(CudaActivation& out, int64_t k) {
  const ActivationForm& form = *out.form;
  const ActivationFormat& format = form.format;
  const size_t groups = static_cast<size_t>(format.group > 0 ? k / format.group : 1);
  const int64_t rows = out.rows, stride = kernels::matmul_f32_s8r_s8c::RowBytes(k);
  const size_t m = static_cast<size_t>(rows);
  SF_ASSIGN_OR_RETURN(const CudaConstants::Form* columns, constants_.Columns(form, k));
  out.max_spike_rows =
      form.spike_threshold > 0 ? form.max_spike_rows * ((rows + kSpikeRowsPer - 1) / kSpikeRowsPer) : 0;
  SF_RETURN_IF_ERROR(out.codes.Reserve(m * static_cast<size_t>(stride)));
  SF_RETURN_IF_ERROR(out.scale.Reserve(m * groups * sizeof(float)));
  if (HasWideZeros(format)) SF_RETURN_IF_ERROR(out.zero.Reserve(m * sizeof(int32_t)));
  SF_RETURN_IF_ERROR(out.kept_x.Reserve(m * form.kept.size() * sizeof(float)));
  const int64_t kept_columns =
      kernels::matmul_f32_s8r_s8c::KeptColumns(static_cast<int64_t>(form.kept.size()));
  SF_RETURN_IF_ERROR(out.kept_rows.Reserve(m * static_cast<size_t>(kept_columns) * sizeof(uint16_t)));
  SF_RETURN_IF_ERROR(out.super_x.Reserve(m * form.super_columns.size() * sizeof(float)));
  if (form.spike_threshold > 0) {
    SF_RETURN_IF_ERROR(out.amax.Reserve(m * sizeof(float)));
    SF_RETURN_IF_ERROR(out.is_spike.Reserve(m));
    SF_RETURN_IF_ERROR(out.spike_rows.Reserve(static_cast<size_t>(out.max_spike_rows + 1) * sizeof(int32_t)));
  }
  return quantize::CudaParams{.m = rows,
                              .k = k,
                              .q_stride = stride,
                              .x = out.buffer.data(),
                              .code_max = format.hi(),
                              .static_scale = format.is_static() ? form.static_scale : 0.0f,
                              .bits = format.bits,
                              .symmetric = format.symmetric,
                              .group = format.group,
                              .static_zero = format.is_static() ? form.static_zero : 0,
                              .zero = HasWideZeros(format) ? out.zero.as<int32_t>() : nullptr,
                              .is_kept = form.kept.empty() ? nullptr : columns->is_kept.as<uint8_t>(),
                              .num_kept = static_cast<int64_t>(form.kept.size()),
                              .kept = columns->device_kept.as<int32_t>(),
                              .num_super = static_cast<int64_t>(form.super_columns.size()),
                              .super = columns->device_super.as<int32_t>(),
                              .spike_threshold = form.spike_threshold,
                              .max_spike_rows = out.max_spike_rows,
                              .q = out.codes.as<int8_t>(),
                              .scale = out.scale.as<float>(),
                              .kept_x = out.kept_x.as<float>(),
                              .kept_row_columns = kept_columns,
                              .kept_rows = kept_columns == 0 ? nullptr : out.kept_rows.as<uint16_t>(),
                              .super_x = out.super_x.as<float>(),
                              .amax = out.amax.as<float>(),
                              .is_spike = out.is_spike.as<uint8_t>(),
                              .spike_rows = out.spike_rows.as<int32_t>() + 1,
                              .num_spike_rows = out.spike_rows.as<int32_t>(),
                              .counters = counters_.as<quantize::CudaCounters>()};
}

OpCounters CudaOps::counters() const {
  quantize::CudaCounters counts;
  // An error of the device shows at the next Read as well.
  if (!cuda::CopyOut(&counts, counters_.as<void>(), sizeof(counts), *stream_).ok() || !stream_->Sync().ok()) {
    return {};
  }
  return {.spike_rows = static_cast<int64_t>(counts.spike_rows),
          .missed_spike_rows = static_cast<int64_t>(counts.missed),
          .saturated = static_cast<int64_t>(counts.saturated)};
}

void CudaOps::ResetCounters() {
  (void)cuda::Fill(counters_.as<void>(), 0, sizeof(quantize::CudaCounters), *stream_);
}

}  // namespace spikefold
