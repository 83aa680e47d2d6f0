// Rounding a model layer by layer: every linear must have been rounded on exactly the inputs that it will
// see.
#include "quant/rounding/sequential.h"

#include <catch2/catch.hpp>
#include <map>
#include <memory>
#include <string>

#include "calib/observers/hessian_observer.h"
#include "kernels/runtime/forward.h"
#include "kernels/runtime/ops.h"
#include "tests/testing/tiny_model.h"

namespace spikefold {
namespace {

ThreadPool& Pool() {
  static ThreadPool pool(2);
  return pool;
}

std::unique_ptr<RuntimeModel> Load(const CheckpointReader& reader) {
  auto model = LoadModel(reader, {.pool = &Pool()});
  REQUIRE(model.ok());
  return *std::move(model);
}

testing::TinyModel Tiny(bool gemma = false) {
  return testing::MakeTinyModel({.hidden = 64,
                                 .intermediate = 96,
                                 .num_layers = 3,
                                 .num_heads = 2,
                                 .num_kv_heads = 1,
                                 .head_dim = 32,
                                 .vocab = 64,
                                 .tied = gemma,
                                 .qkv_bias = !gemma,
                                 .qk_norm = gemma,
                                 .sandwich = gemma,
                                 .write_scale = 0.3});
}

std::vector<std::vector<int32_t>> SomeWindows(int count, int length, uint64_t seed) {
  std::vector<std::vector<int32_t>> windows(static_cast<size_t>(count));
  for (auto& window : windows) {
    for (int i = 0; i < length; ++i) {
      seed = seed * 6364136223846793005ull + 1442695040888963407ull;
      window.push_back(static_cast<int32_t>((seed >> 33) % 64));
    }
  }
  return windows;
}

constexpr WeightGrid kGrid{.bits = 3, .symmetric = false, .group = 32};

using Results = std::map<int, RoundedWeights>;  // by node

Results Round(const CheckpointReader& reader, RuntimeModel& model,
              const std::vector<std::vector<int32_t>>& windows, SequentialOptions options,
              const LinearRounding& wanted = {.round = true, .grid = kGrid}) {
  options.pool = &Pool();
  Results results;
  int last = -1;
  const absl::Status status = RoundSequentially(
      reader, model, windows, options, [&](int) -> absl::StatusOr<LinearRounding> { return wanted; },
      [&](int node, RoundedWeights rounded) {
        CHECK(node > last);  // order of execution
        last = node;
        results[node] = std::move(rounded);
        return absl::OkStatus();
      });
  CAPTURE(status.ToString());
  REQUIRE(status.ok());
  return results;
}

// What Gptq makes of every linear on the inputs that `model` feeds it.
Results Expected(const CheckpointReader& reader, const RuntimeModel& model,
                 const std::vector<std::vector<int32_t>>& windows, const KvPrefix* prefix) {
  const ModelGraph& graph = model.graph();
  std::vector<int> sites;
  for (const Site& site : graph.sites) sites.push_back(site.id);
  HessianObserver observer(graph, sites, {}, Pool());
  for (const auto& window : windows) {
    KvCache cache(graph.config, 40, prefix);
    std::vector<float> hidden(window.size() * 64);
    REQUIRE(Forward(model, window, cache, absl::MakeSpan(hidden), {.taps = &observer}).ok());
  }
  Results results;
  for (const Site& site : graph.sites) {
    const std::vector<double> h = *observer.hessian(static_cast<size_t>(site.id)).Full(Pool());
    const auto factor = FactorHessian(h, site.k, {}, Pool());
    REQUIRE(factor.ok());
    for (const int node : site.linears) {
      const Node& n = graph.nodes[static_cast<size_t>(node)];
      const bool tied = n.role == Role::kHead && graph.config.tied_embeddings;
      const auto w = reader.ReadF32((tied ? "model.embed_tokens" : n.module) + ".weight");
      REQUIRE(w.ok());
      auto rounded = Gptq({.w = w->as<float>(), .n = n.n, .k = n.k}, *factor, kGrid, {}, Pool());
      REQUIRE(rounded.ok());
      results[node] = *std::move(rounded);
    }
  }
  return results;
}

size_t DifferentLinears(const Results& a, const Results& b) {
  REQUIRE(a.size() == b.size());
  size_t different = 0;
  for (const auto& [node, rounded] : a) different += rounded.codes != b.at(node).codes ? 1 : 0;
  return different;
}

}  // namespace

TEST_CASE("Every linear is rounded on the inputs that the rounded model feeds it") {
  for (const bool gemma : {false, true}) {
    const testing::TinyModel tiny = Tiny(gemma);
    const auto model = Load(*tiny.checkpoint);
    const auto prefix = ComputePrefix(*model, std::vector<int32_t>{5, 6});
    REQUIRE(prefix.ok());
    const auto windows = SomeWindows(9, 30, 1);
    const Results before = Expected(*tiny.checkpoint, *model, windows, &*prefix);
    const Results rounded = Round(*tiny.checkpoint, *model, windows, {.prefix = &*prefix});
    REQUIRE(rounded.size() == 3 * 7 + 1);
    CHECK(DifferentLinears(rounded, Expected(*tiny.checkpoint, *model, windows, &*prefix)) == 0);
    CHECK(DifferentLinears(rounded, before) > 10);  // the canary: inputs do change
  }
}

TEST_CASE("One shot: every linear on the float model's inputs, and the model stays as it is") {
  const testing::TinyModel tiny = Tiny();
  const auto model = Load(*tiny.checkpoint);
  const auto windows = SomeWindows(9, 30, 2);
  const Results before = Expected(*tiny.checkpoint, *model, windows, nullptr);
  CHECK(DifferentLinears(Round(*tiny.checkpoint, *model, windows, {.sequential = false}), before) == 0);
  CHECK(DifferentLinears(Expected(*tiny.checkpoint, *model, windows, nullptr), before) == 0);
}

TEST_CASE("The rounded model computes with what the codes, kept columns and super weights stand for") {
  const testing::TinyModel tiny = Tiny();
  const auto model = Load(*tiny.checkpoint), again = Load(*tiny.checkpoint);
  const auto windows = SomeWindows(6, 20, 3);
  const LinearRounding wanted{.round = true, .grid = kGrid, .kept = {1, 40}, .supers = {{2, 7}}};
  const Results rounded = Round(*tiny.checkpoint, *model, windows, {}, wanted);
  for (const auto& [node, r] : rounded) {
    const Node& n = again->graph().nodes[static_cast<size_t>(node)];
    const auto w = tiny.checkpoint->ReadF32(n.module + ".weight");
    REQUIRE(w.ok());
    Tensor values = Tensor::FromFloats({n.n, n.k}, Dequantize(r, n.n, n.k, Pool()));
    for (int64_t row = 0; row < n.n; ++row) {
      for (const int64_t c : {1, 40}) {
        const size_t at = static_cast<size_t>(row * n.k + c);
        CHECK(values.as<float>()[at] == 0);
        values.as<float>()[at] = Bf16ToFloat(FloatToBf16(w->as<float>()[at]));
      }
    }
    const size_t super = static_cast<size_t>(2 * n.k + 7);
    values.as<float>()[super] = w->as<float>()[super];
    LinearWeights weights;
    weights.bias = again->linear(node)->bias;
    REQUIRE(again->ops().PackF32(values, weights).ok());
    REQUIRE(again->ops().Prepare(weights).ok());
    const absl::Status replaced = again->ReplaceLinear(node, std::move(weights));
    REQUIRE(replaced.ok());
  }
  std::vector<float> a(20 * 64), b(20 * 64);
  KvCache cache_a(model->graph().config, 20), cache_b(model->graph().config, 20);
  REQUIRE(Forward(*model, windows[0], cache_a, absl::MakeSpan(a), {}).ok());
  REQUIRE(Forward(*again, windows[0], cache_b, absl::MakeSpan(b), {}).ok());
  CHECK(a == b);
}

TEST_CASE("Following the float model's outputs brings the rounded model closer to it") {
  const testing::TinyModel tiny = Tiny();
  const auto reference = Load(*tiny.checkpoint);
  const auto windows = SomeWindows(60, 30, 4);
  const auto error = [&](const RuntimeModel* follow, double strength) {
    const auto model = Load(*tiny.checkpoint);
    Round(*tiny.checkpoint, *model, windows, {.reference = follow, .reference_strength = strength});
    double sum = 0;
    for (const auto& window : windows) {
      std::vector<float> a(30 * 64), b(30 * 64);
      KvCache cache_a(model->graph().config, 30), cache_b(model->graph().config, 30);
      REQUIRE(Forward(*model, window, cache_a, absl::MakeSpan(a), {}).ok());
      REQUIRE(Forward(*reference, window, cache_b, absl::MakeSpan(b), {}).ok());
      for (size_t i = 0; i < a.size(); ++i) sum += static_cast<double>((a[i] - b[i]) * (a[i] - b[i]));
    }
    return sum;
  };
  const double plain = error(nullptr, 0);
  CHECK(error(reference.get(), 0) == plain);
  CHECK(error(reference.get(), 1) < 0.95 * plain);
}

TEST_CASE("Rows above the spike threshold count for no linear that is rounded, whatever stands before it") {
  const testing::TinyModel tiny = Tiny();
  const auto model = Load(*tiny.checkpoint);
  const ModelGraph& graph = model->graph();
  const auto windows = SomeWindows(9, 30, 6);
  const auto round = [&](float threshold, bool queries) {
    Results results;
    const absl::Status status = RoundSequentially(
        *tiny.checkpoint, *model, windows, {.pool = &Pool(), .sequential = false},
        [&](int node) -> absl::StatusOr<LinearRounding> {
          const Role role = graph.nodes[static_cast<size_t>(node)].role;
          if (role != Role::kKProj && !(queries && role == Role::kQProj)) return LinearRounding{};
          return LinearRounding{.round = true, .grid = kGrid, .spike_threshold = threshold};
        },
        [&](int node, RoundedWeights rounded) {
          if (graph.nodes[static_cast<size_t>(node)].role == Role::kKProj) results[node] = std::move(rounded);
          return absl::OkStatus();
        });
    CAPTURE(status.ToString());
    REQUIRE(status.ok());
    return results;
  };
  const Results keys = round(2.4f, false);
  CHECK(DifferentLinears(keys, round(2.4f, true)) == 0);
  CHECK(DifferentLinears(keys, round(0, false)) == 3);  // there are such rows
}

TEST_CASE("What is not to be rounded stays; refusals stop the run and name the linear") {
  const testing::TinyModel tiny = Tiny();
  const auto model = Load(*tiny.checkpoint);
  const auto windows = SomeWindows(3, 10, 5);
  const ModelGraph& graph = model->graph();
  const int down = graph.FindModule("model.layers.1.mlp.down_proj");
  std::vector<int> taken;
  LinearRounding wanted{.round = true, .grid = kGrid};
  const auto run = [&](const std::vector<std::vector<int32_t>>& text, const Progress& progress) {
    taken.clear();
    return RoundSequentially(
        *tiny.checkpoint, *model, text, {.pool = &Pool(), .progress = progress},
        [&](int node) -> absl::StatusOr<LinearRounding> { return node == down ? wanted : LinearRounding{}; },
        [&](int node, const RoundedWeights&) {
          taken.push_back(node);
          return absl::OkStatus();
        });
  };
  REQUIRE(run(windows, {}).ok());
  CHECK(taken == std::vector<int>{down});
  CHECK(absl::IsCancelled(run(windows, [](absl::string_view, int64_t, int64_t) { return false; })));
  CHECK(run({}, {}).message() == "rounding: no calibration windows; give some text");
  wanted.grid.group = 48;
  wanted.grid.bits = 1;
  CHECK(run(windows, {}).message() == "model.layers.1.mlp.down_proj: gptq: 1-bit weights; use 2 to 8 bits");
}

}  // namespace spikefold
