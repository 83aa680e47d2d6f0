// Signs of Paley's Hadamard matrices (formats/base/hadamard.h says which), where a compiler may ask for them.
#pragma once

#include <cstdint>

namespace spikefold {

constexpr bool IsPrime(int64_t n) {
  if (n < 2) return false;
  for (int64_t d = 2; d * d <= n; ++d) {
    if (n % d == 0) return false;
  }
  return true;
}
constexpr bool IsPaley1(int64_t order) { return IsPrime(order - 1) && (order - 1) % 4 == 3; }
constexpr bool IsPaley2(int64_t order) {
  return order % 2 == 0 && IsPrime(order / 2 - 1) && (order / 2 - 1) % 4 == 1;
}

// Quadratic character of a modulo the prime q, 0 <= a < q.
constexpr int QuadraticCharacter(int64_t a, int64_t q) {
  if (a == 0) return 0;
  for (int64_t b = 1; 2 * b < q; ++b) {
    if (b * b % q == a) return 1;
  }
  return -1;
}
// [0 1; corner Q] at (i, j), Q of the prime q.
constexpr int BorderedCharacter(int64_t i, int64_t j, int corner, int64_t q) {
  if (i == 0 || j == 0) return i == j ? 0 : (i == 0 ? 1 : corner);
  return QuadraticCharacter((i - j + q) % q, q);
}
// Entry (i, j) of the matrix of an order that IsPaley1() or, if not, IsPaley2().
constexpr int PaleySign(int64_t order, int64_t i, int64_t j) {
  if (IsPaley1(order)) return BorderedCharacter(i, j, -1, order - 1) + (i == j ? 1 : 0);
  const bool both = i % 2 == 1 && j % 2 == 1, any = i % 2 == 1 || j % 2 == 1;
  if (i / 2 == j / 2) return any ? -1 : 1;
  return BorderedCharacter(i / 2, j / 2, 1, order / 2 - 1) * (both ? -1 : 1);
}
// Bit i: entry (step * i, step * j) is -1. Orders of up to 64 * step.
constexpr uint64_t PaleyMinusOfColumn(int64_t order, int64_t step, int64_t j) {
  uint64_t minus = 0;
  for (int64_t i = 0; i < order / step; ++i) {
    if (PaleySign(order, step * i, step * j) < 0) minus |= uint64_t{1} << i;
  }
  return minus;
}

}  // namespace spikefold
