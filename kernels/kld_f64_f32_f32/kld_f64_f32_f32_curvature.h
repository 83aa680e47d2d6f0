// What the targets of kld_f64_f32_f32 share.
#pragma once

namespace spikefold::kernels::kld_f64_f32_f32 {

// (x - 1 + e^-x) / x^2 for |x| <= 1, within 1e-8 (our own minimax fit), of one value or a vector of them:
// T as fma(T, T, T) takes it, made of a number by set(). In device code of nvcc, on the device alone.
template <typename T, typename Set, typename Fma>
#if defined(__CUDACC__)
__device__
#endif
    inline T
    CurvatureOf(T x, Set set, Fma fma) {
  T g = set(-2.7722835511667654e-06f);
  g = fma(g, x, set(2.535482963139657e-05f));
  g = fma(g, x, set(-0.0001984402333619073f));
  g = fma(g, x, set(0.001388545148074627f));
  g = fma(g, x, set(-0.00833331048488617f));
  g = fma(g, x, set(0.04166673496365547f));
  g = fma(g, x, set(-0.1666666716337204f));
  return fma(g, x, set(0.5f));
}

}  // namespace spikefold::kernels::kld_f64_f32_f32
