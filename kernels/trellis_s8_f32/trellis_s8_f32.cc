#include "kernels/trellis_s8_f32/trellis_s8_f32.h"

#include <algorithm>
#include <bit>

#include "absl/strings/str_cat.h"
#include "formats/base/status.h"
#include "kernels/cpu/cpu_features.h"
#include "kernels/trellis_s8_f32/trellis_s8_f32_isa.h"

namespace spikefold::kernels::trellis_s8_f32 {
namespace {

constexpr char kName[] = "trellis_s8_f32";

ForwardFunction* ChooseForward() {
  if (ActiveIsa() >= Isa::kAvx512) return ForwardAvx512;
  return ActiveIsa() >= Isa::kAvx2 ? ForwardAvx2 : ForwardPlain;
}

absl::Status RunWith(ForwardFunction* forward, const Params& p, Scratch& scratch) {
  SF_RETURN_IF_ERROR(Supports(p));
  const int64_t paths = int64_t{1} << (kStateBits - p.bits), half = paths + kCostPad;
  scratch.back.resize(static_cast<size_t>(p.n * paths));
  scratch.cost.assign(static_cast<size_t>(2 * half), kNever);
  scratch.cost[0] = 0;
  forward(p, scratch.cost.data(), scratch.back.data());
  // Costs compare as the integers of their bits.
  const float* last = scratch.cost.data() + p.n % 2 * half;
  const auto bits = [](float cost) { return std::bit_cast<uint32_t>(cost); };
  int64_t path =
      std::min_element(last, last + paths, [&](float a, float b) { return bits(a) < bits(b); }) - last;
  for (int64_t i = p.n - 1; i >= 0; --i) {
    const int64_t state = scratch.back[static_cast<size_t>(i * paths + path)] * paths + path;
    p.states[i] = static_cast<uint16_t>(state);
    path = state >> p.bits;
  }
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

absl::Status Reference(const Params& p, Scratch& scratch) { return RunWith(ForwardPlain, p, scratch); }
absl::Status Run(const Params& p, Scratch& scratch) { return RunWith(ChooseForward(), p, scratch); }

}  // namespace spikefold::kernels::trellis_s8_f32
