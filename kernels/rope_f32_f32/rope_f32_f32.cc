#include "kernels/rope_f32_f32/rope_f32_f32.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "formats/base/status.h"
#include "kernels/cpu/cpu_features.h"
#include "kernels/rope_f32_f32/rope_f32_f32_isa.h"

namespace spikefold::kernels::rope_f32_f32 {
namespace {

constexpr char kName[] = "rope_f32_f32";
constexpr int64_t kChunkElements = 32 << 10;  // about 5 us of one core: long against a hand-over

RowsFunction* ChooseRows() {
  if (ActiveIsa() >= Isa::kAvx512) return RowsAvx512;
  return ActiveIsa() >= Isa::kAvx2 ? RowsAvx2 : RowsPlain;
}

}  // namespace

absl::Status Supports(const Params& p) {
  if (p.m < 1 || p.num_heads < 1 || p.head_dim < 2 || p.head_dim % 2 != 0) {
    return absl::InvalidArgumentError(absl::StrCat(kName, ": M=", p.m, " num_heads=", p.num_heads,
                                                   " head_dim=", p.head_dim,
                                                   "; allowed: M and num_heads at least 1, head_dim even"));
  }
  if (p.x == nullptr || p.cos == nullptr || p.sin == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(kName, ": x, cos or sin is null; set all three"));
  }
  return absl::OkStatus();
}

absl::Status Run(const Params& p, ThreadPool& pool) {
  SF_RETURN_IF_ERROR(Supports(p));
  RowsFunction* rows = ChooseRows();
  pool.ParallelFor(p.m, std::max<int64_t>(1, kChunkElements / (p.num_heads * p.head_dim)),
                   [&](int64_t begin, int64_t end) { rows(p, begin, end); });
  return absl::OkStatus();
}

}  // namespace spikefold::kernels::rope_f32_f32
