// verify finds one flipped bit, wherever it is.
#include <filesystem>
#include <random>

#include "formats/quantized/native.h"
#include "formats/safetensors.h"
#include "tests/apps/apps_kit.h"

namespace spikefold::testing {
namespace {

// Places in a file: all of a small one, else its ends, both ends of each tensor, and some at random.
std::vector<size_t> Places(const std::string& path, size_t size) {
  std::vector<size_t> places;
  if (size < 1000) {
    for (size_t i = 0; i < size; ++i) places.push_back(i);
    return places;
  }
  for (size_t i = 0; i < 16; ++i) places.insert(places.end(), {i, size - 1 - i});
  if (const auto file = SafetensorsFile::Open(path); file.ok()) {
    for (const SafetensorsEntry& e : (*file)->entries()) {
      places.insert(places.end(), {e.offset, e.offset + e.bytes - 1});
    }
  }
  std::mt19937 random(5);
  for (int i = 0; i < 60; ++i) places.push_back(random() % size);
  return places;
}

TEST_CASE("verify finds a single flipped bit in any file and any region of it", "[apps][verify]") {
  const Workplace w;
  const std::string out = w / "q";
  Succeed({"quantize", w.model, "--scheme", "w4a8", "--kv", "8", "-o", out, "--text", w.text, "--windows",
           "4", "--length", "64"});
  REQUIRE(NativeVerify(out).ok());
  std::mt19937 random(11);
  const auto names = ListDirectory(out);
  REQUIRE(names.ok());
  CHECK(names->size() >= 5);
  for (const std::string& name : *names) {
    CAPTURE(name);
    const std::string path = JoinPath(out, name), good = ReadAll(path);
    for (const size_t at : Places(path, good.size())) {
      std::string bad = good;
      bad[at] = static_cast<char>(bad[at] ^ (1 << random() % 8));
      WriteBytes(path, bad);
      const absl::Status status = NativeVerify(out);
      CAPTURE(at, status.ToString());
      CHECK(absl::IsDataLoss(status));
    }
    WriteBytes(path, good);
  }
  Succeed({"verify", out});
}

TEST_CASE("verify finds a file too many, one too few, and a manifest of another checkpoint",
          "[apps][verify]") {
  const Workplace w;
  const std::string out = w / "q", other = w / "other";
  Succeed({"quantize", w.model, "--scheme", "w8a16", "-o", out});
  Succeed(
      {"quantize", w.model, "--scheme", "w4a16", "--rounding", "nearest", "--group-size", "16", "-o", other});
  const std::string manifest = ReadAll(out + "/manifest.json");
  WriteBytes(out + "/notes.txt", "mine");
  CheckRefused(
      {"verify", out}, 3,
      absl::StrCat("spikefold verify: ", out, ": holds notes.txt, which the manifest does not list"));
  REQUIRE(RemoveFile(out + "/notes.txt").ok());
  WriteBytes(out + "/manifest.json", ReadAll(other + "/manifest.json"));
  const Finished run = RunSpikefold({"verify", out});
  CHECK(run.exit == 3);
  CHECK(run.err.find(absl::StrCat(out, "/manifest.json: ")) != std::string::npos);
  WriteBytes(out + "/manifest.json", manifest);
  REQUIRE(RemoveFile(out + "/tokenizer.json").ok());
  CheckRefused({"verify", out}, 3,
               absl::StrCat("spikefold verify: ", out, "/manifest.json: tokenizer.json is absent"));
}

TEST_CASE("verify names a config.json that is damaged or gone, and tells what is no checkpoint of ours",
          "[apps][verify]") {
  const Workplace w;
  const std::string out = w / "q", config = out + "/config.json";
  Succeed({"quantize", w.model, "--scheme", "w8a16", "-o", out});
  std::string bytes = ReadAll(config);
  WriteBytes(config, bytes.substr(0, bytes.size() / 2));
  const Finished damaged = RunSpikefold({"verify", out});
  CHECK(damaged.exit == 3);
  CHECK(damaged.err.find(config + ": not valid JSON") != std::string::npos);
  std::filesystem::remove(config);
  const Finished gone = RunSpikefold({"verify", out});
  CHECK(gone.exit == 6);
  CHECK(gone.err.find(config) != std::string::npos);
  CHECK(RunSpikefold({"verify", w.model}).exit == 2);
}

}  // namespace
}  // namespace spikefold::testing
