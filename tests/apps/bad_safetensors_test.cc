// Bad inputs 1 to 30: safetensors files and model directories that lie.
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include "tests/apps/bad_inputs.h"

namespace spikefold::testing {
namespace {

constexpr char kHead[] = "$W/model/model.safetensors: ";

// A model whose only weights file is this.
BadInput File(const char* what, const std::string& bytes, const std::string& message, int exit = 3) {
  return {.what = what,
          .spoil = [bytes](const Workplace& w) { WriteBytes(w.model + "/model.safetensors", bytes); },
          .exit = exit,
          .message = kHead + message};
}
std::string Entry(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return absl::StrCat(R"({"dtype":")", dtype, R"(","shape":)", shape, R"(,"data_offsets":)", offsets, "}");
}
// The one tensor "t".
std::string One(const std::string& dtype, const std::string& shape, const std::string& offsets,
                size_t data_bytes) {
  return SafetensorsBytes("{\"t\":" + Entry(dtype, shape, offsets) + "}", data_bytes);
}

TEST_CASE("A safetensors header that cannot be read is refused", "[apps][bad]") {
  const std::string two = Entry("U8", "[2]", "[0,2]");
  CheckBadInputs({
      File("1 empty file", "", "0 bytes; a safetensors file begins with the 8 bytes of its header's size"),
      File("2 seven bytes", std::string("\x02\0\0\0\0\0\0", 7),
           "7 bytes; a safetensors file begins with the 8 bytes of its header's size"),
      File("3 N = 0", SafetensorsBytes("", 0),
           "header: not valid JSON at byte 1: syntax error while parsing value - unexpected end of input; "
           "expected '[', '{', or a literal"),
      File("4 N = 2^63", SafetensorsBytes(uint64_t{1} << 63, "{}", 0),
           "a header of 9223372036854775808 bytes; at most 100000000 are allowed. Is it a safetensors file?"),
      File("5 N = 100,000,001", SafetensorsBytes(100'000'001, "{}", 0),
           "a header of 100000001 bytes; at most 100000000 are allowed. Is it a safetensors file?"),
      File("6 N beyond the file", SafetensorsBytes(3, "{}", 0),
           "a header of 3 bytes, but only 2 follow; the file is truncated"),
      File("7 not UTF-8", SafetensorsBytes("{\"\xFF\":" + two + "}", 2),
           "header: not valid JSON at byte 3: syntax error while parsing object key - invalid string: "
           "ill-formed UTF-8 byte; last read: '\"\\xff'; expected string literal"),
      File("8 an array", SafetensorsBytes("[]", 0), "the header is not a JSON object"),
      File("9 cut off", SafetensorsBytes("{\"t\":", 0),
           "header: not valid JSON at byte 6: syntax error while parsing value - unexpected end of input; "
           "expected '[', '{', or a literal"),
      File("10 deep", SafetensorsBytes(std::string(200'000, '['), 0),
           "header: JSON is nested more than 64 deep"),
      File("11 tensor twice", SafetensorsBytes("{\"t\":" + two + ",\"t\":" + two + "}", 2),
           "header: duplicate key \"t\""),
      File("12 shape twice",
           SafetensorsBytes(R"({"t":{"dtype":"U8","shape":[2],"shape":[2],"data_offsets":[0,2]}})", 2),
           "header: duplicate key \"shape\""),
      File("13 unknown dtype", One("I4", "[2]", "[0,2]", 2), "tensor \"t\" has the unknown dtype \"I4\""),
      File("13 a dtype that is not read", One("F8_E4M3", "[2]", "[0,2]", 2),
           "tensor \"t\" has dtype F8_E4M3, which Spikefold does not read; convert it to BF16", 4),
      File("22 metadata of a number", SafetensorsBytes(R"({"__metadata__":{"n":1}})", 0),
           "__metadata__ \"n\" is not a string"),
      File("23 NUL in a name", SafetensorsBytes("{\"a\\u0000b\":" + two + "}", 2),
           "tensor \"a\\x00b\" has a control character in its name"),
      File("23 newline in a name", SafetensorsBytes("{\"a\\nb\":" + two + "}", 2),
           "tensor \"a\\nb\" has a control character in its name"),
      File("23 escape in a name", SafetensorsBytes("{\"\\u001b[31m\":" + two + "}", 2),
           "tensor \"\\x1b[31m\" has a control character in its name"),
      File("23 long name", SafetensorsBytes("{\"" + std::string(1'000'000, 'x') + "\":" + two + "}", 2),
           absl::StrCat("tensor \"", std::string(197, 'x'),
                        "...\" has a name of 1000000 bytes; at most 4096 are allowed")),
  });
}

TEST_CASE("Tensors that do not tile the data of their file are refused", "[apps][bad]") {
  const std::string two = Entry("U8", "[2]", "[0,2]");
  CheckBadInputs({
      File("14 negative offset", One("U8", "[2]", "[-1,2]", 2),
           "tensor \"t\" has data_offsets that are not two integers from 0 to 2^63-1"),
      File("14 fractional offset", One("U8", "[2]", "[0,2.0]", 2),
           "tensor \"t\" has data_offsets that are not two integers from 0 to 2^63-1"),
      File("14 offset of 2^64", One("U8", "[2]", "[0,18446744073709551616]", 2),
           "tensor \"t\" has data_offsets that are not two integers from 0 to 2^63-1"),
      File("15 begin behind end", One("U8", "[2]", "[2,0]", 2),
           "tensor \"t\" begins at 2 and ends before that, at 0"),
      File("16 overlap", SafetensorsBytes("{\"a\":" + two + ",\"b\":" + Entry("U8", "[2]", "[1,3]") + "}", 3),
           "tensor \"b\" begins at 1, inside the tensor before it that ends at 2"),
      File("17 hole", SafetensorsBytes("{\"a\":" + two + ",\"b\":" + Entry("U8", "[1]", "[3,4]") + "}", 4),
           "tensor \"b\" begins at 3, leaving a hole after 2"),
      File("18 zip behind it", One("U8", "[2]", "[0,2]", 2) + "PK\5\6",
           "4 bytes follow the last tensor; none may"),
      File("19 a byte short", One("U8", "[2]", "[0,2]", 1),
           "holds 1 bytes of tensor data, but its header describes 2; the file is truncated"),
      File("20 product overflows", One("U8", "[4294967296,4294967296]", "[0,0]", 0),
           "tensor \"t\" has a shape whose size overflows"),
      File("20 product beside a zero overflows", One("U8", "[0,4294967296,4294967296]", "[0,0]", 0),
           "tensor \"t\" has a shape whose size overflows"),
      File("21 size is not shape times dtype", One("F32", "[2]", "[0,2]", 2),
           "tensor \"t\" holds 2 bytes, but F32 [2] takes 8"),
  });
}

TEST_CASE("Blanks before a header and tensors at odd addresses are read to the same model", "[apps][bad]") {
  // Bad input 24, which is none.
  const Workplace w;
  const std::string path = w.model + "/model.safetensors", quantized = w / "q", again = w / "again";
  Succeed({"quantize", w.model, "--scheme", "w8a16", "-o", quantized});
  const std::string bytes = ReadAll(path);
  uint64_t length = 0;
  for (size_t i = 8; i-- > 0;) length = length << 8 | static_cast<unsigned char>(bytes[i]);
  const std::string header = " \n" + bytes.substr(8, length) + " ";
  WriteBytes(path, SafetensorsBytes(header, 0) + bytes.substr(8 + length));
  Succeed({"quantize", w.model, "--scheme", "w8a16", "-o", again});
  CHECK(ReadAll(again + "/model.safetensors") == ReadAll(quantized + "/model.safetensors"));
}

std::string SafeIndex(const std::string& shard) {
  return R"({"metadata":{"total_size":144000},"weight_map":{"model.norm.weight":")" + shard + "\"}}";
}
// The model's weights as the shard "a.safetensors", and an index over it.
BadInput Index(const char* what, const std::string& index, const std::string& message,
               const std::function<void(const Workplace&)>& more = {}) {
  return {.what = what,
          .spoil =
              [=](const Workplace& w) {
                std::filesystem::rename(w.model + "/model.safetensors", w.model + "/a.safetensors");
                WriteBytes(w.model + "/model.safetensors.index.json", index);
                if (more) more(w);
              },
          .exit = 3,
          .message = message};
}

TEST_CASE("An index leads out of its directory or to nothing: refused", "[apps][bad]") {
  const auto link = [](const std::string& target) {
    return [target](const Workplace& w) {
      WriteBytes(w / "x.safetensors", "secret");
      REQUIRE(symlink(target.c_str(), (w.model + "/b.safetensors").c_str()) == 0);
    };
  };
  CheckBadInputs({
      Index("25 a parent directory", SafeIndex("../x.safetensors"),
            "$W/model: \"../x.safetensors\" is not a plain file name; a model's files lie beside each other"),
      Index("26 an absolute path", SafeIndex("/etc/passwd"),
            "$W/model: \"/etc/passwd\" is not a plain file name; a model's files lie beside each other"),
      Index("27 a symlink that leads out", SafeIndex("b.safetensors"),
            "$W/model/b.safetensors: is a symlink that leaves the directory, to $W/x.safetensors; copy the "
            "file into the directory",
            link("../x.safetensors")),
      Index("27 a symlink to itself", SafeIndex("b.safetensors"),
            "$W/model/b.safetensors: cannot resolve: Too many levels of symbolic links",
            link("b.safetensors")),
      Index("27 a symlink to an endless device", SafeIndex("b.safetensors"),
            "$W/model/b.safetensors: is a symlink that leaves the directory, to /dev/zero; copy the file "
            "into the directory",
            link("/dev/zero")),
      Index("27 a FIFO", SafeIndex("b.safetensors"),
            "$W/model/b.safetensors: is a FIFO; expected a regular file",
            [](const Workplace& w) { REQUIRE(mkfifo((w.model + "/b.safetensors").c_str(), 0600) == 0); }),
      Index("27 a directory", SafeIndex("b.safetensors"),
            "$W/model/b.safetensors: is a directory; expected a regular file",
            [](const Workplace& w) { std::filesystem::create_directory(w.model + "/b.safetensors"); }),
      Index("28 a shard that is absent", SafeIndex("b.safetensors"),
            "$W/model/model.safetensors.index.json: names the shard \"b.safetensors\", which is absent"),
      Index("29 a tensor in two shards",
            R"({"weight_map":{"model.norm.weight":"a.safetensors","lm_head.weight":"b.safetensors"}})",
            "$W/model/model.safetensors.index.json: tensor \"lm_head.weight\" lies in two shards, "
            "a.safetensors and b.safetensors",
            [](const Workplace& w) {
              std::filesystem::copy(w.model + "/a.safetensors", w.model + "/b.safetensors");
            }),
      Index("29 a tensor in no shard", R"({"weight_map":{"model.norm.wieght":"a.safetensors"}})",
            "$W/model/model.safetensors.index.json: tensor \"model.norm.wieght\" is not in its shard "
            "a.safetensors"),
      Index("29 a tensor of the model that is not mapped", SafeIndex("a.safetensors"),
            "$W/model: tensor model.embed_tokens.weight [128, 64] is missing"),
  });
}

TEST_CASE("An index whose total size is wrong only warns", "[apps][bad]") {
  const Workplace w;
  const std::string index = w.model + "/model.safetensors.index.json";
  std::filesystem::rename(w.model + "/model.safetensors", w.model + "/a.safetensors");
  Json map = Json::MakeObject();
  const auto header = ParseJson(ReadAll(w.model + "/a.safetensors").substr(8, 2128), "header");
  REQUIRE(header.ok());
  for (const auto& [name, entry] : header->object()) {
    if (name != "__metadata__") map.Set(name, "a.safetensors");
  }
  Json document = Json::MakeObject();
  document.Set("metadata", Json::MakeObject().Set("total_size", 7)).Set("weight_map", map);
  WriteBytes(index, document.Dump());
  const Finished run = RunSpikefold({"inspect", w.model});
  CHECK(run.exit == 0);
  CHECK(run.err ==
        absl::StrCat("warning: ", index, ": total_size is 7, but the tensors take 144000 bytes\n"));
}

}  // namespace
}  // namespace spikefold::testing
