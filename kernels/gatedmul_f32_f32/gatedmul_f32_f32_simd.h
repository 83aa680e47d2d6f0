// gatedmul_f32_f32 for a vector level.
//
// Both activations are g * sigmoid(t), computed from e^-|t|: sigmoid is 1 / (1 + e) above zero and e / (1 +
// e) below. The power of two of that e in the numerator is applied last, so a small result loses no digits.
#pragma once

#include <cstdint>

#include "kernels/cpu/vec_math.h"
#include "kernels/gatedmul_f32_f32/gatedmul_f32_f32_isa.h"

namespace spikefold::kernels::gatedmul_f32_f32 {
namespace {

// t as the sum of two floats.
struct Argument {
  F32 high, low;
};

// SiLU: t = g.
struct Silu {
  SF_INLINE static Argument Of(F32 g) { return {g, Zero()}; }
};

// GELU, tanh form: t = 2u = g * (c0 + c1 * g^2), c0 = 2 * sqrt(2 / pi), c1 = 0.044715 * c0. One float would
// leave e^-|t| an error of |t| * 2^-24. Beyond 25 the result is g or 0.
struct GeluTanh {
  SF_INLINE static Argument Of(F32 gate) {
    const F32 g = Min(Set1(25.0f), Max(Set1(-25.0f), gate));
    const F32 c0 = Set1(0x1.988454p+0f), c0_low = Set1(-0x1.857936p-25f);
    const F32 c1 = Set1(0x1.2444f2p-4f), c1_low = Set1(0x1.49b16ap-29f);
    const F32 square = g * g, square_low = Fma(g, g, Zero() - square);
    const F32 cubic = c1 * square, cubic_low = Fma(c1, square, Zero() - cubic);
    const F32 p = cubic + c0, part = p - cubic;  // the sum's error as in Knuth's TwoSum
    const F32 p_error = (cubic - (p - part)) + (c0 - part);
    const F32 p_low = p_error + (cubic_low + (c0_low + Fma(c1_low, square, c1 * square_low)));
    const F32 t = g * p;
    return {t, Fma(g, p_low, Fma(g, p, Zero() - t))};
  }
};

template <typename Form>
SF_INLINE F32 Apply(F32 g, F32 up) {
  const Argument t = Form::Of(g);
  const F32 zero = Zero(), one = Set1(1.0f);
  const F32 x = Max(Set1(-174.0f), IfLess(t.high, zero, t.high, zero - t.high));  // -|t|; 2^n in range
  const F32 x_low = IfLess(t.high, zero, t.low, zero - t.low);
  F32 n;
  const F32 reduced = ExpReduced(ReduceByLn2(x, n) + x_low);
  const F32 e = ScaleByPowerOfTwo(reduced, n);
  const F32 numerator = IfLess(t.high, zero, reduced, one), exponent = IfLess(t.high, zero, n, zero);
  return ScaleByPowerOfTwo(g * numerator / (one + e) * up, exponent);
}

template <typename Form>
SF_INLINE void ApplyRange(const Params& p, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; i += kLanes) {
    StoreN(p.y + i, Apply<Form>(LoadN(p.gate + i, end - i), LoadN(p.up + i, end - i)), end - i);
  }
}

void RunRange(const Params& p, int64_t begin, int64_t end) {
  if (p.activation == Activation::kSilu) {
    ApplyRange<Silu>(p, begin, end);
  } else {
    ApplyRange<GeluTanh>(p, begin, end);
  }
}

}  // namespace
}  // namespace spikefold::kernels::gatedmul_f32_f32
