#include "kernels/kld_f64_f32_f32/kld_f64_f32_f32.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "formats/base/status.h"
#include "kernels/cpu/cpu_features.h"
#include "kernels/kld_f64_f32_f32/kld_f64_f32_f32_isa.h"

namespace spikefold::kernels::kld_f64_f32_f32 {
namespace {

constexpr char kName[] = "kld_f64_f32_f32";
constexpr int64_t kChunkElements = 8 << 10;  // about 10 us of one core: long against a hand-over

RowFunction* ChooseRow() {
  if (ActiveIsa() >= Isa::kAvx512) return RowAvx512;
  return ActiveIsa() >= Isa::kAvx2 ? RowAvx2 : RowPlain;
}

}  // namespace

absl::Status Supports(const Params& p) {
  if (p.m < 1 || p.n < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat(kName, ": shape M=", p.m, " N=", p.n, " is empty; each must be at least 1"));
  }
  if (p.p == nullptr || p.q == nullptr || p.out == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(kName, ": p, q or out is null; set all three"));
  }
  if (p.m > 1 && p.stride < p.n) {
    return absl::InvalidArgumentError(
        absl::StrCat(kName, ": stride=", p.stride, "; it must be at least N=", p.n));
  }
  return absl::OkStatus();
}

RowResult RunRow(const float* p, const float* q, int64_t n) { return ChooseRow()(p, q, n); }

absl::Status Run(const Params& p, ThreadPool& pool) {
  SF_RETURN_IF_ERROR(Supports(p));
  RowFunction* row = ChooseRow();
  pool.ParallelFor(p.m, std::max<int64_t>(1, kChunkElements / p.n), [&](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; ++m) p.out[m] = row(p.p + m * p.stride, p.q + m * p.stride, p.n);
  });
  return absl::OkStatus();
}

}  // namespace spikefold::kernels::kld_f64_f32_f32
