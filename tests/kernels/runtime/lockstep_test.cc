// Several sequences side by side give what each gives alone.
#include <catch2/catch.hpp>

#include "kernels/runtime/forward.h"
#include "tests/testing/tiny_model.h"

namespace spikefold {

TEST_CASE("Sequences in lockstep give the rows that each gives alone") {
  for (const bool qk_norm : {false, true}) {
    const testing::TinyModel tiny = testing::MakeTinyModel(
        {.hidden = 64, .intermediate = 96, .num_layers = 3, .vocab = 64, .qk_norm = qk_norm});
    ThreadPool pool(2);
    const auto model = LoadModel(*tiny.checkpoint, {.pool = &pool});
    REQUIRE(model.ok());
    const ModelConfig& config = (*model)->graph().config;
    const int32_t text[3][4] = {{1, 5, 9, 2}, {60, 1, 1, 7}, {33, 32, 31, 30}};
    std::vector<KvCache> caches(3, KvCache(config, 4));
    std::vector<KvCache*> pointers = {&caches[0], &caches[1], &caches[2]};
    std::vector<float> together(3 * 64), alone(64);
    std::vector<KvCache> own(3, KvCache(config, 4));
    for (int t = 0; t < 4; ++t) {
      const std::vector<int32_t> step = {text[0][t], text[1][t], text[2][t]};
      REQUIRE(ForwardLockstep(**model, step, pointers, absl::MakeSpan(together)).ok());
      for (size_t s = 0; s < 3; ++s) {
        REQUIRE(Forward(**model, {&text[s][t], 1}, own[s], absl::MakeSpan(alone), {}).ok());
        for (size_t i = 0; i < 64; ++i) CHECK(together[s * 64 + i] == Approx(alone[i]).margin(1e-5));
      }
    }
    CHECK(caches[1].length() == 4);
    const auto full = ForwardLockstep(**model, {{1, 2, 3}}, pointers, absl::MakeSpan(together));
    CHECK(full.code() == absl::StatusCode::kInvalidArgument);
    const auto uneven = ForwardLockstep(**model, {{1, 2}}, pointers, absl::MakeSpan(together));
    CHECK(uneven.message() == "lockstep: 2 tokens for 3 caches; one each is needed");
    caches[0].Truncate(3);
    const auto lengths = ForwardLockstep(**model, {{1, 2, 3}}, pointers, absl::MakeSpan(together));
    CHECK(lengths.message() ==
          "lockstep: a cache of 4 of 4 positions beside one of 3; equal lengths and room for one more are "
          "needed");
  }
}

}  // namespace spikefold
