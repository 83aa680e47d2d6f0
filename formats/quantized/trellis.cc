#include "formats/quantized/trellis.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

namespace spikefold {
namespace {

constexpr uint32_t kMultiplier = 0x2fe26edd, kOffset = 0xb98068f3;

constexpr int Level(uint32_t state) {
  const uint32_t x = state * kMultiplier + kOffset;
  const int sum = static_cast<int>((x & 255) + (x >> 8 & 255) + (x >> 16 & 255) + (x >> 24));
  return std::max(-127, (sum - 509) >> 2);  // the four bytes' mean is 510
}

constexpr std::array<int8_t, kTrellisStates> MakeLevels() {
  std::array<int8_t, kTrellisStates> levels{};
  for (uint32_t s = 0; s < kTrellisStates; ++s) levels[s] = static_cast<int8_t>(Level(s));
  return levels;
}
constexpr std::array<int8_t, kTrellisStates> kLevels = MakeLevels();

constexpr double kSpread = 37.05;  // root of the levels' mean square

struct Measured {
  double error, stretch;  // stretch: of the levels over the weights'
};
// By bits, from kTrellisMinBits: 7,680 Gaussian values in segments of 256 rows.
constexpr std::array<Measured, 5> kMeasured = {
    {{0.0738, 1.05}, {0.0189, 1.10}, {0.0050, 1.10}, {0.0013, 1.15}, {0.00036, 1.15}}};

const Measured& MeasuredAt(int bits) {
  return kMeasured[static_cast<size_t>(std::clamp(bits, kTrellisMinBits, kTrellisMaxBits) - kTrellisMinBits)];
}

}  // namespace

const int8_t* TrellisLevels() { return kLevels.data(); }

void DecodeTrellis(int bits, const int8_t* codes, int64_t n, int64_t k, int8_t* levels) {
  std::vector<uint16_t> states(static_cast<size_t>(k));
  const int zero = 1 << (bits - 1);
  for (int64_t row = 0; row < n; ++row) {
    if (row % kTrellisSegment == 0) std::fill(states.begin(), states.end(), uint16_t{0});
    const int8_t* in = codes + row * k;
    int8_t* out = levels + row * k;
    for (int64_t c = 0; c < k; ++c) {
      uint16_t& state = states[static_cast<size_t>(c)];
      state = static_cast<uint16_t>(((state << bits) + in[c] + zero) & (kTrellisStates - 1));
      out[c] = kLevels[state];
    }
  }
}

double TrellisError(int bits) { return MeasuredAt(bits).error; }
double TrellisScale(int bits) { return MeasuredAt(bits).stretch / kSpread; }

}  // namespace spikefold
