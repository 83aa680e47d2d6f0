// The real models of models/ (`make models`).
#include <algorithm>
#include <catch2/catch.hpp>

#include "formats/checkpoint.h"
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

TEST_CASE("SmolLM2 opens as a checkpoint with HF names, tokenizer and side files", "[checkpoint][model]") {
  const auto reader = CheckpointReader::Open(SPIKEFOLD_MODELS "/smollm2-135m-instruct-q4_1.gguf");
  INFO(reader.status());
  REQUIRE(reader.ok());
  const CheckpointReader& model = **reader;
  CHECK(model.kind() == CheckpointKind::kGguf);
  CHECK(model.tensors().size() == 272);
  const StoredTensor* q = model.Find("model.layers.29.self_attn.q_proj.weight");
  REQUIRE(q != nullptr);
  CHECK(q->stored_name == "blk.29.attn_q.weight");
  CHECK(q->stored_type == "Q4_1");
  CHECK(q->shape == Shape{576, 576});
  const auto weight = model.ReadF32(q->name);
  REQUIRE(weight.ok());
  CHECK(weight->shape() == q->shape);
  CHECK(model.ReadF32("model.layers.29.self_attn.qproj.weight").status().message() ==
        model.path() +
            ": no tensor \"model.layers.29.self_attn.qproj.weight\" (did you mean "
            "\"model.layers.29.self_attn.q_proj.weight\"?)");
  const auto tokenizer = model.LoadTokenizer();
  REQUIRE(tokenizer.ok());
  CHECK((*tokenizer)->vocab_size() == 49152);
  const auto side = model.SideFiles();
  REQUIRE(side.ok());
  REQUIRE(side->size() == 1);
  const auto copy = GgufFile::FromSource(MemorySource(side->front().bytes));
  REQUIRE(copy.ok());
  const auto again = Tokenizer::FromGguf(**copy);
  REQUIRE(again.ok());
  CHECK((*again)->fingerprint() == (*tokenizer)->fingerprint());
  CHECK(model.Fingerprint()->size() == 64);
  CHECK(*model.Fingerprint() == *model.Fingerprint());
  CHECK(model.file_bytes() == 98362432);
}

}  // namespace spikefold
