#include "kernels/logsumexp_f64_f32/logsumexp_f64_f32.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "formats/base/status.h"
#include "kernels/cpu/cpu_features.h"
#include "kernels/logsumexp_f64_f32/logsumexp_f64_f32_isa.h"

namespace spikefold::kernels::logsumexp_f64_f32 {
namespace {

constexpr char kName[] = "logsumexp_f64_f32";
constexpr int64_t kChunkElements = 32 << 10;  // about 10 us of one core: long against a hand-over

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
  if (p.x == nullptr || p.out == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(kName, ": x or out is null; set both"));
  }
  if (p.m > 1 && p.x_stride < p.n) {
    return absl::InvalidArgumentError(
        absl::StrCat(kName, ": x_stride=", p.x_stride, "; it must be at least N=", p.n));
  }
  return absl::OkStatus();
}

RowResult RunRow(const float* x, int64_t n) { return ChooseRow()(x, n); }

absl::Status Run(const Params& p, ThreadPool& pool) {
  SF_RETURN_IF_ERROR(Supports(p));
  RowFunction* row = ChooseRow();
  pool.ParallelFor(p.m, std::max<int64_t>(1, kChunkElements / p.n), [&](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; ++m) p.out[m] = row(p.x + m * p.x_stride, p.n);
  });
  return absl::OkStatus();
}

}  // namespace spikefold::kernels::logsumexp_f64_f32
