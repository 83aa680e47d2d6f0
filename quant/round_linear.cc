#include "quant/round_linear.h"

#include <algorithm>
#include <cmath>

#include "absl/functional/function_ref.h"
#include "absl/strings/str_cat.h"
#include "formats/base/status.h"
#include "quant/rounding/trellis_panel.h"

namespace spikefold {
namespace {

constexpr int64_t kBlockValues = int64_t{4} << 20;  // weights in memory as float32

// The 16-bit float type that loses least of what the model's file holds.
DType FloatType(const StoredTensor& stored) {
  const bool wide_range = stored.stored_type == "BF16" || stored.stored_type == "F32";
  return wide_range ? DType::kBF16 : DType::kF16;  // GGUF blocks: products of a float16 scale
}

std::string WeightName(const TensorDecision& d) { return d.module + ".weight"; }

bool ByRows(const TensorDecision& d, const CheckpointReader& reader) {
  return !d.trellis && reader.ReadsRows(WeightName(d));
}
int64_t BlockRows(const TensorDecision& d) { return std::max<int64_t>(1, kBlockValues / d.k); }

// The matrix from its first row to its last; `see` gets the number of the first row it is shown.
absl::Status ForRows(const TensorDecision& d, const CheckpointReader& reader,
                     absl::FunctionRef<void(int64_t begin, absl::Span<const float> rows)> see) {
  if (!ByRows(d, reader)) {
    SF_ASSIGN_OR_RETURN(const Tensor whole, reader.ReadF32(WeightName(d)));
    see(0, whole.as<float>());
    return absl::OkStatus();
  }
  const int64_t block = std::min(BlockRows(d), d.n);
  std::vector<float> rows(static_cast<size_t>(block * d.k));
  for (int64_t begin = 0; begin < d.n; begin += block) {
    const int64_t end = std::min(begin + block, d.n);
    SF_RETURN_IF_ERROR(reader.ReadF32Rows(WeightName(d), begin, end, rows.data()));
    see(begin, absl::MakeConstSpan(rows).first(static_cast<size_t>((end - begin) * d.k)));
  }
  return absl::OkStatus();
}

// Kept columns and super weights of rows [begin, ...).
void KeepOf(const TensorDecision& d, int64_t begin, absl::Span<const float> rows, QuantizedLinear& q) {
  const int64_t count = static_cast<int64_t>(rows.size()) / d.k;
  for (int64_t row = 0; row < count; ++row) {
    for (const int32_t column : d.kept) {
      q.kept_weight_bf16.push_back(FloatToBf16(rows[static_cast<size_t>(row * d.k + column)]));
    }
  }
  for (const PlannedSuper& s : d.supers) {
    if (s.row < begin || s.row >= begin + count) continue;
    q.supers.push_back({s.row, s.column, rows[static_cast<size_t>((s.row - begin) * d.k + s.column)]});
  }
}

absl::StatusOr<QuantizedLinear> Begin(const TensorDecision& d, const CheckpointReader& reader) {
  QuantizedLinear q(SpecFor(d, reader));
  q.kept_columns = d.kept;
  if (q.act.is_static()) q.input_scale = d.activation_scale;
  if (q.act.is_static()) q.input_zero = d.activation_zero;
  if (!d.has_bias) return q;
  SF_ASSIGN_OR_RETURN(const Tensor bias, reader.ReadF32(d.module + ".bias"));
  q.bias.assign(bias.as<float>().begin(), bias.as<float>().end());
  return q;
}

void Take(RoundedWeights rounded, QuantizedLinear& q) {
  q.codes = std::move(rounded.codes);
  q.scales = std::move(rounded.scales);
  q.zeros = std::move(rounded.zeros);
  // Not finite where squares of the largest floats are beyond float64: not measured.
  q.weight_error = std::isfinite(rounded.relative_error) ? std::sqrt(rounded.relative_error) : -1;
}

}  // namespace

QuantizedLinearSpec SpecFor(const TensorDecision& d, const CheckpointReader& reader) {
  QuantizedLinearSpec spec = SpecOf(d);
  const StoredTensor* stored = reader.Find(WeightName(d));
  if (stored != nullptr) spec.float_dtype = FloatType(*stored);
  return spec;
}

absl::StatusOr<QuantizedLinear> RoundLinear(const TensorDecision& d, const CheckpointReader& reader,
                                            absl::Span<const float> importance, ThreadPool& pool) {
  SF_ASSIGN_OR_RETURN(QuantizedLinear q, Begin(d, reader));
  if (q.format.is_float()) {
    q.float_weight = Tensor(q.float_dtype, {d.n, d.k});
    SF_RETURN_IF_ERROR(ForRows(d, reader, [&](int64_t begin, absl::Span<const float> rows) {
      RoundTo(q.float_dtype, rows, q.float_weight.as<uint16_t>().data() + begin * d.k);
    }));
    return q;
  }
  if (d.trellis) {
    SF_ASSIGN_OR_RETURN(const Tensor w, reader.ReadF32(WeightName(d)));
    Take(RoundWeights(w.as<float>(), d, importance, pool), q);
    KeepOf(d, 0, w.as<float>(), q);
    return q;
  }
  NearestRounder rounder({.w = {}, .n = d.n, .k = d.k, .kept = d.kept, .supers = d.supers}, GridOf(d),
                         importance);
  SF_RETURN_IF_ERROR(ForRows(d, reader, [&](int64_t begin, absl::Span<const float> rows) {
    rounder.Add(rows, pool);
    KeepOf(d, begin, rows, q);
  }));
  Take(rounder.Finish(), q);
  return q;
}

absl::StatusOr<QuantizedLinear> FinishLinear(const TensorDecision& d, const CheckpointReader& reader,
                                             absl::Span<const float> w, RoundedWeights rounded) {
  SF_ASSIGN_OR_RETURN(QuantizedLinear q, Begin(d, reader));
  Take(std::move(rounded), q);
  KeepOf(d, 0, w, q);
  return q;
}

int64_t StoredMemory(const TensorDecision& d) {
  if (d.weight_bits >= 16) return 2 * d.n * d.k;
  const int64_t groups = d.group_size > 0 ? d.k / d.group_size : 1;
  const int64_t side =
      d.n * groups * (d.weight_zeros ? 5 : 4) + 2 * d.n * static_cast<int64_t>(d.kept.size());
  return d.n * d.k + side + (d.weight_bits < 8 ? d.n * d.k * d.weight_bits / 8 : 0);
}

int64_t RoundLinearMemory(const TensorDecision& d, const CheckpointReader& reader, int num_threads) {
  const int64_t packed = d.weight_bits < 8 ? d.n * d.k * d.weight_bits / 8 : 0;
  const int64_t made = StoredMemory(d) - packed, read = reader.ReadMemory(WeightName(d));
  if (d.trellis) {
    const int64_t values = static_cast<int64_t>(sizeof(float)) * d.n * d.k;
    const int64_t panels = std::min<int64_t>(num_threads, TrellisPanel::CountOf(d.n));
    return std::max(read, made + values + panels * TrellisPanel::BytesOf(d.weight_bits, d.k));
  }
  if (!ByRows(d, reader)) return made + std::max(read, packed);
  const int64_t block = std::min(BlockRows(d), d.n) * d.k;
  return made + std::max(packed, block * 6);  // float32, and 16 bit as stored
}

}  // namespace spikefold
