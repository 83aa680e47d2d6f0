// Hadamard matrices by their order: square, entries +-1, H * H^T = order * I. A stored rotation names orders
// only, so this file is part of the on-disk format: the matrix of an order never changes.
//
//   1, 2, 4, 8, ...    Sylvester: H[i][j] = (-1)^popcount(i & j)
//   12, 52, 92, 172    Williamson: four symmetric circulants A, B, C, D of order/4 in the array
//                      [A B C D; -B A -D C; -C D A -B; -D -C B A]. Order 12 is A = J, B = C = D = 2I - J,
//                      which has a fast transform (kernels/hadamard_f32_f32)
//   q + 1              Paley I, q a prime = 3 mod 4:  I + [0 1; -1 Q]
//   2 (q + 1)          Paley II, q a prime = 1 mod 4: C (x) [1 1; 1 -1] + I (x) [1 -1; -1 -1], C = [0 1; 1 Q]
// with Q[i][j] = the quadratic character of i - j modulo q. Of two constructions of one order the upper one
// counts. J. Williamson, "Hadamard's determinant theorem and the sum of four squares" (1944); R. E. A. C.
// Paley, "On orthogonal matrices" (1933).
#pragma once

#include <cstdint>
#include <vector>

namespace spikefold {

inline constexpr int64_t kMaxHadamardOrder = 256;  // of a table

bool IsPowerOfTwo(int64_t n);
// Whether HadamardTable() knows this order.
bool HasHadamardTable(int64_t order);
// [order, order] row-major, made once. Aborts unless HasHadamardTable(order).
const std::vector<int8_t>& HadamardTable(int64_t order);

// Whether the matrix of an order is C (x) [1 1; 1 -1] + I (x) [1 -1; -1 -1]: Paley II's. With s = a + b and t
// = a - b of neighbours a, b, x H is s C + t and t C - s by turns, half the additions.
bool IsPairedHadamard(int64_t order);
// What a product with the matrix multiplies by, row-major: C of a paired one [order/2, order/2], 0 on the
// diagonal and 1 or -1 elsewhere; otherwise the matrix. Aborts unless HasHadamardTable(order).
std::vector<float> HadamardFactorTable(int64_t order);

// Orders whose Kronecker product, the first outermost, is the matrix of order n that is cheapest to apply: at
// most three of HasHadamardTable() that are no powers of two, then one power of two of any size. Empty if n
// has none.
std::vector<int64_t> HadamardFactors(int64_t n);
// The same for the largest divisor of n that has one: the block of a block-diagonal rotation of width n.
std::vector<int64_t> HadamardBlockFactors(int64_t n);

}  // namespace spikefold
