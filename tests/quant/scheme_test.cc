// The table of schemes, and the formats behind its rows.
#include "quant/scheme.h"

#include <catch2/catch.hpp>
#include <string>

#include "formats/quantized/native.h"
#include "tests/testing/status_matchers.h"

namespace spikefold {
namespace {

using absl::StatusCode;
using testing::Fails;

std::string Words(absl::string_view name, bool symmetric) {
  const Scheme& scheme = **FindScheme(name);
  return FormatWord(WeightFormatOf(scheme, symmetric)) + " " +
         FormatWord(ActivationFormatOf(scheme, symmetric));
}

TEST_CASE("Each scheme names the formats of its two sides, with zero points where a recipe asks for them") {
  CHECK(Words("w8a16", true) == "s8c float");
  CHECK(Words("w8a8", true) == "s8c s8r");
  CHECK(Words("w8a8-static", false) == "u8c u8t");
  CHECK(Words("w3a16", false) == "u3g float");
  CHECK(Words("w2a16", true) == "s2g float");
  CHECK(Words("w4a8", false) == "u4g u8r");
  CHECK(Words("w4a8-static", true) == "s4g s8t");
  CHECK(Words("w4a4", true) == "s4g s4r");
  CHECK(Words("w4a4-group", false) == "u4g u4g64");
  CHECK(Words("w4a4-static", true) == "s4g s4t");
  CHECK_THAT(FindScheme("w4a4group").status(),
             Fails(StatusCode::kInvalidArgument, "did you mean \"w4a4-group\""));
}

TEST_CASE("Every scheme is a pair of formats that exists, and its linears can be declared") {
  for (const Scheme& scheme : Schemes()) {
    for (const bool symmetric : {true, false}) {
      INFO(scheme.name << (symmetric ? "" : " asymmetric"));
      QuantizedLinearSpec spec;
      spec.module = "m";
      spec.n = 8;
      spec.k = 128;
      spec.format = WeightFormatOf(scheme, symmetric);
      spec.act = ActivationFormatOf(scheme, symmetric);
      spec.group = spec.format.grouped ? 64 : 0;
      CHECK(CheckFormats(spec.format, spec.act) == absl::OkStatus());
      CHECK(CheckSpec(spec) == absl::OkStatus());
      const double bits = 8.0 * static_cast<double>(StoredBytes(spec)) / (8 * 128);
      CHECK(bits > scheme.weight_bits);
    }
  }
}

TEST_CASE("Formats that no kernel takes are no pair") {
  const auto s8r = ActivationFormat::kS8Token;
  CHECK(CheckFormats(WeightFormat::kFloat, ActivationFormat::kFloat).ok());
  CHECK_THAT(
      CheckFormats(WeightFormat::kFloat, s8r),
      Fails(StatusCode::kInvalidArgument, "float weights on INT8 per token activations; quantize both"));
  CHECK_THAT(CheckFormats({.bits = 6}, s8r), Fails(StatusCode::kInvalidArgument, "weights of 6 bits"));
  CHECK_THAT(
      CheckFormats(WeightFormat::kS8c, {.bits = 8, .scales = ActivationFormat::Scales::kGroup, .group = 64}),
      Fails(StatusCode::kInvalidArgument, "activations \"s8g64\" of 8 bits in groups of 64"));
  CHECK_THAT(CheckFormats(WeightFormat::kS8c, {.bits = 4, .group = 64}),
             Fails(StatusCode::kInvalidArgument, "use 4 or 8 bits, or 4 in groups of 32, 64 or 128"));
}

}  // namespace
}  // namespace spikefold
