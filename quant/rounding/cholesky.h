// Cholesky factorisation and small solves in float64, by Eigen, which is included in cholesky.cc alone (four
// seconds a file).
#pragma once

#include <cstdint>

#include "formats/base/thread_pool.h"

namespace spikefold {

// A = L * L^T in place: the lower triangle of the column-major [n, n] matrix `a` is read and becomes L; the
// rest is left alone. Blocks of columns one after the other, tiles on the pool: the result does not depend
// on the threads. False (and `a` spoilt) if A is not positive definite.
bool CholeskyInPlace(double* a, int64_t n, ThreadPool& pool);

// Rows b_i A^-1 of the row-major [rows, n] matrix `b`, in place; `l` as CholeskyInPlace left it.
void CholeskySolve(const double* l, int64_t n, double* b, int64_t rows, ThreadPool& pool);

// x = A^-1 * b for a small positive definite [n, n] matrix (both triangles given); A is spoilt. False, and x
// unset, if it is not positive definite.
bool SolveSmall(double* a, const double* b, int64_t n, double* x);

}  // namespace spikefold
