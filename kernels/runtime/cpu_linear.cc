// Linears of the CPU backend: the kernel is chosen by (LinearWeights::Kind, ActivationForm::format).
#include <algorithm>
#include <atomic>

#include "formats/base/status.h"
#include "kernels/matmul_f32_f32_f32/matmul_f32_f32_f32.h"
#include "kernels/matmul_f32_f32_s8c/matmul_f32_f32_s8c.h"
#include "kernels/matmul_f32_f32_sxg/matmul_f32_f32_sxg.h"
#include "kernels/matmul_f32_s8r_s8c/matmul_f32_s8r_s8c.h"
#include "kernels/matmul_f32_s8r_sxg/matmul_f32_s8r_sxg.h"
#include "kernels/runtime/cpu_ops.h"

namespace spikefold {
namespace {

namespace f32 = kernels::matmul_f32_f32_f32;
using Kind = LinearWeights::Kind;

// Below so many rows a linear is memory-bound and short: the linears of a site share one parallel loop.
constexpr int64_t kGroupRows = 8;
constexpr int64_t kPanelsPerChunk = 4;

const float* BiasOf(const LinearWeights& w) { return w.bias.empty() ? nullptr : w.bias.data(); }

kernels::OutlierTail TailOf(const LinearWeights& w, const ActivationForm& form, const float* kept_x,
                            const float* super_x) {
  return {.num_kept = w.kept_weight.empty() ? 0 : static_cast<int64_t>(form.kept.size()),
          .kept_x = kept_x,
          .kept_w = w.kept_weight.data(),
          .kept_packed = w.kept_packed.empty() ? nullptr : w.kept_packed.data(),
          .num_super = static_cast<int64_t>(w.super_row.size()),
          .super_x = super_x,
          .super_x_stride = static_cast<int64_t>(form.super_columns.size()),
          .super_slot = w.super_slot.data(),
          .super_row = w.super_row.data(),
          .super_value = w.super_value.data(),
          .bias = BiasOf(w)};
}

f32::Params FloatParams(const float* x, int64_t rows, const LinearWeights& w, float* y) {
  return {.m = rows,
          .n = w.n,
          .k = w.k,
          .x = x,
          .x_stride = w.k,
          .w = static_cast<const float*>(w.packed.data()),
          .bias = BiasOf(w),
          .y = y,
          .y_stride = w.n};
}

// Rows [first_panel, last_panel) of a float linear as a linear of its own.
f32::Params Panels(f32::Params p, int64_t first_panel, int64_t last_panel) {
  const int64_t first = first_panel * f32::kPanel, last = std::min(last_panel * f32::kPanel, p.n);
  p.n = last - first;
  p.w += first * p.k;
  p.y += first;
  if (p.bias != nullptr) p.bias += first;
  return p;
}

void AddSuperWeights(const LinearWeights& w, const float* super_x, int64_t rows, int64_t stride, float* y) {
  for (size_t s = 0; s < w.super_row.size(); ++s) {
    for (int64_t m = 0; m < rows; ++m) {
      y[m * w.n + w.super_row[s]] += w.super_value[s] * super_x[m * stride + w.super_slot[s]];
    }
  }
}

}  // namespace

absl::Status CpuOps::Linears(const Activation& activation, absl::Span<const LinearWeights* const> w,
                             absl::Span<Buffer* const> y) {
  const auto& x = static_cast<const CpuActivation&>(activation);
  const bool all_float =
      std::all_of(w.begin(), w.end(), [](const LinearWeights* l) { return l->kind == Kind::kF32; });
  if (all_float && w.size() > 1 && x.rows <= kGroupRows) return FloatGroup(x, w, y);
  for (size_t i = 0; i < w.size(); ++i) {
    SF_RETURN_IF_ERROR(Linear(x, x.source, *w[i], y[i]->host()));
  }
  return absl::OkStatus();
}

absl::Status CpuOps::Linear(const CpuActivation& x, const float* floats, const LinearWeights& w, float* y) {
  if (w.kind == Kind::kF32) return FloatLinear(x, floats, w, y);
  if (x.form->format.is_float()) {
    return MixedLinear(floats, x.rows, x.kept_x.data(), x.super_x.data(), *x.form, w, y);
  }
  SF_RETURN_IF_ERROR(CodeLinear(x, w, y));
  return SpikeRows(x, floats, w, y);
}

// Under simulation all linears are float and read the rounded rows.
absl::Status CpuOps::FloatLinear(const CpuActivation& x, const float* floats, const LinearWeights& w,
                                 float* y) {
  const float* rows = w.float_input ? floats : x.values;
  SF_RETURN_IF_ERROR(f32::Run(FloatParams(rows, x.rows, w, y), pool_));
  if (!w.super_row.empty()) {
    AddSuperWeights(w, x.super_x.data(), x.rows, static_cast<int64_t>(x.form->super_columns.size()), y);
  }
  return absl::OkStatus();
}

absl::Status CpuOps::FloatGroup(const CpuActivation& x, absl::Span<const LinearWeights* const> w,
                                absl::Span<Buffer* const> y) {
  int64_t total = 0;  // chunks of all linears
  const auto chunks = [](const LinearWeights& l) {
    return (l.n + f32::kPanel * kPanelsPerChunk - 1) / (f32::kPanel * kPanelsPerChunk);
  };
  for (const LinearWeights* l : w) total += chunks(*l);
  std::atomic<bool> failed{false};
  pool_.ParallelFor(total, 1, [&](int64_t begin, int64_t end) {
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      size_t i = 0;
      int64_t local = chunk;
      while (local >= chunks(*w[i])) local -= chunks(*w[i++]);
      const float* rows = w[i]->float_input ? x.source : x.values;
      const f32::Params whole = FloatParams(rows, x.rows, *w[i], y[i]->host());
      const absl::Status status =
          f32::Run(Panels(whole, local * kPanelsPerChunk, (local + 1) * kPanelsPerChunk), pool_);
      if (!status.ok()) failed = true;
    }
  });
  if (failed) return absl::InternalError("float linears of a site: the kernel refused a slice");
  for (size_t i = 0; i < w.size(); ++i) {
    if (w[i]->super_row.empty()) continue;
    AddSuperWeights(*w[i], x.super_x.data(), x.rows, static_cast<int64_t>(x.form->super_columns.size()),
                    y[i]->host());
  }
  return absl::OkStatus();
}

absl::Status CpuOps::CodeLinear(const CpuActivation& x, const LinearWeights& w, float* y) {
  const kernels::OutlierTail tail = TailOf(w, *x.form, x.kept_x.data(), x.super_x.data());
  const int32_t* zero = HasWideZeros(x.form->format) ? x.zero.data() : nullptr;
  if (w.kind == Kind::kS8c) {
    return kernels::matmul_f32_s8r_s8c::Run({.m = x.rows,
                                             .n = w.n,
                                             .k = w.k,
                                             .x = x.codes.data(),
                                             .x_scale = x.scale.data(),
                                             .x_zero = zero,
                                             .w_code_sum = w.code_sum.data(),
                                             .w = w.packed.data(),
                                             .w_scale = w.scale.data(),
                                             .tail = tail,
                                             .y = y},
                                            pool_);
  }
  return kernels::matmul_f32_s8r_sxg::Run({.m = x.rows,
                                           .n = w.n,
                                           .k = w.k,
                                           .group = w.group,
                                           .x = x.codes.data(),
                                           .x_group = x.form->format.group,
                                           .x_scale = x.scale.data(),
                                           .x_zero = zero,
                                           .w_row_sum = w.row_sum.data(),
                                           .w = w.packed.data(),
                                           .w_scale = w.scale.empty() ? nullptr : w.scale.data(),
                                           .tail = tail,
                                           .y = y},
                                          pool_);
}

absl::Status CpuOps::MixedLinear(const float* x, int64_t rows, const float* kept_x, const float* super_x,
                                 const ActivationForm& form, const LinearWeights& w, float* y) {
  const kernels::OutlierTail tail = TailOf(w, form, kept_x, super_x);
  if (w.kind == Kind::kF32) return f32::Run(FloatParams(x, rows, w, y), pool_);
  // Kept columns of x need not be zeroed: their codes mean 0.
  if (w.kind == Kind::kS8c) {
    return kernels::matmul_f32_f32_s8c::Run({.m = rows,
                                             .n = w.n,
                                             .k = w.k,
                                             .x = x,
                                             .w = w.packed.data(),
                                             .w_scale = w.scale.data(),
                                             .tail = tail,
                                             .y = y},
                                            pool_);
  }
  return kernels::matmul_f32_f32_sxg::Run(
      {.m = rows, .n = w.n, .k = w.k, .group = w.group, .x = x, .w = w.packed.data(), .tail = tail, .y = y},
      pool_);
}

// Row split: spike rows had codes 0; they are computed again from their float values and the same weights.
// Kept and super columns are bf16 in every row.
absl::Status CpuOps::SpikeRows(const CpuActivation& x, const float* floats, const LinearWeights& w,
                               float* y) {
  const int64_t s = x.num_spike_rows, k = w.k;
  if (s == 0) return absl::OkStatus();
  const auto gather = [&](const std::vector<int32_t>& columns, Scratchpad<float>& to) {
    const int64_t r = static_cast<int64_t>(columns.size());
    float* out = to.Get(s * r);
    for (int64_t i = 0; i < s * r; ++i) {
      const float value = floats[x.spike_rows.data()[i / r] * k + columns[static_cast<size_t>(i % r)]];
      out[i] = Bf16ToFloat(FloatToBf16(value));
    }
    return out;
  };
  float* rows = spike_x_.Get(s * k);
  for (int64_t i = 0; i < s; ++i) std::copy_n(floats + x.spike_rows.data()[i] * k, k, rows + i * k);
  float* out = spike_y_.Get(s * w.n);
  SF_RETURN_IF_ERROR(MixedLinear(rows, s, gather(x.form->kept, spike_kept_),
                                 gather(x.form->super_columns, spike_super_), *x.form, w, out));
  for (int64_t i = 0; i < s; ++i) std::copy_n(out + i * w.n, w.n, y + x.spike_rows.data()[i] * w.n);
  return absl::OkStatus();
}

absl::Status CpuOps::Head(const LinearWeights& w, const ActivationForm& form, int64_t rows,
                          const float* hidden, float* logits) {
  SF_RETURN_IF_ERROR(Form(hidden, rows, w.k, form, host_x_));
  return Linear(host_x_, hidden, w, logits);
}

}  // namespace spikefold
