// The committed seeds, and simple mutations of each, through every target: what a fuzzer found once stays
// found. No sanitizer is needed, and each helps.
#include <catch2/catch.hpp>
#include <random>

#include "absl/strings/str_cat.h"
#include "formats/base/file.h"
#include "tests/fuzz/mutate.h"
#include "tests/fuzz/targets.h"

namespace spikefold::fuzz {
namespace {

std::string Mutated(std::string bytes, std::mt19937& random) {
  for (uint32_t steps = 1 + random() % 3; steps > 0 && !bytes.empty(); --steps) {
    const size_t at = random() % bytes.size();
    switch (random() % 5) {
      case 0:
        bytes[at] = static_cast<char>(bytes[at] ^ (1 << random() % 8));
        break;
      case 1:
        bytes.erase(at, 1 + random() % 8);
        break;
      case 2:
        bytes.insert(at, bytes.substr(random() % bytes.size(), 1 + random() % 16));
        break;
      case 3:
        bytes[at] = "09-{}[]\"\\,:e.\xFF"[random() % 14];
        break;
      default:
        if (const LengthPrefixed f = FindLengthPrefixed(bytes, random()); f.offset != 0) {
          const uint64_t length = f.length - 1;
          bytes.erase(f.offset + random() % f.length, 1);
          std::memcpy(bytes.data() + f.offset - 8, &length, 8);
        }
    }
  }
  return bytes;
}

TEST_CASE("Every target takes its seeds and mutations of them", "[fuzz]") {
  for (const Target& target : Targets()) {
    const std::string directory = absl::StrCat(SPIKEFOLD_FUZZ_CORPUS, "/", target.name);
    const auto names = ListDirectory(directory);
    INFO(directory);
    REQUIRE(names.ok());
    CHECK(!names->empty());
    std::mt19937 random(1);
    target.run("");
    for (const std::string& name : *names) {
      const auto seed = ReadFileToString(JoinPath(directory, name), 1 << 20);
      REQUIRE(seed.ok());
      target.run(*seed);
      for (int i = 0; i < 50; ++i) target.run(Mutated(*seed, random));
    }
    SUCCEED();
  }
}

}  // namespace
}  // namespace spikefold::fuzz
