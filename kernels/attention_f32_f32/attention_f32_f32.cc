#include "kernels/attention_f32_f32/attention_f32_f32.h"

#include "absl/strings/str_cat.h"
#include "formats/base/status.h"
#include "kernels/attention_f32_f32/attention_f32_f32_isa.h"
#include "kernels/cpu/cpu_features.h"

namespace spikefold::kernels::attention_f32_f32 {
namespace {

constexpr char kName[] = "attention_f32_f32";

}  // namespace

absl::Status Supports(const Params& p) {
  if (p.m < 1 || p.num_heads < 1 || p.num_kv_heads < 1 || p.head_dim < 1 || p.first < 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        kName, ": M=", p.m, " num_heads=", p.num_heads, " num_kv_heads=", p.num_kv_heads,
        " head_dim=", p.head_dim, " first=", p.first, "; each must be at least 1, first at least 0"));
  }
  if (p.num_heads % p.num_kv_heads != 0) {
    return absl::InvalidArgumentError(absl::StrCat(kName, ": num_heads=", p.num_heads,
                                                   " is not a multiple of num_kv_heads=", p.num_kv_heads));
  }
  if (p.q == nullptr || p.k == nullptr || p.v == nullptr || p.o == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(kName, ": q, k, v or o is null; set all four"));
  }
  return absl::OkStatus();
}

absl::Status Run(const Params& p, ThreadPool& pool) {
  SF_RETURN_IF_ERROR(Supports(p));
  if (ActiveIsa() >= Isa::kAvx2) {
    const AttentionSizes sizes = {.num_spans = (p.first + p.m + kSpan - 1) / kSpan,
                                  .scratch_floats = ScratchFloats(p),
                                  // A head's mass is added to by one thread, in row order.
                                  .head_by_head = p.column_mass != nullptr};
    AttentionCall<Params>(p, sizes, ActiveIsa() >= Isa::kAvx512 ? kAvx512 : kAvx2, pool).Run();
    return absl::OkStatus();
  }
  pool.ParallelFor(p.num_heads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t head = begin; head < end; ++head) RowsPlain(p, head, 0, p.m);
  });
  return absl::OkStatus();
}

}  // namespace spikefold::kernels::attention_f32_f32
