#include <immintrin.h>

#include "kernels/ceiling/ceiling.h"

namespace spikefold::kernels {
namespace {

constexpr int kChains = 12, kSteps = 4096;

void FloatChain() {
  const __m512 x = _mm512_set1_ps(0.5f);
  __m512 acc[kChains];
#pragma GCC unroll 12
  for (int j = 0; j < kChains; ++j) acc[j] = x;
  for (int i = 0; i < kSteps; ++i) {
#pragma GCC unroll 12
    for (int j = 0; j < kChains; ++j) asm volatile("vfmadd231ps %1, %1, %0" : "+v"(acc[j]) : "v"(x));
  }
}

}  // namespace

const Chain kFloatChainAvx512 = {FloatChain, 32.0 * kChains* kSteps};

}  // namespace spikefold::kernels
