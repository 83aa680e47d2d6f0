// The real models of models/ (`make models`).
#include <algorithm>
#include <catch2/catch.hpp>

#include "formats/families/family.h"
#include "formats/gguf.h"

namespace spikefold {

TEST_CASE("The real GGUF files describe SmolLM2 and Gemma 3", "[families][model]") {
  const std::string smol = SPIKEFOLD_MODELS "/smollm2-135m-instruct-q4_1.gguf";
  const std::string gemma = SPIKEFOLD_MODELS "/gemma-3-270m-q4_k_m.gguf";
  const auto a = ConfigFromGguf(**GgufFile::Open(smol));
  REQUIRE(a.ok());
  CHECK(a->num_layers == 30);
  CHECK(a->vocab == 49152);
  CHECK(a->tied_embeddings);
  CHECK(a->norm_eps == 1e-5f);
  CHECK(a->eos_id == 2);
  const auto b = ConfigFromGguf(**GgufFile::Open(gemma));
  REQUIRE(b.ok());
  CHECK(b->head_dim == 256);
  CHECK(b->attention_scale == 0.0625f);
  CHECK(b->sliding_window == 512);
  CHECK(std::count(b->sliding_layers.begin(), b->sliding_layers.end(), false) == 3);
  CHECK(b->bos_id == 2);
}

}  // namespace spikefold
