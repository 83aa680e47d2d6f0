// cholesky_f64 on a GPU: A = L L^T in place, float64.
// Layout    row-major [n, n], rows `stride` doubles apart; the lower triangle is read and
//           becomes L. Of the rest, blocks on the diagonal are written.
// Method    blocks of kBlock columns: the diagonal one in shared memory by one block of threads, the rows
//           below it one a thread, then L L^T of the block comes off what lies behind it (tiles of 64 x 64).
// Exact     no: quant/rounding/cholesky.cc adds in another order. Both are float64, of which GPTQ keeps the
//           first 24 bits.
// Bound     by the float64 rate: n^3 / 6 multiply-adds.
// Targets   sm_80.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/cuda/stream.h"

namespace spikefold::kernels::cholesky_f64 {

struct CudaParams {  // device addresses
  int64_t n = 0, stride = 0;
  double* a = nullptr;
  int* failed = nullptr;  // one, set to 1 if A is not positive definite, and left alone otherwise
};
absl::Status RunCuda(const CudaParams& params, const cuda::Stream& stream);

}  // namespace spikefold::kernels::cholesky_f64
