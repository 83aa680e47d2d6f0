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

int64_t ConvertPlain(const float* x, int64_t k, float inv_scale, bool count, int8_t* q) {
  int64_t saturated = 0;
  for (int64_t i = 0; i < k; ++i) {
    q[i] = QuantizeS8(x[i], inv_scale);
    saturated += count && std::fabs(rintf(x[i] * inv_scale)) > kS8Max;
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
      p_.scale[m] = p_.static_scale > 0 ? p_.static_scale : 1.0f;
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
    const bool is_static = p_.static_scale > 0;
    const float amax = is_static && is_spike_.empty() ? 0.0f : rows_.abs_max(rest, p_.k);
    if (!spikes_too && !is_spike_.empty() && amax > p_.spike_threshold) {
      is_spike_[static_cast<size_t>(m)] = 1;
      return 0;
    }
    p_.scale[m] = is_static ? p_.static_scale : S8Scale(amax);
    RoundColumns(x, p_.kept, p_.num_kept, p_.kept_x + m * p_.num_kept);
    RoundColumns(x, p_.super, p_.num_super, p_.super_x + m * p_.num_super);
    return rows_.convert(rest, p_.k, 1.0f / p_.scale[m], is_static, p_.q + m * p_.k);
  }

  const Params& p_;
  const RowFunctions& rows_;
  std::vector<uint8_t> is_spike_;  // [m], empty without a threshold
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

}  // namespace

const RowFunctions kRowsPlain = {AbsMaxPlain, ConvertPlain};

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
