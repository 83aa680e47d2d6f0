#include "formats/checkpoint.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <functional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "formats/base/file.h"
#include "formats/gguf.h"
#include "formats/quantized/native.h"
#include "formats/safetensors_model.h"
#include "tests/formats/export_kit.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_directory.h"

namespace spikefold {
namespace {

using absl::StatusCode;
using testing::Fails;
using testing::TempDirectory;

std::string Tiny(const std::string& name) { return SPIKEFOLD_TEST_DATA "/tiny/" + name; }

std::unique_ptr<CheckpointReader> Open(const std::string& path) {
  auto reader = CheckpointReader::Open(path);
  INFO(reader.status());
  REQUIRE(reader.ok());
  return *std::move(reader);
}
void CheckRefused(const std::string& path, StatusCode code, const std::string& message) {
  const auto reader = CheckpointReader::Open(path);
  CHECK(reader.status().code() == code);
  CHECK(std::string(reader.status().message()) == path + message);
}
std::string Slurp(const std::string& path) {
  auto text = ReadFileToString(path, 1 << 24);
  REQUIRE(text.ok());
  return *text;
}
void Spill(const std::string& path, const std::string& bytes) {
  REQUIRE(WriteFileAtomically(path, bytes).ok());
}

bool SameBits(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() && std::memcmp(a.data(), b.data(), static_cast<size_t>(a.num_bytes())) == 0;
}

// A copy of tiny/llama with its config.json and its tensors edited. Tensors are in memory as float32.
using Tensors = std::vector<std::pair<std::string, Tensor>>;
void MakeVariant(const std::string& dir, const std::vector<std::pair<std::string, std::string>>& config_edits,
                 const std::function<void(Tensors&)>& edit, uint64_t max_shard_bytes = 0) {
  std::string config = Slurp(Tiny("llama") + "/config.json");
  for (const auto& [from, to] : config_edits) {
    REQUIRE(config.find(from) != std::string::npos);
    config = absl::StrReplaceAll(config, {{from, to}});
  }
  Spill(dir + "/config.json", config);
  const auto source = Open(Tiny("llama"));
  Tensors tensors;
  for (const StoredTensor& t : source->tensors()) tensors.emplace_back(t.name, *source->ReadF32(t.name));
  if (edit) edit(tensors);
  std::vector<SafetensorsWriter::Spec> specs;
  for (const auto& [name, t] : tensors) specs.push_back({name, t.dtype(), t.shape()});
  auto writer = SafetensorsModelWriter::Create(dir, specs, max_shard_bytes);
  REQUIRE(writer.ok());
  for (const auto& [name, t] : tensors) REQUIRE((*writer)->Write(name, t.view()).ok());
  REQUIRE((*writer)->Finish().ok());
}
Tensor& Get(Tensors& tensors, const std::string& name) {
  for (auto& [key, t] : tensors) {
    if (key == name) return t;
  }
  FAIL("no tensor " << name);
  return tensors.front().second;
}

const std::string kQ = "model.layers.1.self_attn.q_proj.weight";

}  // namespace

TEST_CASE("A GGUF file gives the very weights of the model that it was made from", "[checkpoint]") {
  for (const char* name : {"llama", "llama_bias", "qwen3", "gemma3"}) {
    INFO(name);
    const auto hf = Open(Tiny(name)), gguf = Open(Tiny(name) + "/model.gguf");
    CHECK(hf->kind() == CheckpointKind::kSafetensors);
    CHECK(gguf->kind() == CheckpointKind::kGguf);
    REQUIRE(hf->tensors().size() == gguf->tensors().size());
    for (size_t i = 0; i < hf->tensors().size(); ++i) {
      const std::string& tensor = hf->tensors()[i].name;
      INFO(tensor);
      REQUIRE(gguf->tensors()[i].name == tensor);
      const auto a = hf->ReadF32(tensor), b = gguf->ReadF32(tensor);
      REQUIRE(a.ok());
      REQUIRE(b.ok());
      if (std::string(name) == "gemma3" && a->shape().size() == 1) {
        // The file holds float32(1 + g); half an ulp of a value below 4.
        for (int64_t k = 0; k < a->num_elements(); ++k) {
          REQUIRE(std::fabs(a->as<float>()[static_cast<size_t>(k)] -
                            b->as<float>()[static_cast<size_t>(k)]) <= 1.2e-7f);
        }
      } else {
        CHECK(SameBits(*a, *b));
      }
    }
  }
}

TEST_CASE("Blocks of rows are those of the whole, whatever holds the matrix", "[checkpoint]") {
  std::vector<std::string> paths = {Tiny("llama"), Tiny("llama_bias") + "/model.gguf",
                                    Tiny("gemma3") + "/model.gguf"};
  for (const char* name : {"gptq", "awq", "ct_w4", "ct_mixed"}) {
    paths.push_back(absl::StrCat(SPIKEFOLD_TEST_DATA "/foreign/", name));
  }
  for (const std::string& path : paths) {
    INFO(path);
    const auto model = Open(path);
    ThreadPool pool(2);
    for (const StoredTensor& t : model->tensors()) {
      if (t.shape.size() != 2) continue;
      INFO(t.name);
      const auto rows = model->OpenRows(t.name);
      REQUIRE(rows.status() == absl::OkStatus());
      Tensor blocks(DType::kF32, t.shape);
      const int64_t k = t.shape[1];
      const auto read = [&](int64_t begin, int64_t end) -> absl::Status {
        const int64_t step = 5 * (*rows)->rows_together();
        for (int64_t row = begin; row < end; row += step) {
          float* to = blocks.as<float>().data() + row * k;
          if (auto s = (*rows)->Read(row, std::min(row + step, end), to); !s.ok()) return s;
        }
        return absl::OkStatus();
      };
      REQUIRE(ForRowBlocks(pool, t.shape[0], k, (*rows)->rows_together(), read) == absl::OkStatus());
      CHECK(SameBits(blocks, *model->ReadF32(t.name)));
      CHECK(SameBits(*ReadF32(*model, t.name, pool), *model->ReadF32(t.name)));  // all threads
    }
  }
}

TEST_CASE("All threads read a matrix of several blocks as one does", "[checkpoint]") {
  const TempDirectory dir;
  const std::string embedding = "model.embed_tokens.weight";
  MakeVariant(dir.path(), {{"\"vocab_size\": 128", "\"vocab_size\": 3001"}}, [&](Tensors& t) {
    for (const std::string& name : {embedding, std::string("lm_head.weight")}) {
      Tensor& table = Get(t, name) = Tensor(DType::kF32, {3001, 64});
      for (int64_t i = 0; i < table.num_elements(); ++i) {
        table.as<float>()[static_cast<size_t>(i)] = static_cast<float>(i % 99991);
      }
    }
    Get(t, "lm_head.weight").as<float>()[3000 * 64] = NAN;
  });
  const auto model = Open(dir.path());
  ThreadPool pool(3);
  CHECK(SameBits(*ReadF32(*model, embedding, pool), *model->ReadF32(embedding)));
  const absl::Status odd = ReadF32(*model, "lm_head.weight", pool).status();
  CHECK(absl::IsDataLoss(odd));
  CHECK(odd == model->ReadF32("lm_head.weight").status());
}

TEST_CASE("The status of blocks of rows is that of the first that fails", "[checkpoint]") {
  ThreadPool pool(2);
  const auto fail = [](int64_t begin, int64_t) {
    return begin < 100 ? absl::OkStatus() : absl::DataLossError(absl::StrCat("row ", begin));
  };
  CHECK(ForRowBlocks(pool, 1000, 1 << 16, 1, fail).message() == "row 100");
  CHECK(ForRowBlocks(pool, 1000, 1 << 16, 64, fail).message() == "row 128");
}

TEST_CASE("Without the row order of HF that comparison would fail", "[checkpoint][canary]") {
  const auto hf = Open(Tiny("llama_bias"));
  const auto gguf = GgufFile::Open(Tiny("llama_bias") + "/model.gguf");
  REQUIRE(gguf.ok());
  for (const char* part : {"weight", "bias"}) {
    const std::string end = part;
    const auto stored = (*gguf)->ReadF32(*(*gguf)->FindTensor("blk.0.attn_k." + end));
    CHECK(!SameBits(*stored, *hf->ReadF32("model.layers.0.self_attn.k_proj." + end)));
    const auto v = (*gguf)->ReadF32(*(*gguf)->FindTensor("blk.0.attn_v." + end));
    CHECK(SameBits(*v, *hf->ReadF32("model.layers.0.self_attn.v_proj." + end)));
  }
}

TEST_CASE("A directory lists its tensors in execution order and reads them raw or as float32",
          "[checkpoint]") {
  const auto model = Open(Tiny("qwen2"));
  CHECK(model->tensors().front().name == "model.embed_tokens.weight");
  CHECK(model->tensors().back().name == "model.norm.weight");
  const StoredTensor* q = model->Find("model.layers.0.self_attn.q_proj.bias");
  REQUIRE(q != nullptr);
  CHECK(q->stored_type == "BF16");
  CHECK(q->bytes == 96);
  const auto raw = model->ReadRaw(q->name);
  REQUIRE(raw.ok());
  CHECK(raw->dtype() == DType::kBF16);
  CHECK(SameBits(ToF32(raw->view()), *model->ReadF32(q->name)));
  CHECK(model->config_json().Find("transformers_version") != nullptr);
  CHECK(model->ReadF32("model.norm.weights").status().message() ==
        model->path() + ": no tensor \"model.norm.weights\" (did you mean \"model.norm.weight\"?)");
  CHECK(model->ReadF32("model.norm.weights").status().code() == StatusCode::kNotFound);
}

TEST_CASE("Shards give the same tensors as one file; the fingerprint follows bytes and configuration",
          "[checkpoint]") {
  const TempDirectory one, many, other, turned, spelled;
  MakeVariant(one.path(), {}, nullptr);
  MakeVariant(many.path(), {}, nullptr, 60000);
  MakeVariant(other.path(), {}, [](Tensors& t) { Get(t, kQ).as<float>()[5] += 0.25f; });
  const auto a = Open(one.path()), b = Open(many.path()), c = Open(other.path());
  CHECK(PathExists(many / "model.safetensors.index.json"));
  for (const StoredTensor& t : a->tensors()) CHECK(SameBits(*a->ReadF32(t.name), *b->ReadF32(t.name)));
  CHECK(*a->Fingerprint() == *a->Fingerprint());
  CHECK(*a->Fingerprint() != *c->Fingerprint());
  MakeVariant(turned.path(), {{"\"rms_norm_eps\": 1e-05", "\"rms_norm_eps\": 1e-06"}}, nullptr);
  CHECK(*a->Fingerprint() != *Open(turned.path())->Fingerprint());
  MakeVariant(spelled.path(), {{"\"rms_norm_eps\": 1e-05", "\"rms_norm_eps\":0.00001"}}, nullptr);
  CHECK(*a->Fingerprint() == *Open(spelled.path())->Fingerprint());
  CHECK(a->Fingerprint()->size() == 64);
  // Whoever watches may stop it; the next one begins anew.
  const auto again = Open(one.path());
  bool go_on = false;
  again->WatchHashing([&](absl::string_view, int64_t, int64_t) { return go_on; });
  CHECK(absl::IsCancelled(again->Fingerprint().status()));
  go_on = true;
  CHECK(*again->Fingerprint() == *a->Fingerprint());
}

TEST_CASE("Side files are copied whole, other files are left", "[checkpoint]") {
  const TempDirectory dir;
  MakeVariant(dir.path(), {}, nullptr);
  Spill(dir / "tokenizer_config.json", "{\"a\": 1}");
  Spill(dir / "LICENSE.txt", "free");
  Spill(dir / "notes.txt", "private");
  const auto files = Open(dir.path())->SideFiles();
  REQUIRE(files.ok());
  REQUIRE(files->size() == 2);
  CHECK((*files)[0].name == "LICENSE.txt");
  CHECK((*files)[1].name == "tokenizer_config.json");
  CHECK((*files)[1].bytes == "{\"a\": 1}");
  const auto tokenizer = Open(dir.path())->LoadTokenizer();
  CHECK(tokenizer.status().code() == StatusCode::kNotFound);
  CHECK(tokenizer.status().message() == dir.path() + ": has neither tokenizer.json nor tokenizer.gguf");
}

TEST_CASE("What bears a side file's name and is no file of the directory is left out with a warning",
          "[checkpoint]") {
  const TempDirectory dir;
  std::filesystem::create_directory(dir / "model");
  MakeVariant(dir / "model", {}, nullptr);
  Spill(dir / "elsewhere.json", "{}");
  Spill(dir / "model/LICENSE.txt", "free");
  std::filesystem::create_directory(dir / "model/LICENSES");
  std::filesystem::create_symlink("../elsewhere.json", dir / "model/added_tokens.json");
  std::filesystem::create_symlink("nowhere", dir / "model/vocab.json");
  const auto model = Open(dir / "model");
  REQUIRE(model->warnings().size() == 3);
  CHECK(model->warnings()[0] ==
        dir / "model/LICENSES" + ": is a directory; expected a regular file; it is left out");
  CHECK_THAT(model->warnings()[1], Catch::Contains("added_tokens.json: is a symlink that leaves"));
  CHECK_THAT(model->warnings()[2], Catch::Contains("vocab.json"));
  const auto files = model->SideFiles();
  REQUIRE(files.ok());
  REQUIRE(files->size() == 1);
  CHECK((*files)[0].name == "LICENSE.txt");
  // Without this one a text would become other tokens.
  std::filesystem::create_symlink("../elsewhere.json", dir / "model/tokenizer_config.json");
  CHECK_THAT(Open(dir / "model")->SideFiles().status(),
             Fails(StatusCode::kDataLoss, "tokenizer_config.json: is a symlink that leaves"));
}

TEST_CASE("A GGUF model's tokenizer travels as a metadata-only file", "[checkpoint]") {
  const auto files = Open(Tiny("llama") + "/model.gguf")->SideFiles();
  REQUIRE(files.ok());
  REQUIRE(files->size() == 1);
  CHECK((*files)[0].name == "tokenizer.gguf");
  const auto copy = GgufFile::FromSource(MemorySource((*files)[0].bytes));
  REQUIRE(copy.ok());
  CHECK((*copy)->keys() == std::vector<std::string>{"general.architecture"});
}

TEST_CASE("Paths that are no model say what is needed", "[checkpoint][malformed]") {
  const TempDirectory dir;
  CheckRefused(dir / "none", StatusCode::kNotFound, ": no such file or directory");
  CheckRefused(dir.path(), StatusCode::kNotFound,
               ": has no config.json; a model directory holds config.json, *.safetensors and tokenizer.json");
  CheckRefused(Tiny("llama") + "/model.safetensors", StatusCode::kInvalidArgument,
               ": is one safetensors file; give the directory that also holds its config.json");
  CheckRefused(Tiny("llama") + "/config.json", StatusCode::kDataLoss,
               ": does not begin with the magic \"GGUF\"");
}

TEST_CASE("Missing, misshapen and unknown tensors are refused by name", "[checkpoint][malformed]") {
  const TempDirectory missing, shape, extra, integer;
  MakeVariant(missing.path(), {}, [](Tensors& t) { t.pop_back(); });
  CheckRefused(missing.path(), StatusCode::kDataLoss, ": tensor lm_head.weight [128, 64] is missing");
  MakeVariant(shape.path(), {}, [](Tensors& t) { Get(t, kQ) = Tensor(DType::kF32, {64, 32}); });
  CheckRefused(shape.path(), StatusCode::kDataLoss,
               ": " + kQ + " is [64, 32]; the configuration needs [64, 64]");
  MakeVariant(extra.path(), {}, [](Tensors& t) {
    t.emplace_back("model.layers.0.self_attn.q_norm.weight", Tensor(DType::kF32, {16}));
  });
  CheckRefused(
      extra.path(), StatusCode::kUnimplemented,
      ": tensor \"model.layers.0.self_attn.q_norm.weight\" has no place in a llama model, so the model "
      "would not be the same without it");
  MakeVariant(integer.path(), {}, [](Tensors& t) { Get(t, kQ) = Tensor(DType::kI32, {64, 64}); });
  CheckRefused(integer.path(), StatusCode::kDataLoss, ": " + kQ + " is I32; F32, F16, BF16 or F64 is needed");
}

TEST_CASE("A tied model may carry its embedding as a head, and rotary tables, but no other head",
          "[checkpoint]") {
  const TempDirectory dir, other;
  const std::vector<std::pair<std::string, std::string>> tie = {
      {"\"tie_word_embeddings\": false", "\"tie_word_embeddings\": true"}};
  MakeVariant(dir.path(), tie, [](Tensors& t) {
    Get(t, "lm_head.weight") = ToF32(Get(t, "model.embed_tokens.weight").view());
    t.emplace_back("model.layers.0.self_attn.rotary_emb.inv_freq", Tensor(DType::kF32, {8}));
  });
  const auto model = Open(dir.path());
  CHECK(model->Find("lm_head.weight") == nullptr);
  CHECK(model->Find("model.layers.0.self_attn.rotary_emb.inv_freq") == nullptr);
  MakeVariant(other.path(), tie, nullptr);
  CheckRefused(other.path(), StatusCode::kDataLoss,
               ": lm_head.weight differs from model.embed_tokens.weight in row 0, but config.json says "
               "\"tie_word_embeddings\": true; set it to false to use the head of the file, or take the "
               "tensor out");
}

TEST_CASE("Tensors are found under the names that other writers give them", "[checkpoint]") {
  const std::string embedding = "model.embed_tokens.weight", lm_head = "lm_head.weight";
  const TempDirectory plain, bare, head;
  const auto same = [&](const std::string& path, const std::string& name, const std::string& as) {
    INFO(name);
    const auto model = Open(path);
    const auto values = model->ReadF32(name), expected = Open(plain.path())->ReadF32(as);
    REQUIRE(values.status() == absl::OkStatus());
    CHECK(SameBits(*values, *expected));
    Tensor rows(DType::kF32, {3, 64});
    REQUIRE(model->ReadF32Rows(name, 2, 5, rows.as<float>().data()).ok());
    CHECK(
        std::equal(rows.as<float>().begin(), rows.as<float>().end(), expected->as<float>().begin() + 2 * 64));
  };
  MakeVariant(plain.path(), {}, nullptr);
  MakeVariant(bare.path(), {}, [](Tensors& t) {  // as transformers saves a model without its head
    for (auto& [name, tensor] : t) name = absl::StrReplaceAll(name, {{"model.", ""}});
  });
  same(bare.path(), embedding, embedding);
  same(bare.path(), kQ, kQ);
  MakeVariant(head.path(), {{"\"tie_word_embeddings\": false", "\"tie_word_embeddings\": true"}},
              [&](Tensors& t) { std::erase_if(t, [&](const auto& e) { return e.first == embedding; }); });
  same(head.path(), embedding, lm_head);
}

TEST_CASE("Values that are not finite are reported with tensor, count and first index",
          "[checkpoint][malformed]") {
  const TempDirectory dir;
  MakeVariant(dir.path(), {}, [](Tensors& t) {
    Get(t, kQ).as<float>()[4095] = NAN;  // the last element
    Get(t, "model.norm.weight").as<float>()[3] = -INFINITY;
    Get(t, "model.norm.weight").as<float>()[9] = NAN;
  });
  const auto model = Open(dir.path());
  const auto q = model->ReadF32(kQ), norm = model->ReadF32("model.norm.weight");
  CHECK(q.status().code() == StatusCode::kDataLoss);
  CHECK(q.status().message() ==
        dir.path() + ": " + kQ +
            ": 1 of 4096 values are not finite, the first is NaN at index 4095; only finite "
            "weights are allowed");
  CHECK(norm.status().message() ==
        dir.path() +
            ": model.norm.weight: 2 of 64 values are not finite, the first is infinite at "
            "index 3; only finite weights are allowed");
  ThreadPool pool(2);
  CHECK(ReadF32(*model, kQ, pool).status() == q.status());
  CHECK(ReadF32(*model, "none", pool).status() == model->ReadF32("none").status());
  // The same in a GGUF file.
  std::string bytes = Slurp(Tiny("llama_bias") + "/model.gguf");
  const auto file = GgufFile::Open(Tiny("llama_bias") + "/model.gguf");
  const GgufTensor* t = (*file)->FindTensor("blk.0.ffn_down.weight");
  const float nan = NAN;
  std::memcpy(bytes.data() + t->offset + 40, &nan, 4);
  Spill(dir / "m.gguf", bytes);
  CHECK(Open(dir / "m.gguf")->ReadF32("model.layers.0.mlp.down_proj.weight").status().message() ==
        dir / "m.gguf" +
            ": model.layers.0.mlp.down_proj.weight: 1 of 3072 values are not finite, the first is NaN at "
            "index 10; only finite weights are allowed");
}

TEST_CASE("Configurations that contradict themselves or the file are refused", "[checkpoint][malformed]") {
  const TempDirectory heads, layers, json;
  MakeVariant(heads.path(), {{"\"num_key_value_heads\": 2", "\"num_key_value_heads\": 3"}}, nullptr);
  CheckRefused(heads.path(), StatusCode::kDataLoss,
               ": model config: num_key_value_heads=3 does not divide num_attention_heads=4");
  MakeVariant(layers.path(), {{"\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1000000000"}}, nullptr);
  CheckRefused(layers.path(), StatusCode::kDataLoss,
               ": model config: num_layers=1000000000 is out of range; allowed are 1 to 1024");
  Spill(json / "config.json", "{\"architectures\": [");
  CHECK(CheckpointReader::Open(json.path()).status().code() == StatusCode::kDataLoss);
}

TEST_CASE("Another tool's quantization is refused by name", "[checkpoint]") {
  const TempDirectory dir;
  MakeVariant(dir.path(),
              {{"\"hidden_act\"", "\"quantization_config\": {\"quant_method\": \"hqq\"}, \"hidden_act\""}},
              nullptr);
  CheckRefused(dir.path(), StatusCode::kUnimplemented,
               "/config.json: is quantized by \"hqq\"; spikefold, gptq, awq, compressed-tensors and "
               "unquantized models can be read");
}

TEST_CASE("A GGUF file without a needed tensor or with a foreign one is refused", "[checkpoint][malformed]") {
  const TempDirectory dir;
  const std::string bytes = Slurp(Tiny("llama") + "/model.gguf");
  Spill(dir / "a.gguf", absl::StrReplaceAll(bytes, {{"blk.1.ffn_up.weight", "blk.1.ffn_xx.weight"}}));
  CheckRefused(dir / "a.gguf", StatusCode::kDataLoss,
               ": tensor blk.1.ffn_up.weight (model.layers.1.mlp.up_proj.weight) is missing");
  const std::string biased = Slurp(Tiny("llama_bias") + "/model.gguf");
  Spill(dir / "b.gguf", absl::StrReplaceAll(biased, {{"llama.block_count", "llama.block_cooks"}}));
  CheckRefused(
      dir / "b.gguf", StatusCode::kUnimplemented,
      ": unknown metadata \"llama.block_cooks\"; it may change what the model computes, so it is not "
      "ignored");
  // Without the bias of up in layer 0 the model is taken for one without FFN biases.
  Spill(dir / "c.gguf", absl::StrReplaceAll(biased, {{"blk.0.ffn_up.bias", "blk.0.ffn_xx.bias"}}));
  CheckRefused(
      dir / "c.gguf", StatusCode::kUnimplemented,
      ": tensor \"blk.0.ffn_down.bias\" has no place in a llama model, so the model would not be the same "
      "without it");
  std::string other = biased;
  const size_t value = other.find("general.architecture") + 20 + 4 + 8;  // after key, type and length
  other.replace(value, 5, "llame");
  Spill(dir / "d.gguf", other);
  CheckRefused(
      dir / "d.gguf", StatusCode::kUnimplemented,
      ": GGUF architecture \"llame\" is not supported (did you mean \"llama\"?); supported are llama, qwen2, "
      "qwen3, gemma3");
}

namespace {

// tiny/llama as a native checkpoint: one linear in int8, the others float, o_proj of layer 0 with a bias that
// the float model has not. `skip` is left out of the declarations.
void WriteNative(const std::string& path, const std::string& skip = "") {
  const auto source = Open(Tiny("llama"));
  NativeInfo info;
  info.tool_version = "0.1.0";
  info.architecture = "LlamaForCausalLM";
  std::vector<SafetensorsWriter::Spec> plain;
  std::vector<QuantizedLinear> linears;
  const ModelGraph& graph = source->graph();
  for (const ModelGraph::TensorSpec& spec : graph.Tensors()) {
    const Node& node = graph.nodes[static_cast<size_t>(spec.node)];
    if (spec.name == skip) continue;
    if (node.op != Op::kLinear) {
      plain.push_back({spec.name, DType::kBF16, spec.shape});
      continue;
    }
    QuantizedLinear q;
    q.module = node.module;
    q.n = node.n;
    q.k = node.k;
    if (spec.name == kQ) {
      q.format = WeightFormat::kS8c;
      q.codes.assign(static_cast<size_t>(q.n * q.k), 3);
      q.scales.assign(static_cast<size_t>(q.n), 0.5f);
    } else {
      q.float_weight = *source->ReadRaw(spec.name);
    }
    if (node.module == "model.layers.0.self_attn.o_proj") {
      q.has_bias = true;
      q.bias.assign(static_cast<size_t>(q.n), 0.75f);
    }
    info.linears.push_back(q);
    linears.push_back(std::move(q));
  }
  auto writer = NativeWriter::Create(path, info, plain, source->config_json(), {{"LICENSE", "free"}}, {});
  REQUIRE(writer.ok());
  for (const QuantizedLinear& q : linears) REQUIRE((*writer)->WriteLinear(q).ok());
  for (const auto& spec : plain) {
    REQUIRE((*writer)->WriteTensor(spec.name, source->ReadRaw(spec.name)->view()).ok());
  }
  REQUIRE((*writer)->Commit().ok());
}

}  // namespace

TEST_CASE("A native checkpoint opens with its graph and reads what is stored as float", "[checkpoint]") {
  const TempDirectory dir;
  WriteNative(dir / "q");
  const auto model = Open(dir / "q"), source = Open(Tiny("llama"));
  CHECK(model->kind() == CheckpointKind::kNative);
  CHECK(model->graph().config == source->graph().config);
  const StoredTensor* q = model->Find(kQ);
  REQUIRE(q != nullptr);
  CHECK(q->stored_type == "s8c");
  CHECK(q->bytes == 64 * 64 + 64 * 4);
  CHECK(model->ReadF32(kQ).status().code() == StatusCode::kUnimplemented);
  CHECK(model->ReadF32(kQ).status().message() ==
        dir / "q" + ": " + kQ + " is quantized; it is read as a linear of the native checkpoint");
  for (const char* name : {"model.norm.weight", "lm_head.weight", "model.layers.0.mlp.up_proj.weight"}) {
    CHECK(SameBits(*model->ReadF32(name), *source->ReadF32(name)));
  }
  const auto bias = model->ReadF32("model.layers.0.self_attn.o_proj.bias");
  REQUIRE(bias.ok());
  CHECK(bias->as<float>()[63] == 0.75f);
  CHECK(model->SideFiles()->size() == 1);
  CHECK(model->Fingerprint()->size() == 64);
}

TEST_CASE("A native checkpoint without a needed tensor is refused", "[checkpoint][malformed]") {
  const TempDirectory dir;
  WriteNative(dir / "a", "model.layers.0.mlp.up_proj.weight");
  CheckRefused(dir / "a", StatusCode::kDataLoss,
               ": tensor model.layers.0.mlp.up_proj.weight [80, 64] is missing");
  WriteNative(dir / "b", "model.norm.weight");
  CheckRefused(dir / "b", StatusCode::kDataLoss, ": tensor model.norm.weight [64] is missing");
}

TEST_CASE("A native checkpoint whose linears, shifts or rotations do not fit its model is refused",
          "[checkpoint][native]") {
  using export_kit::NativeExtras;
  const auto base = Open(Tiny("llama"));
  const auto refused = [&](const std::function<void(NativeInfo&)>& spoil, bool biased, const Json& config,
                           const std::string& message) {
    const TempDirectory directory;
    const std::string path = directory / "q";
    NativeExtras extras;
    extras.info = spoil;
    export_kit::WriteNative(
        *base, path,
        [&](QuantizedLinear& q) {
          if (!biased || q.module == "lm_head") return;
          q.has_bias = true;
          q.bias.assign(static_cast<size_t>(q.n), 1);
        },
        extras);
    if (!config.is_null()) {
      Json json = *ParseJson(*ReadFileToString(path + "/config.json", 1 << 20), "config.json");
      for (const auto& [key, value] : config.object()) json.Set(key, value);
      REQUIRE(WriteFileAtomically(path + "/config.json", json.Dump()).ok());
    }
    INFO(message);
    CHECK_THAT(CheckpointReader::Open(path).status(), Fails(StatusCode::kDataLoss, message));
  };
  const int64_t d = base->graph().config.hidden, f = base->graph().config.intermediate;
  const auto shift = [](const char* site, int64_t width) {
    return [=](NativeInfo& info) {
      info.shifts = {{site, std::vector<float>(static_cast<size_t>(width), 0.5f)}};
    };
  };
  const auto nothing = [](NativeInfo&) {};
  refused(shift("layers.0.ffn_in", d), false, Json(),
          "a shift of layers.0.ffn_in, whose product has no bias");
  refused(shift("layers.0.ffn_in", d + 1), true, Json(),
          absl::StrCat("shift of layers.0.ffn_in is [", d + 1, "]"));
  refused(shift("layers.9.ffn_in", d), true, Json(),
          "a shift of \"layers.9.ffn_in\", which the model has not");
  refused(shift("final", d), true, Json(), "a shift of final, whose product has no bias to be in");
  refused(
      [&](NativeInfo& info) {
        info.rotations = {
            {"R4", RotationPlace::kDownIn, {2}, std::vector<int8_t>(static_cast<size_t>(2 * f), 1), {}}};
      },
      false, Json(), "R4");
  const auto layers = Json::MakeObject().Set("num_hidden_layers", 1);
  refused(nothing, false, layers, "has no place in a llama model");
  const auto wide = Json::MakeObject().Set("intermediate_size", f * 2);
  refused(nothing, false, wide, absl::StrCat("the configuration needs [", f * 2));
  const auto more = Json::MakeObject().Set("num_hidden_layers", base->graph().config.num_layers + 1);
  refused(nothing, false, more, "is missing");
}

}  // namespace spikefold
