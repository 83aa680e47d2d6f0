#include "kernels/runtime/cpu_ops.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <new>
#include <vector>

#include "formats/base/parallel_copy.h"
#include "formats/base/status.h"
#include "kernels/attention_f32_f32/attention_f32_f32.h"
#include "kernels/attention_f32_f32_ukv/attention_f32_f32_ukv.h"
#include "kernels/ceiling/ceiling.h"
#include "kernels/gatedmul_f32_f32/gatedmul_f32_f32.h"
#include "kernels/group_weights.h"
#include "kernels/hadamard_f32_f32/hadamard_f32_f32.h"
#include "kernels/matmul_f32_f32_f32/matmul_f32_f32_f32.h"
#include "kernels/matmul_f32_s8r_s8c/matmul_f32_s8r_s8c.h"
#include "kernels/norm_f32_f32/norm_f32_f32.h"
#include "kernels/rope_f32_f32/rope_f32_f32.h"

namespace spikefold {
namespace {

namespace f32 = kernels::matmul_f32_f32_f32;
namespace s8c = kernels::matmul_f32_s8r_s8c;

// Rows a chunk of row-wise work: small enough to share out, large enough to amortise the hand-over.
constexpr int64_t kRowGrain = 8;

CpuActivation& Cpu(Activation& x) { return static_cast<CpuActivation&>(x); }

// The first error of a parallel loop.
class FirstError {
 public:
  void Set(absl::Status status) {
    if (status.ok() || taken_.exchange(true)) return;
    status_ = std::move(status);
  }
  absl::Status Take() { return std::move(status_); }

 private:
  std::atomic<bool> taken_{false};
  absl::Status status_;
};

// Row `row` of a table of any kind, dequantized; kept and super columns restored.
void TableRow(const LinearWeights& t, const ActivationForm& form, int64_t row, float* out) {
  switch (t.kind) {
    case LinearWeights::Kind::kF32:
      f32::UnpackRow(t.packed.as<float>().data(), t.n, t.k, row, out);
      break;
    case LinearWeights::Kind::kS8c: {
      // The codes are unpacked into the tail of `out` and widened front to back.
      int8_t* codes = reinterpret_cast<int8_t*>(out) + 3 * t.k;
      s8c::UnpackRow(t.packed.data(), t.n, t.k, row, codes);
      const float scale = t.scale[static_cast<size_t>(row)];
      for (int64_t k = 0; k < t.k; ++k) {
        const float value = static_cast<float>(codes[k]) * scale;
        std::memcpy(out + k, &value, sizeof(value));
      }
      break;
    }
    case LinearWeights::Kind::kGroups:
      kernels::UnpackGroupRow(t.packed.data(), t.k, t.group, row, out);
      break;
  }
  const size_t r = t.kept_weight.empty() ? 0 : form.kept.size();
  for (size_t c = 0; c < r; ++c) {
    out[form.kept[c]] = Bf16ToFloat(t.kept_weight[static_cast<size_t>(row) * r + c]);
  }
  for (size_t s = 0; s < t.super_row.size(); ++s) {
    if (t.super_row[s] == row) {
      out[form.super_columns[static_cast<size_t>(t.super_slot[s])]] = t.super_value[s];
    }
  }
}

}  // namespace

std::unique_ptr<Ops> MakeCpuOps(ThreadPool* pool) { return std::make_unique<CpuOps>(pool); }

std::unique_ptr<Buffer> CpuOps::NewBuffer(int64_t width) { return std::make_unique<CpuBuffer>(width); }

std::unique_ptr<Activation> CpuOps::NewActivation(int64_t width) {
  return std::make_unique<CpuActivation>(width);
}

absl::Status CpuOps::Reserve(Buffer& buffer, int64_t rows) {
  static_cast<CpuBuffer&>(buffer).Reserve(rows);
  return absl::OkStatus();
}

absl::Status CpuOps::Reserve(Activation& buffer, int64_t rows) {
  Cpu(buffer).buffer.Reserve(rows);
  return absl::OkStatus();
}

absl::Status CpuOps::ReadFrom(const Buffer& buffer, int64_t first, int64_t rows, float* host) {
  ParallelCopy(pool_, buffer.host() + first * buffer.width(), rows * buffer.width(), host);
  return absl::OkStatus();
}

absl::Status CpuOps::Write(const float* host, int64_t rows, Buffer& buffer) {
  ParallelCopy(pool_, host, rows * buffer.width(), buffer.host());
  return absl::OkStatus();
}

absl::Status CpuOps::Embed(const LinearWeights& table, const ActivationForm& form,
                           absl::Span<const int32_t> tokens, float scale, Buffer& out) {
  const int64_t d = table.k;
  float* y = out.host();
  pool_.ParallelFor(static_cast<int64_t>(tokens.size()), kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      float* row = y + i * d;
      TableRow(table, form, tokens[static_cast<size_t>(i)], row);
      if (scale == 1.0f) continue;
      for (int64_t c = 0; c < d; ++c) row[c] *= scale;
    }
  });
  return absl::OkStatus();
}

absl::Status CpuOps::AddNorm(const AddNormArgs& a) {
  const int64_t d = a.residual->width();
  float* h = a.residual->host();
  float* b = a.branch == nullptr ? nullptr : a.branch->host();
  float* y = a.gain == nullptr ? nullptr : a.out->floats().host();
  FirstError error;
  // One pass a chunk of rows, so that they stay in the first-level cache from the add to the norm.
  pool_.ParallelFor(a.rows, kRowGrain, [&](int64_t begin, int64_t end) {
    const int64_t m = end - begin, at = begin * d;
    if (b != nullptr && a.branch_gain != nullptr) {
      error.Set(kernels::norm_f32_f32::Run(
          {.m = m, .k = d, .x = b + at, .gain = a.branch_gain->data(), .eps = a.eps, .y = b + at}, pool_));
    }
    if (b != nullptr) {
      for (int64_t i = at; i < end * d; ++i) h[i] += b[i];
    }
    if (y != nullptr) {
      error.Set(kernels::norm_f32_f32::Run(
          {.m = m, .k = d, .x = h + at, .gain = a.gain->data(), .eps = a.eps, .y = y + at}, pool_));
    }
  });
  SF_RETURN_IF_ERROR(error.Take());
  if (y == nullptr) return absl::OkStatus();
  return TurnAndForm(y, a.rows, d, *a.form, Cpu(*a.out));
}

absl::Status CpuOps::HeadNormRope(const HeadNormRopeArgs& a) {
  struct Side {
    float* x;
    int64_t heads;
    const std::vector<float>* gain;
  };
  const Side sides[2] = {{a.q->host(), a.num_heads, a.q_gain}, {a.k->host(), a.num_kv_heads, a.k_gain}};
  FirstError error;
  pool_.ParallelFor(a.rows, kRowGrain, [&](int64_t begin, int64_t end) {
    const int64_t m = end - begin;
    for (const Side& side : sides) {
      float* x = side.x + begin * side.heads * a.head_dim;
      if (side.gain != nullptr) {
        error.Set(kernels::norm_f32_f32::Run(
            {.m = m * side.heads, .k = a.head_dim, .x = x, .gain = side.gain->data(), .eps = a.eps, .y = x},
            pool_));
      }
      for (const SequenceRows& s : a.sequences) {
        const int64_t from = std::max(begin, s.begin), rows = std::min(end, s.begin + s.rows) - from;
        if (rows <= 0) continue;
        const int64_t position = s.first + from - s.begin;
        error.Set(kernels::rope_f32_f32::Run({.m = rows,
                                              .num_heads = side.heads,
                                              .head_dim = a.head_dim,
                                              .x = x + (from - begin) * side.heads * a.head_dim,
                                              .cos = a.rope->cos(position),
                                              .sin = a.rope->sin(position)},
                                             pool_));
      }
      if (a.rotation == nullptr) continue;
      error.Set(kernels::hadamard_f32_f32::Run({.m = m * side.heads,
                                                .n = a.head_dim,
                                                .factors = a.rotation->factors,
                                                .scale = a.rotation->scale.data(),
                                                .x = x},
                                               pool_));
    }
  });
  return error.Take();
}

namespace {

// Rows behind `hidden` attend to the cache without it: a copy that closes the gap (keys are rotated already,
// so that their place does not matter). In a sliding window those rows see one key less.
absl::Status AttendWithout(int64_t hidden, const kernels::attention_f32_f32::Params& p, ThreadPool& pool) {
  namespace attention = kernels::attention_f32_f32;
  if (p.column_mass != nullptr) {
    return absl::UnimplementedError("attention: no mass is counted while a position is hidden");
  }
  const int64_t end = p.first + p.m, q_width = p.num_heads * p.head_dim,
                kv_width = p.num_kv_heads * p.head_dim;
  // Positions [from, to) of the call, whose keys begin `shift` rows later in the cache.
  const auto rows = [&](int64_t from, int64_t to, const float* k, const float* v, int64_t shift,
                        int64_t window) -> absl::Status {
    from = std::max(from, p.first);
    to = std::min(to, end);
    if (from >= to) return absl::OkStatus();
    attention::Params part = p;
    part.m = to - from;
    part.q = p.q + (from - p.first) * q_width;
    part.o = p.o + (from - p.first) * q_width;
    part.k = k;
    part.v = v;
    part.first = from - shift;
    part.window = window;
    return attention::Run(part, pool);
  };
  SF_RETURN_IF_ERROR(rows(0, hidden + 1, p.k, p.v, 0, p.window));
  if (hidden + 1 >= end || p.window == 1) return rows(hidden + 1, end, p.k, p.v, 0, p.window);
  const auto without = [&](const float* cache) {
    std::vector<float> out(cache, cache + hidden * kv_width);
    out.insert(out.end(), cache + (hidden + 1) * kv_width, cache + end * kv_width);
    return out;
  };
  const std::vector<float> k = without(p.k), v = without(p.v);
  const int64_t unaffected = p.window > 0 ? hidden + p.window : end;
  SF_RETURN_IF_ERROR(rows(hidden + 1, unaffected, k.data(), v.data(), 1, p.window > 0 ? p.window - 1 : 0));
  return rows(unaffected, end, p.k, p.v, 0, p.window);
}

}  // namespace

absl::Status CpuOps::Attention(const AttentionArgs& a) {
  for (const SequenceRows& sequence : a.sequences) SF_RETURN_IF_ERROR(Attend(a, sequence));
  return TurnAndForm(a.out->floats().host(), a.rows, a.num_heads * a.head_dim, *a.form, Cpu(*a.out));
}

absl::Status CpuOps::Attend(const AttentionArgs& a, const SequenceRows& sequence) {
  KvCache& cache = *sequence.cache;
  const int64_t rows = sequence.rows, first = sequence.first;
  const int64_t q_width = a.num_heads * a.head_dim, kv_width = a.num_kv_heads * a.head_dim;
  const float *q = a.q->host() + sequence.begin * q_width, *k = a.k->host() + sequence.begin * kv_width,
              *v = a.v->host() + sequence.begin * kv_width;
  float* const o = a.out->floats().host() + sequence.begin * q_width;
  if (cache.pages() != nullptr) {
    if (a.column_mass != nullptr || a.hidden_position >= 0) {
      return absl::UnimplementedError(
          "attention: in a quantized cache the mass of each position is not counted and none can be hidden; "
          "use a float one");
    }
    KvPages& pages = *cache.pages();
    kernels::attention_f32_f32_ukv::Params params = {.m = rows,
                                                     .num_heads = a.num_heads,
                                                     .num_kv_heads = a.num_kv_heads,
                                                     .head_dim = a.head_dim,
                                                     .q = q,
                                                     .first = first,
                                                     .scale = a.scale,
                                                     .window = a.window,
                                                     .o = o};
    const int64_t clamped = pages.num_clamped();
    pages.Append(a.layer, first, rows, k, v, pool_, params);
    counters_.saturated += pages.num_clamped() - clamped;
    SF_RETURN_IF_ERROR(kernels::attention_f32_f32_ukv::Run(params, pool_));
    pages.Settle(a.layer, first + rows);
    return absl::OkStatus();
  }
  const size_t bytes = static_cast<size_t>(rows * kv_width) * sizeof(float);
  std::memcpy(cache.k(a.layer) + first * kv_width, k, bytes);
  std::memcpy(cache.v(a.layer) + first * kv_width, v, bytes);
  const kernels::attention_f32_f32::Params params = {.m = rows,
                                                     .num_heads = a.num_heads,
                                                     .num_kv_heads = a.num_kv_heads,
                                                     .head_dim = a.head_dim,
                                                     .q = q,
                                                     .k = cache.k(a.layer),
                                                     .v = cache.v(a.layer),
                                                     .first = first,
                                                     .scale = a.scale,
                                                     .window = a.window,
                                                     .o = o,
                                                     .column_mass = a.column_mass};
  return a.hidden_position >= 0 ? AttendWithout(a.hidden_position, params, pool_)
                                : kernels::attention_f32_f32::Run(params, pool_);
}

absl::Status CpuOps::GatedMul(GateActivation activation, int64_t rows, const Buffer& gate, const Buffer& up,
                              const ActivationForm& form, Activation& out) {
  namespace gatedmul = kernels::gatedmul_f32_f32;
  float* y = out.floats().host();
  SF_RETURN_IF_ERROR(
      gatedmul::Run({.count = rows * gate.width(),
                     .activation = activation == GateActivation::kSilu ? gatedmul::Activation::kSilu
                                                                       : gatedmul::Activation::kGeluTanh,
                     .gate = gate.host(),
                     .up = up.host(),
                     .y = y},
                    pool_));
  return TurnAndForm(y, rows, gate.width(), form, Cpu(out));
}

absl::Status CpuOps::SetRows(const float* rows, Activation& x) {
  return Form(rows, x.rows, x.floats().width(), *x.form, Cpu(x));
}

absl::Status CpuOps::Reform(Activation& x) {
  return Form(x.floats().host(), x.rows, x.floats().width(), *x.form, Cpu(x));
}

// Memory that is asked for beside the work: where there is none, the work's result is not lost.
absl::StatusOr<double> CpuOps::MeasureReadRate() {
  try {
    return kernels::MeasureReadRate(pool_);
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("no memory to measure its read rate in");
  }
}

}  // namespace spikefold
