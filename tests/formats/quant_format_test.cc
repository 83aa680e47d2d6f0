// Every format of weights and activations: its word, its bits on disk, and what breaks it.
#include "formats/quantized/quant_format.h"

#include <catch2/catch.hpp>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "formats/base/file.h"
#include "formats/base/status.h"
#include "formats/quantized/code_stream.h"
#include "formats/quantized/native.h"
#include "formats/safetensors.h"
#include "formats/safetensors_model.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_directory.h"

namespace spikefold {
namespace {

using absl::StatusCode;
using testing::Fails;
using testing::TempDirectory;

constexpr const char* kWeightWords[] = {"s8c", "s8g", "u8c", "u8g", "s4c", "s4g", "u4c", "u4g",
                                        "s3c", "s3g", "u3c", "u3g", "s2c", "s2g", "u2c", "u2g"};
constexpr const char* kTrellisWords[] = {"t2c", "t3c", "t4c", "t5c", "t6c"};
constexpr const char* kActivationWords[] = {"float", "s8r",    "u8r",   "s8t",   "u8t",
                                            "s4r",   "u4r",    "s4t",   "u4t",   "s4g32",
                                            "s4g64", "s4g128", "u4g32", "u4g64", "u4g128"};

// A linear with kept columns and a super weight; codes, zero points and scales of all values.
QuantizedLinear MakeLinear(absl::string_view weight, absl::string_view act,
                           DType scale_dtype = DType::kBF16) {
  QuantizedLinearSpec spec;
  spec.module = "model.layers.0.mlp.down_proj";
  spec.n = 5;
  spec.k = 128;
  spec.format = *ParseWeightFormat(weight);
  spec.act = *ParseActivationFormat(act);
  spec.group = spec.format.grouped ? 32 : 0;
  spec.scale_dtype = scale_dtype;
  spec.num_kept = spec.num_super = spec.format.trellis ? 0 : 1;
  QuantizedLinear q(spec);
  const int lo = q.format.lo(), count = q.format.hi() - lo + 1;
  for (int64_t i = 0; i < q.n * q.k; ++i) q.codes.push_back(static_cast<int8_t>(lo + i * 5 % count));
  for (int64_t i = 0; i < q.n * q.num_groups(); ++i) {
    q.scales.push_back(0.25f + static_cast<float>(i) * 0.125f);
    if (!q.format.symmetric) q.zeros.push_back(static_cast<int8_t>(lo + i * 3 % count));
  }
  const auto zero = [&](int64_t row, int64_t column) {
    const int64_t group = q.k / q.num_groups();
    return q.zeros.empty() ? int8_t{0} : q.zeros[static_cast<size_t>(row * q.num_groups() + column / group)];
  };
  if (q.act.is_static()) q.input_scale = 0.02f;
  if (q.act.is_static() && !q.act.symmetric) q.input_zero = q.act.lo() + 1;
  if (q.format.trellis) return q;
  q.kept_columns = {70};
  for (int64_t row = 0; row < q.n; ++row) {
    q.codes[static_cast<size_t>(row * q.k + 70)] = zero(row, 70);
    q.kept_weight_bf16.push_back(FloatToBf16(2));
  }
  q.supers = {{3, 40, -7.5f}};
  q.codes[static_cast<size_t>(3 * q.k + 40)] = zero(3, 40);
  return q;
}

absl::Status Write(const std::string& path, const QuantizedLinear& q) {
  NativeInfo info;
  info.linears = {q};
  auto writer = NativeWriter::Create(path, info, {}, Json::MakeObject(), {}, {});
  if (!writer.ok()) return writer.status();
  SF_RETURN_IF_ERROR((*writer)->WriteLinear(q));
  return (*writer)->Commit();
}

std::string Read(const std::string& path) { return *ReadFileToString(path, 1 << 20); }

// Changes one byte of a tensor.
void Poke(const std::string& directory, const std::string& tensor, size_t at, uint8_t mask) {
  const SafetensorsEntry entry = *(*SafetensorsModel::Open(directory))->Find(tensor);
  std::string bytes = Read(directory + "/model.safetensors");
  bytes[entry.offset + at] = static_cast<char>(bytes[entry.offset + at] ^ mask);
  REQUIRE(WriteFileAtomically(directory + "/model.safetensors", bytes).ok());
}

}  // namespace

TEST_CASE("A format and its word name each other, and no other word is taken", "[native]") {
  for (const char* word : kWeightWords) CHECK(FormatWord(*ParseWeightFormat(word)) == word);
  for (const char* word : kTrellisWords) CHECK(FormatWord(*ParseWeightFormat(word)) == word);
  for (const char* word : kActivationWords) CHECK(FormatWord(*ParseActivationFormat(word)) == word);
  for (const char* word : {"", "s8", "s8r", "S8c", "s5g", "t1c", "t7c", "t4g", "s4g32", "u8c ", "float"}) {
    CHECK_THAT(ParseWeightFormat(word).status(),
               Fails(StatusCode::kUnimplemented, "is not supported; known: s8c"));
  }
  for (const char* word : {"", "s8c", "s8g64", "s4g", "s4g16", "s4g064", "u4g256", "s3r", "Float"}) {
    CHECK_THAT(ParseActivationFormat(word).status(),
               Fails(StatusCode::kUnimplemented, "is not supported; known: float"));
  }
  CHECK(ParseWeightFormat("u8g")->lo() == -128);
  CHECK(ParseWeightFormat("s8g")->lo() == -127);
  CHECK(ParseWeightFormat("s3c")->lo() == -4);
  CHECK(ParseActivationFormat("u8r")->lo() == -127);
  CHECK(ParseActivationFormat("s4r")->lo() == -7);
  CHECK(ParseActivationFormat("u4t")->lo() == -8);
  CHECK(FormatText(*ParseWeightFormat("u3g"), 64) == "INT3 in groups of 64, asymmetric");
  CHECK(FormatText(*ParseWeightFormat("s4c"), 0) == "INT4 per channel");
  CHECK(FormatText(*ParseWeightFormat("t5c"), 0) == "5-bit trellis codes per channel");
  CHECK(FormatText(*ParseActivationFormat("u8t")) == "INT8 static, asymmetric");
  CHECK(FormatText(*ParseActivationFormat("s4g64")) == "INT4 in groups of 64");
}

TEST_CASE("Code streams of 4 and 8 bits are those of compressed-tensors, along rows and along columns",
          "[native][export]") {
  // tests/data/make/compressed_tensors_fixture.py
  const auto file = SafetensorsFile::Open(SPIKEFOLD_TEST_DATA "/compressed_tensors/packed.safetensors");
  REQUIRE(file.ok());
  const auto read = [&](const std::string& name) { return *(*file)->Read(*(*file)->Find(name)); };
  for (const int bits : {4, 8}) {
    const std::string w = "w" + std::to_string(bits);
    const Tensor codes = read(w + ".codes"), packed = read(w + ".packed");
    const Tensor zeros = read(w + ".zeros"), zeros_packed = read(w + ".zeros_packed");
    Tensor ours(DType::kI32, packed.shape()), our_zeros(DType::kI32, zeros_packed.shape());
    REQUIRE(packed.dim(1) == StreamWords(bits, 40));
    for (int64_t row = 0; row < 16; ++row) {
      PackStream(bits, codes.as<int8_t>().data() + row * 40, 40, 1,
                 ours.as<int32_t>().data() + row * packed.dim(1), 1);
    }
    for (int64_t g = 0; g < 5; ++g) {
      PackStream(bits, zeros.as<int8_t>().data() + g, 16, 5, our_zeros.as<int32_t>().data() + g, 5);
    }
    CHECK(ours.as<int32_t>() == packed.as<int32_t>());
    CHECK(our_zeros.as<int32_t>() == zeros_packed.as<int32_t>());
  }
}

TEST_CASE("Code streams are those of numpy.packbits", "[native]") {
  // tests/data/make/code_streams.py
  const std::pair<int, std::vector<uint32_t>> expected[] = {
      {2, {0x1b1b1b1b, 0x1b1b1b1b, 0xaaaaab1b}},
      {3, {0x53977053, 0x70539770, 0x97705397, 0x24927053}},
      {4, {0x4d6f81a3, 0xc5e7092b, 0x4d6f81a3, 0xc5e7092b, 0x888f81a3}},
      {5, {0x4dfc4543, 0x78245ba3, 0x0753617d, 0x4b276cf4, 0xe55c7066, 0x21fc4543}},
      {6, {0x9f611283, 0x90bbd2d9, 0xb2579740, 0x8f201eb3, 0x9cab91d5, 0x71538703, 0x3fe31aa3}}};
  for (const auto& [bits, words] : expected) {
    INFO(bits << " bits");
    std::vector<int8_t> codes;
    codes.reserve(37);
    for (int i = 0; i < 37; ++i)
      codes.push_back(static_cast<int8_t>((i * 7 + 3) % (1 << bits) - (1 << (bits - 1))));
    REQUIRE(StreamWords(bits, 37) == static_cast<int64_t>(words.size()));
    std::vector<int32_t> packed(words.size());
    PackStream(bits, codes.data(), 37, 1, packed.data(), 1);
    CHECK(std::memcmp(packed.data(), words.data(), 4 * words.size()) == 0);
    std::vector<int8_t> back(37);
    CHECK(UnpackStream(bits, packed.data(), 1, 37, 1, back.data()) == -1);
    CHECK(back == codes);
    // Elements of padding, and bits that are no whole element, are held to their values.
    packed.back() ^= INT32_MIN;
    CHECK(UnpackStream(bits, packed.data(), 1, 37, 1, back.data()) ==
          (32 * StreamWords(bits, 37) - 1) / bits);
  }
}

TEST_CASE("Every format of weights and activations is written and read back equal", "[native]") {
  const TempDirectory dir;
  const auto check = [&](const QuantizedLinear& q) {
    INFO(FormatWord(q.format) << " " << FormatWord(q.act) << " " << DTypeName(q.scale_dtype));
    const std::string path =
        dir / absl::StrCat(FormatWord(q.format), FormatWord(q.act), DTypeName(q.scale_dtype));
    REQUIRE(Write(path, q) == absl::OkStatus());
    REQUIRE(NativeVerify(path) == absl::OkStatus());
    const auto reader = *NativeReader::Open(path);
    const QuantizedLinearSpec& spec = *reader->FindLinear(q.module);
    CHECK(spec.format == q.format);
    CHECK(spec.act == q.act);
    const auto back = reader->ReadLinear(q.module);
    REQUIRE(back.status() == absl::OkStatus());
    CHECK(back->codes == q.codes);
    CHECK(back->scales == q.scales);
    CHECK(back->zeros == q.zeros);
    CHECK(back->input_scale == q.input_scale);
    CHECK(back->input_zero == q.input_zero);
    int64_t bytes = 0;
    const auto tensors = *SafetensorsModel::Open(path);
    for (const SafetensorsEntry* e : tensors->entries()) {
      bytes += NumElements(e->shape) * DTypeBytes(e->dtype);
    }
    CHECK(bytes == StoredBytes(q));
  };
  for (const char* word : kWeightWords) check(MakeLinear(word, "float"));
  for (const char* word : kTrellisWords) check(MakeLinear(word, "u8t"));
  for (const char* word : kActivationWords) check(MakeLinear("u4g", word, DType::kF16));
  check(MakeLinear("s3g", "s8r", DType::kF32));
  check(MakeLinear("u2g", "s8r", DType::kF32));
}

TEST_CASE("Bytes of a linear are what its bits say, zero points included", "[native]") {
  const auto bytes = [](const char* word) {
    QuantizedLinearSpec spec = MakeLinear(word, "float");
    spec.n = 64;
    spec.k = 256;
    spec.num_kept = spec.num_super = 0;
    return StoredBytes(spec);
  };
  CHECK(bytes("s8c") == 64 * 256 + 64 * 4);
  CHECK(bytes("u8c") == 64 * 256 + 64 * 4 + 64);
  CHECK(bytes("s8g") == 64 * 256 + 64 * 8 * 2);
  CHECK(bytes("s4c") == 64 * 128 + 64 * 4 + 16);
  CHECK(bytes("u4g") == 64 * 128 + 64 * 8 * 2 + 64 * 8 / 2 + 16);
  CHECK(bytes("u3g") == 64 * 96 + 64 * 8 * 2 + 64 * 8 * 3 / 8 + 16);
  CHECK(bytes("u2g") == 64 * 64 + 64 * 8 * 2 + 64 * 8 / 4 + 16);
}

TEST_CASE("What a linear's codes mean takes its zero points off", "[native]") {
  QuantizedLinear q = MakeLinear("u3g", "float");
  const Tensor w = Dequantize(q);
  for (int64_t row = 0; row < q.n; ++row) {
    for (int64_t k = 0; k < q.k; ++k) {
      const size_t g = static_cast<size_t>(row * 4 + k / 32), at = static_cast<size_t>(row * q.k + k);
      const float code = q.scales[g] * static_cast<float>(q.codes[at] - q.zeros[g]);
      CHECK(w.as<float>()[at] == (k == 70 ? 2.0f : row == 3 && k == 40 ? -7.5f : code));
    }
  }
}

TEST_CASE("Codes and zero points out of place are refused", "[native]") {
  struct Case {
    const char *weight, *act, *message;
    void (*spoil)(QuantizedLinear*);
  };
  const Case cases[] = {
      {"u4g", "float", "code 8 at row 0, column 3 is outside -8..7", [](auto* q) { q->codes[3] = 8; }},
      {"s3c", "float", "code -5 at row 1, column 0 is outside -4..3", [](auto* q) { q->codes[128] = -5; }},
      {"s2g", "float", "code 2 at row 0, column 0 is outside -2..1", [](auto* q) { q->codes[0] = 2; }},
      {"u3g", "float", "zero point 4 at row 1, group 2 is outside -4..3", [](auto* q) { q->zeros[6] = 4; }},
      {"u4c", "float", "zero point -9 at row 4, group 0", [](auto* q) { q->zeros[4] = -9; }},
      {"u4g", "float", "19 zero points; its declaration says 20", [](auto* q) { q->zeros.pop_back(); }},
      {"s4g", "float", "20 zero points; its declaration says 0", [](auto* q) { q->zeros.resize(20); }},
      {"u4g", "float", "kept column 70 holds the code 0 in row 0; it must hold -2",
       [](auto* q) { q->codes[70] = 0; }},
      {"u4g", "float", "super weight at row 3, column 40 has the code 0 as well; it must be",
       [](auto* q) { q->codes[3 * 128 + 40] = 0; }},
      {"s4c", "float", "scale 2 is inf", [](auto* q) { q->scales[2] = 1.0f / 0.0f; }},
      {"s4c", "float", "group_size=32 for a weight without groups", [](auto* q) { q->group = 32; }},
      {"s4g", "float", "weights of 5 bits; use 2, 3, 4 or 8", [](auto* q) { q->format.bits = 5; }},
      {"s4g", "s4g64", "K=96 is not a multiple of its activations' group of 64", [](auto* q) { q->k = 96; }},
      {"s4g", "s8r", "activations of 8 bits in groups of 64", [](auto* q) { q->act.group = 64; }},
      {"s4g", "u8t", "input_zero_point is -128; it is outside -127..127",
       [](auto* q) { q->input_zero = -128; }},
      {"s4g", "s8t", "input_zero_point is 1; it is outside 0..0", [](auto* q) { q->input_zero = 1; }},
      {"s4g", "u4t", "input_scale is 0", [](auto* q) { q->input_scale = 0; }},
  };
  for (const Case& c : cases) {
    QuantizedLinear q = MakeLinear(c.weight, c.act);
    CHECK(CheckLinear(q).ok());
    c.spoil(&q);
    CHECK_THAT(CheckLinear(q), Fails(StatusCode::kInvalidArgument, c.message));
  }
}

TEST_CASE("Malformed tensors of the packed formats are data loss, with their place", "[native]") {
  const TempDirectory dir;
  const std::string module = "model.layers.0.mlp.down_proj";
  const auto open = [&](const QuantizedLinear& q, const std::string& name, auto spoil) {
    const std::string path = dir / name;
    REQUIRE(Write(path, q) == absl::OkStatus());
    spoil(path);
    auto reader = NativeReader::Open(path);
    return reader.ok() ? (*reader)->ReadLinear(module).status() : reader.status();
  };
  const auto edit = [](const std::string& path, const std::string& from, const std::string& to) {
    std::string text = Read(path + "/spikefold.json");
    REQUIRE(absl::StrReplaceAll({{from, to}}, &text) == 1);
    REQUIRE(WriteFileAtomically(path + "/spikefold.json", text).ok());
  };
  QuantizedLinear u3g = MakeLinear("u3g", "u8t");
  // 5 rows of zero points fill 15 of 32 bits; the last byte is padding.
  CHECK_THAT(open(u3g, "a", [&](auto& p) { Poke(p, module + ".weight_zero_point", 3, 0x80); }),
             Fails(StatusCode::kDataLoss, "group 0 holds a zero point in its padding, element 10"));
  CHECK_THAT(open(u3g, "b", [&](auto& p) { Poke(p, module + ".weight_packed", 27, 1); }),  // column 72
             Fails(StatusCode::kOk, ""));
  CHECK_THAT(
      open(u3g, "c", [&](auto& p) { Poke(p, module + ".weight_packed", 26, 8); }),  // bit 211: column 70
      Fails(StatusCode::kDataLoss, "kept column 70 holds the code"));
  CHECK_THAT(open(u3g, "d", [&](auto& p) { Poke(p, module + ".input_zero_point", 0, 2); }),
             Fails(StatusCode::kDataLoss, "input_zero_point is -128"));
  CHECK_THAT(open(u3g, "e", [&](auto& p) { edit(p, "\"u3g\"", "\"s3g\""); }),
             Fails(StatusCode::kUnimplemented, "weight_zero_point, I32, does not follow from the sidecar"));
  CHECK_THAT(open(u3g, "f", [&](auto& p) { edit(p, "\"u3g\"", "\"u2g\""); }),
             Fails(StatusCode::kDataLoss, "weight_packed is I32 [5, 12]; the sidecar implies I32 [5, 8]"));
  CHECK_THAT(open(u3g, "g", [&](auto& p) { edit(p, "\"u8t\"", "\"s8t\""); }),
             Fails(StatusCode::kUnimplemented, "input_zero_point, I8, does not follow"));
  CHECK_THAT(open(u3g, "h", [&](auto& p) { edit(p, "\"u8t\"", "\"u8g64\""); }),
             Fails(StatusCode::kUnimplemented, "down_proj: \"u8g64\" is not supported"));
  CHECK_THAT(open(u3g, "i", [&](auto& p) { edit(p, "\"scale\": \"bf16\"", "\"scale\": \"f8\""); }),
             Fails(StatusCode::kUnimplemented, "\"f8\" is not supported; known: bf16, f16, f32"));
  CHECK_THAT(open(u3g, "j", [&](auto& p) { edit(p, "\"scale\": \"bf16\"", "\"scale\": \"f16\""); }),
             Fails(StatusCode::kDataLoss, "weight_scale is BF16 [5, 4]; the sidecar implies F16 [5, 4]"));
  QuantizedLinear u8c = MakeLinear("u8c", "s4g64");
  CHECK_THAT(open(u8c, "k", [&](auto& p) { edit(p, "\"u8c\"", "\"u8c\", \"group\": 32"); }),
             Fails(StatusCode::kDataLoss, "belong to weights in groups only"));
  CHECK_THAT(open(u8c, "l", [&](auto& p) { Poke(p, module + ".weight_zero_point", 0, 1); }),
             Fails(StatusCode::kDataLoss, "kept column 70 holds the code"));
  QuantizedLinear s4c = MakeLinear("s4c", "float");
  s4c.n = 1;
  s4c.k = 3;
  s4c.codes = {1, -8, 7};
  s4c.scales = {1};
  s4c.kept_columns.clear();
  s4c.kept_weight_bf16.clear();
  s4c.supers.clear();
  s4c.num_kept = s4c.num_super = 0;
  CHECK_THAT(open(s4c, "m", [&](auto& p) { Poke(p, module + ".weight_packed", 3, 0x10); }),
             Fails(StatusCode::kDataLoss, "row 0 holds a code in its padding, element 7"));
}

}  // namespace spikefold
