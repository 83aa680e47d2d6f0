// The libFuzzer binary of all targets: the environment names the one to run, as SPIKEFOLD_FUZZ_TARGET=gguf.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>

#include "tests/fuzz/mutate.h"
#include "tests/fuzz/targets.h"

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const spikefold::fuzz::Target* const target = [] {
    const char* const name = std::getenv("SPIKEFOLD_FUZZ_TARGET");
    return spikefold::fuzz::FindTarget(name == nullptr ? "" : name);
  }();
  FUZZ_CHECK(target != nullptr);
  target->run({reinterpret_cast<const char*>(data), size});
  return 0;
}

// Half of the mutations change what stands behind a length and correct the length, so that they reach beyond
// the framing.
extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned seed) {
  const spikefold::fuzz::LengthPrefixed field =
      seed % 2 == 0
          ? spikefold::fuzz::FindLengthPrefixed({reinterpret_cast<const char*>(data), size}, seed / 2)
          : spikefold::fuzz::LengthPrefixed{};
  if (field.offset == 0) return LLVMFuzzerMutate(data, size, max_size);
  const std::string tail(reinterpret_cast<const char*>(data) + field.offset + field.length,
                         size - field.offset - field.length);
  if (field.offset + tail.size() >= max_size) return LLVMFuzzerMutate(data, size, max_size);
  const size_t room = max_size - field.offset - tail.size();
  const uint64_t length = LLVMFuzzerMutate(data + field.offset, std::min(field.length, room), room);
  std::memcpy(data + field.offset - 8, &length, 8);
  std::memcpy(data + field.offset + length, tail.data(), tail.size());
  return field.offset + length + tail.size();
}
