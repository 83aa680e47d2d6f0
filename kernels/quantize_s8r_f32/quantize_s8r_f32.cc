#include "kernels/quantize_s8r_f32/quantize_s8r_f32.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "absl/strings/str_cat.h"
#include "formats/base/dtype.h"
#include "formats/base/status.h"
#include "kernels/cpu/cpu_features.h"
#include "kernels/numeric.h"
#include "kernels/quantize_s8r_f32/quantize_s8r_f32_isa.h"

namespace spikefold::kernels::quantize_s8r_f32 {
namespace {

constexpr char kName[] = "quantize_s8r_f32";
constexpr int64_t kChunkElements = 32 << 10;  // about 10 us of one core

float AbsMaxPlain(const float* x, int64_t k) {
  float amax = 0;
  for (int64_t i = 0; i < k; ++i) amax = std::max(amax, std::fabs(x[i]));
  return amax;
}

Range RangePlain(const float* x, int64_t k) {
  Range range;
  for (int64_t i = 0; i < k; ++i) {
    range.low = std::min(range.low, x[i]);
    range.high = std::max(range.high, x[i]);
  }
  return range;
}

int64_t ConvertPlain(const float* x, int64_t k, const Grid& grid, int8_t* q) {
  const int low = static_cast<int>(grid.low), high = static_cast<int>(grid.high);
  int64_t saturated = 0;
  for (int64_t i = 0; i < k; ++i) {
    const float value = x[i] * grid.inv_scale;
    q[i] = static_cast<int8_t>(RoundClamp(value, low, high) + grid.shift);
    saturated += grid.count && (rintf(value) < grid.low || rintf(value) > grid.high);
  }
  return saturated;
}

void RoundColumns(const float* x, const int32_t* columns, int64_t count, float* out) {
  for (int64_t c = 0; c < count; ++c) out[c] = Bf16ToFloat(FloatToBf16(x[columns[c]]));
}

// One call: rows are quantized in parallel, spike rows are only marked, because the first ones win.
class Quantizer {
 public:
  Quantizer(const Params& params, const RowFunctions& rows) : p_(params), rows_(rows) {
    if (p_.spike_threshold > 0) is_spike_.resize(static_cast<size_t>(p_.m), 0);
    code_max_ = ActivationMax(p_.bits);
    code_min_ = ActivationMin(p_.bits, p_.symmetric);
    width_ = p_.group > 0 ? p_.group : p_.k;
    num_groups_ = p_.k / width_;
  }

  void Rows(int64_t begin, int64_t end) {
    std::vector<float> scratch(static_cast<size_t>(p_.num_kept > 0 ? p_.k : 0));
    int64_t saturated = 0;
    for (int64_t m = begin; m < end; ++m) saturated += Row(m, scratch.data(), false);
    if (saturated > 0) num_saturated_ += saturated;
  }

  void FinishSpikes() {
    int64_t num_spikes = 0, num_missed = 0;
    std::vector<float> scratch(static_cast<size_t>(p_.num_kept > 0 ? p_.k : 0));
    for (int64_t m = 0; m < static_cast<int64_t>(is_spike_.size()); ++m) {
      if (is_spike_[static_cast<size_t>(m)] == 0) continue;
      if (num_spikes == p_.max_spike_rows) {
        ++num_missed;
        num_saturated_ += Row(m, scratch.data(), true);
        continue;
      }
      p_.spike_rows[num_spikes++] = static_cast<int32_t>(m);
      std::fill_n(p_.scale + m * num_groups_, num_groups_, p_.static_scale > 0 ? p_.static_scale : 1.0f);
      if (p_.zero != nullptr) p_.zero[m] = 0;
      std::memset(p_.q + m * p_.k, 0, static_cast<size_t>(p_.k));
      std::fill_n(p_.kept_x + m * p_.num_kept, p_.num_kept, 0.0f);
      std::fill_n(p_.super_x + m * p_.num_super, p_.num_super, 0.0f);
    }
    if (p_.num_spike_rows != nullptr) *p_.num_spike_rows = num_spikes;
    if (p_.num_missed != nullptr) *p_.num_missed += num_missed;
    if (p_.num_saturated != nullptr) *p_.num_saturated += num_saturated_.load();
  }

 private:
  // Quantizes row m, or marks it as a spike unless `spikes_too`. Returns the number of clamped codes.
  int64_t Row(int64_t m, float* scratch, bool spikes_too) {
    const float* x = p_.x + m * p_.k;
    if (p_.num_kept > 0) {  // a copy with zeros is cheaper than masks in both passes
      std::memcpy(scratch, x, static_cast<size_t>(p_.k) * sizeof(float));
      for (int64_t c = 0; c < p_.num_kept; ++c) scratch[p_.kept[c]] = 0;
    }
    const float* rest = p_.num_kept > 0 ? scratch : x;
    const bool row_form = p_.symmetric && num_groups_ == 1 && p_.static_scale == 0;
    const bool needs_amax = row_form || !is_spike_.empty();
    const float amax = needs_amax ? rows_.abs_max(rest, p_.k) : 0.0f;
    if (!spikes_too && !is_spike_.empty() && amax > p_.spike_threshold) {
      is_spike_[static_cast<size_t>(m)] = 1;
      return 0;
    }
    RoundColumns(x, p_.kept, p_.num_kept, p_.kept_x + m * p_.num_kept);
    RoundColumns(x, p_.super, p_.num_super, p_.super_x + m * p_.num_super);
    int64_t saturated = 0;
    for (int64_t g = 0; g < num_groups_; ++g) {
      const float* values = rest + g * width_;
      const AsymmetricScale scale =
          row_form ? AsymmetricScale{SymmetricScale(amax, code_max_), 0} : ScaleOf(values);
      p_.scale[m * num_groups_ + g] = scale.scale;
      if (p_.zero != nullptr) p_.zero[m] = scale.zero;
      saturated += rows_.convert(values, width_, GridOf(scale), p_.q + m * p_.k + g * width_);
    }
    return saturated;
  }

  AsymmetricScale ScaleOf(const float* values) const {
    if (p_.static_scale > 0) return {p_.static_scale, p_.static_zero};
    if (p_.symmetric) return {SymmetricScale(rows_.abs_max(values, width_), code_max_), 0};
    const Range range = rows_.range(values, width_);
    return AsymmetricScaleOf(range.low, range.high, code_min_, code_max_);
  }

  Grid GridOf(const AsymmetricScale& scale) const {
    return {.inv_scale = 1.0f / scale.scale,
            .low = static_cast<float>(code_min_ - scale.zero),
            .high = static_cast<float>(code_max_ - scale.zero),
            .shift = p_.bits == 8 ? scale.zero : 0,
            .count = p_.static_scale > 0};
  }

  const Params& p_;
  const RowFunctions& rows_;
  int code_min_ = 0, code_max_ = 0;
  int64_t width_ = 0, num_groups_ = 1;  // columns that share a scale
  std::vector<uint8_t> is_spike_;       // [m], empty without a threshold
  std::atomic<int64_t> num_saturated_{0};
};

const RowFunctions& ChooseTarget(Isa isa) {
  if (isa >= Isa::kAvx512) return kRowsAvx512;
  return isa >= Isa::kAvx2 ? kRowsAvx2 : kRowsPlain;
}

absl::Status CheckColumns(const char* what, const int32_t* columns, int64_t count, const float* out,
                          int64_t k) {
  if (count > 0 && (columns == nullptr || out == nullptr)) {
    return absl::InvalidArgumentError(
        absl::StrCat(kName, ": ", count, " ", what, " columns without buffers; set the list and its output"));
  }
  for (int64_t c = 0; c < count; ++c) {
    if (columns[c] >= 0 && columns[c] < k) continue;
    return absl::InvalidArgumentError(
        absl::StrCat(kName, ": ", what, " column ", columns[c], " is outside [0, ", k, ")"));
  }
  return absl::OkStatus();
}

absl::Status CheckGrid(const Params& p) {
  if (p.bits != 8 && p.bits != 4) {
    return absl::UnimplementedError(absl::StrCat(kName, ": codes of ", p.bits, " bits; use 8 or 4"));
  }
  const int lo = p.symmetric ? 0 : ActivationMin(p.bits, false), hi = p.symmetric ? 0 : ActivationMax(p.bits);
  if (p.static_zero < lo || p.static_zero > hi || (p.static_zero != 0 && p.static_scale == 0)) {
    return absl::InvalidArgumentError(absl::StrCat(kName, ": static_zero=", p.static_zero, " is outside ", lo,
                                                   "..", hi, ", or has no static_scale"));
  }
  const bool wide_zero = !p.symmetric && p.bits == 8;
  if (wide_zero && p.zero == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(kName, ": 8-bit zero points without a buffer; set zero"));
  }
  if (p.group < 0 || (p.group > 0 && (p.k % p.group != 0 || p.static_scale != 0 || wide_zero))) {
    return absl::InvalidArgumentError(
        absl::StrCat(kName, ": group=", p.group, " of K=", p.k,
                     "; it must divide K, and take neither a static scale nor 8-bit zero points"));
  }
  return absl::OkStatus();
}

}  // namespace

const RowFunctions kRowsPlain = {AbsMaxPlain, RangePlain, ConvertPlain};

absl::Status Supports(const Params& p) {
  if (p.m < 1 || p.k < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat(kName, ": shape M=", p.m, " K=", p.k, " is empty; each must be at least 1"));
  }
  if (p.static_scale != 0 && !(p.static_scale >= std::numeric_limits<float>::min() &&
                               p.static_scale <= std::numeric_limits<float>::max())) {
    return absl::InvalidArgumentError(absl::StrCat(kName, ": static_scale=", p.static_scale,
                                                   " is not a positive normal number; 0 means per token"));
  }
  SF_RETURN_IF_ERROR(CheckGrid(p));
  if (p.spike_threshold > 0 && p.max_spike_rows > 0 &&
      (p.spike_rows == nullptr || p.num_spike_rows == nullptr)) {
    return absl::InvalidArgumentError(
        absl::StrCat(kName, ": a spike threshold without buffers; set spike_rows and num_spike_rows"));
  }
  SF_RETURN_IF_ERROR(CheckColumns("kept", p.kept, p.num_kept, p.kept_x, p.k));
  return CheckColumns("super", p.super, p.num_super, p.super_x, p.k);
}

absl::Status Run(const Params& p, ThreadPool& pool) {
  SF_RETURN_IF_ERROR(Supports(p));
  Quantizer quantizer(p, ChooseTarget(ActiveIsa()));
  const int64_t grain = std::max<int64_t>(1, kChunkElements / p.k);
  pool.ParallelFor(p.m, grain, [&](int64_t begin, int64_t end) { quantizer.Rows(begin, end); });
  quantizer.FinishSpikes();
  return absl::OkStatus();
}

}  // namespace spikefold::kernels::quantize_s8r_f32
