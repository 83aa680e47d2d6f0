#include "formats/base/weight_memory.h"

#include <catch2/catch.hpp>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

namespace spikefold {
namespace {

struct Allocation {
  unsigned char* at;
  size_t bytes;
  unsigned char value;
};

bool Holds(const Allocation& a) {
  for (size_t i = 0; i < a.bytes; ++i) {
    if (a.at[i] != a.value) return false;
  }
  return true;
}

}  // namespace

TEST_CASE("Weight memory is zeroed, aligned and nobody else's, in any order of coming and going",
          "[weights]") {
  std::mt19937 random(3);
  // From nothing to more than half a slab, which gets a slab of its own.
  const size_t sizes[] = {0, 1, 63, 64, 100'000, 3'000'000, 20'000'000};
  std::vector<Allocation> live;
  for (int step = 0; step < 120; ++step) {
    if (step % 3 == 2) {
      const size_t i = random() % live.size();
      CHECK(Holds(live[i]));
      FreeWeights(live[i].at);
      live.erase(live.begin() + static_cast<std::ptrdiff_t>(i));
      continue;
    }
    Allocation a = {nullptr, sizes[random() % 7], static_cast<unsigned char>(step + 1)};
    a.at = static_cast<unsigned char*>(AllocateWeights(a.bytes));
    REQUIRE(reinterpret_cast<uintptr_t>(a.at) % 64 == 0);
    CHECK(Holds({a.at, a.bytes, 0}));
    std::memset(a.at, a.value, a.bytes);
    live.push_back(a);
    if (live.size() > 12) {
      FreeWeights(live.front().at);
      live.erase(live.begin());
    }
  }
  for (const Allocation& a : live) {
    CHECK(Holds(a));
    FreeWeights(a.at);
  }
  FreeWeights(nullptr);
  CHECK_THROWS_AS(AllocateWeights(SIZE_MAX), std::bad_alloc);
}

}  // namespace spikefold
