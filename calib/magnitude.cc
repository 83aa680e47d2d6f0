#include <algorithm>
#include <bit>

#include "calib/stats.h"

namespace spikefold {
namespace {

// The top 12 bits of a positive float are exponent and 3 mantissa bits: 8 bins an octave.
constexpr int kShift = 20;
constexpr uint32_t kFirst = (127 - 12) << 3;  // 2^-12

}  // namespace

int MagnitudeBin(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value) & 0x7fffffffu;
  const int bin = static_cast<int>(bits >> kShift) - static_cast<int>(kFirst);
  return std::clamp(bin, 0, kMagnitudeBins - 1);
}

float MagnitudeBinCenter(int bin) {
  const uint32_t lower = (static_cast<uint32_t>(bin) + kFirst) << kShift;
  return std::bit_cast<float>(lower + (1u << (kShift - 1)));
}

const StatsArm* CalibStats::FindArm(absl::string_view name) const {
  for (const StatsArm& arm : arms) {
    if (arm.name == name) return &arm;
  }
  return nullptr;
}

}  // namespace spikefold
