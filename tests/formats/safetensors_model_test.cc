#include "formats/safetensors_model.h"

#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <string>

#include "absl/strings/str_cat.h"
#include "formats/base/file.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_directory.h"

namespace spikefold {
namespace {

using absl::StatusCode;
using testing::Fails;
using testing::TempDirectory;

void WriteShard(const std::string& path, const std::string& tensor, float value) {
  auto writer = SafetensorsWriter::Create(path, {{tensor, DType::kF32, {1}}});
  REQUIRE(writer.ok());
  REQUIRE((*writer)->Write(tensor, Tensor::FromFloats({1}, {value}).view()).ok());
  REQUIRE((*writer)->Finish().ok());
}
void WriteIndex(const TempDirectory& dir, const std::string& weight_map, int total_size = 8) {
  REQUIRE(WriteFileAtomically(dir / "model.safetensors.index.json",
                              absl::StrCat("{\"metadata\":{\"total_size\":", total_size, "},\"weight_map\":{",
                                           weight_map, "}}"))
              .ok());
}

}  // namespace

TEST_CASE("What the sharded writer wrote is found again, tensor by tensor", "[safetensors]") {
  const std::vector<SafetensorsWriter::Spec> specs = {
      {"c", DType::kF32, {4}}, {"a", DType::kBF16, {3}}, {"b", DType::kF32, {2}}, {"d", DType::kF32, {100}}};
  for (const uint64_t max_shard_bytes : {0, 24, 1}) {
    const TempDirectory dir;
    auto writer = SafetensorsModelWriter::Create(dir.path(), specs, max_shard_bytes);
    REQUIRE(writer.ok());
    float first = 1;
    for (const char* name : {"d", "b", "a", "c"}) {
      for (const auto& spec : specs) {
        if (spec.name != name) continue;
        Tensor tensor(spec.dtype, spec.shape);
        if (spec.dtype == DType::kF32) tensor.as<float>()[0] = first++;
        REQUIRE((*writer)->Write(name, tensor.view()).ok());
      }
    }
    REQUIRE((*writer)->Finish().ok());
    CHECK(*ListDirectory(dir.path()) == (*writer)->file_names());

    auto model = SafetensorsModel::Open(dir.path());
    REQUIRE(model.ok());
    CHECK((*model)->warnings().empty());
    CHECK((*model)->entries().size() == 4);
    CHECK((*model)->file_bytes() == (*writer)->file_bytes());
    CHECK((*model)->file_names().size() == (max_shard_bytes == 0 ? 1 : max_shard_bytes == 24 ? 3 : 4));
    CHECK((*model)->Read("d")->as<float>()[0] == 1);
    CHECK((*model)->Read("b")->as<float>()[0] == 2);
    CHECK((*model)->Read("c")->as<float>()[0] == 3);
    CHECK((*model)->Find("a")->shape == Shape{3});
    CHECK_THAT((*model)->Read("e").status(), Fails(StatusCode::kNotFound, "\"e\" is not in the model"));
  }
}

TEST_CASE("An index that points out of the directory, or at nothing, is refused", "[safetensors]") {
  const TempDirectory outer;
  WriteShard(outer / "x.safetensors", "a", 1);
  const TempDirectory dir;
  WriteShard(dir / "1.safetensors", "a", 1);
  WriteShard(dir / "2.safetensors", "b", 2);
  WriteShard(dir / "2again.safetensors", "b", 2);
  REQUIRE(symlink((outer / "x.safetensors").c_str(), (dir / "link.safetensors").c_str()) == 0);
  REQUIRE(symlink("loop.safetensors", (dir / "loop.safetensors").c_str()) == 0);
  REQUIRE(symlink("/dev/zero", (dir / "zero.safetensors").c_str()) == 0);
  REQUIRE(mkfifo((dir / "fifo.safetensors").c_str(), 0600) == 0);
  struct Case {
    int number;
    const char* weight_map;
    const char* message;
  };
  const Case cases[] = {
      {25, R"("a":"../x.safetensors")", "\"../x.safetensors\" is not a plain file name"},
      {26, R"("a":"/etc/hostname")", "\"/etc/hostname\" is not a plain file name"},
      {27, R"("a":"link.safetensors")", "is a symlink that leaves the directory"},
      {27, R"("a":"loop.safetensors")", "cannot resolve"},
      {27, R"("a":"zero.safetensors")", "is a symlink that leaves the directory"},
      {27, R"("a":"fifo.safetensors")", "is a FIFO; expected a regular file"},
      {28, R"("a":"1.safetensors","b":"3.safetensors")", "the shard \"3.safetensors\", which is absent"},
      {29, R"("a":"1.safetensors","b":"2.safetensors","c":"2again.safetensors")", "\"b\" lies in two shards"},
      {29, R"("a":"1.safetensors","b":"1.safetensors")", "\"b\" is not in its shard 1.safetensors"},
      {29, R"("a":"1.safetensors","a":"2.safetensors")", "duplicate key \"a\""},
      {29, R"("a":1)", "the shard of \"a\" is not a string"},
  };
  for (const Case& c : cases) {
    INFO("bad input " << c.number << ": " << c.weight_map);
    WriteIndex(dir, c.weight_map);
    CHECK_THAT(SafetensorsModel::Open(dir.path()).status(), Fails(StatusCode::kDataLoss, c.message));
  }
}

TEST_CASE("A wrong total_size and unmapped tensors only warn", "[safetensors]") {
  const TempDirectory dir;
  WriteShard(dir / "1.safetensors", "a", 1);
  WriteShard(dir / "2.safetensors", "b", 2);
  WriteIndex(dir, R"("a":"1.safetensors","b":"2.safetensors")", 9);
  auto model = SafetensorsModel::Open(dir.path());
  REQUIRE(model.ok());
  REQUIRE((*model)->warnings().size() == 1);
  CHECK_THAT((*model)->warnings()[0], Catch::Contains("total_size is 9, but the tensors take 8 bytes"));

  auto two =
      SafetensorsWriter::Create(dir / "3.safetensors", {{"b", DType::kF32, {1}}, {"x", DType::kF32, {1}}});
  REQUIRE(two.ok());
  for (const char* name : {"b", "x"}) REQUIRE((*two)->Write(name, Tensor(DType::kF32, {1}).view()).ok());
  REQUIRE((*two)->Finish().ok());
  WriteIndex(dir, R"("a":"1.safetensors","b":"3.safetensors")", 12);
  model = SafetensorsModel::Open(dir.path());
  REQUIRE(model.ok());
  REQUIRE((*model)->warnings().size() == 1);
  CHECK_THAT((*model)->warnings()[0], Catch::Contains("does not map tensor \"x\""));
  CHECK((*model)->Find("x") == nullptr);
}

TEST_CASE("A directory of pickles is refused with a remedy", "[safetensors]") {
  const TempDirectory dir;
  CHECK_THAT(SafetensorsModel::Open(dir / "absent").status(),
             Fails(StatusCode::kNotFound, "is not a directory"));
  REQUIRE(WriteFileAtomically(dir / "pytorch_model.bin", "x").ok());
  CHECK_THAT(SafetensorsModel::Open(dir.path()).status(),
             Fails(StatusCode::kNotFound, "pytorch_model.bin is a pickle"));
}

}  // namespace spikefold
