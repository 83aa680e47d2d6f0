// Elementary functions on vectors, for files that may include vec.h. Coefficients: our own minimax fits.
#pragma once

#include "kernels/cpu/vec.h"

namespace spikefold::kernels {
namespace {

// e^r for |r| <= ln(2)/2 is 1 + r + r^2 * P(r); P of degree 4 leaves a relative error of 3.6e-9, so what is
// left is rounding: below 1 ulp.
SF_INLINE F32 ExpReduced(F32 r) {
  F32 p = Set1(0x1.6a23d0p-10f);
  p = Fma(p, r, Set1(0x1.123a20p-7f));
  p = Fma(p, r, Set1(0x1.5558f2p-5f));
  p = Fma(p, r, Set1(0x1.555492p-3f));
  p = Fma(p, r, Set1(0x1.fffffcp-2f));
  return Set1(1.0f) + Fma(r * r, p, r);
}

// x = n * ln(2) + r, n whole; ln(2) in two floats.
SF_INLINE F32 ReduceByLn2(F32 x, F32& n) {
  n = Round(x * Set1(0x1.715476p+0f));
  return NegFma(n, Set1(-0x1.05c610p-29f), NegFma(n, Set1(0x1.62e430p-1f), x));
}

// e^x within 1 ulp; gradual underflow below 2^-126, 0 below about -104, infinity above about 88.7, NaN stays.
SF_INLINE F32 Exp(F32 x) {
  x = Min(Set1(100.0f), Max(Set1(-110.0f), x));
  F32 n;
  const F32 r = ReduceByLn2(x, n);
  return ScaleByPowerOfTwo(ExpReduced(r), n);
}

// e^x for x <= 0: as Exp, but 0 below -87, so that no result is subnormal; -infinity gives 0.
SF_INLINE F32 ExpNonPositive(F32 x) {
  F32 n;
  const F32 r = ReduceByLn2(x, n);
  return IfLess(x, Set1(-87.0f), Zero(), ScaleByPowerOfTwo(ExpReduced(r), n));
}

}  // namespace
}  // namespace spikefold::kernels
