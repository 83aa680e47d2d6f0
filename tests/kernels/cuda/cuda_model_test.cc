// Whole models: the walk on a GPU against the walk on the CPU.
#include "kernels/cuda/graph.h"
#include "kernels/cuda/memory.h"
#include "kernels/runtime/ops.h"
#include "kernels/runtime/profile.h"
#include "tests/kernels/runtime/runtime_kit.h"

namespace spikefold::testing {
namespace {

std::unique_ptr<RuntimeModel> LoadCuda(const CheckpointReader& reader) {
  auto model = LoadModel(reader, {.pool = &Pool(), .backend = Backend::kCuda});
  INFO(model.status());
  REQUIRE(model.ok());
  return *std::move(model);
}

TinyModelOptions Llama() {
  return {.hidden = 192,
          .intermediate = 320,
          .num_layers = 3,
          .head_dim = 48,
          .random_gains = true,
          .write_scale = 0.2};
}
TinyModelOptions Gemma() {
  TinyModelOptions o = Llama();
  o.activation = GateActivation::kGeluTanh;
  o.tied = o.qk_norm = o.sandwich = true;
  o.embedding_scale = 13.9f;
  o.norm_gain_offset = 1;
  o.sliding_window = 16;
  o.sliding_layers = {true, false, true};
  return o;
}
TinyModelOptions Qwen() {
  TinyModelOptions o = Llama();
  o.qkv_bias = o.o_bias = o.mlp_bias = true;
  return o;
}

TEST_CASE("Float models of every family give the CPU's logits, in one call or in steps", "[gpu][model]") {
  for (const TinyModelOptions& options : {Llama(), Gemma(), Qwen()}) {
    const TinyModel tiny = MakeTinyModel(options);
    const auto cpu = Load(*tiny.checkpoint), gpu = LoadCuda(*tiny.checkpoint);
    CHECK(gpu->weight_bytes() >= cpu->weight_bytes() / 2);
    const std::vector<int32_t> tokens = SomeTokens(70, options.vocab);
    const std::vector<float> expected = RunLogits(*cpu, tokens);
    CHECK(RelativeError(RunLogits(*gpu, tokens), expected) < 1e-4);
    CHECK(RelativeError(RunLogits(*gpu, tokens, 7), expected) < 1e-4);
    CHECK(RelativeError(RunLogits(*gpu, tokens, 1), expected) < 1e-4);
  }
}

// Every linear of the blocks but, on request, o_proj, as codes of -8 to 7 that were drawn at random, in this
// format.
void MakeCodes(RuntimeModel& model, bool o_proj, const char* format, int64_t scale_group) {
  for (const Site& site : model.graph().sites) {
    for (const int node : site.linears) {
      const Node& n = model.graph().nodes[static_cast<size_t>(node)];
      if (n.layer < 0 || (n.role == Role::kOProj && !o_proj)) continue;
      std::vector<int8_t> codes(static_cast<size_t>(n.n * n.k));
      uint32_t state = static_cast<uint32_t>(node) + 1;
      for (int8_t& code : codes) {
        state = state * 1664525u + 1013904223u;
        code = static_cast<int8_t>(state >> 28) - 8;
      }
      const int64_t group = scale_group > 0 ? scale_group : n.k;
      const std::vector<float> scales(codes.size() / static_cast<size_t>(group), 0.005f);
      LinearWeights weights;
      const CodeMatrix w = {.n = n.n,
                            .k = n.k,
                            .format = *ParseWeightFormat(format),
                            .group = group,
                            .codes = codes,
                            .scales = scales};
      const absl::Status packed = model.ops().PackCodes(w, model.form(site.id).format, weights);
      INFO(packed);
      REQUIRE(packed.ok());
      REQUIRE(model.ops().Prepare(weights).ok());
      REQUIRE(model.ReplaceLinear(node, std::move(weights)).ok());
    }
  }
}

TEST_CASE("Models of 8-bit weights and float activations give the CPU's logits for any number of rows",
          "[gpu][model]") {
  const TinyModel tiny = MakeTinyModel(Llama());
  for (const auto& [format, group] : {std::pair("s8c", int64_t{0}), std::pair("s8g", int64_t{32})}) {
    const auto cpu = Load(*tiny.checkpoint), gpu = LoadCuda(*tiny.checkpoint);
    MakeCodes(*cpu, true, format, group);
    MakeCodes(*gpu, true, format, group);
    for (const int64_t rows : {1, 5, 30, 96, 130, 256, 300}) {
      INFO(rows << " rows, " << format);
      const std::vector<int32_t> tokens = SomeTokens(rows, 256, static_cast<uint64_t>(rows));
      const std::vector<float> expected = RunLogits(*cpu, tokens);
      // In digits x is nearly exact; above 256 rows, or 96 with groups, x and weights have 11 bits.
      const bool wide = rows > (group == 0 ? 256 : 96);
      CHECK(RelativeError(RunLogits(*gpu, tokens), expected) < (wide ? 2e-3 : 1e-4));
    }
  }
}

TEST_CASE("Models of 4-bit weights give the CPU's logits for any number of rows", "[gpu][model]") {
  const TinyModel tiny = MakeTinyModel(Llama());
  for (const bool o_proj : {true, false}) {
    const auto cpu = Load(*tiny.checkpoint), gpu = LoadCuda(*tiny.checkpoint);
    MakeCodes(*cpu, o_proj, "s4g", 64);
    MakeCodes(*gpu, o_proj, "s4g", 64);
    for (const int64_t rows : {1, 5, 20, 64, 130, 300, 520}) {
      INFO(rows << " rows, o_proj of 4 bits: " << o_proj);
      const std::vector<int32_t> tokens = SomeTokens(rows, 256, static_cast<uint64_t>(rows));
      const std::vector<float> expected = RunLogits(*cpu, tokens);
      // x has 11 bits from 5 rows on; above 16 the weights too.
      CHECK(RelativeError(RunLogits(*gpu, tokens), expected) < 2e-3);
    }
  }
}

TEST_CASE("A prefix computed on the GPU is the CPU's, and text runs behind it", "[gpu][model]") {
  const TinyModel tiny = MakeTinyModel(Llama());
  const auto cpu = Load(*tiny.checkpoint), gpu = LoadCuda(*tiny.checkpoint);
  const std::vector<int32_t> head = SomeTokens(3, 256, 5), tokens = SomeTokens(20, 256, 6);
  const auto a = ComputePrefix(*cpu, head), b = ComputePrefix(*gpu, head);
  REQUIRE(a.ok());
  REQUIRE(b.ok());
  for (size_t layer = 0; layer < 3; ++layer) {
    for (size_t i = 0; i < a->k[layer].size(); ++i) {
      const float x = Bf16ToFloat(a->k[layer][i]), y = Bf16ToFloat(b->k[layer][i]);
      CHECK(std::abs(x - y) <= 0x1p-7f * std::abs(x) + 1e-6f);
    }
  }
  KvCache on_cpu(cpu->graph().config, 23, &*a), on_gpu(gpu->graph().config, 23, &*a);
  CHECK(RelativeError(Hidden(*gpu, tokens, on_gpu), Hidden(*cpu, tokens, on_cpu)) < 1e-4);
  on_gpu.Reset();
  on_cpu.Reset();
  CHECK(RelativeError(Hidden(*gpu, tokens, on_gpu, 4), Hidden(*cpu, tokens, on_cpu, 4)) < 1e-4);
}

TEST_CASE("Decoding allocates nothing once it is under way", "[gpu][memory]") {
  const TinyModel tiny = MakeTinyModel(Llama());
  const auto gpu = LoadCuda(*tiny.checkpoint);
  const std::vector<int32_t> tokens = SomeTokens(40, 256);
  KvCache cache(gpu->graph().config, 40);
  const std::vector<float> first = Hidden(*gpu, absl::MakeConstSpan(tokens).first(4), cache, 1);
  (void)LogitsOf(*gpu, {first.begin(), first.begin() + 192});
  const int64_t before = kernels::cuda::NumAllocations();
  for (size_t i = 4; i < tokens.size(); ++i) {
    const std::vector<float> h = Hidden(*gpu, absl::MakeConstSpan(tokens).subspan(i, 1), cache);
    (void)LogitsOf(*gpu, h);
  }
  CHECK(kernels::cuda::NumAllocations() == before);
}

TEST_CASE("A recorded token's results are those of a prefill, over several recordings and a new start",
          "[gpu][model][decode]") {
  for (const TinyModelOptions& options : {Llama(), Gemma(), Qwen()}) {
    const TinyModel tiny = MakeTinyModel(options);
    const auto gpu = LoadCuda(*tiny.checkpoint);
    const std::vector<int32_t> tokens = SomeTokens(300, options.vocab);
    KvCache whole(gpu->graph().config, 300), steps(gpu->graph().config, 300);
    const std::vector<float> expected = Hidden(*gpu, tokens, whole);
    CHECK(RelativeError(Hidden(*gpu, tokens, steps, 1), expected) < 1e-4);
    steps.Reset();  // the recordings stay
    CHECK(RelativeError(Hidden(*gpu, tokens, steps, 1), expected) < 1e-4);
  }
}

// A batch of sequences that have `before` tokens already, through `steps` steps, against each alone: the
// relative error of the rows.
double BatchError(const RuntimeModel& model, const std::vector<int64_t>& before, int64_t steps,
                  const KvOptions& kv = {}) {
  const ModelConfig& config = model.graph().config;
  const size_t d = static_cast<size_t>(config.hidden), count = before.size();
  std::vector<KvCache> caches, own;
  std::vector<std::vector<int32_t>> texts;
  std::vector<KvCache*> pointers;
  for (size_t i = 0; i < count; ++i) {
    const int64_t room = before[i] + steps + static_cast<int64_t>(i);
    caches.emplace_back(config, room, nullptr, kv);
    own.emplace_back(config, room, nullptr, kv);
    texts.push_back(SomeTokens(before[i] + steps, config.vocab, i + 1));
    const auto text = absl::MakeConstSpan(texts.back()).first(static_cast<size_t>(before[i]));
    (void)Hidden(model, text, caches.back());
    (void)Hidden(model, text, own.back());
  }
  for (KvCache& cache : caches) pointers.push_back(&cache);
  std::vector<float> together(count * d), all, alone;
  for (int64_t step = 0; step < steps; ++step) {
    std::vector<int32_t> tokens;
    for (size_t i = 0; i < count; ++i) tokens.push_back(texts[i][static_cast<size_t>(before[i] + step)]);
    const absl::Status status = ForwardBatch(model, tokens, pointers, absl::MakeSpan(together));
    INFO(status);
    REQUIRE(status.ok());
    all.insert(all.end(), together.begin(), together.end());
    for (size_t i = 0; i < count; ++i) {
      const std::vector<float> row = Hidden(model, {&tokens[i], 1}, own[i]);
      alone.insert(alone.end(), row.begin(), row.end());
    }
  }
  return RelativeError(all, alone);
}

TEST_CASE("A batch gives what each sequence gives alone, however long each is", "[gpu][model][batch]") {
  std::vector<int64_t> many;
  for (int64_t i = 0; i < 64; ++i) many.push_back(i * 5 % 37);
  for (const TinyModelOptions& options : {Llama(), Gemma(), Qwen()}) {
    const TinyModel tiny = MakeTinyModel(options);
    const auto gpu = LoadCuda(*tiny.checkpoint);
    for (const std::vector<int64_t>& before :
         {std::vector<int64_t>{0, 0, 0}, {120, 5, 0, 250}, {1, 260}, many}) {
      INFO(before.size());
      CHECK(BatchError(*gpu, before, 12) < 1e-4);
    }
    CHECK(BatchError(*gpu, {120, 5, 0}, 12, {.k_bits = 16, .v_bits = 16}) < 1e-3);
    const KvOptions codes = {.k_bits = 8, .v_bits = 8, .k_before_rope = true, .sinks = 1};
    CHECK(BatchError(*gpu, {120, 5, 300}, 70, codes) < 2e-2);
  }
}

TEST_CASE("Sequences may join and leave a batch, and a batch under way is a recording and allocates nothing",
          "[gpu][model][batch]") {
  const TinyModel tiny = MakeTinyModel(Llama());
  const auto gpu = LoadCuda(*tiny.checkpoint);
  const ModelConfig& config = gpu->graph().config;
  const size_t d = static_cast<size_t>(config.hidden);
  constexpr size_t kCount = 5;
  constexpr int64_t kSteps = 40;
  std::vector<KvCache> caches(kCount, KvCache(config, 300)), own = caches;
  int64_t allocations = 0, runs = 0;
  for (int64_t step = 0; step < kSteps; ++step) {
    if (step == kSteps / 2) {
      allocations = kernels::cuda::NumAllocations();
      runs = kernels::cuda::NumGraphRuns();
    }
    int64_t alone = 0;
    std::vector<KvCache*> pointers;  // who takes part changes with the step
    std::vector<int32_t> tokens;
    std::vector<float> expected;
    for (size_t i = 0; i < kCount; ++i) {
      if (i > 0 && step % static_cast<int64_t>(i + 2) == 1) continue;
      pointers.push_back(&caches[(i + static_cast<size_t>(step)) % kCount]);
      tokens.push_back(static_cast<int32_t>(7 * step + static_cast<int64_t>(i)) % 256);
      const std::vector<float> row =
          Hidden(*gpu, {&tokens.back(), 1}, own[(i + static_cast<size_t>(step)) % kCount]);
      expected.insert(expected.end(), row.begin(), row.end());
      ++alone;
    }
    std::vector<float> rows(tokens.size() * d);
    REQUIRE(ForwardBatch(*gpu, tokens, pointers, absl::MakeSpan(rows)).ok());
    CHECK(RelativeError(rows, expected) < 1e-4);
    runs += step < kSteps / 2 ? 0 : alone + 1;
  }
  CHECK(kernels::cuda::NumAllocations() == allocations);
  CHECK(kernels::cuda::NumGraphRuns() == runs);
}

TEST_CASE("The likeliest tokens of recorded steps are those of their logits", "[gpu][model][batch]") {
  for (const TinyModelOptions& options : {Llama(), Gemma()}) {
    const TinyModel tiny = MakeTinyModel(options);
    const auto gpu = LoadCuda(*tiny.checkpoint);
    const ModelConfig& config = gpu->graph().config;
    const auto vocab = static_cast<size_t>(config.vocab);
    for (const KvOptions& kv : {KvOptions(), KvOptions{.k_bits = 16, .v_bits = 16}}) {
      for (const size_t count : {size_t{1}, size_t{3}, size_t{20}}) {
        std::vector<KvCache> caches(count, KvCache(config, 300, nullptr, kv)), own = caches;
        std::vector<KvCache*> pointers, own_pointers;
        std::vector<int32_t> tokens, next(count);
        for (size_t i = 0; i < count; ++i) {
          pointers.push_back(&caches[i]);
          own_pointers.push_back(&own[i]);
          tokens.push_back(static_cast<int32_t>(i * 11 % 256));
        }
        std::vector<float> rows(count * static_cast<size_t>(config.hidden)), logits(count * vocab);
        for (int step = 0; step < 8; ++step) {
          REQUIRE(ForwardGreedy(*gpu, tokens, pointers, absl::MakeSpan(next)).ok());
          REQUIRE(ForwardBatch(*gpu, tokens, own_pointers, absl::MakeSpan(rows)).ok());
          REQUIRE(Logits(*gpu, rows, absl::MakeSpan(logits)).ok());
          for (size_t i = 0; i < count; ++i) {
            const auto row = logits.begin() + static_cast<int64_t>(i * vocab);
            const float largest = *std::max_element(row, row + static_cast<int64_t>(vocab));
            INFO("step " << step << " sequence " << i << " of " << count);
            CHECK(row[next[i]] == largest);
          }
          tokens = next;
        }
      }
    }
  }
}

TEST_CASE("Sequences of other capacities decode by turns, alone and in pairs", "[gpu][model][decode]") {
  const TinyModel tiny = MakeTinyModel(Llama());
  const auto gpu = LoadCuda(*tiny.checkpoint);
  const size_t d = static_cast<size_t>(gpu->graph().config.hidden);
  const std::vector<int32_t> tokens = SomeTokens(12, 256);
  for (const KvOptions& kv : {KvOptions(), KvOptions{.k_bits = 16, .v_bits = 16}}) {
    for (const size_t count : {size_t{1}, size_t{2}}) {
      std::vector<KvCache> low(count, KvCache(gpu->graph().config, 100, nullptr, kv)),
          high(count, KvCache(gpu->graph().config, 5000, nullptr, kv));
      const auto text = absl::MakeConstSpan(tokens).first(2);
      for (size_t i = 0; i < count; ++i) {  // all are on the device before the first step
        (void)Hidden(*gpu, text, low[i]);
        (void)Hidden(*gpu, text, high[i]);
      }
      const auto step = [&](std::vector<KvCache>& caches, int32_t token) {
        std::vector<KvCache*> pointers;
        for (KvCache& cache : caches) pointers.push_back(&cache);
        std::vector<float> rows(count * d);
        const absl::Status status =
            ForwardBatch(*gpu, std::vector<int32_t>(count, token), pointers, absl::MakeSpan(rows));
        INFO(status);
        REQUIRE(status.ok());
        return rows;
      };
      for (size_t at = 2; at < tokens.size(); ++at) {
        const std::vector<float> a = step(low, tokens[at]);
        CHECK(RelativeError(a, step(high, tokens[at])) < 1e-4);
      }
    }
  }
}

TEST_CASE("Weights without a kernel of their form are named", "[gpu][model]") {
  const TinyModel tiny = MakeTinyModel(Llama());
  const auto gpu = LoadCuda(*tiny.checkpoint);
  const auto in_bytes = [&] {
    const std::vector<std::string> notes = gpu->ops().notes();
    return std::count_if(notes.begin(), notes.end(), [](const std::string& note) {
      return note.find("lie as bytes: kernels of 4-bit codes take K and groups of a multiple of 64") !=
             std::string::npos;
    });
  };
  MakeCodes(*gpu, true, "s4g", 64);
  CHECK(in_bytes() == 0);
  MakeCodes(*gpu, true, "s4g", 32);
  CHECK(in_bytes() == 2);  // K of 192 and of 320
}

TEST_CASE("A profile times every kind, and text goes on behind it as if there had been none",
          "[gpu][model][profile]") {
  for (const bool gemma : {false, true}) {
    const TinyModel tiny = MakeTinyModel(gemma ? Gemma() : Llama());
    const auto gpu = LoadCuda(*tiny.checkpoint);
    if (!gemma) MakeCodes(*gpu, true, "s4g", 64);
    const ModelConfig& config = gpu->graph().config;
    const std::vector<int32_t> text = SomeTokens(100, 256);
    for (const KvOptions& kv : {KvOptions(), KvOptions{.k_bits = 8, .v_bits = 8, .k_before_rope = true}}) {
      for (const size_t count : {size_t{1}, size_t{3}}) {
        INFO("gemma " << gemma << " pages " << !kv.is_float() << " sequences " << count);
        std::vector<KvCache> caches(count, KvCache(config, 300, nullptr, kv));
        std::vector<KvCache*> pointers;
        for (KvCache& cache : caches) pointers.push_back(&cache);
        const auto check = [&](const absl::StatusOr<WalkProfile>& profile) {
          INFO(profile.status());
          REQUIRE(profile.ok());
          CHECK(profile->seconds > 0);
          if (kv.is_float()) CHECK_FALSE(profile->has_host);
          for (const OpTime& kernel : profile->kernels) {
            INFO(kernel.name << " " << profile->no_peer);
            CHECK(kernel.seconds > 0);
            CHECK(kernel.seconds < 0.1);
            if (kernel.ops > 0 && profile->no_peer.empty()) CHECK(kernel.peer_seconds > 0);
          }
        };
        const auto greedy = [&](int profiled) {  // of an empty cache, with a profile in front of a token
          std::vector<int32_t> all, tokens(count, 5), next(count);
          for (KvCache& cache : caches) cache.Reset();
          for (int step = 0; step < 70; ++step) {
            if (step == profiled) check(ProfileWalk(*gpu, tokens, pointers));
            const absl::Status status = ForwardGreedy(*gpu, tokens, pointers, absl::MakeSpan(next));
            INFO(status);
            REQUIRE(status.ok());
            all.insert(all.end(), next.begin(), next.end());
            tokens = next;
          }
          return all;
        };
        const std::vector<int32_t> before = greedy(-1);
        CHECK(greedy(40) == before);
        caches[0].Reset();
        check(ProfileWalk(*gpu, text, absl::MakeConstSpan(pointers).first(1)));
        CHECK(greedy(-1) == before);
      }
    }
    const absl::StatusOr<double> peer = gpu->ops().TimePeer(8, 256, 192);
    INFO(peer.status());
    CHECK((peer.ok() ? *peer > 0 : absl::IsUnimplemented(peer.status())));
    CHECK(gpu->ops().limits().cache_bytes > 0);
  }
}

struct PagedCase {
  const char* name;
  TinyModelOptions model;
  KvOptions kv;
  double bound;
};

TEST_CASE("A cache in pages gives the CPU's rows, in one call, in steps and after a step back",
          "[gpu][model][paged]") {
  TinyModelOptions wide = Llama(), slides = Gemma();
  wide.head_dim = 64;
  slides.sliding_window = 40;
  using kernels::KeyScale;
  // Codes turn where a last bit differs: then rows differ by a step of the grid.
  const PagedCase cases[] = {
      {"8", Llama(), {.k_bits = 8, .v_bits = 8, .k_before_rope = true, .sinks = 1}, 2e-2},
      {"4 wide", wide, {.k_bits = 4, .v_bits = 4, .k_before_rope = true, .sinks = 1}, 5e-2},
      {"8 wide", wide, {.k_bits = 8, .v_bits = 8, .sinks = 1}, 2e-2},
      {"k8rv8 wide", wide, {.k_bits = 8, .v_bits = 8, .k_scale = KeyScale::kToken, .recent = 40}, 2e-2},
      {"16 wide", wide, {.k_bits = 16, .v_bits = 16}, 1e-3},
      {"k3v2", Llama(), {.k_bits = 3, .v_bits = 2, .k_before_rope = true}, 2e-1},
      {"sliding", slides, {.k_bits = 8, .v_bits = 8, .k_before_rope = true, .sinks = 2}, 2e-2},
      {"evicting", wide, {.k_bits = 8, .v_bits = 8, .k_before_rope = true, .sinks = 2, .evict = 96}, 2e-2},
  };
  for (const PagedCase& c : cases) {
    INFO(c.name);
    const TinyModel tiny = MakeTinyModel(c.model);
    const auto cpu = Load(*tiny.checkpoint), gpu = LoadCuda(*tiny.checkpoint);
    const std::vector<int32_t> tokens = SomeTokens(500, c.model.vocab);
    const int64_t room = static_cast<int64_t>(tokens.size());
    KvCache host(cpu->graph().config, room, nullptr, c.kv), whole(gpu->graph().config, room, nullptr, c.kv),
        parts(gpu->graph().config, room, nullptr, c.kv), steps(gpu->graph().config, room, nullptr, c.kv);
    const std::vector<float> expected = Hidden(*cpu, tokens, host);
    CHECK(RelativeError(Hidden(*gpu, tokens, whole), expected) < c.bound);
    CHECK(RelativeError(Hidden(*gpu, tokens, parts, 37), expected) < c.bound);
    CHECK(RelativeError(Hidden(*gpu, tokens, steps, 1), expected) < c.bound);
    steps.Reset();  // the recording stays
    CHECK(RelativeError(Hidden(*gpu, tokens, steps, 1), expected) < c.bound);
    host.Truncate(475);
    steps.Truncate(475);
    REQUIRE(host.length() == steps.length());
    const auto more = absl::MakeConstSpan(tokens).subspan(static_cast<size_t>(host.length()) % 500, 25);
    CHECK(RelativeError(Hidden(*gpu, more, steps, 1), Hidden(*cpu, more, host, 1)) < c.bound);
  }
}

TEST_CASE("An evicting cache decodes beyond the positions that it began with", "[gpu][model][paged]") {
  const TinyModel tiny = MakeTinyModel(Llama());
  const auto cpu = Load(*tiny.checkpoint), gpu = LoadCuda(*tiny.checkpoint);
  const KvOptions kv = {.k_bits = 16, .v_bits = 16, .sinks = 2, .evict = 96};
  const std::vector<int32_t> tokens = SomeTokens(4110, 256);
  KvCache on_cpu(cpu->graph().config, 1 << 20, nullptr, kv),
      on_gpu(gpu->graph().config, 1 << 20, nullptr, kv);
  const auto text = absl::MakeConstSpan(tokens).first(4080), more = absl::MakeConstSpan(tokens).subspan(4080);
  (void)Hidden(*cpu, text, on_cpu);
  (void)Hidden(*gpu, text, on_gpu);
  CHECK(RelativeError(Hidden(*gpu, more, on_gpu, 1), Hidden(*cpu, more, on_cpu, 1)) < 1e-3);
}

TEST_CASE("Text runs behind a prefix in pages, and no token allocates", "[gpu][model][paged]") {
  TinyModelOptions wide = Llama();
  wide.head_dim = 64;
  const TinyModel tiny = MakeTinyModel(wide);
  const auto cpu = Load(*tiny.checkpoint), gpu = LoadCuda(*tiny.checkpoint);
  const std::vector<int32_t> head = SomeTokens(3, 256, 5), tokens = SomeTokens(200, 256, 6);
  const auto prefix = ComputePrefix(*cpu, head);
  REQUIRE(prefix.ok());
  const KvOptions kv = {.k_bits = 8, .v_bits = 8, .k_before_rope = true};
  KvCache on_cpu(cpu->graph().config, 203, &*prefix, kv), on_gpu(gpu->graph().config, 203, &*prefix, kv);
  CHECK(RelativeError(Hidden(*gpu, tokens, on_gpu), Hidden(*cpu, tokens, on_cpu)) < 2e-2);
  on_gpu.Reset();
  (void)Hidden(*gpu, absl::MakeConstSpan(tokens).first(4), on_gpu, 1);
  const int64_t before = kernels::cuda::NumAllocations();
  (void)Hidden(*gpu, absl::MakeConstSpan(tokens).subspan(4), on_gpu, 1);
  CHECK(kernels::cuda::NumAllocations() == before);
}

}  // namespace
}  // namespace spikefold::testing
