#include "formats/gguf.h"

#include <bit>
#include <catch2/catch.hpp>
#include <cstring>

#include "absl/strings/match.h"

namespace spikefold {
namespace {

using absl::StatusCode;

// Writes GGUF byte by byte, so that every field can lie.
struct Bytes {
  std::string s;
  template <typename T>
  Bytes& Put(T v) {
    s.append(reinterpret_cast<const char*>(&v), sizeof(v));
    return *this;
  }
  Bytes& Str(const std::string& v) {
    Put(uint64_t{v.size()});
    s += v;
    return *this;
  }
  Bytes& Header(uint64_t tensors, uint64_t keys, uint32_t version = 3) {
    s = "GGUF";
    return Put(version).Put(tensors).Put(keys);
  }
  Bytes& KeyU32(const std::string& key, uint32_t v) { return Str(key).Put(uint32_t{4}).Put(v); }
  Bytes& TensorInfo(const std::string& name, std::vector<uint64_t> ne, uint32_t type, uint64_t offset) {
    Str(name).Put(static_cast<uint32_t>(ne.size()));
    for (const uint64_t n : ne) Put(n);
    return Put(type).Put(offset);
  }
  Bytes& Pad(size_t alignment = 32) {
    s.resize((s.size() + alignment - 1) / alignment * alignment);
    return *this;
  }
  Bytes& Data(size_t bytes) {
    s.append(bytes, '\1');
    return *this;
  }
};

absl::StatusOr<std::unique_ptr<GgufFile>> Parse(const Bytes& bytes) {
  return GgufFile::FromSource(MemorySource(bytes.s, "m.gguf"));
}
void CheckError(const Bytes& bytes, StatusCode code, const std::string& message) {
  const auto file = Parse(bytes);
  CHECK(file.status().code() == code);
  CHECK(std::string(file.status().message()) == message);
}
// One F32 tensor "t" of 8 values.
Bytes Small() { return Bytes().Header(1, 0).TensorInfo("t", {8}, 0, 0).Pad().Data(32); }

const std::string kBlocks = SPIKEFOLD_TEST_DATA "/gguf/blocks.gguf";

}  // namespace

TEST_CASE("Blocks of every type decode exactly as the reference decodes them", "[gguf]") {
  const auto file = GgufFile::Open(kBlocks);
  REQUIRE(file.ok());
  const std::vector<std::string> types = {"F16",  "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1",
                                          "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"};
  REQUIRE((*file)->tensors().size() == 2 * types.size());
  for (const std::string& type : types) {
    INFO(type);
    const GgufTensor* stored = (*file)->FindTensor(type);
    const GgufTensor* expected = (*file)->FindTensor(type + ".values");
    REQUIRE(stored != nullptr);
    REQUIRE(expected != nullptr);
    CHECK(GgmlTypeName(static_cast<uint32_t>(stored->type)) == type);
    CHECK(stored->shape == expected->shape);
    const auto got = (*file)->ReadF32(*stored), want = (*file)->ReadF32(*expected);
    REQUIRE(got.ok());
    REQUIRE(want.ok());
    // Bytes, not values: the sign of zero counts too.
    CHECK(std::memcmp(got->data(), want->data(), static_cast<size_t>(want->num_bytes())) == 0);
  }
}

TEST_CASE("A single changed code is noticed by that comparison", "[gguf][canary]") {
  for (const char* type : {"Q4_0", "Q4_1", "Q5_0", "Q8_0", "Q4_K", "Q6_K"}) {
    INFO(type);
    const auto file = GgufFile::Open(kBlocks);
    REQUIRE(file.ok());
    const GgufTensor* t = (*file)->FindTensor(type);
    auto bytes = ReadFileToString(kBlocks, 1 << 20);
    REQUIRE(bytes.ok());
    (*bytes)[static_cast<size_t>(t->offset + t->bytes - 20)] ^= 1;  // a code of the last block
    const auto changed = GgufFile::FromSource(MemorySource(*bytes));
    REQUIRE(changed.ok());
    const auto a = (*file)->ReadF32(*t), b = (*changed)->ReadF32(*t);
    CHECK(std::memcmp(a->data(), b->data(), static_cast<size_t>(a->num_bytes())) != 0);
  }
}

TEST_CASE("Metadata of every value type is read", "[gguf]") {
  const auto opened = GgufFile::Open(kBlocks);
  REQUIRE(opened.ok());
  const GgufFile& file = **opened;
  CHECK(*file.GetInt("t.u8") == 200);
  CHECK(*file.GetInt("t.i8") == -100);
  CHECK(*file.GetInt("t.u16") == 60000);
  CHECK(*file.GetInt("t.i16") == -30000);
  CHECK(*file.GetInt("t.u32") == 4000000000);
  CHECK(*file.GetInt("t.i32") == -2000000000);
  CHECK(*file.GetInt("t.i64") == -(int64_t{1} << 62));
  CHECK(std::get<uint64_t>(file.Find("t.u64")->v) == UINT64_MAX);
  CHECK(*file.GetDouble("t.f32") == 0.5);
  CHECK(*file.GetDouble("t.f64") == 0.1);
  CHECK(*file.GetDouble("t.u8") == 200.0);
  CHECK(*file.GetBool("t.bool"));
  CHECK(*file.GetString("t.str") ==
        "gr\xc3\xbc\xc3\x9f"
        "e");
  CHECK(std::get<std::vector<int64_t>>(file.Find("t.ints")->v) == std::vector<int64_t>{1, -2, 3});
  CHECK(std::get<std::vector<double>>(file.Find("t.floats")->v) == std::vector<double>{0.25, -4.0});
  CHECK(std::get<std::vector<bool>>(file.Find("t.bools")->v) == std::vector<bool>{true, false, true});
  CHECK(std::get<GgufValue::Strings>(file.Find("t.strs")->v) == GgufValue::Strings{"a", "",
                                                                                   "\xe2\x96\x81"
                                                                                   "the"});
  CHECK(file.keys().front() == "general.architecture");
  CHECK(file.GetInt("t.str").status().message() ==
        kBlocks + ": metadata \"t.str\" is a string; an integer is needed");
  CHECK(file.GetInt("t.u64").status().message() ==
        kBlocks + ": metadata \"t.u64\" is an integer above int64; an integer is needed");
  CHECK(file.GetString("t.none").status().message() == kBlocks + ": metadata \"t.none\" is missing");
  CHECK(file.GetString("t.none").status().code() == StatusCode::kDataLoss);
}

TEST_CASE("A metadata-only copy keeps the chosen keys byte for byte and no tensors", "[gguf]") {
  const auto file = GgufFile::Open(kBlocks);
  REQUIRE(file.ok());
  const auto bytes =
      (*file)->MetadataOnly([](absl::string_view key) { return absl::StartsWith(key, "t.s"); });
  REQUIRE(bytes.ok());
  const auto copy = GgufFile::FromSource(MemorySource(*bytes));
  REQUIRE(copy.ok());
  CHECK((*copy)->keys() == std::vector<std::string>{"t.str", "t.strs"});
  CHECK((*copy)->tensors().empty());
  CHECK(std::get<GgufValue::Strings>((*copy)->Find("t.strs")->v).size() == 3);
  CHECK(absl::StrContains(*ReadFileToString(kBlocks, 1 << 20), bytes->substr(24, 40)));
}

TEST_CASE("A small hand-made file is read, also with other alignments", "[gguf]") {
  const auto file = Parse(Small());
  REQUIRE(file.ok());
  CHECK((*file)->tensors()[0].offset == 64);
  for (const uint32_t alignment : {1u, 8u, 64u, 4096u}) {
    Bytes b = Bytes().Header(2, 1).KeyU32("general.alignment", alignment);
    const uint64_t second = (uint64_t{12} + alignment - 1) / alignment * alignment;
    b.TensorInfo("a", {3}, 0, 0)
        .TensorInfo("b", {2, 2}, 0, second)
        .Pad(alignment)
        .Data(12)
        .Pad(alignment)
        .Data(16);
    REQUIRE(Parse(b).ok());
    REQUIRE(Parse(b.Pad(alignment)).ok());
  }
}

TEST_CASE("A file that is no GGUF is refused", "[gguf][malformed]") {
  CheckError(Bytes(), StatusCode::kDataLoss, "m.gguf: is 0 bytes long; a GGUF header needs at least 24");
  CheckError(Bytes().Data(64), StatusCode::kDataLoss, "m.gguf: does not begin with the magic \"GGUF\"");
}

TEST_CASE("Other versions and byte orders are refused", "[gguf][malformed]") {
  CheckError(Bytes().Header(0, 0, 0), StatusCode::kDataLoss,
             "m.gguf: GGUF version 0; only version 3 is read");
  CheckError(Bytes().Header(0, 0, 1), StatusCode::kUnimplemented,
             "m.gguf: GGUF version 1; only version 3 is read; convert it with llama.cpp");
  CheckError(Bytes().Header(0, 0, 4), StatusCode::kDataLoss,
             "m.gguf: GGUF version 4; only version 3 is read");
  CheckError(Bytes().Header(0, 0, 0x03000000), StatusCode::kUnimplemented,
             "m.gguf: is a big-endian GGUF file; only little-endian ones are read");
}

TEST_CASE("Counts larger than the file are refused before anything is allocated", "[gguf][malformed]") {
  CheckError(
      Bytes().Header(uint64_t{1} << 62, 0), StatusCode::kDataLoss,
      "m.gguf: claims 4611686018427387904 tensors; 0 bytes are left and at most 65536 tensors are allowed");
  CheckError(
      Bytes().Header(0, uint64_t{1} << 62).Data(100), StatusCode::kDataLoss,
      "m.gguf: claims 4611686018427387904 metadata keys; 100 bytes are left and at most 65536 keys are "
      "allowed");
  CheckError(
      Bytes().Header(0, 1).Put(uint64_t{1} << 40).Data(40), StatusCode::kDataLoss,
      "m.gguf: a metadata key at byte 24 claims 1099511627776 bytes; 40 are left and at most 65535 are "
      "allowed");
  CheckError(Bytes().Header(0, 1).Str("k").Put(uint32_t{8}).Put(UINT64_MAX), StatusCode::kDataLoss,
             "m.gguf: a metadata string at byte 37 claims 18446744073709551615 bytes; 0 are left and at most "
             "1073741824 are allowed");
}

TEST_CASE("Empty and duplicate keys are refused", "[gguf][malformed]") {
  CheckError(Bytes().Header(0, 1).Str("").Put(uint32_t{4}).Put(uint32_t{1}), StatusCode::kDataLoss,
             "m.gguf: metadata key 0 at byte 24 is empty");
  CheckError(Bytes().Header(0, 2).KeyU32("a\x1b", 1).KeyU32("a\x1b", 2), StatusCode::kDataLoss,
             "m.gguf: metadata key \"a\\x1b\" appears twice");
}

TEST_CASE("Arrays that are too long, nested or of unknown type are refused", "[gguf][malformed]") {
  const auto array = [](uint32_t type, uint64_t count) {
    return Bytes().Header(0, 1).Str("k").Put(uint32_t{9}).Put(type).Put(count).Data(64);
  };
  CheckError(
      array(0, uint64_t{1} << 63), StatusCode::kDataLoss,
      "m.gguf: metadata \"k\": array of 9223372036854775808 u8; 64 bytes are left and at most 16777216 "
      "elements are allowed");
  CheckError(array(8, 9), StatusCode::kDataLoss,
             "m.gguf: metadata \"k\": array of 9 string; 64 bytes are left and at most 16777216 elements are "
             "allowed");
  CheckError(array(9, 1), StatusCode::kDataLoss, "m.gguf: metadata \"k\": arrays of arrays are not allowed");
  CheckError(array(13, 1), StatusCode::kDataLoss,
             "m.gguf: metadata \"k\": unknown element type 13; allowed are 0 to 12");
  CheckError(Bytes().Header(0, 1).Str("k").Put(uint32_t{77}).Data(8), StatusCode::kDataLoss,
             "m.gguf: metadata \"k\": unknown value type 77; allowed are 0 to 12");
  CheckError(Bytes().Header(0, 1).Str("k").Put(uint32_t{7}).Put(uint8_t{2}), StatusCode::kDataLoss,
             "m.gguf: metadata \"k\": bool value 2; allowed are 0 and 1");
}

TEST_CASE("An alignment that is no power of two or no integer is refused", "[gguf][malformed]") {
  const std::string rest = "; a power of two up to 1048576 is needed";
  CheckError(Bytes().Header(0, 1).KeyU32("general.alignment", 0), StatusCode::kDataLoss,
             "m.gguf: general.alignment=0" + rest);
  CheckError(Bytes().Header(0, 1).KeyU32("general.alignment", 3), StatusCode::kDataLoss,
             "m.gguf: general.alignment=3" + rest);
  CheckError(Bytes().Header(0, 1).KeyU32("general.alignment", uint32_t{1} << 31), StatusCode::kDataLoss,
             "m.gguf: general.alignment=2147483648" + rest);
  CheckError(Bytes().Header(0, 1).Str("general.alignment").Put(uint32_t{8}).Str("32"), StatusCode::kDataLoss,
             "m.gguf: general.alignment is a string; an integer is needed");
}

TEST_CASE("Bad tensor names and dimensions are refused", "[gguf][malformed]") {
  const auto tensor = [](const std::string& name, std::vector<uint64_t> ne, uint32_t type) {
    return Bytes().Header(1, 0).TensorInfo(name, std::move(ne), type, 0).Pad().Data(64);
  };
  CheckError(tensor(std::string(64, 'x'), {8}, 0), StatusCode::kDataLoss,
             "m.gguf: a tensor name at byte 24 claims 64 bytes; 160 are left and at most 63 are allowed");
  CheckError(tensor("", {8}, 0), StatusCode::kDataLoss, "m.gguf: tensor 0 has an empty name");
  CheckError(tensor("t", {1, 1, 1, 1, 8}, 0), StatusCode::kDataLoss,
             "m.gguf: tensor \"t\" has 5 dimensions; allowed are 1 to 4");
  CheckError(tensor("t", {8, 0}, 0), StatusCode::kDataLoss,
             "m.gguf: tensor \"t\": dimension 1 is 0; allowed is 1 up to 1099511627776 elements in all");
  CheckError(tensor("t", {UINT64_MAX}, 0), StatusCode::kDataLoss,
             "m.gguf: tensor \"t\": dimension 0 is -1; allowed is 1 up to 1099511627776 elements in all");
  CheckError(
      tensor("t", {uint64_t{1} << 32, uint64_t{1} << 32}, 0), StatusCode::kDataLoss,
      "m.gguf: tensor \"t\": dimension 1 is 4294967296; allowed is 1 up to 1099511627776 elements in all");
  CheckError(Bytes().Header(2, 0).TensorInfo("t", {8}, 0, 0).TensorInfo("t", {8}, 0, 32).Pad().Data(64),
             StatusCode::kDataLoss, "m.gguf: tensor \"t\" appears twice");
}

TEST_CASE("Block types are refused when removed, unknown, undecoded or cut", "[gguf][malformed]") {
  const auto tensor = [](uint64_t ne, uint32_t type) {
    return Bytes().Header(1, 0).TensorInfo("t", {ne}, type, 0).Pad().Data(64);
  };
  for (const uint32_t type : {4u, 31u, 999u}) {
    CheckError(tensor(32, type), StatusCode::kDataLoss,
               "m.gguf: tensor \"t\" has type " + std::to_string(type) + ", which ggml does not have");
  }
  CheckError(
      tensor(256, 23), StatusCode::kUnimplemented,
      "m.gguf: tensor \"t\" has type IQ4_XS, which is not decoded; supported are F32, F16, Q4_0, Q4_1, "
      "Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, BF16");
  CheckError(tensor(33, 2), StatusCode::kDataLoss,
             "m.gguf: tensor \"t\": rows of 33 elements are not whole Q4_0 blocks of 32");
  CheckError(tensor(128, 12), StatusCode::kDataLoss,
             "m.gguf: tensor \"t\": rows of 128 elements are not whole Q4_K blocks of 256");
}

TEST_CASE("Tensor data with a gap, an overlap, past the end or trailing bytes is refused",
          "[gguf][malformed]") {
  const auto second_at = [](uint64_t offset) {
    return Bytes().Header(2, 0).TensorInfo("a", {8}, 0, 0).TensorInfo("b", {8}, 0, offset).Pad().Data(128);
  };
  const std::string rest = "; 32 is expected (tensors follow each other without gap or overlap)";
  CheckError(second_at(64), StatusCode::kDataLoss, "m.gguf: tensor \"b\" begins at data byte 64" + rest);
  CheckError(second_at(0), StatusCode::kDataLoss, "m.gguf: tensor \"b\" begins at data byte 0" + rest);
  CheckError(second_at(UINT64_MAX), StatusCode::kDataLoss,
             "m.gguf: tensor \"b\" begins at data byte 18446744073709551615" + rest);
  CheckError(second_at(32), StatusCode::kDataLoss,
             "m.gguf: has 64 bytes after the last tensor; none are allowed");
  Bytes cut = Small();
  cut.s.pop_back();
  CheckError(cut, StatusCode::kDataLoss, "m.gguf: tensor \"t\" needs 32 bytes at byte 64; 31 are left");
  CheckError(Bytes().Header(1, 0).TensorInfo("t", {uint64_t{1} << 39}, 0, 0).Pad().Data(32),
             StatusCode::kDataLoss, "m.gguf: tensor \"t\" needs 2199023255552 bytes at byte 64; 32 are left");
}

TEST_CASE("Every truncation of a good file ends in DataLoss", "[gguf][malformed]") {
  const auto whole = ReadFileToString(kBlocks, 1 << 20);
  REQUIRE(whole.ok());
  const auto file = GgufFile::Open(kBlocks);
  const size_t header = static_cast<size_t>((*file)->tensors().front().offset);
  int refused = 0, tried = 0;
  for (size_t size = 0; size < whole->size(); size += size < header ? 1 : 997) {
    const auto cut = GgufFile::FromSource(MemorySource(whole->substr(0, size)));
    refused += cut.status().code() == StatusCode::kDataLoss ? 1 : 0;
    ++tried;
  }
  CHECK(refused == tried);
}

TEST_CASE("Flipped header bytes never crash and never let a tensor leave the file", "[gguf][malformed]") {
  const auto whole = ReadFileToString(kBlocks, 1 << 20);
  REQUIRE(whole.ok());
  const auto file = GgufFile::Open(kBlocks);
  const size_t header = static_cast<size_t>((*file)->tensors().front().offset);
  uint32_t seed = 1;
  for (int round = 0; round < 3000; ++round) {
    std::string bytes = *whole;
    seed = seed * 1664525u + 1013904223u;
    bytes[(seed >> 8) % header] = static_cast<char>(seed >> 24);
    const auto changed = GgufFile::FromSource(MemorySource(bytes));
    if (!changed.ok()) {
      REQUIRE(!changed.status().message().empty());
      continue;
    }
    for (const GgufTensor& t : (*changed)->tensors()) REQUIRE(t.offset + t.bytes <= bytes.size());
  }
}

}  // namespace spikefold
