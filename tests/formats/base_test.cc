#include <catch2/catch.hpp>
#include <cmath>

#include "formats/base/dtype.h"

namespace spikefold {

TEST_CASE("Every float16 survives the way through float32", "[base]") {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const uint16_t half = static_cast<uint16_t>(bits);
    if ((half & 0x7c00) == 0x7c00 && (half & 0x3ff) != 0) continue;  // NaN payloads may change
    REQUIRE(FloatToF16(F16ToFloat(half)) == half);
  }
}

TEST_CASE("Between two float16 values the nearer is taken, in the middle the even one", "[base]") {
  for (const float sign : {1.0f, -1.0f}) {
    for (uint16_t half = 0; half < 0x7bff; ++half) {
      const uint16_t next = static_cast<uint16_t>(half + 1), bit = sign < 0 ? 0x8000 : 0;
      const float middle = sign * (F16ToFloat(half) + F16ToFloat(next)) / 2;  // exact
      const float above = std::nextafter(middle, sign * 1e6f), below = std::nextafter(middle, 0.0f);
      REQUIRE(FloatToF16(middle) == (bit | (half % 2 == 0 ? half : next)));
      REQUIRE(FloatToF16(above) == (bit | next));
      REQUIRE(FloatToF16(below) == (bit | half));
    }
    CHECK(FloatToF16(sign * 65519.99f) == (sign < 0 ? 0xfbff : 0x7bff));
    CHECK(FloatToF16(sign * 65520.0f) == (sign < 0 ? 0xfc00 : 0x7c00));
  }
  CHECK(F16ToFloat(1) == 0x1p-24f);
  CHECK(F16ToFloat(0x3c01) == 1 + 0x1p-10f);
  CHECK(FloatToF16(std::nanf("")) == 0x7e00);
}

}  // namespace spikefold
