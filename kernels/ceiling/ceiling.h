// What this machine can do at best, measured in the same run as the kernels: their times mean little alone.
#pragma once

#include "formats/base/thread_pool.h"

namespace spikefold::kernels {

struct Ceilings {
  double read_bytes = 0;  // per second, all threads reading memory beyond any cache
  double float_ops =
      0;  // per second, all threads: independent float32 multiply-adds in registers (2 ops each)
  double int8_ops = 0;  // per second, all threads: independent int8 dot products in registers
};
// The first of them alone. Takes a tenth of a second.
double MeasureReadRate(ThreadPool& pool);
// At ActiveIsa(). Takes about half a second.
Ceilings MeasureCeilings(ThreadPool& pool);

// Operations of one call of a chain; each call takes a few microseconds to a millisecond.
struct Chain {
  void (*run)();
  double ops;
};
extern const Chain kFloatChainPlain, kFloatChainAvx2, kFloatChainAvx512;
extern const Chain kInt8ChainPlain, kInt8ChainAvx2, kInt8ChainAvx512Vnni;

}  // namespace spikefold::kernels
