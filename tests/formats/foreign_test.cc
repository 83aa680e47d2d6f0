#include "formats/quantized/foreign.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cstring>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "formats/base/file.h"
#include "formats/base/status.h"
#include "formats/checkpoint.h"
#include "formats/safetensors_model.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_directory.h"

namespace spikefold {
namespace {

using absl::StatusCode;
using testing::Fails;
using testing::TempDirectory;

constexpr const char* kFixtures[] = {"gptq", "gptq_v2", "awq", "ct_w4", "ct_mixed"};

std::string Fixture(const std::string& name) { return SPIKEFOLD_TEST_DATA "/foreign/" + name; }

// A copy of a fixture whose configuration and tensors are edited.
using Edit = std::function<void(std::string& config, std::vector<std::pair<std::string, Tensor>>& tensors)>;
void MakeVariant(const std::string& name, const std::string& to, const Edit& edit) {
  auto config = ReadFileToString(Fixture(name) + "/config.json", 1 << 20);
  const auto model = SafetensorsModel::Open(Fixture(name));
  REQUIRE(model.ok());
  std::vector<std::pair<std::string, Tensor>> tensors;
  std::vector<SafetensorsWriter::Spec> specs;
  for (const SafetensorsEntry* e : (*model)->entries()) {
    if ((*model)->Find(e->name) == nullptr) continue;
    tensors.emplace_back(e->name, *(*model)->Read(e->name));
  }
  edit(*config, tensors);
  specs.reserve(tensors.size());
  for (const auto& [tensor, value] : tensors) specs.push_back({tensor, value.dtype(), value.shape()});
  REQUIRE(WriteFileAtomically(to + "/config.json", *config).ok());
  auto writer = SafetensorsModelWriter::Create(to, specs, 0);
  REQUIRE(writer.ok());
  for (const auto& [tensor, value] : tensors) REQUIRE((*writer)->Write(tensor, value.view()).ok());
  REQUIRE((*writer)->Finish().ok());
}

TEST_CASE("GPTQ, AWQ and compressed-tensors checkpoints are read to the bit", "[foreign]") {
  for (const char* name : kFixtures) {
    INFO(name);
    const auto reader = CheckpointReader::Open(Fixture(name));
    REQUIRE(reader.status() == absl::OkStatus());
    CHECK((*reader)->kind() == CheckpointKind::kSafetensors);
    CHECK((*reader)->config_json().Find("quantization_config") == nullptr);
    const auto expected = SafetensorsFile::Open(Fixture(name) + "/expected.safetensors");
    REQUIRE(expected.ok());
    CHECK((*expected)->entries().size() == 7);
    for (const SafetensorsEntry& entry : (*expected)->entries()) {
      INFO(entry.name);
      const auto ours = (*reader)->ReadF32(entry.name);
      REQUIRE(ours.status() == absl::OkStatus());
      const auto theirs = (*expected)->Read(entry);
      CHECK(ours->shape() == theirs->shape());
      CHECK(std::memcmp(ours->data(), theirs->data(), static_cast<size_t>(ours->num_bytes())) == 0);
    }
  }
}

TEST_CASE("A quantized checkpoint says what it is made of", "[foreign]") {
  const auto reader = CheckpointReader::Open(Fixture("ct_mixed"));
  REQUIRE(reader.ok());
  const StoredTensor* q = (*reader)->Find("model.layers.0.self_attn.q_proj.weight");
  REQUIRE(q != nullptr);
  CHECK(q->stored_type == "compressed-tensors");
  CHECK(q->bytes == 32 * 32 + 32 * 2 + 2);  // codes, scales, the input's scale
  CHECK((*reader)->Find("model.layers.0.mlp.down_proj.weight")->stored_type == "F16");
}

TEST_CASE("Layouts that are not known are refused by name", "[foreign]") {
  const struct {
    const char *fixture, *from, *to, *message;
  } kCases[] = {{"gptq", "\"checkpoint_format\": \"gptq\"", "\"checkpoint_format\": \"marlin\"",
                 "checkpoint_format \"marlin\"; gptq and gptq_v2 can be read"},
                {"awq", "\"gemm\"", "\"gemv\"", "AWQ version \"gemv\"; gemm can be read"},
                {"ct_w4", "\"pack-quantized\"", "\"nvfp4-pack-quantized\"",
                 "compressed-tensors format \"nvfp4-pack-quantized\"; pack-quantized, int-quantized and "
                 "mixed-precision "
                 "can be read"},
                {"ct_w4", "\"num_bits\": 4", "\"num_bits\": 7", "codes of 7 bits; 2, 4 and 8 can be read"},
                {"ct_w4", "\"strategy\": \"group\"", "\"strategy\": \"block\"", "weight strategy \"block\""},
                {"ct_w4", "\"quantization_status\"",
                 "\"transform_config\": {\"config_groups\": {\"R1\": {\"type\": \"hadamard\"}}}, "
                 "\"quantization_status\"",
                 "transform_config turns activations while the model runs"},
                {"gptq", "\"bits\": 4", "\"bits\": 3", "codes of 3 bits; 2, 4 and 8 can be read"},
                {"ct_w4", "\"config_groups\": {", "\"config_groups\": {\"W4A16\": [\"Linear\"],",
                 "config group \"W4A16\" by a preset's name; groups that are written out can be read"},
                {"awq", "\"quant_method\": \"awq\"", "\"quant_method\": \"hqq\"",
                 "is quantized by \"hqq\"; spikefold, gptq, awq, compressed-tensors and unquantized models "
                 "can be read"}};
  for (const auto& c : kCases) {
    const TempDirectory directory;
    MakeVariant(c.fixture, directory.path(), [&](std::string& config, auto&) {
      config = absl::StrReplaceAll(config, {{c.from, c.to}});
    });
    CHECK_THAT(CheckpointReader::Open(directory.path()).status(),
               Fails(StatusCode::kUnimplemented, c.message));
  }
}

TEST_CASE("Parts that contradict each other end in an error, not in wrong weights", "[foreign]") {
  const std::string q = "model.layers.0.self_attn.q_proj";
  const auto edit = [&](const std::string& fixture, const std::string& suffix,
                        const std::function<void(Tensor&)>& change) {
    const TempDirectory directory;
    MakeVariant(fixture, directory.path(), [&](std::string&, auto& tensors) {
      for (auto& [name, tensor] : tensors) {
        if (name == absl::StrCat(q, ".", suffix)) change(tensor);
      }
    });
    const auto reader = CheckpointReader::Open(directory.path());
    return reader.ok() ? (*reader)->ReadF32(q + ".weight").status() : reader.status();
  };
  CHECK_THAT(edit("gptq", "g_idx", [](Tensor& t) { t.as<int32_t>()[5] = 2; }),
             Fails(StatusCode::kDataLoss, "g_idx: column 5 is of group 2 of 2"));
  CHECK_THAT(edit("gptq", "g_idx", [](Tensor& t) { t.as<int32_t>()[5] = -7; }),
             Fails(StatusCode::kDataLoss, "g_idx: column 5 is of group -7 of 2"));
  CHECK_THAT(
      edit("gptq", "qzeros",
           [](Tensor& t) {
             t = Tensor(DType::kI32, {2, 3});
           }),
      Fails(StatusCode::kDataLoss, "qzeros: is [2, 3]; weights [32, 32] with these scales need [2, 4]"));
  CHECK_THAT(
      edit("awq", "scales",
           [](Tensor& t) {
             t = Tensor(DType::kF16, {3, 32});
           }),
      Fails(StatusCode::kDataLoss, "scales: 3 groups of 32 columns; the configuration says 2 of 16 columns"));
  CHECK_THAT(
      edit("awq", "qweight",
           [](Tensor& t) {
             t = Tensor(DType::kI32, {31, 4});
           }),
      Fails(StatusCode::kDataLoss, "qweight: is [31, 4]; weights [32, 32] with these scales need [32, 4]"));
  CHECK_THAT(edit("gptq", "qweight",
                  [](Tensor& t) {
                    t = Tensor(DType::kI32, {3, 32});
                  }),
             Fails(StatusCode::kUnimplemented, "codes of 2, 4 and 8 bits can be read"));
  CHECK_THAT(edit("gptq", "g_idx", [](Tensor& t) { t = Tensor(DType::kI64, {32}); }),
             Fails(StatusCode::kDataLoss, "g_idx: is I64 [32]; I32 [32] is needed"));
  CHECK_THAT(edit("gptq", "qzeros",
                  [](Tensor& t) {
                    t = Tensor(DType::kF16, {2, 4});
                  }),
             Fails(StatusCode::kDataLoss, "qzeros: is F16 [2, 4]; a matrix of I32 is needed"));
  CHECK_THAT(edit("gptq", "scales",
                  [](Tensor& t) {
                    t = Tensor(DType::kF16, {2, 31});
                  }),
             Fails(StatusCode::kDataLoss, "scales: is [2, 31]; rows of 32 are needed"));
  CHECK_THAT(edit("ct_w4", "weight_shape", [](Tensor& t) { t.as<int64_t>()[1] = 31; }),
             Fails(StatusCode::kDataLoss, "weight_shape: is not [32, 32]"));
  CHECK_THAT(edit("ct_mixed", "weight_scale",
                  [](Tensor& t) {
                    t = Tensor(DType::kF16, {31, 1});
                  }),
             Fails(StatusCode::kDataLoss, "weight_scale: is [31, 1]; one row for each of 32 is needed"));
}

TEST_CASE("Groups end where the configuration says, which must agree with the shapes", "[foreign]") {
  const std::string q = "model.layers.0.self_attn.q_proj";
  const TempDirectory directory;
  int variants = 0;
  const auto read = [&](const std::string& name, const std::string& from, const std::string& to,
                        const std::string& module) -> absl::StatusOr<Tensor> {
    const std::string path = directory / absl::StrCat(variants++);
    std::filesystem::create_directory(path);
    MakeVariant(name, path, [&](std::string& config, auto& tensors) {
      config = absl::StrReplaceAll(config, {{from, to}});
      for (auto it = tensors.begin(); it != tensors.end();) {
        it = it->first == q + ".weight_zero_point" ? tensors.erase(it) : it + 1;
      }
      for (auto& [tensor, value] : tensors) {
        if (tensor != q + ".weight_scale") continue;
        value = Tensor(DType::kF32, {32, 2});
        for (size_t i = 0; i < 64; ++i) value.template as<float>()[i] = i % 2 == 0 ? 1 : 3;
      }
    });
    SF_ASSIGN_OR_RETURN(const auto reader, CheckpointReader::Open(path));
    return reader->ReadF32(module + ".weight");
  };
  // 32 columns are 16 + 16, or 24 + 8: two groups either way.
  const std::string from = "\"group_size\": 16";
  const auto even = read("ct_w4", from, from, q), odd = read("ct_w4", from, "\"group_size\": 24", q);
  REQUIRE(even.status() == absl::OkStatus());
  REQUIRE(odd.status() == absl::OkStatus());
  bool any = false;
  for (size_t i = 0; i < 32 * 32; ++i) {
    const float factor = i % 32 >= 16 && i % 32 < 24 ? 3 : 1;
    CHECK(even->as<float>()[i] == factor * odd->as<float>()[i]);
    any = any || even->as<float>()[i] != odd->as<float>()[i];
  }
  CHECK(any);
  CHECK_THAT(read("ct_w4", from, "\"group_size\": 24", "model.layers.0.mlp.down_proj").status(),
             Fails(StatusCode::kDataLoss,
                   "weight_scale: 4 groups of 64 columns; the configuration says 3 of 24 columns"));
  CHECK_THAT(read("ct_w4", "\"num_bits\": 4", "\"num_bits\": 8", q).status(),
             Fails(StatusCode::kDataLoss, "holds codes of 4 bits; the configuration says 8"));
  CHECK_THAT(read("awq", from, "\"group_size\": 128", q).status(),
             Fails(StatusCode::kDataLoss, "scales: 2 groups of 32 columns; the configuration says 1 of 128"));
}

TEST_CASE("A group size that nobody says is 128 columns, and refused where it could be another",
          "[foreign]") {
  const auto read = [](int64_t k, int64_t groups, bool indexed) {
    const auto config =
        ParseForeignConfig(*ParseJson(R"({"quant_method": "gptq", "bits": 4})", "config"), "c");
    const ForeignParts parts{
        .has = [=](absl::string_view suffix) { return suffix != "g_idx" || indexed; },
        .read = [=](absl::string_view suffix) -> absl::StatusOr<Tensor> {
          if (suffix == "scales") return Tensor(DType::kF16, {groups, 8});
          if (suffix == "g_idx") return Tensor(DType::kI32, {k});
          return Tensor(DType::kI32, suffix == "qzeros" ? Shape{groups, 1} : Shape{k / 8, 8});
        }};
    return DequantizeForeign(*config, parts, "m", 8, k).status();
  };
  CHECK(read(256, 2, false) == absl::OkStatus());
  CHECK(read(96, 1, false) == absl::OkStatus());
  CHECK(read(192, 2, true) == absl::OkStatus());
  CHECK_THAT(read(192, 2, false),
             Fails(StatusCode::kDataLoss,
                   "m.scales: 2 groups of 192 columns need not be of 128 each, the default; "
                   "say group_size in quantization_config"));
  CHECK_THAT(read(256, 4, true), Fails(StatusCode::kDataLoss,
                                       "the configuration says 2 of 128 columns (group_size, by default)"));
}

TEST_CASE("A group size that is none, and codes whose zero points are none, are refused", "[foreign]") {
  const auto config = [](const std::string& json) {
    return ParseForeignConfig(*ParseJson(json, "config"), "c");
  };
  for (const char* size : {"0", "-2"}) {
    CHECK_THAT(
        config(absl::StrCat(R"({"quant_method": "gptq", "bits": 4, "group_size": )", size, "}")).status(),
        Fails(StatusCode::kDataLoss, absl::StrCat("c: group_size is ", size, "; -1 or at least 1")));
  }
  const auto read = [&](DType dtype, Shape shape) {
    const auto c =
        config(R"({"quant_method": "compressed-tensors", "format": "int-quantized", "config_groups": {"g": {
        "weights": {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": false}}}})");
    REQUIRE(c.status() == absl::OkStatus());
    const ForeignParts parts{
        .has = [](absl::string_view suffix) { return suffix == "weight" || suffix == "weight_zero_point"; },
        .read = [&](absl::string_view suffix) -> absl::StatusOr<Tensor> {
          if (suffix == "weight_scale") return Tensor(DType::kF32, {8, 1});
          if (suffix == "weight_zero_point") return Tensor(dtype, shape);
          return Tensor(DType::kI8, {8, 16});
        }};
    return DequantizeForeign(*c, parts, "m", 8, 16).status();
  };
  CHECK(read(DType::kI8, {8, 1}) == absl::OkStatus());
  CHECK_THAT(read(DType::kI32, {8, 1}), Fails(StatusCode::kDataLoss, "weight_zero_point: [8, 1] is not I8"));
  CHECK_THAT(read(DType::kI8, {7, 1}), Fails(StatusCode::kDataLoss, "weight_zero_point: [7, 1] is not I8"));
}

TEST_CASE("Rows of GPTQ's zero points that are no whole words are refused", "[foreign]") {
  const ForeignConfig config{ForeignLayout::kGptq, "GPTQ", {{.bits = 4, .group_size = 8}}};
  const ForeignParts parts{.has = [](absl::string_view suffix) { return suffix != "g_idx"; },
                           .read = [](absl::string_view suffix) -> absl::StatusOr<Tensor> {
                             if (suffix == "scales") return Tensor(DType::kF16, {1, 12});
                             return Tensor(DType::kI32, suffix == "qzeros" ? Shape{1, 1} : Shape{1, 12});
                           }};
  CHECK_THAT(DequantizeForeign(config, parts, "m", 12, 8).status(),
             Fails(StatusCode::kDataLoss, "m.qzeros: 12 rows of 4 bits are no whole words of 32"));
}

TEST_CASE("Warnings of a quantized checkpoint's files are passed on", "[foreign]") {
  const TempDirectory directory;
  MakeVariant("gptq", directory.path(), [](std::string&, auto&) {});
  REQUIRE(WriteFileAtomically(directory / "model.safetensors.index.json", "{}").ok());
  const auto reader = CheckpointReader::Open(directory.path());
  REQUIRE(reader.status() == absl::OkStatus());
  REQUIRE((*reader)->warnings().size() == 1);
  CHECK_THAT((*reader)->warnings()[0], Catch::Contains("has both"));
}

TEST_CASE("A quantized model that ties its head may carry its embedding as a head, but no other",
          "[foreign]") {
  const auto open = [](bool same) {
    const TempDirectory directory;
    MakeVariant("gptq", directory.path(), [&](std::string& config, auto& tensors) {
      config =
          absl::StrReplaceAll(config, {{"\"tie_word_embeddings\": false", "\"tie_word_embeddings\": true"}});
      const auto find = [&](const std::string& name) {
        return std::find_if(tensors.begin(), tensors.end(), [&](const auto& t) { return t.first == name; });
      };
      if (same) find("lm_head.weight")->second = ToF32(find("model.embed_tokens.weight")->second.view());
    });
    const auto reader = CheckpointReader::Open(directory.path());
    return reader.ok() && (*reader)->Find("lm_head.weight") != nullptr ? absl::InternalError("two heads")
                                                                       : reader.status();
  };
  CHECK(open(true) == absl::OkStatus());
  CHECK_THAT(open(false), Fails(StatusCode::kDataLoss,
                                "lm_head.weight differs from model.embed_tokens.weight in row 0, but"));
}

TEST_CASE("A bias that the architecture has no place for counts only if it is not zero", "[foreign]") {
  const TempDirectory directory;
  MakeVariant("gptq", directory.path(), [&](std::string&, auto& tensors) {
    for (auto& [name, tensor] : tensors) {
      if (name == "model.layers.0.mlp.up_proj.bias") tensor.template as<uint16_t>()[3] = 0x3c00;
    }
  });
  CHECK_THAT(CheckpointReader::Open(directory.path()).status(),
             Fails(StatusCode::kUnimplemented, "\"model.layers.0.mlp.up_proj.bias\" has no place"));
}

}  // namespace
}  // namespace spikefold
