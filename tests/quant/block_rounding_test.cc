// Rounding onto ggml's blocks: the result must be what a file can hold, and cost less than others' rounding.
#include "quant/block_rounding.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <random>

#include "formats/gguf_encode.h"
#include "quant/rounding/block_scales.h"
#include "quant/rounding/gptq.h"
#include "tests/quant/quant_kit.h"

namespace spikefold {
namespace {

using testing::TestPool;

constexpr GgmlType kTypes[] = {GgmlType::kQ4_0, GgmlType::kQ4_1, GgmlType::kQ5_0, GgmlType::kQ5_1,
                               GgmlType::kQ8_0, GgmlType::kQ4_K, GgmlType::kQ5_K, GgmlType::kQ6_K};

// Weights [n, k] and the Hessian [k, k] of inputs that are correlated and of unequal size.
struct Problem {
  static constexpr int64_t n = 40, k = 512, tokens = 1536;
  Problem() : w(n * k), h(k * k) {
    std::mt19937_64 random(3);
    std::normal_distribution<double> normal;
    std::vector<double> size(k), x(k);
    for (double& s : size) s = std::exp(normal(random));
    for (int64_t t = 0; t < tokens; ++t) {
      double common = normal(random);
      for (size_t c = 0; c < k; ++c) {
        common = 0.9 * common + 0.45 * normal(random);
        x[c] = size[c] * common;
      }
      for (size_t i = 0; i < k; ++i) {
        for (size_t j = 0; j < k; ++j) h[i * k + j] += x[i] * x[j];
      }
    }
    for (float& v : w) v = static_cast<float>(0.02 * normal(random));
    auto made = FactorHessian(h, k, {}, TestPool());
    REQUIRE(made.ok());
    factor = *std::move(made);
  }
  // tr(dW H dW^T) / tr(W H W^T) of the values that a file's bytes stand for.
  double Loss(GgmlType type, const std::string& blocks) const {
    const std::vector<float> values = Decode(type, blocks);
    double error = 0, power = 0;
    std::vector<double> e(k);
    for (size_t r = 0; r < n; ++r) {
      for (size_t c = 0; c < k; ++c) {
        e[c] = static_cast<double>(w[r * k + c]) - static_cast<double>(values[r * k + c]);
      }
      for (size_t i = 0; i < k; ++i) {
        for (size_t j = 0; j < k; ++j) {
          error += e[i] * h[i * k + j] * e[j];
          power += static_cast<double>(w[r * k + i]) * h[i * k + j] * static_cast<double>(w[r * k + j]);
        }
      }
    }
    return error / power;
  }
  static std::vector<float> Decode(GgmlType type, const std::string& blocks) {
    const GgmlTypeInfo& info = *FindGgmlType(static_cast<uint32_t>(type));
    std::vector<float> values(n * k);
    info.decode(reinterpret_cast<const uint8_t*>(blocks.data()), n * k / info.block_elements, values.data());
    return values;
  }
  RoundingInput input() const { return {.w = w, .n = n, .k = k}; }
  std::vector<float> w;
  std::vector<double> h;
  HessianFactor factor;
};

TEST_CASE("Blocks rounded on a Hessian cost less than the nearest codes, and these less than ggml's",
          "[gptq][gguf]") {
  const Problem problem;
  for (const GgmlType type : kTypes) {
    const GgmlTypeInfo& info = *FindGgmlType(static_cast<uint32_t>(type));
    INFO(info.name);
    const GgmlScaleLayout& layout = *FindGgmlScaleLayout(type);
    const auto rounded = Gptq(problem.input(), problem.factor, BlockGrid(layout), {}, TestPool());
    REQUIRE(rounded.ok());
    CHECK(rounded->block_type == type);
    const double loss = problem.Loss(type, rounded->blocks);
    CHECK(loss == Approx(rounded->relative_error).epsilon(1e-3));  // of the bytes, not of something before
    const std::string nearest =
        EncodeBlocks(layout, problem.w, Problem::k, problem.factor.diagonal, TestPool());
    const double nearest_loss = problem.Loss(type, nearest);
    CHECK(loss < 0.7 * nearest_loss);
    if (!CanEncode(type)) continue;
    std::string theirs(nearest.size(), '\0');
    EncodeGguf(type, problem.w, theirs.data());
    CHECK(nearest_loss < problem.Loss(type, theirs));
  }
}

TEST_CASE("A block that a type can hold exactly stays as it is", "[gguf]") {
  for (const GgmlType type : kTypes) {
    INFO(FindGgmlType(static_cast<uint32_t>(type))->name);
    const GgmlScaleLayout& layout = *FindGgmlScaleLayout(type);
    std::vector<float> w(256);
    for (int i = 0; i < 256; ++i) {
      const int code = layout.lo + i * 7 % (layout.hi - layout.lo + 1);
      w[static_cast<size_t>(i)] = 0.0078125f * static_cast<float>(layout.offsets ? code - 4 : code);
    }
    if (layout.hi == 127)
      w[0] = w[32] = w[64] = w[96] = w[128] = w[160] = w[192] = w[224] = -127 * 0.0078125f;
    const std::string blocks = EncodeBlocks(layout, w, 256, {}, TestPool());
    std::vector<float> values(256);
    const GgmlTypeInfo& info = *FindGgmlType(static_cast<uint32_t>(type));
    info.decode(reinterpret_cast<const uint8_t*>(blocks.data()), 256 / info.block_elements, values.data());
    double worst = 0;
    for (size_t i = 0; i < 256; ++i) worst = std::max(worst, std::abs(static_cast<double>(w[i] - values[i])));
    // Where integer scales or code ranges of a sub-block miss the step, a part of it is left.
    CHECK(worst <= (layout.integer_scales() ? 0.25 : 0.02) * 0.0078125);
  }
}

TEST_CASE("Weights that another file left on fewer levels keep their own grid", "[gguf]") {
  const GgmlScaleLayout& layout = *FindGgmlScaleLayout(GgmlType::kQ5_1);
  std::mt19937_64 random(21);
  for (int block = 0; block < 50; ++block) {
    const int last = 8 + block % 8;  // of the levels that occur; Q5_1 has 31
    const float step = 0.003f * static_cast<float>(1 + block),
                offset = -0.4f * step * static_cast<float>(last);
    std::vector<float> w;
    for (int i = 0; i < layout.block; ++i) {
      const int code = i < 2 ? i * last : static_cast<int>(random() % static_cast<uint64_t>(last + 1));
      w.push_back(offset + step * static_cast<float>(code));
    }
    const std::string bytes = EncodeBlocks(layout, w, layout.block, {}, TestPool());
    std::vector<float> back(w.size());
    FindGgmlType(static_cast<uint32_t>(layout.type))
        ->decode(reinterpret_cast<const uint8_t*>(bytes.data()), 1, back.data());
    for (size_t i = 0; i < w.size(); ++i) {
      CAPTURE(block, i);
      // The step and the offset are float16 in the file.
      CHECK(std::fabs(back[i] - w[i]) < 0.01f * step);
    }
  }
}

TEST_CASE("Zeros stay zeros and nothing is lost in a block of one large weight", "[gguf]") {
  for (const GgmlType type : kTypes) {
    INFO(FindGgmlType(static_cast<uint32_t>(type))->name);
    const GgmlScaleLayout& layout = *FindGgmlScaleLayout(type);
    std::vector<float> w(512);
    w[300] = -3.0f;
    const std::string blocks = EncodeBlocks(layout, w, 256, {}, TestPool());
    std::vector<float> values(512);
    const GgmlTypeInfo& info = *FindGgmlType(static_cast<uint32_t>(type));
    info.decode(reinterpret_cast<const uint8_t*>(blocks.data()), 512 / info.block_elements, values.data());
    for (size_t i = 0; i < 512; ++i) CHECK(values[i] == Approx(w[i]).margin(0.02));
  }
}

TEST_CASE("A model becomes blocks of the asked types, the same whatever the threads", "[gptq][gguf]") {
  const testing::Scanned scanned = testing::ScanTiny({.hidden = 256,
                                                      .intermediate = 256,
                                                      .num_layers = 1,
                                                      .num_heads = 4,
                                                      .num_kv_heads = 2,
                                                      .head_dim = 64,
                                                      .vocab = 64});
  const CheckpointReader& reader = *scanned.tiny.checkpoint;
  const std::map<std::string, GgmlType> types = {{"model.layers.0.self_attn.q_proj", GgmlType::kQ4_0},
                                                 {"model.layers.0.mlp.down_proj", GgmlType::kQ4_K},
                                                 {"model.layers.0.mlp.up_proj", GgmlType::kF16},
                                                 {"model.embed_tokens", GgmlType::kQ8_0}};
  ThreadPool one(1);
  const auto a = RoundToBlocks(reader, types, {.pool = &TestPool(), .stats = &scanned.scan.stats});
  const auto b = RoundToBlocks(reader, types, {.pool = &one, .stats = &scanned.scan.stats});
  REQUIRE(a.ok());
  REQUIRE(b.ok());
  CHECK(*a == *b);
  CHECK(a->size() == 3);  // F16 is none of these types
  CHECK(a->at("model.layers.0.mlp.down_proj").size() == 256 * 144);
  const auto nearest = RoundToBlocks(reader, types, {.pool = &TestPool()});
  REQUIRE(nearest.ok());
  CHECK(nearest->at("model.layers.0.mlp.down_proj") != a->at("model.layers.0.mlp.down_proj"));
  CHECK(nearest->at("model.embed_tokens") == a->at("model.embed_tokens"));  // not tied: no Hessian
}

}  // namespace
}  // namespace spikefold
