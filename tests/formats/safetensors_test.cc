#include "formats/safetensors.h"

#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <string>

#include "absl/strings/str_cat.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_directory.h"

namespace spikefold {
namespace {

using absl::StatusCode;
using testing::Fails;
using testing::TempDirectory;

constexpr char kReference[] = SPIKEFOLD_TEST_DATA "/safetensors/reference.safetensors";

std::string Sized(uint64_t header_bytes, const std::string& rest) {
  std::string out;
  for (int i = 0; i < 8; ++i) out.push_back(static_cast<char>((header_bytes >> (8 * i)) & 0xff));
  return out + rest;
}
std::string FileOf(const std::string& header, size_t data_bytes) {
  return Sized(header.size(), header + std::string(data_bytes, '\1'));
}
std::string Entry(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return absl::StrCat("{\"dtype\":\"", dtype, "\",\"shape\":", shape, ",\"data_offsets\":", offsets, "}");
}
absl::StatusOr<std::unique_ptr<SafetensorsFile>> Parse(std::string bytes) {
  return SafetensorsFile::FromSource(MemorySource(std::move(bytes), "m"));
}

}  // namespace

TEST_CASE("Reading the reference writer's file and writing it again gives the same bytes", "[safetensors]") {
  auto file = SafetensorsFile::Open(kReference);
  REQUIRE(file.ok());
  CHECK((*file)->metadata() == std::vector<std::pair<std::string, std::string>>{{"format", "pt"}});
  std::vector<SafetensorsWriter::Spec> specs;
  for (const SafetensorsEntry& e : (*file)->entries())
    specs.insert(specs.begin(), {e.name, e.dtype, e.shape});
  REQUIRE(specs.size() == 16);

  const TempDirectory dir;
  auto writer = SafetensorsWriter::Create(dir / "copy", specs);
  REQUIRE(writer.ok());
  for (const auto& spec : specs) {  // the reverse of the file's order
    auto tensor = (*file)->Read(*(*file)->Find(spec.name));
    REQUIRE(tensor.ok());
    REQUIRE((*writer)->Write(spec.name, tensor->view()).ok());
  }
  REQUIRE((*writer)->Finish().ok());
  const std::string reference = *ReadFileToString(kReference, 1 << 20);
  CHECK(*ReadFileToString(dir / "copy", 1 << 20) == reference);
  CHECK((*writer)->file_bytes() == reference.size());
  CHECK(SafetensorsFileBytes(specs) == reference.size());
}

TEST_CASE("Values come back in their types", "[safetensors]") {
  auto file = *SafetensorsFile::Open(kReference);
  const auto read = [&](const char* name) { return *file->Read(*file->Find(name)); };
  CHECK(read("b.weight").shape() == Shape{2, 3});
  CHECK(Bf16ToFloat(read("b.weight").as<uint16_t>()[5]) == 6.0f);
  CHECK(F16ToFloat(read("half").as<uint16_t>()[2]) == 3.0f);
  CHECK(read("double").as<double>()[0] == 1.0);
  CHECK(read("i64").as<int64_t>()[1] == 2);
  CHECK(read("scalar").shape().empty());
  CHECK(read("scalar").as<float>()[0] == 1.0f);
  CHECK(read("empty").num_bytes() == 0);
  CHECK(file->Find("absent") == nullptr);
}

TEST_CASE("A malformed safetensors file is refused with its reason", "[safetensors]") {
  const std::string two = Entry("U8", "[2]", "[0,2]");
  const auto one_entry = [](const std::string& entry) { return absl::StrCat("{\"t\":", entry, "}"); };
  struct Case {
    int number;  // in the list of bad inputs of the design
    std::string bytes;
    const char* message;
    StatusCode code = StatusCode::kDataLoss;
  };
  const Case cases[] = {
      {1, "", "m: 0 bytes; a safetensors file begins with"},
      {2, std::string("\x02\0\0\0\0\0\0", 7), "begins with the 8 bytes"},
      {3, Sized(0, ""), "not valid JSON at byte"},
      {4, Sized(uint64_t{1} << 63, "{}"), "a header of 9223372036854775808 bytes; at most 100000000"},
      {5, Sized(100'000'001, "{}"), "a header of 100000001 bytes; at most"},
      {6, Sized(3, "{}"), "a header of 3 bytes, but only 2 follow"},
      {7, FileOf("{\"\xFF\":" + two + "}", 2), "not valid JSON at byte"},
      {8, FileOf("[]", 0), "is not a JSON object"},
      {9, FileOf("{\"t\":", 0), "not valid JSON at byte"},
      {10, FileOf(std::string(200'000, '['), 0), "nested more than 64 deep"},
      {11, FileOf("{\"t\":" + two + ",\"t\":" + two + "}", 2), "duplicate key \"t\""},
      {12, FileOf(one_entry(R"({"dtype":"U8","shape":[2],"shape":[2],"data_offsets":[0,2]})"), 2),
       "duplicate key \"shape\""},
      {13, FileOf(one_entry(Entry("I4", "[2]", "[0,2]")), 2), "tensor \"t\" has the unknown dtype \"I4\""},
      {13, FileOf(one_entry(Entry("F8_E4M3", "[2]", "[0,2]")), 2), "which Spikefold does not read",
       StatusCode::kUnimplemented},
      {14, FileOf(one_entry(Entry("U8", "[2]", "[-1,2]")), 2), "data_offsets that are not two integers"},
      {14, FileOf(one_entry(Entry("U8", "[2]", "[0,2.0]")), 2), "data_offsets that are not two integers"},
      {14, FileOf(one_entry(Entry("U8", "[2]", "[0,18446744073709551616]")), 2), "data_offsets that are not"},
      {14, FileOf(one_entry(Entry("U8", "[2]", "[0,18446744073709551615]")), 2), "data_offsets that are not"},
      {14, FileOf(one_entry(Entry("U8", "[2]", "[0,2,2]")), 2), "data_offsets that are not two integers"},
      {14, FileOf(one_entry(Entry("U8", "[2.0]", "[0,2]")), 2), "a shape that is not a list of integers"},
      {15, FileOf(one_entry(Entry("U8", "[2]", "[2,0]")), 2), "begins at 2 and ends before that, at 0"},
      {16, FileOf("{\"a\":" + two + ",\"b\":" + Entry("U8", "[2]", "[1,3]") + "}", 3),
       "begins at 1, inside the tensor before it that ends at 2"},
      {17, FileOf("{\"a\":" + two + ",\"b\":" + Entry("U8", "[1]", "[3,4]") + "}", 4),
       "begins at 3, leaving a hole after 2"},
      {17, FileOf(one_entry(Entry("U8", "[2]", "[1,3]")), 3), "leaving a hole after 0"},
      {18, FileOf(one_entry(two), 2) + "PK\5\6", "4 bytes follow the last tensor; none may"},
      {19, FileOf(one_entry(two), 1), "holds 1 bytes of tensor data, but its header describes 2"},
      {20, FileOf(one_entry(Entry("U8", "[4294967296,4294967296]", "[0,0]")), 0), "size overflows"},
      {20, FileOf(one_entry(Entry("U8", "[4294967296,4294967296,0]", "[0,0]")), 0), "size overflows"},
      {20, FileOf(one_entry(Entry("U8", "[0,4294967296,4294967296]", "[0,0]")), 0), "size overflows"},
      {21, FileOf(one_entry(Entry("F32", "[2]", "[0,2]")), 2), "holds 2 bytes, but F32 [2] takes 8"},
      {22, FileOf("{\"__metadata__\":{\"n\":1}}", 0), "__metadata__ \"n\" is not a string"},
      {23, FileOf("{\"a\\u0000b\":" + two + "}", 2), "tensor \"a\\x00b\" has a control character"},
      {23, FileOf("{\"a\\nb\":" + two + "}", 2), "tensor \"a\\nb\" has a control character"},
      {23, FileOf("{\"\\u001b[31m\":" + two + "}", 2), "tensor \"\\x1b[31m\" has a control character"},
      {23, FileOf("{\"" + std::string(1'000'000, 'x') + "\":" + two + "}", 2), "a name of 1000000 bytes"},
  };
  for (const Case& c : cases) {
    INFO("bad input " << c.number);
    const absl::Status status = Parse(c.bytes).status();
    CHECK_THAT(status, Fails(c.code, c.message));
    CHECK_THAT(status, Fails(c.code, "m: "));
    CHECK(status.message().size() < 500);
  }
}

TEST_CASE("Leading and trailing blanks, unknown keys and unaligned data are read", "[safetensors]") {
  // Bad input 24. The header's length leaves the F32 at an odd offset.
  auto file =
      Parse(FileOf(" \n{\"t\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"x\":[1]}}   ", 4));
  REQUIRE(file.ok());
  CHECK((*file)->entries()[0].offset % 4 != 0);
  auto tensor = (*file)->Read((*file)->entries()[0]);
  REQUIRE(tensor.ok());
  CHECK(std::bit_cast<uint32_t>(tensor->as<float>()[0]) == 0x01010101u);
  REQUIRE((*file)->warnings().size() == 1);
  CHECK((*file)->warnings()[0] == "m: tensor \"t\" has the unknown key \"x\"");
}

TEST_CASE("Every prefix of a file, and the file with any one byte changed, is read or refused cleanly",
          "[safetensors]") {
  const std::string good = *ReadFileToString(kReference, 1 << 20);
  for (size_t n = 0; n < good.size(); ++n) {
    REQUIRE(Parse(good.substr(0, n)).status().code() == StatusCode::kDataLoss);
  }
  int accepted = 0;
  for (size_t i = 0; i < good.size(); ++i) {
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ 0x11);
    auto file = Parse(bad);
    if (!file.ok()) continue;
    ++accepted;
    for (const SafetensorsEntry& e : (*file)->entries()) REQUIRE((*file)->Read(e).ok());
  }
  CHECK(accepted > 100);  // changed data and names are still a safetensors file
}

TEST_CASE("The writer holds its caller to what was declared", "[safetensors]") {
  const TempDirectory dir;
  const std::string path = dir / "out";
  CHECK_THAT(SafetensorsWriter::Create(path, {{"a", DType::kF32, {1}}, {"a", DType::kF32, {1}}}).status(),
             Fails(StatusCode::kInvalidArgument, "is declared twice"));
  CHECK_THAT(SafetensorsWriter::Create(path, {{"__metadata__", DType::kF32, {1}}}).status(),
             Fails(StatusCode::kInvalidArgument, "reserved name"));
  CHECK_THAT(SafetensorsWriter::Create(path, {{"a\n", DType::kF32, {1}}}).status(),
             Fails(StatusCode::kInvalidArgument, "control character"));
  {
    auto writer = SafetensorsWriter::Create(path, {{"a", DType::kF32, {2}}, {"b", DType::kF32, {2}}});
    REQUIRE(writer.ok());
    const Tensor ok(DType::kF32, {2}), wrong(DType::kF32, {2, 1});
    CHECK_THAT((*writer)->Write("c", ok.view()), Fails(StatusCode::kInvalidArgument, "was not declared"));
    CHECK_THAT((*writer)->Write("a", wrong.view()),
               Fails(StatusCode::kInvalidArgument, "is F32 [2, 1], declared as F32 [2]"));
    REQUIRE((*writer)->Write("a", ok.view()).ok());
    CHECK_THAT((*writer)->Write("a", ok.view()), Fails(StatusCode::kInvalidArgument, "written before"));
    CHECK_THAT((*writer)->Finish(),
               Fails(StatusCode::kInvalidArgument, "\"b\" was declared, but not written"));
  }
  CHECK_FALSE(PathExists(path));
}

TEST_CASE("A matrix may be written by rows in any order, each once", "[safetensors]") {
  const TempDirectory dir;
  Tensor whole(DType::kF32, {5, 3});
  for (size_t i = 0; i < 15; ++i) whole.as<float>()[i] = static_cast<float>(i);
  const auto rows = [&](int64_t begin, int64_t end) {
    return TensorView{DType::kF32, {end - begin, 3}, whole.as<float>().data() + begin * 3};
  };
  const std::vector<SafetensorsWriter::Spec> specs = {{"a", DType::kF32, {5, 3}}};
  {
    const auto once = SafetensorsWriter::Create(dir / "once", specs),
               parts = SafetensorsWriter::Create(dir / "parts", specs);
    REQUIRE((*once)->Write("a", whole.view()).ok());
    REQUIRE((*parts)->WriteRows("a", 3, rows(3, 5)).ok());
    CHECK_THAT((*parts)->Finish(), Fails(StatusCode::kInvalidArgument, "\"a\" lacks rows"));
    CHECK_THAT((*parts)->WriteRows("a", 4, rows(0, 2)),
               Fails(StatusCode::kInvalidArgument, "F32 [2, 3] from 4 on"));
    CHECK_THAT((*parts)->WriteRows("b", 0, rows(0, 1)),
               Fails(StatusCode::kInvalidArgument, "was not declared"));
    REQUIRE((*parts)->WriteRows("a", 0, rows(0, 3)).ok());
    CHECK_THAT((*parts)->WriteRows("a", 0, rows(0, 1)),
               Fails(StatusCode::kInvalidArgument, "written before"));
    REQUIRE((*once)->Finish().ok());
    REQUIRE((*parts)->Finish().ok());
  }
  CHECK(*ReadFileToString(dir / "once", 1 << 20) == *ReadFileToString(dir / "parts", 1 << 20));
}

}  // namespace spikefold
