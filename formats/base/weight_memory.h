// Memory for what is written once and then read over and over: packed weights.
//
// Decoding reads every weight for every token. On 4 KiB pages that is bound by address translation (measured
// in a virtual machine: 17 GB/s where 2 MiB pages give 28), so weights share slabs of 2 MiB pages, asked for
// by madvise where the system grants them. A slab is returned when nothing in it is left: do not put
// short-lived buffers here.
#pragma once

#include <cstddef>

namespace spikefold {

// Zeroed, 64-byte aligned, at least 64 readable bytes behind it. Throws std::bad_alloc. Thread-safe.
void* AllocateWeights(size_t bytes);
void FreeWeights(void* memory);  // what AllocateWeights returned, or null

}  // namespace spikefold
