#include <immintrin.h>

#include "kernels/ceiling/ceiling.h"

namespace spikefold::kernels {
namespace {

constexpr int kChains = 12, kSteps = 4096;

void Int8Chain() {
  const __m512i x = _mm512_set1_epi8(1);
  __m512i acc[kChains];
#pragma GCC unroll 12
  for (int j = 0; j < kChains; ++j) acc[j] = x;
  for (int i = 0; i < kSteps; ++i) {
#pragma GCC unroll 12
    for (int j = 0; j < kChains; ++j) asm volatile("vpdpbusd %1, %1, %0" : "+v"(acc[j]) : "v"(x));
  }
}

}  // namespace

const Chain kInt8ChainAvx512Vnni = {Int8Chain, 128.0 * kChains* kSteps};

}  // namespace spikefold::kernels
