// Trellis codes: what they mean, by a reference in plain Python (tests/data/make/trellis_levels.py), and how
// a linear of them is stored.
#include "formats/quantized/trellis.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cstring>
#include <map>
#include <vector>

#include "formats/quantized/native_parts.h"
#include "tests/testing/status_matchers.h"

namespace spikefold {
namespace {

constexpr int64_t kRows = 300, kColumns = 3;  // more than a segment

std::vector<int8_t> Codes(int bits) {
  std::vector<int8_t> codes;
  for (int64_t i = 0; i < kRows; ++i) {
    for (int64_t j = 0; j < kColumns; ++j) {
      const int64_t code = (i * i * 5 + i * 3 + j * 7) % (int64_t{1} << bits);
      codes.push_back(static_cast<int8_t>(code - (int64_t{1} << (bits - 1))));
    }
  }
  return codes;
}

QuantizedLinear Linear(int bits) {
  QuantizedLinearSpec spec;
  spec.module = "model.layers.0.mlp.up_proj";
  spec.n = kRows;
  spec.k = kColumns;
  spec.format = {.bits = bits, .trellis = true};
  QuantizedLinear q(spec);
  q.codes = Codes(bits);
  for (int64_t i = 0; i < kRows; ++i) q.scales.push_back(0.5f + static_cast<float>(i));
  return q;
}

}  // namespace

TEST_CASE("Trellis codes mean what a reference in plain integers says", "[native]") {
  struct Expected {
    int bits;
    int64_t sum;              // of level * (place + 1)
    std::vector<int> levels;  // rows 0, 1, 255, 256 of each column
  };
  const Expected expected[] = {
      {2, -173364, {37, 37, 5, 37, -20, 70, 40, -20, -43, 17, -35, -43}},
      {3, 3883713, {37, 37, -25, 37, 10, -15, -39, 10, -13, 29, -53, -13}},
      {4, 206030, {37, 34, -35, 37, 10, 20, 20, 10, -17, 13, -27, -17}},
      {5, -778749, {37, 34, 9, 37, 10, 33, 19, 10, -17, 32, -29, -17}},
      {6, -414128, {37, 34, -3, 37, 10, -5, 22, 10, -17, 20, 47, -17}},
  };
  for (const Expected& e : expected) {
    CAPTURE(e.bits);
    std::vector<int8_t> levels = Codes(e.bits);
    DecodeTrellis(e.bits, levels.data(), kRows, kColumns, levels.data());
    int64_t sum = 0;
    for (size_t i = 0; i < levels.size(); ++i) sum += levels[i] * static_cast<int64_t>(i + 1);
    CHECK(sum == e.sum);
    std::vector<int> some;
    for (size_t j = 0; j < kColumns; ++j) {
      for (const size_t row : {0, 1, 255, 256}) some.push_back(levels[row * kColumns + j]);
    }
    CHECK(some == e.levels);
  }
}

namespace {

// As they are read from a file, blocks of rows that begin with a segment.
std::vector<int8_t> LevelsBySegments(const QuantizedLinear& q) {
  std::map<std::string, Tensor> stored;
  const absl::Status encoded = EncodeLinear(q, [&](const std::string& name, const TensorView& t) {
    Tensor copy(t.dtype, t.shape);
    std::memcpy(copy.data(), t.data, static_cast<size_t>(t.num_bytes()));
    stored.emplace(name, std::move(copy));
    return absl::OkStatus();
  });
  REQUIRE(encoded == absl::OkStatus());
  const auto rows = OpenLinearRows(
      q, [&](const std::string& name) { return stored.at(name).Clone(); },
      [&](const std::string& name, int64_t begin, int64_t end) {
        const Tensor& whole = stored.at(name);
        Tensor part(whole.dtype(), {end - begin, whole.dim(1)});
        const char* from = static_cast<const char*>(whole.data()) + begin * whole.num_bytes() / whole.dim(0);
        std::memcpy(part.data(), from, static_cast<size_t>(part.num_bytes()));
        return part;
      });
  REQUIRE(rows.status() == absl::OkStatus());
  REQUIRE((*rows)->rows_together() == kTrellisSegment);
  std::vector<int8_t> levels(static_cast<size_t>(q.n * q.k));
  for (int64_t begin = 0; begin < q.n; begin += kTrellisSegment) {
    const int64_t end = std::min(begin + kTrellisSegment, q.n);
    REQUIRE((*rows)->Codes(begin, end, levels.data() + begin * q.k) == absl::OkStatus());
  }
  return levels;
}

}  // namespace

TEST_CASE("A linear of trellis codes is an INT8 matrix with a scale a channel", "[native]") {
  for (const int bits : {2, 3, 4, 5, 6}) {
    CAPTURE(bits);
    const QuantizedLinear q = Linear(bits);
    REQUIRE(CheckLinear(q) == absl::OkStatus());
    CHECK(StoredBytes(q) == kRows * 4 + kRows * 4 + 16);  // one word a row holds three codes
    const std::vector<int8_t> levels = Levels(q);
    const Tensor w = Dequantize(q);
    CHECK(LevelsBySegments(q) == levels);
    for (size_t i = 0; i < levels.size(); ++i) {
      REQUIRE(w.as<float>()[i] == q.scales[i / kColumns] * static_cast<float>(levels[i]));
    }
  }
}

TEST_CASE("Trellis codes take no groups, zero points, kept columns or super weights", "[native]") {
  struct Case {
    void (*spoil)(QuantizedLinear*);
    const char* message;
  };
  const Case cases[] = {
      {[](auto* q) { q->num_kept = 1; }, "trellis codes with 1 kept columns and 0 super weights"},
      {[](auto* q) { q->num_super = 2; }, "trellis codes with 0 kept columns and 2 super weights"},
      {[](auto* q) { q->format.symmetric = false; }, "weights of 4 bits"},
      {[](auto* q) { q->format.bits = 7; }, "weights of 7 bits"},
      {[](auto* q) { q->codes[3] = 8; }, "code 8 at row 1, column 0 is outside -8..7"},
  };
  for (const Case& c : cases) {
    QuantizedLinear q = Linear(4);
    c.spoil(&q);
    CHECK_THAT(CheckLinear(q), testing::Fails(absl::StatusCode::kInvalidArgument, c.message));
  }
}

}  // namespace spikefold
