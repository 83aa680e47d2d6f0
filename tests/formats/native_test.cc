#include "formats/quantized/native.h"

#include <catch2/catch.hpp>
#include <limits>
#include <new>
#include <string>

#include "formats/base/file.h"
#include "formats/safetensors_model.h"
#include "tests/formats/native_kit.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_directory.h"

namespace spikefold {
namespace {

using namespace native_kit;
using absl::StatusCode;
using testing::Fails;
using testing::TempDirectory;

void CheckEqual(const QuantizedLinear& a, const QuantizedLinear& b) {
  INFO(a.module);
  CHECK(a.n == b.n);
  CHECK(a.k == b.k);
  CHECK(a.format == b.format);
  CHECK(a.group == b.group);
  CHECK(a.act == b.act);
  CHECK(a.codes == b.codes);
  CHECK(a.scales == b.scales);
  CHECK(a.kept_columns == b.kept_columns);
  CHECK(a.kept_weight_bf16 == b.kept_weight_bf16);
  CHECK(a.bias == b.bias);
  CHECK(a.bias_sources == b.bias_sources);
  CHECK(a.input_scale == b.input_scale);
  CHECK(a.spike_threshold == b.spike_threshold);
  CHECK(a.max_spike_rows == b.max_spike_rows);
  CHECK(a.reason == b.reason);
  REQUIRE(a.supers.size() == b.supers.size());
  for (size_t i = 0; i < a.supers.size(); ++i) {
    CHECK(a.supers[i].row == b.supers[i].row);
    CHECK(a.supers[i].col == b.supers[i].col);
    CHECK(a.supers[i].value == b.supers[i].value);
  }
  const Tensor x = Dequantize(a), y = Dequantize(b);
  CHECK(x.as<float>() == y.as<float>());
}

// A row at a time gives what the whole is.
void CheckRows(const NativeReader& reader, const QuantizedLinear& whole) {
  const auto rows = reader.OpenLinear(whole.module);
  REQUIRE(rows.status() == absl::OkStatus());
  const size_t k = static_cast<size_t>(whole.k);
  const Tensor values = Dequantize(whole);
  for (int64_t row = 0; row < whole.n; ++row) {
    const size_t at = static_cast<size_t>(row) * k;
    std::vector<float> floats(k);
    REQUIRE((*rows)->Read(row, row + 1, floats.data()) == absl::OkStatus());
    CHECK(absl::MakeConstSpan(floats) == values.as<float>().subspan(at, k));
    if (whole.format.is_float()) continue;
    std::vector<int8_t> codes(k);
    REQUIRE((*rows)->Codes(row, row + 1, codes.data()) == absl::OkStatus());
    CHECK(codes == std::vector<int8_t>(whole.codes.begin() + row * whole.k,
                                       whole.codes.begin() + (row + 1) * whole.k));
  }
}

}  // namespace

TEST_CASE("A written checkpoint is read back equal, in one file or in shards", "[native]") {
  for (const uint64_t max_shard_bytes : {0, 64}) {
    const TempDirectory dir;
    const std::string path = dir / "q";
    NativeWriter::Options options;
    options.max_shard_bytes = max_shard_bytes;
    WriteAll(path, options);
    CHECK(IsNativeCheckpoint(path));
    REQUIRE(NativeVerify(path) == absl::OkStatus());
    CHECK(PathExists(path + "/model.safetensors") == (max_shard_bytes == 0));
    CHECK_THAT(
        NativeVerify(path, {}, [](const QuantizedLinear&) { return absl::InvalidArgumentError("odd"); }),
        Fails(absl::StatusCode::kDataLoss, ": odd"));

    auto reader = NativeReader::Open(path);
    REQUIRE(reader.ok());
    const NativeReader& r = **reader;
    CHECK(r.warnings().empty());
    for (auto make : {DownProj, QProj}) {
      auto linear = r.ReadLinear(make().module);
      REQUIRE(linear.ok());
      QuantizedLinear expected = make();
      CheckEqual(*linear, expected);
      CheckRows(r, expected);
    }
    CheckRows(r, Head());
    CHECK_THAT(r.OpenLinear("model.norm").status(), Fails(StatusCode::kNotFound, "has no linear model.norm"));
    auto head = r.ReadLinear("lm_head");
    REQUIRE(head.ok());
    CHECK(head->float_weight.as<uint16_t>() == Head().float_weight.as<uint16_t>());
    CHECK_THAT(r.ReadLinear("model.norm").status(), Fails(StatusCode::kNotFound, "has no linear model.norm"));

    CHECK(r.info().architecture == "LlamaForCausalLM");
    CHECK(r.info().base_fingerprint == "f00d");
    CHECK(r.info().calibration.Find("tokens")->int_value() == 65536);
    CHECK(r.config_json().Find("hidden_size")->int_value() == 6);
    REQUIRE(r.plain().size() == 1);
    CHECK(r.ReadTensor(kGain)->as<float>()[5] == 6.0f);
    CHECK_THAT(r.ReadTensor("lm_head.weight").status(), Fails(StatusCode::kNotFound, "no plain tensor"));
    CHECK(r.info().rotations == Info().rotations);
    REQUIRE(r.info().shifts.size() == 1);
    CHECK(r.info().shifts[0].site == "layers.0.ctx");
    CHECK(r.info().shifts[0].values == Info().shifts[0].values);
    CHECK(r.info().kv == Info().kv);
    auto prefix = r.ReadPrefix();
    REQUIRE(prefix.ok());
    CHECK(prefix->ids == Prefix().ids);
    for (size_t l = 0; l < 2; ++l) {
      CHECK(prefix->k[l].as<uint16_t>() == Prefix().k[l].as<uint16_t>());
      CHECK(prefix->v[l].as<uint16_t>() == Prefix().v[l].as<uint16_t>());
    }
    CHECK(Read(path + "/tokenizer.json") == "{\"a\": 1}");
  }
}

TEST_CASE("Verifying that runs out of memory says so to its caller", "[native]") {
  const TempDirectory dir;
  WriteAll(dir / "q");
  const auto out_of_memory = [](absl::string_view, int64_t, int64_t) -> bool { throw std::bad_alloc(); };
  CHECK_THROWS_AS(NativeVerify(dir / "q", out_of_memory), std::bad_alloc);
}

TEST_CASE("The order of writing leaves no trace in the bytes", "[native]") {
  const TempDirectory dir;
  WriteAll(dir / "a");
  WriteAll(dir / "b", {}, true);
  const auto names = *ListDirectory(dir / "a");
  CHECK(names == *ListDirectory(dir / "b"));
  CHECK(names.size() == 5);
  for (const std::string& name : names) CHECK(Read(dir / ("a/" + name)) == Read(dir / ("b/" + name)));
}

TEST_CASE("Declared bytes are the bytes on disk, to the last one", "[native]") {
  const TempDirectory dir;
  WriteAll(dir / "q");
  const std::string file = Read(dir / "q/model.safetensors");
  uint64_t header = 0;
  for (int i = 7; i >= 0; --i)
    header = (header << 8) | static_cast<unsigned char>(file[static_cast<size_t>(i)]);
  const int64_t prefix_bytes = 2 * 4 + 2 * 2 * (1 * 2 * 4) * 2, gain_bytes = 6 * 4, sign_bytes = 6 + 24,
                scale_bytes = 2 * 2 * 4 * 4, shift_bytes = 3 * 2;
  const int64_t linears = StoredBytes(DownProj()) + StoredBytes(QProj()) + StoredBytes(Head());
  CHECK(static_cast<int64_t>(file.size() - 8 - header) ==
        linears + prefix_bytes + gain_bytes + sign_bytes + scale_bytes + shift_bytes);
  // By hand: 3 rows of 2 words, 6 bf16 scales, the shape, kept columns and weights, supers, bias, input
  // scale.
  CHECK(StoredBytes(DownProj()) == 24 + 12 + 16 + (2 * 4 + 6 * 2) + (2 * 8 + 2 * 4) + 12 + 4);
  CHECK(StoredBytes(QProj()) == 24 + 16);
  const auto reader = *NativeReader::Open(dir / "q");
  CHECK(reader->info().bits_linears == 8.0 * (112 + 40 + 6) / (30 + 24));
  CHECK(reader->info().bits_all == 8.0 *
                                       static_cast<double>(linears + prefix_bytes + gain_bytes + sign_bytes +
                                                           scale_bytes + shift_bytes) /
                                       (30 + 24 + 6 + 6));
}

TEST_CASE("Packed nibbles lie as compressed-tensors lays them", "[native]") {
  const TempDirectory dir;
  WriteAll(dir / "q");
  const auto model = *SafetensorsModel::Open(dir / "q");
  const QuantizedLinear q = DownProj();
  const Tensor packed = *model->Read(q.module + ".weight_packed");
  REQUIRE(packed.shape() == Shape{3, 2});
  for (size_t row = 0; row < 3; ++row) {
    for (size_t i = 0; i < 16; ++i) {
      const uint32_t word = static_cast<uint32_t>(packed.as<int32_t>()[row * 2 + i / 8]);
      const int code = i < 10 ? q.codes[row * 10 + i] : 0;
      CHECK(static_cast<int>((word >> (4 * (i % 8))) & 15) == code + 8);
    }
  }
}

TEST_CASE("Verification finds any flipped bit of any file", "[native]") {
  const TempDirectory dir;
  const std::string path = dir / "q";
  WriteAll(path);
  const std::vector<std::string> names = *ListDirectory(path);
  for (const std::string& name : names) {
    const std::string file = JoinPath(path, name), good = Read(file);
    for (size_t i = 0; i < good.size(); i += name == "manifest.json" ? 1 : 37) {
      std::string bad = good;
      bad[i] = static_cast<char>(bad[i] ^ 4);
      REQUIRE(WriteFileAtomically(file, bad).ok());
      INFO(name << " byte " << i);
      CHECK_FALSE(NativeVerify(path).ok());
    }
    REQUIRE(WriteFileAtomically(file, good).ok());
  }
  CHECK(NativeVerify(path).ok());
  REQUIRE(WriteFileAtomically(path + "/extra", "x").ok());
  CHECK_THAT(NativeVerify(path),
             Fails(StatusCode::kDataLoss, "holds extra, which the manifest does not list"));
}

TEST_CASE("A sidecar that contradicts the tensors, or that a newer version wrote, is refused", "[native]") {
  struct Case {
    const char *from, *to, *message;
    StatusCode code = StatusCode::kDataLoss;
    const char* file = "spikefold.json";
  };
  const Case cases[] = {
      {"\"format_version\": 1", "\"format_version\": 2", "format_version 2; this Spikefold reads 1",
       StatusCode::kUnimplemented},
      {"\"scheme\": \"w4a8\"", "\"scheme\": \"w4a8\", \"colour\": 1", "unknown key \"colour\"",
       StatusCode::kUnimplemented},
      {"\"weight\": \"s4g\"", "\"weight\": \"s5g\"", "\"s5g\" is not supported", StatusCode::kUnimplemented},
      {"\"act\": \"s8t\"", "\"act\": \"s8x\"", "\"s8x\" is not supported", StatusCode::kUnimplemented},
      {"\"reason\": \"step", "\"twist\": 1, \"reason\": \"step", "unknown key \"twist\"",
       StatusCode::kUnimplemented},
      {"\"shape\": [3, 10]", "\"shape\": [3, 15]",
       "weight_scale is BF16 [3, 2]; the sidecar implies BF16 [3, 3]"},
      {"\"shape\": [3, 10]", "\"shape\": [3, 9]", "K=9 is not a multiple of group_size=5"},
      {"\"shape\": [3, 10]", "\"shape\": [3000000000, 10]", "impossible shape"},
      {"\"shape\": [3, 10]", "\"shape\": [3, -10]", "impossible shape"},
      {"\"shape\": [3, 10]", "\"shape\": [3]", "\"shape\" is not two integers"},
      {"\"kept\": 2", "\"kept\": 3", "the sidecar implies"},
      {"\"kept\": 2", "\"kept\": 11", "11 kept columns of K=10"},
      {"\"kept\": 2", "\"kept\": 0", "does not follow from the sidecar", StatusCode::kUnimplemented},
      {"\"super\": 2", "\"super\": -1", "-1 super weights"},
      {"\"above\": 0.10000000149011612", "\"above\": 1e300", "spike rows above"},
      {"[0, 3],\n    \"kv_heads\": 1", "[0, 3],\n    \"kv_heads\": 2", "the sidecar implies BF16 [2, 2, 4]"},
      {"\"layers\": [0, 3]", "\"layers\": [3, 0]", "layers do not ascend"},
      {"\"layers\": [0, 3]", "\"layers\": [0]", "spikefold.prefix.3", StatusCode::kUnimplemented},
      {"\"at\": \"down_in\"", "\"at\": \"up\"", "rotation at \"up\" is not supported; known: residual",
       StatusCode::kUnimplemented},
      {"\"factors\": [2]", "\"factors\": [4]", "factors 4 of width 6"},
      {"\"factors\": [12, 2]", "\"factors\": [3, 8]", "factors 3 x 8 of width 24"},
      {"\"width\": 24", "\"width\": 12", "factors 12 x 2 of width 12"},
      {"\"width\": 24", "\"width\": 48", "the sidecar implies I8 [48]"},
      {"\"width\": 24", "\"width\": 0", "width 0; 1 to"},
      {"\"online\": true", "\"online\": false", "a rotation at down_in is online"},
      {"\"name\": \"R4\"", "\"name\": \"R1\"", "\"R1\" is there twice"},
      {"\"name\": \"R4\"", "\"name\": \"R.4\"", "a name has up to 64 letters"},
      {"\"name\": \"R4\"", "\"name\": \"R5\"", "spikefold.rotation.R4.sign", StatusCode::kUnimplemented},
      {"\"layers\": [0, 2]", "\"layers\": [2, 0]", "its layers do not ascend"},
      {"\"layers\": [0, 2]", "\"layers\": []", "\"layers\" is empty"},
      {"\"layers.0.ctx\": 3", "\"layers.0.ctx\": 4", "the sidecar implies BF16 [4]"},
      {"\"layers.0.ctx\": 3", "\"layers.0.ctx\": 0", "shifts: width 0; 1 to"},
      {"\"k\": \"u4c\"", "\"k\": 4", "\"k\" is an integer"},
      {"\"k\": \"u4c\"", "\"k\": \"u5c\"", "kv: \"k\": \"u5c\" is not supported", StatusCode::kUnimplemented},
      {"\"v\": \"u3r\"", "\"v\": \"u3p\"", "\"u3p\" is not supported; known: f16, u8, u4, u3 and u2 with r",
       StatusCode::kUnimplemented},
      {"\"k\": \"u4c\"", "\"k\": \"u4p\"", "\"head_dim\" belong to static scales only"},
      {"\"before_rope\": true", "\"before_rope\": false", "static key scales are those before rotary"},
      {"\"sinks\": 2", "\"sinks\": -2", "kv: -2 sinks, a window of 64"},
      {"\"window\": 64", "\"window\": 0", "a window of 0, evict 0; at least 0, 1 and 0"},
      {"\"evict\": 0", "\"evict\": 0, \"heavy\": 3", "kv: has the unknown key \"heavy\"",
       StatusCode::kUnimplemented},
      {"\"layers\": 2", "\"layers\": 3", "spikefold.kv.2.k_min, which is absent"},
      {"\"layers\": 2", "\"layers\": 1", "spikefold.kv.1", StatusCode::kUnimplemented},
      {"\"layers\": 2", "\"layers\": 2000000000", "impossible sizes"},
      {"\"model.norm.weight\": \"xxh3:", "\"model.norm.wait\": \"xxh3:", "lists the tensor model.norm.wait"},
      {"\"file_bytes\": ", "\"file_bytes\": 1", "bits in 1"},
      {"\"quant_method\": \"spikefold\"", "\"quant_method\": \"awq\"", "quant_method \"awq\"",
       StatusCode::kUnimplemented, "config.json"},
      {"\"quantization_config\"", "\"quantisation_config\"", "has no quantization_config",
       StatusCode::kDataLoss, "config.json"},
  };
  const TempDirectory dir;
  const std::string path = dir / "q";
  WriteAll(path);
  for (const Case& c : cases) {
    INFO(c.from << " -> " << c.to);
    const std::string file = path + "/" + c.file, good = Read(file);
    Edit(file, c.from, c.to);
    CHECK_THAT(NativeReader::Open(path).status(), Fails(c.code, c.message));
    REQUIRE(WriteFileAtomically(file, good).ok());
  }
  Edit(path + "/spikefold.json", "\"scheme\": \"w4a8\"", "\"scheme\": \"w4a8\", \"x-colour\": 1");
  CHECK(NativeReader::Open(path).ok());
  CHECK_THAT(NativeReader::Open(dir / "absent").status(), Fails(StatusCode::kNotFound, "is not a directory"));
}

TEST_CASE("Values that break a linear's rules are refused by the writer and by the reader", "[native]") {
  struct Case {
    const char* message;
    void (*spoil)(QuantizedLinear*);
  };
  const Case cases[] = {
      {"code 8 at row 0, column 3 is outside -8..7", [](QuantizedLinear* q) { q->codes[3] = 8; }},
      {"kept column 9 holds the code 1 in row 1", [](QuantizedLinear* q) { q->codes[19] = 1; }},
      {"super weight at row 2, column 0 has the code 3", [](QuantizedLinear* q) { q->codes[20] = 3; }},
      {"super weight 1 lies in the kept column 2", [](QuantizedLinear* q) { q->supers[1].col = 2; }},
      {"super weight 1 does not follow", [](QuantizedLinear* q) { std::swap(q->supers[0], q->supers[1]); }},
      {"super weight 1 at row 3, column 0 lies outside", [](QuantizedLinear* q) { q->supers[1].row = 3; }},
      {"they must ascend strictly",
       [](QuantizedLinear* q) {
         q->kept_columns = {9, 9};
       }},
      {"they must ascend strictly", [](QuantizedLinear* q) { q->kept_columns[1] = 10; }},
      {"scale 4 is 0", [](QuantizedLinear* q) { q->scales[4] = 0; }},
      {"exact in BF16", [](QuantizedLinear* q) { q->scales[4] = 0.1f; }},
      {"bias of row 1 is not finite",
       [](QuantizedLinear* q) { q->bias[1] = std::numeric_limits<float>::infinity(); }},
      {"kept weight 0 is not finite", [](QuantizedLinear* q) { q->kept_weight_bf16[0] = 0x7f80; }},
      {"input_scale is 0", [](QuantizedLinear* q) { q->input_scale = 0; }},
      {"29 codes; its declaration says 30", [](QuantizedLinear* q) { q->codes.pop_back(); }},
  };
  const TempDirectory dir;
  auto writer = Begin(dir / "q");
  REQUIRE(writer.ok());
  for (const Case& c : cases) {
    QuantizedLinear q = DownProj();
    c.spoil(&q);
    const absl::Status status = (*writer)->WriteLinear(q);
    CHECK_THAT(status, Fails(StatusCode::kInvalidArgument, c.message));
    CHECK_THAT(status, Fails(StatusCode::kInvalidArgument, "model.layers.0.mlp.down_proj: "));
  }
  QuantizedLinear s8 = QProj();
  s8.codes[5] = -128;
  CHECK_THAT((*writer)->WriteLinear(s8),
             Fails(StatusCode::kInvalidArgument, "code -128 at row 0, column 5 is outside -127..127"));
  QuantizedLinear head = Head();
  head.float_weight.as<uint16_t>()[5] = 0xffc0;
  CHECK_THAT((*writer)->WriteLinear(head),
             Fails(StatusCode::kInvalidArgument, "row 1, column 2 is not finite"));

  NativeInfo signless = Info();
  signless.rotations[1].signs[3] = 0;
  CHECK_THAT(NativeWriter::Create(dir / "s", signless, {}, Json::MakeObject(), {}, {}).status(),
             Fails(StatusCode::kInvalidArgument, "rotation \"R4\": sign 3 is 0; 1 and -1 are allowed"));

  NativeInfo scaleless = Info();
  scaleless.kv.scale[1][2] = 0;
  CHECK_THAT(NativeWriter::Create(dir / "s", scaleless, {}, Json::MakeObject(), {}, {}).status(),
             Fails(StatusCode::kInvalidArgument, "kv: layer 1, channel 2 has scale 0 and minimum 0.25"));
  scaleless.kv.scale[1].pop_back();
  CHECK_THAT(NativeWriter::Create(dir / "s", scaleless, {}, Json::MakeObject(), {}, {}).status(),
             Fails(StatusCode::kInvalidArgument, "kv: layer 1 has 3 scales and 4 minima; 4 are needed"));
  scaleless.kv = {};
  scaleless.kv.k_bits = 4;
  CHECK_THAT(NativeWriter::Create(dir / "s", scaleless, {}, Json::MakeObject(), {}, {}).status(),
             Fails(StatusCode::kInvalidArgument, "keys of 4 and values of 32 bits"));

  // The reader finds the same in a file: -128 among the codes.
  WriteAll(dir / "r");
  const SafetensorsEntry entry = *(*SafetensorsModel::Open(dir / "r"))->Find(s8.module + ".weight");
  std::string bytes = Read(dir / "r/model.safetensors");
  bytes[entry.offset + 5] = '\x80';
  REQUIRE(WriteFileAtomically(dir / "r/model.safetensors", bytes).ok());
  CHECK_THAT((*NativeReader::Open(dir / "r"))->ReadLinear(s8.module).status(),
             Fails(StatusCode::kDataLoss, "code -128 at row 0, column 5 is outside -127..127"));
  const SafetensorsEntry signs = *(*SafetensorsModel::Open(dir / "r"))->Find("spikefold.rotation.R4.sign");
  bytes[signs.offset + 1] = '\x02';
  REQUIRE(WriteFileAtomically(dir / "r/model.safetensors", bytes).ok());
  CHECK_THAT(NativeReader::Open(dir / "r").status(),
             Fails(StatusCode::kDataLoss, "rotation \"R4\": sign 1 is 2"));
  bytes[signs.offset + 1] = '\x01';
  const SafetensorsEntry scale = *(*SafetensorsModel::Open(dir / "r"))->Find("spikefold.kv.1.k_scale");
  bytes[scale.offset + 7] = '\xff';
  REQUIRE(WriteFileAtomically(dir / "r/model.safetensors", bytes).ok());
  CHECK_THAT(NativeReader::Open(dir / "r").status(),
             Fails(StatusCode::kDataLoss, "kv: layer 1, channel 1 has"));
}

TEST_CASE("The writer holds its caller to the declaration and leaves nothing behind", "[native]") {
  const TempDirectory dir;
  {
    auto writer = Begin(dir / "q");
    REQUIRE(writer.ok());
    QuantizedLinear other = QProj();
    other.module = "model.layers.1.self_attn.q_proj";
    CHECK_THAT((*writer)->WriteLinear(other), Fails(StatusCode::kInvalidArgument, "was not declared"));
    QuantizedLinear dynamic = DownProj();
    dynamic.act = ActivationFormat::kS8Token;
    CHECK_THAT((*writer)->WriteLinear(dynamic),
               Fails(StatusCode::kInvalidArgument, "differs from its declaration"));
    REQUIRE((*writer)->WriteLinear(QProj()).ok());
    CHECK_THAT((*writer)->WriteLinear(QProj()), Fails(StatusCode::kInvalidArgument, "was written before"));
    CHECK_THAT((*writer)->WriteTensor("lm_head.weight", Head().float_weight.view()),
               Fails(StatusCode::kInvalidArgument, "was not declared as a plain tensor"));
    NativePrefix prefix = Prefix();
    prefix.ids.pop_back();
    CHECK_THAT((*writer)->WritePrefix(prefix), Fails(StatusCode::kInvalidArgument, "its declaration says 2"));
    CHECK_THAT((*writer)->Commit(), Fails(StatusCode::kInvalidArgument, "was declared, but not written"));
  }
  CHECK(ListDirectory(dir.path())->empty());
  for (const char* name : {"../x", "config.json", "model.safetensors", ".hidden", ""}) {
    CHECK_THAT(Begin(dir / "q", {}, {{name, ""}}).status(), Fails(StatusCode::kInvalidArgument, "side file"));
  }
  CHECK_THAT(NativeWriter::Create(dir / "q", Info(), {{"lm_head.extra", DType::kF32, {1}}},
                                  Json::MakeObject(), {}, {})
                 .status(),
             Fails(StatusCode::kInvalidArgument, "belongs to a declared linear"));
  CHECK(ListDirectory(dir.path())->empty());
}

}  // namespace spikefold
