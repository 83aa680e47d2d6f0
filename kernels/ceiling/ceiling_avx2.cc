#include <immintrin.h>

#include "kernels/ceiling/ceiling.h"

namespace spikefold::kernels {
namespace {

constexpr int kChains = 10, kSteps = 4096;

void FloatChain() {
  const __m256 x = _mm256_set1_ps(0.5f);
  __m256 acc[kChains];
#pragma GCC unroll 10
  for (int j = 0; j < kChains; ++j) acc[j] = x;
  for (int i = 0; i < kSteps; ++i) {
#pragma GCC unroll 10
    for (int j = 0; j < kChains; ++j) asm volatile("vfmadd231ps %1, %1, %0" : "+x"(acc[j]) : "x"(x));
  }
}

// The widening chain of full-range codes: sign, multiply-add of bytes, of words, add.
void Int8Chain() {
  const __m256i x = _mm256_set1_epi8(1), ones = _mm256_set1_epi16(1);
  __m256i acc[kChains];
#pragma GCC unroll 10
  for (int j = 0; j < kChains; ++j) acc[j] = x;
  for (int i = 0; i < kSteps; ++i) {
#pragma GCC unroll 10
    for (int j = 0; j < kChains; ++j) {
      __m256i t;
      asm volatile("vpsignb %2, %2, %1\n\tvpmaddubsw %1, %2, %1\n\tvpmaddwd %3, %1, %1\n\tvpaddd %1, %0, %0"
                   : "+x"(acc[j]), "=&x"(t)
                   : "x"(x), "x"(ones));
    }
  }
}

}  // namespace

const Chain kFloatChainAvx2 = {FloatChain, 16.0 * kChains* kSteps};
const Chain kInt8ChainAvx2 = {Int8Chain, 64.0 * kChains* kSteps};

}  // namespace spikefold::kernels
