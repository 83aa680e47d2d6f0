// Calibration on a GPU beside the CPU's.
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdint>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "absl/strings/str_cat.h"
#include "calib/census.h"
#include "calib/hessian.h"
#include "calib/scoring_arm.h"
#include "formats/base/dtype.h"
#include "formats/base/file.h"
#include "kernels/runtime/forward.h"
#include "kernels/runtime/ops.h"
#include "quant/rounding/gptq.h"
#include "quant/rounding/sequential.h"
#include "tests/testing/temp_directory.h"
#include "tests/testing/tiny_model.h"

namespace spikefold {
namespace {

using Windows = std::vector<std::vector<int32_t>>;

size_t Size(int64_t n) { return static_cast<size_t>(n); }

ThreadPool& Pool() {
  static ThreadPool pool(4);
  return pool;
}

std::unique_ptr<RuntimeModel> Load(const CheckpointReader& reader, Backend backend, bool linears = true) {
  auto model = LoadModel(reader, {.pool = &Pool(), .backend = backend, .linears = linears});
  INFO(model.status());
  REQUIRE(model.ok());
  return *std::move(model);
}

testing::TinyModelOptions Shape(bool gemma) {
  return {.hidden = 192,
          .intermediate = 320,
          .num_layers = 3,
          .num_heads = 4,
          .num_kv_heads = 2,
          .head_dim = 48,
          .vocab = 256,
          .tied = gemma,
          .qk_norm = gemma,
          .sandwich = gemma,
          .write_scale = 0.3};
}

// Weights as checkpoints mostly hold them, which a GPU multiplies in another kernel than float32.
void RoundToBf16(const testing::TinyModel& tiny) {
  for (const auto& spec : tiny.checkpoint->graph().Tensors()) {
    for (float& v : tiny.checkpoint->tensor(spec.name).as<float>()) v = Bf16ToFloat(FloatToBf16(v));
  }
}

Windows SomeWindows(int count, int length) {
  std::mt19937 random(5);
  Windows windows(static_cast<size_t>(count));
  for (auto& window : windows) {
    for (int i = 0; i < length; ++i) window.push_back(static_cast<int32_t>(random() % 256));
  }
  return windows;
}

TEST_CASE("Second moments that a GPU sums are the CPU's bit for bit", "[gpu]") {
  auto ops = MakeCudaOps(&Pool());
  INFO(ops.status());
  REQUIRE(ops.ok());
  for (const int64_t k : {1, 40, 300, 1100}) {
    for (const bool symmetric : {true, false}) {
      const int64_t rows = 599;  // chunks of 512 and of 87
      std::mt19937 random(7);
      std::normal_distribution<float> normal;
      std::vector<float> a(static_cast<size_t>(rows * k)), b(a.size());
      for (float& v : a) v = normal(random);
      for (float& v : b) v = normal(random);
      auto device = (*ops)->NewCodeProductSum(k);
      INFO(device.status());
      REQUIRE(device.ok());
      REQUIRE(*device != nullptr);
      OuterProductSum on_host(k, symmetric), on_device(k, symmetric, *std::move(device));
      for (OuterProductSum* sum : {&on_host, &on_device}) {
        REQUIRE(sum->Add(a.data(), symmetric ? a.data() : b.data(), rows, {}, Pool()).ok());
      }
      const auto expected = on_host.Full(Pool()), actual = on_device.Full(Pool());
      REQUIRE(actual.ok());
      CHECK(*actual == *expected);
      a.back() += 1;  // the canary
      REQUIRE(on_device.Add(a.data(), symmetric ? a.data() : b.data(), 1, {}, Pool()).ok());
      CHECK(*on_device.Full(Pool()) != *expected);
    }
  }
}

class MassTap : public Taps {
 public:
  bool Wants(int, ValueKind) const override { return false; }
  bool WantsAttention(int) const override { return true; }
  void OnRows(const TapRows&) override {}
  void OnAttention(const TapAttention& a) override {
    mass.insert(mass.end(), a.column_mass, a.column_mass + a.num_heads * a.num_positions);
  }
  std::vector<double> mass;
};

TEST_CASE("The mass that each position receives on a GPU is the CPU's, in one call and in two", "[gpu]") {
  for (const bool gemma : {false, true}) {
    testing::TinyModelOptions options = Shape(gemma);
    if (gemma) {
      options.head_dim = 256;
      options.sliding_window = 16;
      options.sliding_layers = {true, false, true};
    }
    const testing::TinyModel tiny = testing::MakeTinyModel(options);
    if (gemma) RoundToBf16(tiny);
    const auto prefix = ComputePrefix(*Load(*tiny.checkpoint, Backend::kCpu), std::vector<int32_t>{5, 6, 7});
    REQUIRE(prefix.ok());
    const std::vector<int32_t> tokens = SomeWindows(1, 77).front();
    std::vector<double> of[2];
    for (const Backend backend : {Backend::kCpu, Backend::kCuda}) {
      const auto model = Load(*tiny.checkpoint, backend);
      MassTap tap;
      KvCache cache(model->graph().config, 80, &*prefix);
      for (const size_t first : {size_t{77}, size_t{33}}) {
        cache.Reset();
        std::vector<float> hidden(tokens.size() * 192);
        const absl::Span<const int32_t> all = tokens;
        REQUIRE(Forward(*model, all.first(first), cache, absl::MakeSpan(hidden).first(first * 192),
                        {.taps = &tap})
                    .ok());
        if (first == all.size()) continue;
        const size_t rest = all.size() - first;
        REQUIRE(Forward(*model, all.subspan(first), cache, absl::MakeSpan(hidden).first(rest * 192),
                        {.taps = &tap})
                    .ok());
      }
      of[backend == Backend::kCuda ? 1 : 0] = tap.mass;
    }
    REQUIRE(of[0].size() == of[1].size());
    double worst = 0, total = 0;
    for (size_t i = 0; i < of[0].size(); ++i) {
      worst = std::max(worst, std::abs(of[0][i] - of[1][i]));
      total += of[1][i];
    }
    CHECK(worst < 1e-3);
    CHECK(total == Approx(2 * 3 * 4 * 77).epsilon(1e-4));  // each row of each head and layer gives 1, twice
  }
}

std::map<int, RoundedWeights> Round(const CheckpointReader& reader, Backend backend, const Windows& windows,
                                    bool sequential = true) {
  const auto model = Load(reader, backend, !sequential);
  std::map<int, RoundedWeights> results;
  SequentialOptions options;
  options.pool = &Pool();
  options.weights_on_demand = options.sequential = sequential;
  const absl::Status status = RoundSequentially(
      reader, *model, windows, options,
      [](int) -> absl::StatusOr<LinearRounding> {
        return LinearRounding{.round = true, .grid = {.bits = 4, .symmetric = false, .group = 32}};
      },
      [&](int node, RoundedWeights rounded) {
        results[node] = std::move(rounded);
        return absl::OkStatus();
      });
  INFO(status);
  REQUIRE(status.ok());
  return results;
}

// What the linears of the first site see is the CPU's to a last bit, and so are their codes. Behind them a
// bit turns a code now and then, a code the outputs, and soon both runs round other inputs as well as can be:
// their losses must agree, not their codes.
TEST_CASE("GPTQ on text that passes through a GPU gives codes as good as the CPU's, at first the same",
          "[gpu]") {
  for (const bool gemma : {false, true}) {
    const testing::TinyModel tiny = testing::MakeTinyModel(Shape(gemma));
    if (gemma) RoundToBf16(tiny);
    const Windows windows = SomeWindows(12, 100);
    const auto cpu = Round(*tiny.checkpoint, Backend::kCpu, windows),
               gpu = Round(*tiny.checkpoint, Backend::kCuda, windows),
               other = Round(*tiny.checkpoint, Backend::kCpu, SomeWindows(11, 100));
    REQUIRE(gpu.size() == cpu.size());
    // Mean over the linears of what a run's loss is of the CPU's.
    const auto loss = [&cpu](const std::map<int, RoundedWeights>& run) {
      double sum = 0;
      for (const auto& [node, rounded] : cpu) sum += run.at(node).relative_error / rounded.relative_error;
      return sum / static_cast<double>(cpu.size());
    };
    CHECK(loss(gpu) == Approx(1).margin(0.01));
    for (const auto& [node, rounded] : cpu) {
      CHECK(gpu.at(node).relative_error == Approx(rounded.relative_error).epsilon(0.05));
    }
    CHECK(loss(other) < 0.99);  // the canary: one window less, to which the same codes fit better
    auto node = cpu.begin();
    for (int i = 0; i < 3; ++i, ++node) {  // q, k, v of the first layer
      CHECK(gpu.at(node->first).codes == node->second.codes);
      CHECK(gpu.at(node->first).scales == node->second.scales);
      CHECK(other.at(node->first).codes != node->second.codes);
    }
  }
}

// The inputs are the CPU's to their last bits, throughout: 0.1 and 0.2 % of the codes were others on an H200.
TEST_CASE("GPTQ to what the float model sees gives all but one in a hundred of the CPU's codes", "[gpu]") {
  for (const bool gemma : {false, true}) {
    const testing::TinyModel tiny = testing::MakeTinyModel(Shape(gemma));
    if (gemma) RoundToBf16(tiny);
    const Windows windows = SomeWindows(12, 100);
    const auto cpu = Round(*tiny.checkpoint, Backend::kCpu, windows, false),
               gpu = Round(*tiny.checkpoint, Backend::kCuda, windows, false),
               other = Round(*tiny.checkpoint, Backend::kCpu, SomeWindows(11, 100), false);
    REQUIRE(gpu.size() == cpu.size());
    const auto differ = [&cpu](const std::map<int, RoundedWeights>& run) {
      int64_t count = 0, all = 0;
      for (const auto& [node, rounded] : cpu) {
        const std::vector<int8_t>& codes = run.at(node).codes;
        REQUIRE(codes.size() == rounded.codes.size());
        for (size_t i = 0; i < codes.size(); ++i) count += codes[i] != rounded.codes[i] ? 1 : 0;
        all += static_cast<int64_t>(codes.size());
      }
      return static_cast<double>(count) / static_cast<double>(all);
    };
    CHECK(differ(gpu) < 0.01);
    CHECK(differ(other) > 0.05);  // the canary: one window less
  }
}

// H of one site: correlated inputs of unequal size, summed on both.
struct Site {
  Site(Ops& ops, int64_t k, int64_t rows)
      : host(k), device(k, [&] {
          auto sum = ops.NewCodeProductSum(k);
          REQUIRE(sum.ok());
          REQUIRE(*sum != nullptr);
          return *std::move(sum);
        }()) {
    std::mt19937 random(11);
    std::normal_distribution<float> normal;
    std::vector<float> x(static_cast<size_t>(rows * k)), size(static_cast<size_t>(k));
    for (float& s : size) s = std::exp(normal(random));
    size[static_cast<size_t>(k / 3)] = 0;  // a dead column
    for (int64_t t = 0; t < rows; ++t) {
      float common = normal(random);
      for (int64_t c = 0; c < k; ++c) {
        common = 0.9f * common + 0.45f * normal(random);
        x[static_cast<size_t>(t * k + c)] = size[static_cast<size_t>(c)] * common;
      }
    }
    for (Hessian* sum : {&host, &device}) REQUIRE(sum->AddRows(x.data(), rows, {}, Pool()).ok());
  }
  Hessian host, device;
};

TEST_CASE("Rows rounded on a GPU get the codes, scales and zeros of the CPU's", "[gpu]") {
  auto ops = MakeCudaOps(&Pool());
  INFO(ops.status());
  REQUIRE(ops.ok());
  struct Case {
    int64_t n, k, rows;
    WeightGrid grid;
    std::vector<int32_t> kept;
    std::vector<PlannedSuper> supers;
  };
  const std::vector<Case> cases = {
      {50, 192, 400, {.bits = 4, .symmetric = false, .group = 32}, {}, {}},
      {1, 32, 100, {.bits = 4, .symmetric = true, .group = 32}, {}, {}},
      {130,
       576,
       900,
       {.bits = 4, .symmetric = false, .group = 64},
       {3, 64, 575},
       {{.row = 7, .column = 100}}},
      {33, 256, 50, {.bits = 4, .symmetric = false, .group = 128, .multiples = true}, {}, {}},
      {200,
       1100,
       3000,
       {.bits = 8, .symmetric = true, .scale_dtype = DType::kF32},
       {},
       {{.row = 199, .column = 0}}},
      {300, 2048, 4000, {.bits = 3, .symmetric = false, .group = 64}, {}, {}},
      {64, 12288, 500, {.bits = 4, .symmetric = false, .group = 64}, {5}, {}},
      // More scales than are fitted at once.
      {1100, 4096, 5000, {.bits = 4, .symmetric = false, .group = 32}, {}, {{.row = 1000, .column = 9}}},
  };
  for (const Case& c : cases) {
    CAPTURE(c.n, c.k);
    Site site(**ops, c.k, c.rows);
    const auto full = site.host.Full(Pool());
    auto rounder = site.device.NewRounder();
    INFO(rounder.status());
    REQUIRE(rounder.ok());
    REQUIRE(*rounder != nullptr);
    const auto host = FactorHessian(*full, c.k, {.kept = c.kept}, Pool());
    const auto device = FactorHessian(**rounder, c.k, {.kept = c.kept});
    REQUIRE(host.ok());
    INFO(device.status());
    REQUIRE(device.ok());
    CHECK(device->order == host->order);
    CHECK(device->damping == host->damping);
    std::mt19937 random(3);
    std::normal_distribution<float> normal;
    std::vector<float> w(static_cast<size_t>(c.n * c.k));
    for (float& v : w) v = normal(random);
    const RoundingInput input{.w = w, .n = c.n, .k = c.k, .kept = c.kept, .supers = c.supers};
    for (const GptqOptions options : {GptqOptions{.descent_passes = 0, .scale_refits = 0}, GptqOptions{}}) {
      CAPTURE(options.scale_refits);
      const auto expected = Gptq(input, *host, c.grid, options, Pool()),
                 actual = Gptq(input, *device, c.grid, options, Pool());
      REQUIRE(expected.ok());
      INFO(actual.status());
      REQUIRE(actual.ok());
      CHECK(actual->scales == expected->scales);
      CHECK(actual->zeros == expected->zeros);
      int64_t differ = 0;
      for (size_t i = 0; i < expected->codes.size(); ++i)
        differ += actual->codes[i] != expected->codes[i] ? 1 : 0;
      CHECK(differ == 0);
      CHECK(actual->relative_error == Approx(expected->relative_error).epsilon(1e-9));
    }
  }
}

TEST_CASE("One sum on a GPU rounds linears of other sizes, grids and kept columns one after the other",
          "[gpu]") {
  auto ops = MakeCudaOps(&Pool());
  REQUIRE(ops.ok());
  constexpr int64_t kK = 512;
  Site site(**ops, kK, 700);
  const auto full = site.host.Full(Pool());
  const auto rounder = site.device.NewRounder();
  REQUIRE(rounder.ok());
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  std::vector<float> w(Size(300 * kK));
  for (float& v : w) v = normal(random);
  const std::vector<int32_t> kept = {0, 77, 400};
  std::vector<int32_t> all(Size(kK));
  std::iota(all.begin(), all.end(), 0);
  const std::vector<int32_t>* const sets[] = {nullptr, &kept, &all, nullptr};
  for (const std::vector<int32_t>* set : sets) {
    const absl::Span<const int32_t> columns =
        set == nullptr ? absl::Span<const int32_t>() : absl::MakeConstSpan(*set);
    const auto host = FactorHessian(*full, kK, {.kept = columns}, Pool()),
               device = FactorHessian(**rounder, kK, {.kept = columns});
    REQUIRE(host.ok());
    REQUIRE(device.ok());
    for (const int64_t n : {40, 300, 7}) {
      for (const int64_t group : {32, 128}) {
        CAPTURE(n, group, columns.size());
        const RoundingInput input{
            .w = absl::MakeConstSpan(w).first(Size(n * kK)), .n = n, .k = kK, .kept = columns};
        const WeightGrid grid{.bits = 4, .symmetric = false, .group = group};
        const auto expected = Gptq(input, *host, grid, {}, Pool()),
                   actual = Gptq(input, *device, grid, {}, Pool());
        REQUIRE(expected.ok());
        REQUIRE(actual.ok());
        CHECK(actual->codes == expected->codes);
        CHECK(actual->scales == expected->scales);
      }
    }
  }
  CHECK(site.device.AddRows(w.data(), 1, {}, Pool()).code() == absl::StatusCode::kFailedPrecondition);
}

TEST_CASE("A scan on a GPU finds what a scan on the CPU finds", "[gpu]") {
  testing::TinyModelOptions options{.spike_channels = {70, 301}, .step_up = 1, .step_down = 3};
  const testing::TinyModel tiny = testing::MakeTinyModel(options);
  const testing::TempDirectory directory;
  const std::string path = directory / "text";
  std::string text;
  std::mt19937 random(9);
  for (int i = 0; i < 16 * 64; ++i) {
    absl::StrAppend(&text, i > 0 ? " " : "", "t", i % 64 == 20 || i % 128 == 0 ? 7 : 8 + random() % 248);
  }
  REQUIRE(WriteFileAtomically(path, text).ok());
  std::vector<OutlierMap> maps;
  for (const Backend backend : {Backend::kCpu, Backend::kCuda}) {
    const auto model = Load(*tiny.checkpoint, backend);
    auto scanned = Scan(*model, *tiny.checkpoint, testing::WordTokenizer(options.vocab),
                        {.num_windows = 16, .window_length = 64, .texts = {path}});
    INFO(scanned.status());
    REQUIRE(scanned.ok());
    maps.push_back(std::move(scanned->map));
  }
  REQUIRE(maps[0].stages.size() == 1);
  REQUIRE(maps[1].stages.size() == 1);
  const SpikeStage &cpu = maps[0].stages[0], &gpu = maps[1].stages[0];
  CHECK(gpu.step_up == cpu.step_up);
  CHECK(gpu.step_down == cpu.step_down);
  REQUIRE(gpu.channels.size() == cpu.channels.size());
  for (size_t c = 0; c < cpu.channels.size(); ++c) {
    CHECK(gpu.channels[c].channel == cpu.channels[c].channel);
    CHECK(gpu.channels[c].peak == Approx(cpu.channels[c].peak).epsilon(1e-4));
  }
  CHECK(maps[1].prefix == maps[0].prefix);
  CHECK(maps[1].treatment_needed == maps[0].treatment_needed);
}

TEST_CASE("Windows scored where the logits are have the scores of logits that were read", "[gpu]") {
  const testing::TinyModel tiny = testing::MakeTinyModel(Shape(false)),
                           other = testing::MakeTinyModel(Shape(true));
  const auto reference = Load(*tiny.checkpoint, Backend::kCuda),
             model = Load(*other.checkpoint, Backend::kCuda);
  const auto on_host = Load(*other.checkpoint, Backend::kCpu);
  EvalWindow window{.tokens = SomeWindows(1, 700).front(), .score_from = 20};  // more than are kept at once
  const int64_t tokens = static_cast<int64_t>(window.tokens.size()), vocab = 256;
  ScoringArm p(*reference, nullptr, tokens), q(*model, nullptr, tokens);
  ScoringArm pages(*reference, nullptr, tokens, {}, {.k_bits = 8, .v_bits = 8});
  ScoringArm host(*on_host, nullptr, tokens);
  for (ScoringArm* arm : {&p, &q, &pages, &host}) REQUIRE(arm->Run(window).ok());
  // Another model, the same one behind another cache, the reference alone, one that is not on the GPU.
  for (ScoringArm* arm : {&q, &pages, static_cast<ScoringArm*>(nullptr), &host}) {
    const auto scores = ScoreWindow(p, arm);
    INFO(scores.status());
    REQUIRE(scores.ok());
    REQUIRE(static_cast<int64_t>(scores->size()) == window.num_scored());
    double kld = 0;
    for (int64_t i = 0; i < window.num_scored(); ++i) {
      const auto row_p = p.Block(i, 1);
      REQUIRE(row_p.ok());
      const int32_t target = window.tokens[Size(window.score_from + i)];
      RowScore expected;
      if (arm == nullptr) {
        expected = ScoreRow(*row_p, vocab, target);
      } else {
        const auto row_q = arm->Block(i, 1);
        REQUIRE(row_q.ok());
        expected = ScoreRow(*row_p, *row_q, vocab, target);
      }
      const RowScore& score = (*scores)[Size(i)];
      // One row goes through another kernel of the head than many.
      CHECK(score.nll == Approx(expected.nll).epsilon(1e-4));
      CHECK(score.nll_reference == Approx(expected.nll_reference).epsilon(1e-4));
      CHECK(score.kld == Approx(expected.kld).epsilon(1e-2).margin(1e-6));
      CHECK(score.kld_llamacpp == Approx(expected.kld_llamacpp).epsilon(1e-2).margin(1e-6));
      CHECK(score.finite);
      kld += score.kld;
    }
    CHECK((kld > 0) == (arm != nullptr));
  }
}

}  // namespace
}  // namespace spikefold
