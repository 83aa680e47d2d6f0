// A walk in parts: layer by layer, window by window, as a quantizer goes.
#include "absl/strings/match.h"
#include "kernels/runtime/ops.h"
#include "tests/kernels/runtime/runtime_kit.h"

namespace spikefold {
namespace {

using testing::Hidden;
using testing::Load;

// Beginnings of the parts: the embedding and every norm of the residual.
std::vector<int> Beginnings(const ModelGraph& graph) {
  std::vector<int> out = {0};
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    if (IsResidualNorm(graph.nodes[i])) out.push_back(static_cast<int>(i));
  }
  return out;
}

class Recorder : public Taps {
 public:
  explicit Recorder(ValueKind value) : value_(value) {}
  bool Wants(int, ValueKind value) const override { return value == value_; }
  bool WantsAttention(int) const override { return false; }
  void OnRows(const TapRows& r) override { rows.insert(rows.end(), r.data, r.data + r.num_rows * r.width); }
  std::vector<float> rows;

 private:
  ValueKind value_;
};

}  // namespace

TEST_CASE("A walk in parts gives bit for bit what the whole walk gives, behind a prefix too") {
  for (const bool gemma : {false, true}) {
    const testing::TinyModel tiny = testing::MakeTinyModel(
        {.hidden = 64,
         .intermediate = 96,
         .num_layers = 3,
         .vocab = 64,
         .qk_norm = gemma,
         .sandwich = gemma,
         .sliding_window = gemma ? 4 : 0,
         .sliding_layers = gemma ? std::vector<bool>{true, false, true} : std::vector<bool>{}});
    const auto model = Load(*tiny.checkpoint);
    const ModelGraph& graph = model->graph();
    const std::vector<int> beginnings = Beginnings(graph);
    REQUIRE(beginnings.size() == 8);
    const auto prefix = ComputePrefix(*model, std::vector<int32_t>{9, 7});
    REQUIRE(prefix.ok());
    KvCache part_cache(graph.config, 12, &*prefix);
    for (const std::vector<int32_t>& tokens :
         {testing::SomeTokens(10, 64, 1), testing::SomeTokens(6, 64, 2), testing::SomeTokens(1, 64, 3)}) {
      Recorder whole(ValueKind::kFinal), parts(ValueKind::kFinal), whole_down(ValueKind::kDownIn),
          parts_down(ValueKind::kDownIn);
      KvCache cache(graph.config, 12, &*prefix);
      Hidden(*model, tokens, cache, 0, {.taps = &whole_down});
      cache.Reset();
      Hidden(*model, tokens, cache, 0, {.taps = &whole});
      std::vector<float> residual(tokens.size() * 64);
      for (size_t b = 0; b < beginnings.size(); ++b) {
        const int end = b + 1 < beginnings.size() ? beginnings[b + 1] : static_cast<int>(graph.nodes.size());
        for (Recorder* tap : {&parts, &parts_down}) {  // a part can be repeated from a copy
          std::vector<float> copy = residual;
          REQUIRE(ForwardNodes(*model, {beginnings[b], end}, tokens, part_cache, absl::MakeSpan(copy),
                               {.taps = tap})
                      .ok());
          if (tap == &parts_down) residual = copy;
        }
      }
      CHECK(parts.rows == whole.rows);
      CHECK(parts_down.rows == whole_down.rows);
      CHECK(part_cache.length() == 2);
    }
  }
}

TEST_CASE("A walk from site to site computes every linear once and gives what the whole walk gives") {
  for (const bool gemma : {false, true}) {
    const testing::TinyModel tiny = testing::MakeTinyModel({.hidden = 64,
                                                            .intermediate = 96,
                                                            .num_layers = 2,
                                                            .vocab = 64,
                                                            .qk_norm = gemma,
                                                            .sandwich = gemma});
    const auto model = Load(*tiny.checkpoint);
    const ModelGraph& graph = model->graph();
    const std::vector<int32_t> tokens = testing::SomeTokens(10, 64, 1);
    KvCache cache(graph.config, 12);
    std::vector<float> residual(tokens.size() * 64), input;
    int at = 0;
    for (const Site& site : graph.sites) {
      cache.Reset();
      Recorder whole(site.value);
      Hidden(*model, tokens, cache, 0, {.taps = &whole});
      cache.Reset();
      Recorder part(site.value);
      REQUIRE(ForwardNodes(*model, {at, site.linears.front(), input}, tokens, cache, absl::MakeSpan(residual),
                           {.taps = &part})
                  .ok());
      const size_t size = tokens.size() * static_cast<size_t>(site.k);
      const size_t layer = site.layer < 0 ? 0 : static_cast<size_t>(site.layer);
      REQUIRE(part.rows.size() == size);
      REQUIRE(whole.rows.size() >= (layer + 1) * size);
      CHECK(std::equal(part.rows.begin(), part.rows.end(),
                       whole.rows.begin() + static_cast<std::ptrdiff_t>(layer * size)));
      input = part.rows;
      at = site.linears.front();
    }
  }
}

TEST_CASE("A part that ends inside a branch leaves the residual alone") {
  const testing::TinyModel tiny =
      testing::MakeTinyModel({.hidden = 64, .intermediate = 96, .num_layers = 2, .vocab = 64});
  const auto model = Load(*tiny.checkpoint);
  const ModelGraph& graph = model->graph();
  const std::vector<int32_t> tokens = {1, 2, 3};
  KvCache cache(graph.config, 4);
  std::vector<float> residual(3 * 64, 0.5f);
  const int norm = Beginnings(graph)[1], o_proj = graph.FindModule("model.layers.0.self_attn.o_proj");
  REQUIRE(ForwardNodes(*model, {norm, o_proj}, tokens, cache, absl::MakeSpan(residual), {}).ok());
  CHECK(residual == std::vector<float>(3 * 64, 0.5f));
  REQUIRE(ForwardNodes(*model, {norm, o_proj + 2}, tokens, cache, absl::MakeSpan(residual), {}).ok());
  CHECK(residual != std::vector<float>(3 * 64, 0.5f));  // o_proj and its add
  // The same from the rows that o_proj reads: no norm, and yet the residual takes part.
  Recorder read(graph.nodes[static_cast<size_t>(o_proj)].in0);
  std::vector<float> again(3 * 64, 0.5f);
  REQUIRE(ForwardNodes(*model, {norm, o_proj}, tokens, cache, absl::MakeSpan(again), {.taps = &read}).ok());
  REQUIRE(
      ForwardNodes(*model, {o_proj, o_proj + 2, read.rows}, tokens, cache, absl::MakeSpan(again), {}).ok());
  CHECK(again == residual);
}

TEST_CASE("Parts that begin elsewhere and caches without room are refused") {
  const testing::TinyModel tiny =
      testing::MakeTinyModel({.hidden = 64, .intermediate = 96, .num_layers = 1, .vocab = 64});
  const auto model = Load(*tiny.checkpoint);
  KvCache cache(model->graph().config, 2);
  std::vector<float> residual(3 * 64);
  const auto run = [&](int begin, int end) {
    return ForwardNodes(*model, {begin, end}, {{1, 2, 3}}, cache, absl::MakeSpan(residual), {});
  };
  for (const auto& [begin, end] : {std::pair{2, 5}, {-1, 3}, {0, 0}, {0, 1000}}) {
    CHECK(absl::IsInvalidArgument(run(begin, end)));
  }
  const std::vector<float> input(3 * 64);
  const auto with_input = [&](int begin) {
    return ForwardNodes(*model, {begin, begin + 1, input}, {{1, 2, 3}}, cache, absl::MakeSpan(residual), {})
        .ToString();
  };
  const int down = model->graph().FindModule("model.layers.0.mlp.down_proj");
  CHECK(absl::StrContains(with_input(down), "needs an input of 288 values; 192 given"));
  CHECK(absl::StrContains(with_input(1), "with an input begins with the first linear of a site"));
  CHECK(run(0, 3).message() == "cache: 3 positions needed; 2 allowed; make it larger or feed fewer tokens");
}

TEST_CASE("A replaced linear is used from then on; other shapes are refused") {
  const testing::TinyModel tiny =
      testing::MakeTinyModel({.hidden = 64, .intermediate = 96, .num_layers = 2, .vocab = 64, .tied = true});
  const auto model = Load(*tiny.checkpoint);
  const std::vector<int32_t> tokens = testing::SomeTokens(7, 64);
  const std::vector<float> before = testing::RunLogits(*model, tokens);
  const int node = model->graph().FindModule("model.layers.1.mlp.up_proj");
  auto up = tiny.checkpoint->ReadF32("model.layers.1.mlp.up_proj.weight");
  REQUIRE(up.ok());
  const auto replace = [&](const Tensor& w, int at) {
    LinearWeights weights;
    REQUIRE(model->ops().PackF32(w, weights).ok());
    REQUIRE(model->ops().Prepare(weights).ok());
    return model->ReplaceLinear(at, std::move(weights));
  };
  Tensor other = up->Clone();
  for (float& v : other.as<float>()) v *= 0.5f;
  REQUIRE(replace(other, node).ok());
  CHECK(testing::RelativeError(testing::RunLogits(*model, tokens), before) > 1e-4);
  REQUIRE(replace(*up, node).ok());
  CHECK(testing::RunLogits(*model, tokens) == before);
  CHECK(replace(*up, 0).message() == "model.embed_tokens: [96, 64] cannot replace [64, 64]");
  CHECK(replace(*up, 1).message() == "replace: node 1 is not a linear");
}

}  // namespace spikefold
