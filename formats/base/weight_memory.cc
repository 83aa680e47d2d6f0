#include "formats/base/weight_memory.h"

#include <sys/mman.h>

#include <cstdint>
#include <mutex>
#include <new>

namespace spikefold {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kSlabBytes = size_t{32} << 20;
constexpr size_t kAlignment = 64;
constexpr size_t kSlack = 64;  // vector loads may read past the end of an allocation

// At the start of each slab, which starts on a huge page.
struct Slab {
  size_t bytes = 0;  // of the mapping
  size_t used = 0;   // bump pointer, header included
  int64_t live = 0;  // allocations
};
// Before each allocation.
struct alignas(kAlignment) Prefix {
  Slab* slab;
};

std::mutex mutex;
Slab* open_slab = nullptr;  // takes further allocations

size_t RoundUp(size_t n, size_t to) { return (n + to - 1) / to * to; }

Slab* MapSlab(size_t bytes) {
  bytes = RoundUp(bytes, kHugePage);
  void* mapped = mmap(nullptr, bytes + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) throw std::bad_alloc();
  char* begin = static_cast<char*>(mapped);
  char* aligned =
      begin + (RoundUp(reinterpret_cast<uintptr_t>(begin), kHugePage) - reinterpret_cast<uintptr_t>(begin));
  if (aligned > begin) munmap(begin, static_cast<size_t>(aligned - begin));
  if (aligned < begin + kHugePage) munmap(aligned + bytes, static_cast<size_t>(begin + kHugePage - aligned));
  (void)madvise(aligned, bytes, MADV_HUGEPAGE);  // a wish; without it everything works, slower
  return new (aligned) Slab{.bytes = bytes, .used = RoundUp(sizeof(Slab), kAlignment)};
}

}  // namespace

void* AllocateWeights(size_t bytes) {
  if (bytes > SIZE_MAX / 2) throw std::bad_alloc();
  const size_t size = sizeof(Prefix) + RoundUp(bytes, kAlignment) + kSlack;
  const size_t header = RoundUp(sizeof(Slab), kAlignment);
  const std::lock_guard<std::mutex> lock(mutex);
  Slab* slab = open_slab;
  if (slab == nullptr || slab->bytes - slab->used < size) {
    const bool alone = size + header > kSlabBytes / 2;  // what is large gets a slab of its own
    slab = MapSlab(alone ? size + header : kSlabBytes);
    if (!alone) open_slab = slab;
  }
  char* at = reinterpret_cast<char*>(slab) + slab->used;
  slab->used += size;
  ++slab->live;
  return new (at) Prefix{slab} + 1;
}

void FreeWeights(void* memory) {
  if (memory == nullptr) return;
  const std::lock_guard<std::mutex> lock(mutex);
  Slab* slab = (static_cast<Prefix*>(memory) - 1)->slab;
  if (--slab->live > 0) return;
  if (slab == open_slab) open_slab = nullptr;
  munmap(slab, slab->bytes);
}

}  // namespace spikefold
