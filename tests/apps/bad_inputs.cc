#include "tests/apps/bad_inputs.h"

#include "absl/strings/str_replace.h"

namespace spikefold::testing {

void CheckBadInput(const BadInput& input) {
  INFO(input.what);
  const Workplace w;
  input.spoil(w);
  const auto before = ListDirectory(w.directory.path());
  const std::string gguf = w / "model.gguf";
  const Finished run =
      RunSpikefold({"quantize", PathExists(gguf) ? gguf : w.model, "--scheme", "w8a16", "-o", w / "out"},
                   {.max_memory = uint64_t{1} << 30});
  CHECK(run.exit == input.exit);
  CHECK(absl::StrReplaceAll(run.err, {{w.directory.path(), "$W"}}) ==
        "spikefold quantize: " + input.message + "\n");
  CHECK(run.out.empty());
  CHECK(*ListDirectory(w.directory.path()) == *before);
}

void CheckBadInputs(const std::vector<BadInput>& inputs) {
  for (const BadInput& input : inputs) CheckBadInput(input);
}

std::string SafetensorsBytes(uint64_t claimed_length, const std::string& header, size_t data_bytes) {
  std::string bytes(8, '\0');
  for (size_t i = 0; i < 8; ++i) bytes[i] = static_cast<char>(claimed_length >> (8 * i) & 0xff);
  return bytes + header + std::string(data_bytes, '\1');
}
std::string SafetensorsBytes(const std::string& header, size_t data_bytes) {
  return SafetensorsBytes(header.size(), header, data_bytes);
}

void ReplaceInFile(const std::string& path, const std::string& from, const std::string& to) {
  std::string text = ReadAll(path);
  const size_t at = text.find(from);
  INFO(path << " " << from);
  REQUIRE(at != std::string::npos);
  REQUIRE(text.find(from, at + 1) == std::string::npos);
  WriteBytes(path, text.replace(at, from.size(), to));
}

std::function<void(const Workplace&)> WithConfig(const std::string& key, const std::string& json) {
  return [=](const Workplace& w) {
    const std::string path = w.model + "/config.json";
    auto config = ParseJson(ReadAll(path), path);
    const auto value = ParseJson(json, "value");
    REQUIRE(config.ok());
    REQUIRE(value.ok());
    config->Set(key, *value);
    WriteBytes(path, config->Dump(1));
  };
}

}  // namespace spikefold::testing
