#include <catch2/catch.hpp>

#include "formats/base/dtype.h"

namespace spikefold {

TEST_CASE("Every float16 survives the way through float32", "[base]") {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const uint16_t half = static_cast<uint16_t>(bits);
    if ((half & 0x7c00) == 0x7c00 && (half & 0x3ff) != 0) continue;  // NaN payloads may change
    REQUIRE(FloatToF16(F16ToFloat(half)) == half);
  }
}

}  // namespace spikefold
