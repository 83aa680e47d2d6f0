// Bad input 37: GGUF files that lie.
#include "tests/apps/bad_inputs.h"

namespace spikefold::testing {
namespace {

// Writes GGUF byte by byte, so that every field can lie.
struct Gguf {
  std::string s;
  template <typename T>
  Gguf& Put(T v) {
    s.append(reinterpret_cast<const char*>(&v), sizeof(v));
    return *this;
  }
  Gguf& Str(const std::string& v) {
    Put(uint64_t{v.size()});
    s += v;
    return *this;
  }
  Gguf& Header(uint64_t tensors, uint64_t keys, uint32_t version = 3) {
    s = "GGUF";
    return Put(version).Put(tensors).Put(keys);
  }
  Gguf& Key(const std::string& key, uint32_t type) { return Str(key).Put(type); }
  Gguf& Tensor(const std::string& name, const std::vector<uint64_t>& ne, uint32_t type = 0,
               uint64_t offset = 0) {
    Str(name).Put(static_cast<uint32_t>(ne.size()));
    for (const uint64_t n : ne) Put(n);
    return Put(type).Put(offset);
  }
  Gguf& Data(size_t bytes) {
    s.resize((s.size() + 31) / 32 * 32);
    s.append(bytes, '\1');
    return *this;
  }
};

BadInput File(const char* what, const Gguf& file, const std::string& message, int exit = 3) {
  return {.what = what,
          .spoil = [bytes = file.s](const Workplace& w) { WriteBytes(w / "model.gguf", bytes); },
          .exit = exit,
          .message = "$W/model.gguf: " + message};
}
// A file with one key and its value; the header is followed by nothing.
BadInput Key(const char* what, const Gguf& key, const std::string& message) {
  Gguf file = Gguf().Header(0, 1);
  file.s += key.s;
  return File(what, file.Data(64), message);
}
BadInput Tensor(const char* what, const Gguf& info, size_t data_bytes, const std::string& message,
                int exit = 3) {
  Gguf file = Gguf().Header(1, 0);
  file.s += info.s;
  return File(what, file.Data(data_bytes), message, exit);
}

TEST_CASE("A GGUF header that lies is refused", "[apps][bad]") {
  constexpr uint64_t kHuge = uint64_t{1} << 62;
  Gguf magic = Gguf().Header(0, 0).Data(32);
  magic.s[3] = 'X';
  CheckBadInputs({
      File("empty", Gguf(), "is 0 bytes long; a GGUF header needs at least 24"),
      File("magic", magic, "does not begin with the magic \"GGUF\""),
      File("version 0", Gguf().Header(0, 0, 0).Data(32), "GGUF version 0; only version 3 is read"),
      File("version 1", Gguf().Header(0, 0, 1).Data(32),
           "GGUF version 1; only version 3 is read; convert it with llama.cpp", 4),
      File("version 4", Gguf().Header(0, 0, 4).Data(32), "GGUF version 4; only version 3 is read"),
      File("version swapped", Gguf().Header(0, 0, 0x03000000).Data(32),
           "is a big-endian GGUF file; only little-endian ones are read", 4),
      File("2^62 tensors", Gguf().Header(kHuge, 0).Data(32),
           "claims 4611686018427387904 tensors; 40 bytes are left and at most 65536 tensors are allowed"),
      File("2^62 keys", Gguf().Header(0, kHuge).Data(32),
           "claims 4611686018427387904 metadata keys; 40 bytes are left and at most 65536 keys are allowed"),
      Key("empty key", Gguf().Key("", 4).Put(uint32_t{1}), "metadata key 0 at byte 24 is empty"),
      File("key twice", Gguf().Header(0, 2).Key("a", 4).Put(1u).Key("a", 4).Put(1u).Data(32),
           "metadata key \"a\" appears twice"),
      Key("key of 2^62 bytes", Gguf().Put(kHuge),
          "a metadata key at byte 24 claims 4611686018427387904 bytes; 64 are left and at most 65535 are "
          "allowed"),
      Key("string of 2^62 bytes", Gguf().Key("a", 8).Put(kHuge),
          "a metadata string at byte 37 claims 4611686018427387904 bytes; 83 are left and at most 1073741824 "
          "are allowed"),
      Key("array of 2^63", Gguf().Key("a", 9).Put(0u).Put(kHuge * 2),
          "metadata \"a\": array of 9223372036854775808 u8; 79 bytes are left and at most 16777216 elements "
          "are allowed"),
      Key("array of 2^62 strings", Gguf().Key("a", 9).Put(8u).Put(kHuge),
          "metadata \"a\": array of 4611686018427387904 string; 79 bytes are left and at most 16777216 "
          "elements are allowed"),
      Key("nested array", Gguf().Key("a", 9).Put(9u).Put(uint64_t{1}),
          "metadata \"a\": arrays of arrays are not allowed"),
      Key("unknown value type", Gguf().Key("a", 13).Put(1u),
          "metadata \"a\": unknown value type 13; allowed are 0 to 12"),
      Key("unknown element type", Gguf().Key("a", 9).Put(13u).Put(uint64_t{1}),
          "metadata \"a\": unknown element type 13; allowed are 0 to 12"),
      Key("alignment 0", Gguf().Key("general.alignment", 4).Put(0u),
          "general.alignment=0; a power of two up to 1048576 is needed"),
      Key("alignment 3", Gguf().Key("general.alignment", 4).Put(3u),
          "general.alignment=3; a power of two up to 1048576 is needed"),
      Key("alignment 2^31", Gguf().Key("general.alignment", 4).Put(uint32_t{1} << 31),
          "general.alignment=2147483648; a power of two up to 1048576 is needed"),
      Key("alignment of text", Gguf().Key("general.alignment", 8).Str("32"),
          "general.alignment is a string; an integer is needed"),
      File("no architecture", Gguf().Header(0, 0).Data(0), "metadata \"general.architecture\" is missing"),
      File("unknown architecture", Gguf().Header(0, 1).Key("general.architecture", 8).Str("mamba").Data(0),
           "GGUF architecture \"mamba\" is not supported; supported are llama, qwen2, qwen3, gemma3", 4),
  });
}

TEST_CASE("GGUF tensors that lie about themselves are refused", "[apps][bad]") {
  CheckBadInputs({
      Tensor("5 dimensions", Gguf().Tensor("t", {1, 1, 1, 1, 1}), 32,
             "tensor \"t\" has 5 dimensions; allowed are 1 to 4"),
      Tensor("no dimensions", Gguf().Tensor("t", {}), 32,
             "tensor \"t\" has 0 dimensions; allowed are 1 to 4"),
      Tensor("ne = 0", Gguf().Tensor("t", {0}), 32,
             "tensor \"t\": dimension 0 is 0; allowed is 1 up to 1099511627776 elements in all"),
      Tensor("ne = -1", Gguf().Tensor("t", {~uint64_t{0}}), 32,
             "tensor \"t\": dimension 0 is -1; allowed is 1 up to 1099511627776 elements in all"),
      Tensor("wrapping ne", Gguf().Tensor("t", {uint64_t{1} << 33, uint64_t{1} << 33}), 32,
             "tensor \"t\": dimension 1 is 8589934592; allowed is 1 up to 1099511627776 elements in all"),
      Tensor("type 4, removed", Gguf().Tensor("t", {32}, 4), 32,
             "tensor \"t\" has type 4, which ggml does not have"),
      Tensor("type 31, removed", Gguf().Tensor("t", {32}, 31), 32,
             "tensor \"t\" has type 31, which ggml does not have"),
      Tensor("type 999", Gguf().Tensor("t", {32}, 999), 32,
             "tensor \"t\" has type 999, which ggml does not have"),
      Tensor("a type that is not decoded", Gguf().Tensor("t", {256}, 16), 96,
             "tensor \"t\" has type IQ2_XXS, which is not decoded; supported are F32, F16, Q4_0, Q4_1, Q5_0, "
             "Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, BF16",
             4),
      Tensor("ne[0] is no whole block", Gguf().Tensor("t", {33}, 2), 64,
             "tensor \"t\": rows of 33 elements are not whole Q4_0 blocks of 32"),
      Tensor("name of 64 bytes", Gguf().Tensor(std::string(64, 'n'), {8}), 32,
             "a tensor name at byte 24 claims 64 bytes; 128 are left and at most 63 are allowed"),
      Tensor("empty name", Gguf().Tensor("", {8}), 32, "tensor 0 has an empty name"),
      Tensor("data past the end", Gguf().Tensor("t", {16}), 32,
             "tensor \"t\" needs 64 bytes at byte 64; 32 are left"),
      Tensor("bytes behind the data", Gguf().Tensor("t", {8}), 96,
             "has 64 bytes after the last tensor; none are allowed"),
      Tensor("offset gap", Gguf().Tensor("t", {8}, 0, 32), 64,
             "tensor \"t\" begins at data byte 32; 0 is expected (tensors follow each other without gap or "
             "overlap)"),
      Tensor("offset past the end", Gguf().Tensor("t", {8}, 0, uint64_t{1} << 62), 32,
             "tensor \"t\" begins at data byte 4611686018427387904; 0 is expected (tensors follow each other "
             "without gap or overlap)"),
      File("name twice", Gguf().Header(2, 0).Tensor("t", {8}).Tensor("t", {8}, 0, 32).Data(64),
           "tensor \"t\" appears twice"),
      File("offset overlap", Gguf().Header(2, 0).Tensor("t", {8}).Tensor("u", {8}, 0, 0).Data(64),
           "tensor \"u\" begins at data byte 0; 32 is expected (tensors follow each other without gap or "
           "overlap)"),
  });
}

}  // namespace
}  // namespace spikefold::testing
