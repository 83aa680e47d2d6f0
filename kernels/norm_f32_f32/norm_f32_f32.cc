#include "kernels/norm_f32_f32/norm_f32_f32.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "formats/base/status.h"
#include "kernels/cpu/cpu_features.h"
#include "kernels/norm_f32_f32/norm_f32_f32_isa.h"

namespace spikefold::kernels::norm_f32_f32 {
namespace {

constexpr char kName[] = "norm_f32_f32";
constexpr int64_t kChunkElements = 32 << 10;  // about 5 us of one core: long against a hand-over

RowsFunction* ChooseRows() {
  if (ActiveIsa() >= Isa::kAvx512) return RowsAvx512;
  return ActiveIsa() >= Isa::kAvx2 ? RowsAvx2 : RowsPlain;
}

}  // namespace

absl::Status Supports(const Params& p) {
  if (p.m < 1 || p.k < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat(kName, ": shape M=", p.m, " K=", p.k, " is empty; each must be at least 1"));
  }
  if (p.x == nullptr || p.gain == nullptr || p.y == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(kName, ": x, gain or y is null; set all three"));
  }
  return absl::OkStatus();
}

absl::Status Run(const Params& p, ThreadPool& pool) {
  SF_RETURN_IF_ERROR(Supports(p));
  RowsFunction* rows = ChooseRows();
  pool.ParallelFor(p.m, std::max<int64_t>(1, kChunkElements / p.k),
                   [&](int64_t begin, int64_t end) { rows(p, begin, end); });
  return absl::OkStatus();
}

}  // namespace spikefold::kernels::norm_f32_f32
