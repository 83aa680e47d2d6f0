#include "kernels/trellis_s8_f32/trellis_s8_f32.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "formats/base/status.h"
#include "kernels/cpu/cpu_features.h"
#include "kernels/trellis_s8_f32/trellis_s8_f32_isa.h"

namespace spikefold::kernels::trellis_s8_f32 {
namespace {

constexpr char kName[] = "trellis_s8_f32";

SearchFunction* ChooseSearch() {
  if (ActiveIsa() >= Isa::kAvx512) return SearchAvx512;
  return ActiveIsa() >= Isa::kAvx2 ? SearchAvx2 : SearchPlain;
}

absl::Status RunWith(SearchFunction* search, const Params& p, Scratch& scratch) {
  SF_RETURN_IF_ERROR(Supports(p));
  const int64_t paths = int64_t{1} << (kStateBits - p.bits);
  scratch.cost.resize(static_cast<size_t>((p.n + 1) * paths + kCostPad));
  std::fill(scratch.cost.begin(), scratch.cost.begin() + paths, kNever);
  scratch.cost[0] = 0;
  search(p, scratch.cost.data());
  return absl::OkStatus();
}

}  // namespace

absl::Status Supports(const Params& p) {
  if (p.bits < 2 || p.bits > 6 || p.n < 1 || p.n > kMaxRows) {
    return absl::InvalidArgumentError(absl::StrCat(
        kName, ": bits=", p.bits, " n=", p.n, "; 2 to 6 bits and 1 to ", kMaxRows, " rows are supported"));
  }
  if (p.levels == nullptr || p.target == nullptr || p.scale == nullptr || p.states == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat(kName, ": levels, target, scale or states is null; set all"));
  }
  return absl::OkStatus();
}

absl::Status Reference(const Params& p, Scratch& scratch) { return RunWith(SearchPlain, p, scratch); }
absl::Status Run(const Params& p, Scratch& scratch) { return RunWith(ChooseSearch(), p, scratch); }

}  // namespace spikefold::kernels::trellis_s8_f32
