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

std::string PeakBinsText(const SiteStats& stats) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string out;
  for (int64_t c = 0; c < stats.k; ++c) {
    const int bin = MagnitudeBin(stats.AbsMax(c));
    out.push_back(kDigits[bin / 16]);
    out.push_back(kDigits[bin % 16]);
  }
  return out;
}

std::vector<int> PeakBinsFromText(absl::string_view text) {
  const auto digit = [](char c) {
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
  };
  std::vector<int> out;
  for (size_t i = 0; i + 1 < text.size(); i += 2) {
    const int high = digit(text[i]), low = digit(text[i + 1]);
    if (high < 0 || low < 0) return {};
    out.push_back(high * 16 + low);
  }
  return text.size() % 2 == 0 ? out : std::vector<int>();
}

}  // namespace spikefold
