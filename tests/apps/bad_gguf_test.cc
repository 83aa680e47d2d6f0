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
BadInput Key(const char* what, Gguf key, const std::string& message) {
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
      File("empty", Gguf(), "?"),
      File("magic", magic, "?"),
      File("version 0", Gguf().Header(0, 0, 0).Data(32), "?"),
      File("version 1", Gguf().Header(0, 0, 1).Data(32), "?", 4),
      File("version 4", Gguf().Header(0, 0, 4).Data(32), "?"),
      File("version swapped", Gguf().Header(0, 0, 0x03000000).Data(32), "?", 4),
      File("2^62 tensors", Gguf().Header(kHuge, 0).Data(32), "?"),
      File("2^62 keys", Gguf().Header(0, kHuge).Data(32), "?"),
      Key("empty key", Gguf().Key("", 4).Put(uint32_t{1}), "?"),
      File("key twice", Gguf().Header(0, 2).Key("a", 4).Put(1u).Key("a", 4).Put(1u).Data(32), "?"),
      Key("key of 2^62 bytes", Gguf().Put(kHuge), "?"),
      Key("string of 2^62 bytes", Gguf().Key("a", 8).Put(kHuge), "?"),
      Key("array of 2^63", Gguf().Key("a", 9).Put(0u).Put(kHuge * 2), "?"),
      Key("array of 2^62 strings", Gguf().Key("a", 9).Put(8u).Put(kHuge), "?"),
      Key("nested array", Gguf().Key("a", 9).Put(9u).Put(uint64_t{1}), "?"),
      Key("unknown value type", Gguf().Key("a", 13).Put(1u), "?"),
      Key("unknown element type", Gguf().Key("a", 9).Put(13u).Put(uint64_t{1}), "?"),
      Key("alignment 0", Gguf().Key("general.alignment", 4).Put(0u), "?"),
      Key("alignment 3", Gguf().Key("general.alignment", 4).Put(3u), "?"),
      Key("alignment 2^31", Gguf().Key("general.alignment", 4).Put(uint32_t{1} << 31), "?"),
      Key("alignment of text", Gguf().Key("general.alignment", 8).Str("32"), "?"),
      File("no architecture", Gguf().Header(0, 0).Data(32), "?"),
      Key("unknown architecture", Gguf().Key("general.architecture", 8).Str("mamba"), "?"),
  });
}

TEST_CASE("GGUF tensors that lie about themselves are refused", "[apps][bad]") {
  CheckBadInputs({
      Tensor("5 dimensions", Gguf().Tensor("t", {1, 1, 1, 1, 1}), 32, "?"),
      Tensor("no dimensions", Gguf().Tensor("t", {}), 32, "?"),
      Tensor("ne = 0", Gguf().Tensor("t", {0}), 32, "?"),
      Tensor("ne = -1", Gguf().Tensor("t", {~uint64_t{0}}), 32, "?"),
      Tensor("wrapping ne", Gguf().Tensor("t", {uint64_t{1} << 33, uint64_t{1} << 33}), 32, "?"),
      Tensor("type 4, removed", Gguf().Tensor("t", {32}, 4), 32, "?"),
      Tensor("type 31, removed", Gguf().Tensor("t", {32}, 31), 32, "?"),
      Tensor("type 999", Gguf().Tensor("t", {32}, 999), 32, "?"),
      Tensor("a type that is not decoded", Gguf().Tensor("t", {256}, 16), 96, "?", 4),
      Tensor("ne[0] is no whole block", Gguf().Tensor("t", {33}, 2), 64, "?"),
      Tensor("name of 64 bytes", Gguf().Tensor(std::string(64, 'n'), {8}), 32, "?"),
      Tensor("empty name", Gguf().Tensor("", {8}), 32, "?"),
      Tensor("data past the end", Gguf().Tensor("t", {16}), 32, "?"),
      Tensor("bytes behind the data", Gguf().Tensor("t", {8}), 96, "?"),
      Tensor("offset gap", Gguf().Tensor("t", {8}, 0, 32), 64, "?"),
      Tensor("offset past the end", Gguf().Tensor("t", {8}, 0, uint64_t{1} << 62), 32, "?"),
      File("name twice", Gguf().Header(2, 0).Tensor("t", {8}).Tensor("t", {8}, 0, 32).Data(64), "?"),
      File("offset overlap", Gguf().Header(2, 0).Tensor("t", {8}).Tensor("u", {8}, 0, 0).Data(64), "?"),
  });
}

}  // namespace
}  // namespace spikefold::testing
