#include "formats/ggml_scales.h"

#include <catch2/catch.hpp>
#include <random>
#include <string>
#include <vector>

namespace spikefold {
namespace {

constexpr GgmlType kTypes[] = {GgmlType::kQ4_0, GgmlType::kQ4_1, GgmlType::kQ5_0, GgmlType::kQ5_1,
                               GgmlType::kQ8_0, GgmlType::kQ4_K, GgmlType::kQ5_K, GgmlType::kQ6_K};

TEST_CASE("Every scale and code of a block comes out of the decoder as it went in", "[gguf]") {
  std::mt19937 random(7);
  const auto between = [&](int lo, int hi) { return std::uniform_int_distribution<int>(lo, hi)(random); };
  for (const GgmlType type : kTypes) {
    const GgmlTypeInfo& info = *FindGgmlType(static_cast<uint32_t>(type));
    INFO(info.name);
    const GgmlScaleLayout* layout = FindGgmlScaleLayout(type);
    REQUIRE(layout != nullptr);
    REQUIRE(layout->block == info.block_elements);
    for (int trial = 0; trial < 20; ++trial) {
      GgmlBlockScales s;
      s.d = trial % 2 == 0 ? 0.0625f : -0.001953125f;  // float16 holds both
      s.m = 0.03125f;
      for (int j = 0; j < layout->num_subs(); ++j) {
        s.scale[j] = static_cast<int8_t>(between(layout->scale_lo, layout->scale_hi));
        s.minimum[j] = static_cast<uint8_t>(between(0, 63));
      }
      std::vector<int8_t> codes(256);
      for (int8_t& c : codes) c = static_cast<int8_t>(between(layout->lo, layout->hi));
      std::vector<char> block(static_cast<size_t>(info.block_bytes), '\x5a');
      PackGgmlBlock(*layout, s, codes.data(), block.data());
      std::vector<float> values(256);
      info.decode(reinterpret_cast<const uint8_t*>(block.data()), 1, values.data());
      for (int i = 0; i < layout->block; ++i) {
        const int j = i / layout->sub;
        CHECK(values[static_cast<size_t>(i)] ==
              s.step(*layout, j) * static_cast<float>(codes[static_cast<size_t>(i)]) + s.offset(*layout, j));
      }
    }
  }
  CHECK(FindGgmlScaleLayout(GgmlType::kF16) == nullptr);
}

}  // namespace
}  // namespace spikefold
