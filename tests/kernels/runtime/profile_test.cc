// Where a walk's time goes: every op of it is of one kind, and timing changes nothing that is read later.
#include "kernels/runtime/profile.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "kernels/runtime/bench.h"
#include "kernels/runtime/cpu_ops.h"
#include "tests/kernels/runtime/runtime_kit.h"
#include "tests/testing/forwarding_model.h"

namespace spikefold::testing {
namespace {

TinyModelOptions Small() {
  TinyModelOptions o;
  o.hidden = 64;
  o.intermediate = 96;
  o.num_layers = 3;
  o.head_dim = 16;
  o.vocab = 50;
  o.write_scale = 0.5;
  return o;
}
TinyModelOptions Gemma() {
  TinyModelOptions o = Small();
  o.tied = o.qk_norm = o.sandwich = true;
  o.embedding_scale = 8;
  o.sliding_window = 8;
  o.sliding_layers = {true, false, true};
  return o;
}

// Notes what each op is called with; Time() runs a walk once and says a second.
class WatchedOps : public CpuOps {
 public:
  using CpuOps::CpuOps;
  std::vector<std::vector<std::string>> walks;

  absl::StatusOr<Timing> Time(const StepArgs&, int, absl::FunctionRef<absl::Status()> walk) override {
    log_.clear();
    const absl::Status status = walk();
    if (!status.ok()) return status;
    walks.push_back(log_);
    return Timing{.seconds = 1};
  }
  absl::Status Embed(const LinearWeights& table, const ActivationForm& form, absl::Span<const int32_t> tokens,
                     float scale, Buffer& out) override {
    Note("embed", {&table, &form, &out}, static_cast<int64_t>(tokens.size()));
    return CpuOps::Embed(table, form, tokens, scale, out);
  }
  absl::Status AddNorm(const AddNormArgs& a) override {
    Note("norm", {a.residual, a.branch, a.branch_gain, a.gain, a.form, a.out}, a.rows);
    return CpuOps::AddNorm(a);
  }
  absl::Status Linears(const Activation& x, absl::Span<const LinearWeights* const> w,
                       absl::Span<Buffer* const> y) override {
    Note(absl::StrCat("linears ", w.size()), {&x, x.form, w.front(), y.front()}, x.rows);
    return CpuOps::Linears(x, w, y);
  }
  absl::Status HeadNormRope(const HeadNormRopeArgs& a) override {
    Note("rope", {a.q, a.k, a.q_gain, a.k_gain, a.rope}, a.rows);
    return CpuOps::HeadNormRope(a);
  }
  absl::Status Attention(const AttentionArgs& a) override {
    Note(absl::StrCat("attention ", a.layer), {a.q, a.k, a.v, a.form, a.out}, a.rows);
    return CpuOps::Attention(a);
  }
  absl::Status GatedMul(GateActivation activation, int64_t rows, const Buffer& gate, const Buffer& up,
                        const ActivationForm& form, Activation& out) override {
    Note("gate", {&gate, &up, &form, &out}, rows);
    return CpuOps::GatedMul(activation, rows, gate, up, form, out);
  }
  absl::Status FindBest(const LinearWeights& w, const ActivationForm& form, int64_t rows,
                        const Buffer& hidden) override {
    Note("best", {&w, &form, &hidden}, rows);
    return CpuOps::FindBest(w, form, rows, hidden);
  }

 private:
  void Note(const std::string& what, std::initializer_list<const void*> with, int64_t rows) {
    std::string line = absl::StrCat(what, " ", rows);
    for (const void* p : with) absl::StrAppend(&line, " ", reinterpret_cast<uintptr_t>(p));
    log_.push_back(line);
  }
  std::vector<std::string> log_;
};

// A model on other ops, whose blocks take codes with columns kept where `quantizes`.
class WatchedModel : public ForwardingModel {
 public:
  WatchedModel(std::unique_ptr<RuntimeModel> model, bool quantizes)
      : ForwardingModel(std::move(model)), ops_(&Pool()) {
    for (const Site& site : graph().sites) {
      forms_.push_back(ForwardingModel::form(site.id));
      if (!quantizes || site.layer < 0) continue;
      forms_.back().format = ActivationFormat::kS8Token;
      forms_.back().kept = {2, 7};
      for (const int node : site.linears) {
        const Node& n = graph().nodes[static_cast<size_t>(node)];
        const std::vector<int8_t> codes(static_cast<size_t>(n.n * n.k), 3);
        const std::vector<float> scales(static_cast<size_t>(n.n), 0.01f);
        LinearWeights w;
        REQUIRE(ops_.PackCodes(
                        {.n = n.n, .k = n.k, .format = WeightFormat::kS8c, .codes = codes, .scales = scales},
                        forms_.back().format, w)
                    .ok());
        w.kept_weight.assign(static_cast<size_t>(2 * n.n), FloatToBf16(0.5f));
        REQUIRE(ops_.Prepare(w).ok());
        REQUIRE(ReplaceLinear(node, std::move(w)).ok());
      }
    }
  }
  WatchedOps& watched() const { return ops_; }

  Ops& ops() const override { return ops_; }
  const ActivationForm& form(int site) const override { return forms_[static_cast<size_t>(site)]; }

 private:
  mutable WatchedOps ops_;
  std::vector<ActivationForm> forms_;
};

std::vector<KvCache*> Pointers(std::vector<KvCache>& caches) {
  std::vector<KvCache*> pointers;
  for (KvCache& cache : caches) pointers.push_back(&cache);
  return pointers;
}

}  // namespace

TEST_CASE("The kinds of a walk do together what the walk does, each op once and on the same operands") {
  for (const TinyModelOptions& options : {Small(), Gemma()}) {
    for (const bool quantizes : {false, true}) {
      const TinyModel tiny = MakeTinyModel(options);
      const WatchedModel model(Load(*tiny.checkpoint), quantizes);
      for (const auto& [sequences, rows] : {std::pair(size_t{1}, size_t{1}), std::pair(size_t{3}, size_t{3}),
                                            std::pair(size_t{1}, size_t{9})}) {
        INFO(sequences << " sequences, " << rows << " rows, codes: " << quantizes);
        std::vector<KvCache> caches(sequences, KvCache(model.graph().config, 20));
        model.watched().walks.clear();
        const auto profile = ProfileWalk(model, SomeTokens(static_cast<int64_t>(rows), 50), Pointers(caches));
        INFO(profile.status());
        REQUIRE(profile.ok());
        auto& walks = model.watched().walks;
        REQUIRE(walks.size() == profile->kernels.size() + 1);
        std::vector<std::string> whole = walks.front(), parts;
        for (size_t i = 1; i < walks.size(); ++i) {
          CHECK(!walks[i].empty());
          const bool turns = profile->kernels[i - 1].name == "attention";  // a call is two ops
          CHECK(static_cast<int64_t>(walks[i].size()) == (turns ? 2 : 1) * profile->kernels[i - 1].calls);
          parts.insert(parts.end(), walks[i].begin(), walks[i].end());
        }
        std::sort(whole.begin(), whole.end());
        std::sort(parts.begin(), parts.end());
        CHECK(parts == whole);
      }
    }
  }
}

TEST_CASE("A profile counts calls, bytes and operations of every kind") {
  const TinyModel tiny = MakeTinyModel(Small());
  const auto model = Load(*tiny.checkpoint);
  const auto result =
      Bench(*model, {.prompt = 7, .decode = 4, .batch = 2, .repetitions = 1, .kernels = true});
  REQUIRE(result.ok());
  REQUIRE(result->decode_kernels.has_value());
  REQUIRE(result->prefill_kernels.has_value());
  std::vector<std::string> names;
  uint64_t bytes = 0;
  for (const OpTime& kernel : result->decode_kernels->kernels) {
    INFO(kernel.name);
    names.push_back(kernel.name);
    bytes += kernel.bytes;
    const bool once = kernel.name == "embedding" || kernel.name == "head";
    CHECK(kernel.calls == (once ? 1 : kernel.name == "norm" ? 7 : 3));
    CHECK(kernel.seconds > 0);
    CHECK(kernel.int8_ops == 0);
    CHECK(kernel.peer_seconds == 0);
  }
  CHECK(names == std::vector<std::string>{"embedding", "norm", "qkv_proj", "attention", "o_proj",
                                          "gate_up_proj", "gated_product", "down_proj", "head"});
  CHECK(bytes == result->step_bytes);
  CHECK(result->decode_kernels->sequences == 2);
  CHECK(result->decode_kernels->rows == 2);
  CHECK(result->decode_kernels->position == 2);
  CHECK(result->decode_kernels->seconds > 0);
  CHECK(result->decode_kernels->no_peer == "this backend has no library to compare with");
  CHECK(result->prefill_kernels->rows == 7);
  CHECK(result->prefill_kernels->position == 0);
  const OpTime &down = result->prefill_kernels->kernels[7], &head = result->prefill_kernels->kernels[8];
  CHECK(down.ops == 2.0 * 7 * 64 * 96 * 3);
  CHECK(head.ops == 2.0 * 50 * 64);  // of the last row
  CHECK(!Bench(*model, {.prompt = 7, .decode = 4, .repetitions = 1})->decode_kernels.has_value());
}

TEST_CASE("Rates stand where the timing of kernels is interrupted") {
  const TinyModel tiny = MakeTinyModel(Small());
  const auto model = Load(*tiny.checkpoint);
  const auto result =
      Bench(*model,
            {.prompt = 7, .decode = 4, .repetitions = 1, .kernels = true, .progress = [](auto what, auto...) {
               return what != "timing kernels";
             }});
  REQUIRE(result.ok());
  CHECK(result->prefill.mean > 0);
  CHECK(result->decode.mean > 0);
  CHECK(absl::IsCancelled(result->fault));
  CHECK(result->no_kernels == "prompt: profile: stopped after 0 of 9 kinds");
  CHECK_FALSE(result->decode_kernels.has_value());
}

TEST_CASE("Text goes on behind a profile as if there had been none") {
  const TinyModel tiny = MakeTinyModel(Gemma());
  const auto model = Load(*tiny.checkpoint);
  const ModelConfig& config = model->graph().config;
  const std::vector<int32_t> text = SomeTokens(60, 50), tokens = {1, 2};
  for (const KvOptions& kv :
       {KvOptions(), KvOptions{.k_bits = 8, .v_bits = 8}, KvOptions{.k_bits = 4, .v_bits = 4, .recent = 1}}) {
    std::vector<KvCache> caches(2, KvCache(config, 100, nullptr, kv));
    const auto pointers = Pointers(caches);
    (void)Hidden(*model, absl::MakeConstSpan(text).first(40), caches[0]);
    (void)Hidden(*model, absl::MakeConstSpan(text).first(23), caches[1]);
    std::vector<KvCache> untouched = caches;
    const auto profile = ProfileWalk(*model, tokens, pointers);
    INFO(profile.status());
    REQUIRE(profile.ok());
    CHECK(profile->position == 40);
    std::vector<float> rows(2 * static_cast<size_t>(config.hidden)), expected = rows;
    for (int step = 0; step < 5; ++step) {
      REQUIRE(ForwardBatch(*model, tokens, pointers, absl::MakeSpan(rows)).ok());
      REQUIRE(ForwardBatch(*model, tokens, Pointers(untouched), absl::MakeSpan(expected)).ok());
      CHECK(std::memcmp(rows.data(), expected.data(), rows.size() * sizeof(float)) == 0);
    }
    // A block of a prompt, many times over (pages take far more rows than they keep), and the prompt.
    KvCache cache(config, 512, nullptr, kv), other = cache;
    const std::vector<int32_t> prompt = SomeTokens(512, 50);
    REQUIRE(ProfileWalk(*model, prompt, std::vector<KvCache*>{&cache}).ok());
    CHECK(cache.length() == 0);
    CHECK(Hidden(*model, prompt, cache) == Hidden(*model, prompt, other));
  }
}

TEST_CASE("Walks that cannot be profiled are refused") {
  const TinyModel tiny = MakeTinyModel(Small());
  const auto model = Load(*tiny.checkpoint);
  std::vector<KvCache> caches(2, KvCache(model->graph().config, 600));
  const auto refuse = [&](size_t tokens, size_t count, const std::string& message) {
    const absl::Status status =
        ProfileWalk(*model, std::vector<int32_t>(tokens), absl::MakeConstSpan(Pointers(caches)).first(count))
            .status();
    CHECK(status.code() == absl::StatusCode::kInvalidArgument);
    CHECK(status.message() == message);
  };
  const std::string allowed = "; one each is needed, or 1 to 512 of one";
  refuse(0, 1, "profile: 0 tokens of 1 sequences" + allowed);
  refuse(4, 2, "profile: 4 tokens of 2 sequences" + allowed);
  refuse(513, 1, "profile: 513 tokens of 1 sequences" + allowed);
  caches[0] = KvCache(model->graph().config, 5);
  refuse(6, 1, "cache: 6 positions needed; 5 allowed; make it larger or feed fewer tokens");
  caches[0] = KvCache(model->graph().config, 60, nullptr, {.k_bits = 8, .v_bits = 8});
  (void)Hidden(*model, SomeTokens(3, 50), caches[0]);
  refuse(
      6, 1,
      "profile: a block behind text in pages would code rows that come back less exact; begin at the prefix");
}

}  // namespace spikefold::testing
