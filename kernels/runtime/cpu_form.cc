// Float rows -> the form that a site's linears ask for.
#include <algorithm>

#include "formats/base/status.h"
#include "kernels/hadamard_f32_f32/hadamard_f32_f32.h"
#include "kernels/quantize_s8r_f32/quantize_s8r_f32.h"
#include "kernels/runtime/cpu_ops.h"

namespace spikefold {
namespace {

constexpr int64_t kRowGrain = 8;
constexpr int64_t kSpikeRowsPer = 512;  // ActivationForm::max_spike_rows counts per so many rows

bool IsInteger(const ActivationForm& form) { return !form.format.is_float(); }

}  // namespace

absl::Status CpuOps::Turn(float* x, int64_t rows, const ActivationForm& form) {
  if (rows == 0) return absl::OkStatus();
  if (form.rotation != nullptr) {
    const RowRotation& r = *form.rotation;
    SF_RETURN_IF_ERROR(kernels::hadamard_f32_f32::Run({.m = rows,
                                                       .n = static_cast<int64_t>(r.scale.size()),
                                                       .factors = r.factors,
                                                       .scale = r.scale.data(),
                                                       .x = x},
                                                      pool_));
  }
  if (form.shift == nullptr) return absl::OkStatus();
  const std::vector<float>& shift = *form.shift;
  pool_.ParallelFor(rows, kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; ++m) {
      float* row = x + m * static_cast<int64_t>(shift.size());
      for (size_t i = 0; i < shift.size(); ++i) row[i] -= shift[i];
    }
  });
  return absl::OkStatus();
}

absl::Status CpuOps::TurnAndForm(float* x, int64_t rows, int64_t k, const ActivationForm& form,
                                 CpuActivation& out) {
  SF_RETURN_IF_ERROR(Turn(x, rows, form));
  return Form(x, rows, k, form, out);
}

absl::Status CpuOps::Form(const float* x, int64_t rows, int64_t k, const ActivationForm& form,
                          CpuActivation& out) {
  out.form = &form;
  out.rows = rows;
  out.source = out.values = x;
  out.num_spike_rows = 0;
  if (IsInteger(form)) {
    SF_RETURN_IF_ERROR(Quantize(x, out, k));
  } else if (!form.kept.empty() || !form.super_columns.empty()) {
    GatherColumns(x, out, k);
  }
  if (form.simulate && (IsInteger(form) || !form.kept.empty())) Simulate(x, out, k);
  return absl::OkStatus();
}

absl::Status CpuOps::SetForm(const ActivationForm& form, int64_t rows, Activation& x) {
  auto& out = static_cast<CpuActivation&>(x);
  const int64_t k = out.buffer.width();
  out.form = &form;
  out.rows = rows;
  out.source = out.values = out.buffer.host();
  out.num_spike_rows = 0;
  out.kept_x.Get(rows * static_cast<int64_t>(form.kept.size()));
  out.super_x.Get(rows * static_cast<int64_t>(form.super_columns.size()));
  const bool integer = IsInteger(form);
  if (integer) {
    out.codes.Get(rows * k);
    out.scale.Get(rows * (form.format.group > 0 ? k / form.format.group : 1));
    if (HasWideZeros(form.format)) out.zero.Get(rows);
  }
  if (form.simulate && (integer || !form.kept.empty())) out.values = out.simulated.Get(rows * k);
  return absl::OkStatus();
}

absl::Status CpuOps::Quantize(const float* x, CpuActivation& out, int64_t k) {
  const ActivationForm& form = *out.form;
  const int64_t rows = out.rows;
  const int64_t num_kept = static_cast<int64_t>(form.kept.size());
  const int64_t num_super = static_cast<int64_t>(form.super_columns.size());
  const int64_t num_groups = form.format.group > 0 ? k / form.format.group : 1;
  const int64_t room =
      form.spike_threshold > 0 ? form.max_spike_rows * ((rows + kSpikeRowsPer - 1) / kSpikeRowsPer) : 0;
  SF_RETURN_IF_ERROR(
      kernels::quantize_s8r_f32::Run({.m = rows,
                                      .k = k,
                                      .x = x,
                                      .bits = form.format.bits,
                                      .symmetric = form.format.symmetric,
                                      .group = form.format.group,
                                      .static_scale = form.format.is_static() ? form.static_scale : 0.0f,
                                      .static_zero = form.format.is_static() ? form.static_zero : 0,
                                      .num_kept = num_kept,
                                      .kept = form.kept.data(),
                                      .num_super = num_super,
                                      .super = form.super_columns.data(),
                                      .spike_threshold = form.spike_threshold,
                                      .max_spike_rows = room,
                                      .q = out.codes.Get(rows * k),
                                      .scale = out.scale.Get(rows * num_groups),
                                      .zero = HasWideZeros(form.format) ? out.zero.Get(rows) : nullptr,
                                      .kept_x = out.kept_x.Get(rows * num_kept),
                                      .super_x = out.super_x.Get(rows * num_super),
                                      .spike_rows = out.spike_rows.Get(room),
                                      .num_spike_rows = &out.num_spike_rows,
                                      .num_missed = &counters_.missed_spike_rows,
                                      .num_saturated = &counters_.saturated},
                                     pool_));
  counters_.spike_rows += out.num_spike_rows;
  return absl::OkStatus();
}

// Kept and super columns of a float form, rounded to bf16 as the quantizer does.
void CpuOps::GatherColumns(const float* x, CpuActivation& out, int64_t k) {
  const auto gather = [&](const std::vector<int32_t>& columns, Scratchpad<float>& to) {
    const int64_t r = static_cast<int64_t>(columns.size());
    float* y = to.Get(out.rows * r);
    for (int64_t m = 0; m < out.rows; ++m) {
      for (int64_t c = 0; c < r; ++c) {
        y[m * r + c] = Bf16ToFloat(FloatToBf16(x[m * k + columns[static_cast<size_t>(c)]]));
      }
    }
  };
  gather(out.form->kept, out.kept_x);
  gather(out.form->super_columns, out.super_x);
}

// Codes back to float: what an integer kernel would see, for float kernels. Spike rows stay as they are.
void CpuOps::Simulate(const float* x, CpuActivation& out, int64_t k) {
  const ActivationForm& form = *out.form;
  const int64_t r = static_cast<int64_t>(form.kept.size());
  const int64_t num_super = static_cast<int64_t>(form.super_columns.size());
  float* y = out.simulated.Get(out.rows * k);
  const bool integer = IsInteger(form);
  const int64_t width = form.format.group > 0 ? form.format.group : k;  // columns that share a scale
  pool_.ParallelFor(out.rows, kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; ++m) {
      float* row = y + m * k;
      if (integer) {
        const int8_t* codes = out.codes.data() + m * k;
        const float* scales = out.scale.data() + m * (k / width);
        const int zero = HasWideZeros(form.format) ? out.zero.data()[m] : 0;
        for (int64_t i = 0; i < k; ++i) row[i] = static_cast<float>(codes[i] - zero) * scales[i / width];
      } else {
        std::copy_n(x + m * k, k, row);
      }
      for (int64_t c = 0; c < r; ++c) row[form.kept[static_cast<size_t>(c)]] = out.kept_x.data()[m * r + c];
    }
  });
  const auto bf16 = [&](int64_t m, int32_t column) { return Bf16ToFloat(FloatToBf16(x[m * k + column])); };
  for (int64_t s = 0; s < out.num_spike_rows; ++s) {
    const int64_t m = out.spike_rows.data()[s];
    std::copy_n(x + m * k, k, y + m * k);
    for (const int32_t column : form.kept) y[m * k + column] = bf16(m, column);
    for (int64_t c = 0; c < num_super; ++c) {
      out.super_x.data()[m * num_super + c] = bf16(m, form.super_columns[static_cast<size_t>(c)]);
    }
  }
  out.values = y;
}

}  // namespace spikefold
