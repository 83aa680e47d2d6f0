#include "kernels/gatedmul_f32_f32/gatedmul_f32_f32.h"

#include "absl/strings/str_cat.h"
#include "formats/base/status.h"
#include "kernels/cpu/cpu_features.h"
#include "kernels/gatedmul_f32_f32/gatedmul_f32_f32_isa.h"

namespace spikefold::kernels::gatedmul_f32_f32 {
namespace {

constexpr char kName[] = "gatedmul_f32_f32";
constexpr int64_t kChunkElements = 16 << 10;  // about 5 us of one core: long against a hand-over

RangeFunction* ChooseRange() {
  if (ActiveIsa() >= Isa::kAvx512) return RangeAvx512;
  return ActiveIsa() >= Isa::kAvx2 ? RangeAvx2 : RangePlain;
}

}  // namespace

absl::Status Supports(const Params& p) {
  if (p.count < 1) {
    return absl::InvalidArgumentError(absl::StrCat(kName, ": count=", p.count, "; it must be at least 1"));
  }
  if (p.gate == nullptr || p.up == nullptr || p.y == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(kName, ": gate, up or y is null; set all three"));
  }
  return absl::OkStatus();
}

absl::Status Run(const Params& p, ThreadPool& pool) {
  SF_RETURN_IF_ERROR(Supports(p));
  RangeFunction* range = ChooseRange();
  pool.ParallelFor(p.count, kChunkElements, [&](int64_t begin, int64_t end) { range(p, begin, end); });
  return absl::OkStatus();
}

}  // namespace spikefold::kernels::gatedmul_f32_f32
