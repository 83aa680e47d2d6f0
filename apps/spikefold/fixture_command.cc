#include "apps/spikefold/fixture_command.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "apps/spikefold/output_path.h"
#include "apps/spikefold/text.h"
#include "formats/base/dtype.h"
#include "formats/base/file.h"
#include "formats/base/status.h"
#include "formats/safetensors.h"
#include "formats/tokenizer/byte_alphabet.h"

namespace spikefold {
namespace {

constexpr int64_t kBos = 256, kEos = 257;  // behind the bytes

struct FixtureShape {
  const char* name;
  int64_t hidden, intermediate, layers, heads, kv_heads, head_dim, vocab, positions;
  double rope_theta;
  bool tied;
};
constexpr std::array<FixtureShape, 4> kShapes = {{
    {"tiny", 256, 512, 4, 4, 2, 64, 512, 2048, 10000, true},
    {"smollm2", 576, 1536, 30, 9, 3, 64, 49152, 8192, 100000, true},
    {"llama3-8b", 4096, 14336, 32, 32, 8, 128, 128256, 8192, 500000, false},
    {"llama3-70b", 8192, 28672, 80, 64, 8, 128, 128256, 8192, 500000, false},
}};

absl::StatusOr<FixtureShape> ShapeOf(const FixtureCommandOptions& options) {
  for (FixtureShape shape : kShapes) {
    if (options.shape != shape.name) continue;
    if (options.layers > 0) shape.layers = options.layers;
    return shape;
  }
  return absl::InvalidArgumentError(absl::StrCat("fixture: no shape \"", Printable(options.shape, 64),
                                                 "\"; tiny, smollm2, llama3-8b and llama3-70b are known"));
}

Json Config(const FixtureShape& s) {
  return Json::MakeObject()
      .Set("architectures", Json(Json::Array{Json("LlamaForCausalLM")}))
      .Set("model_type", "llama")
      .Set("hidden_act", "silu")
      .Set("hidden_size", s.hidden)
      .Set("intermediate_size", s.intermediate)
      .Set("num_hidden_layers", s.layers)
      .Set("num_attention_heads", s.heads)
      .Set("num_key_value_heads", s.kv_heads)
      .Set("head_dim", s.head_dim)
      .Set("vocab_size", s.vocab)
      .Set("max_position_embeddings", s.positions)
      .Set("rms_norm_eps", 1e-5)
      .Set("rope_theta", s.rope_theta)
      .Set("tie_word_embeddings", s.tied)
      .Set("bos_token_id", kBos)
      .Set("eos_token_id", kEos)
      .Set("torch_dtype", "bfloat16");
}

// Every byte is a token; ids from 258 on have no text.
Json TokenizerJson() {
  Json vocab = Json::MakeObject();
  for (int byte = 0; byte < 256; ++byte)
    vocab.Set(tok::ByteAlphabet()[static_cast<size_t>(byte)], Json(byte));
  vocab.Set("<|bos|>", kBos).Set("<|eos|>", kEos);
  Json added = Json::MakeArray();
  for (const auto& [id, text] : {std::pair{kBos, "<|bos|>"}, std::pair{kEos, "<|eos|>"}}) {
    added.Append(Json::MakeObject()
                     .Set("id", id)
                     .Set("content", text)
                     .Set("single_word", false)
                     .Set("lstrip", false)
                     .Set("rstrip", false)
                     .Set("normalized", false)
                     .Set("special", true));
  }
  const auto byte_level = [] {
    return Json::MakeObject()
        .Set("type", "ByteLevel")
        .Set("add_prefix_space", false)
        .Set("trim_offsets", true)
        .Set("use_regex", true);
  };
  return Json::MakeObject()
      .Set("version", "1.0")
      .Set("truncation", Json())
      .Set("padding", Json())
      .Set("added_tokens", std::move(added))
      .Set("normalizer", Json())
      .Set("pre_tokenizer", byte_level())
      .Set("post_processor", Json())
      .Set("decoder", byte_level())
      .Set("model", Json::MakeObject()
                        .Set("type", "BPE")
                        .Set("dropout", Json())
                        .Set("unk_token", Json())
                        .Set("continuing_subword_prefix", Json())
                        .Set("end_of_word_suffix", Json())
                        .Set("fuse_unk", false)
                        .Set("byte_fallback", false)
                        .Set("ignore_merges", false)
                        .Set("vocab", std::move(vocab))
                        .Set("merges", Json::MakeArray()));
}

struct FixtureTensor {
  SafetensorsWriter::Spec spec;
  double deviation = 0;  // of the random values; 0: all ones
};

std::vector<FixtureTensor> Tensors(const FixtureShape& s) {
  std::vector<FixtureTensor> tensors;
  const auto add = [&](std::string name, Shape shape, double deviation) {
    tensors.push_back({{std::move(name), DType::kBF16, std::move(shape)}, deviation});
  };
  const auto linear = [&](const std::string& name, int64_t n, int64_t k) {
    add(absl::StrCat(name, ".weight"), {n, k}, 1 / std::sqrt(static_cast<double>(k)));
  };
  const int64_t q = s.heads * s.head_dim, kv = s.kv_heads * s.head_dim;
  add("model.embed_tokens.weight", {s.vocab, s.hidden}, 0.02);
  for (int64_t i = 0; i < s.layers; ++i) {
    const std::string layer = absl::StrCat("model.layers.", i, ".");
    add(absl::StrCat(layer, "input_layernorm.weight"), {s.hidden}, 0);
    linear(absl::StrCat(layer, "self_attn.q_proj"), q, s.hidden);
    linear(absl::StrCat(layer, "self_attn.k_proj"), kv, s.hidden);
    linear(absl::StrCat(layer, "self_attn.v_proj"), kv, s.hidden);
    linear(absl::StrCat(layer, "self_attn.o_proj"), s.hidden, q);
    add(absl::StrCat(layer, "post_attention_layernorm.weight"), {s.hidden}, 0);
    linear(absl::StrCat(layer, "mlp.gate_proj"), s.intermediate, s.hidden);
    linear(absl::StrCat(layer, "mlp.up_proj"), s.intermediate, s.hidden);
    linear(absl::StrCat(layer, "mlp.down_proj"), s.hidden, s.intermediate);
  }
  add("model.norm.weight", {s.hidden}, 0);
  if (!s.tied) linear("lm_head", s.vocab, s.hidden);
  return tensors;
}

// Mixes 64 bits (SplitMix64's finalizer; Steele, Lea, Flood 2014).
uint64_t Mix(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

// Values evenly spread around 0; a value depends on the seed, the tensor and its place alone.
void Fill(uint64_t seed, double deviation, ThreadPool& pool, Tensor& tensor) {
  uint16_t* const out = tensor.as<uint16_t>().data();
  const int64_t count = tensor.num_elements();
  const float step = static_cast<float>(deviation * std::sqrt(3.0) / 32768);
  pool.ParallelFor((count + 3) / 4, int64_t{1} << 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      uint64_t bits = Mix(seed + static_cast<uint64_t>(i) * 0x9e3779b97f4a7c15ull);
      for (int64_t j = 4 * i; j < std::min(4 * i + 4, count); ++j, bits >>= 16) {
        const float value = (static_cast<float>(bits & 0xffff) - 32767.5f) * step;
        out[j] = deviation == 0 ? FloatToBf16(1.0f) : FloatToBf16(value);
      }
    }
  });
}

}  // namespace

absl::Status RunFixture(const FixtureCommandOptions& options, Context& context) {
  SF_ASSIGN_OR_RETURN(const FixtureShape shape, ShapeOf(options));
  SF_RETURN_IF_ERROR(CheckOutputDirectory(options.output, options.force, {}));
  SF_ASSIGN_OR_RETURN(const auto directory, AtomicDirectory::Create(options.output, options.force));
  const auto path = [&](const char* name) { return JoinPath(directory->partial_path(), name); };
  const std::vector<FixtureTensor> tensors = Tensors(shape);
  std::vector<SafetensorsWriter::Spec> specs;
  specs.reserve(tensors.size());
  for (const FixtureTensor& t : tensors) specs.push_back(t.spec);
  SF_ASSIGN_OR_RETURN(const auto writer,
                      SafetensorsWriter::Create(path("model.safetensors"), specs, {{"format", "pt"}},
                                                options.sparse ? FileSpace::kSparse : FileSpace::kReserved));
  const auto count = static_cast<int64_t>(tensors.size());
  int64_t weights = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (!Report(context.console.progress(), "writing", i, count)) {
      return absl::CancelledError("fixture: stopped; nothing was written");
    }
    const FixtureTensor& t = tensors[static_cast<size_t>(i)];
    weights += NumElements(t.spec.shape);
    if (options.sparse && t.deviation > 0) {
      writer->MarkWritten(t.spec.name);
      continue;
    }
    Tensor tensor(t.spec.dtype, t.spec.shape);
    Fill(Mix(context.seed) + Mix(static_cast<uint64_t>(i) + 1), t.deviation, context.pool(), tensor);
    SF_RETURN_IF_ERROR(writer->Write(t.spec.name, tensor.view()));
  }
  SF_RETURN_IF_ERROR(writer->Finish());
  SF_RETURN_IF_ERROR(WriteFileAtomically(path("config.json"), Config(shape).Dump(2)));
  SF_RETURN_IF_ERROR(WriteFileAtomically(path("tokenizer.json"), TokenizerJson().Dump(0)));
  const uint64_t bytes = writer->file_bytes();
  SF_RETURN_IF_ERROR(directory->Commit());
  Console& console = context.console;
  if (console.json()) {
    return console.PrintJson(NewDocument("fixture")
                                 .Set("path", options.output)
                                 .Set("shape", shape.name)
                                 .Set("layers", shape.layers)
                                 .Set("weights", weights)
                                 .Set("file_bytes", bytes));
  }
  console.Print(absl::StrCat(Printable(options.output, 1024), ": ", shape.name, " with ", shape.layers,
                             " layers, ", CompactCount(weights),
                             options.sparse ? " weights that are zero in " : " random weights in ",
                             BytesText(bytes), "\n"));
  return console.Flush();
}

}  // namespace spikefold
