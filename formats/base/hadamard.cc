#include "formats/base/hadamard.h"

#include <array>
#include <bit>
#include <cstdlib>
#include <map>
#include <mutex>

#include "formats/base/hadamard_signs.h"

namespace spikefold {
namespace {

// Circulants whose first row is constant on the cosets g^c * {h : h^(cosets) = +-1} of the units modulo the
// prime p = order / 4: 1 at 0, and 1 or -1 on coset c by bit c. Found by search over the sums of squared
// Fourier coefficients, which must be 4p at every frequency.
struct Williamson {
  int64_t p, generator, num_cosets;
  std::array<uint32_t, 4> bits;  // of A, B, C, D
};
constexpr Williamson kWilliamson[] = {
    {3, 2, 1, {1, 0, 0, 0}},
    {13, 2, 6, {1, 14, 21, 37}},
    {23, 5, 11, {15, 699, 860, 1559}},
    {43, 3, 7, {15, 38, 58, 108}},
};
const Williamson* FindWilliamson(int64_t order) {
  for (const Williamson& w : kWilliamson) {
    if (4 * w.p == order) return &w;
  }
  return nullptr;
}

class Table {
 public:
  explicit Table(int64_t order) : n_(order), h_(static_cast<size_t>(order * order)) {}

  std::vector<int8_t> Make() {
    if (IsPowerOfTwo(n_)) {
      FillSylvester();
    } else if (const Williamson* w = FindWilliamson(n_); w != nullptr) {
      FillWilliamson(*w);
    } else {
      FillPaley();
    }
    return std::move(h_);
  }

 private:
  void Set(int64_t i, int64_t j, int value) {
    h_[static_cast<size_t>(i * n_ + j)] = static_cast<int8_t>(value);
  }

  void FillSylvester() {
    for (int64_t i = 0; i < n_; ++i) {
      for (int64_t j = 0; j < n_; ++j)
        Set(i, j, std::popcount(static_cast<uint64_t>(i & j)) % 2 == 0 ? 1 : -1);
    }
  }

  void FillPaley() {
    for (int64_t i = 0; i < n_; ++i) {
      for (int64_t j = 0; j < n_; ++j) Set(i, j, PaleySign(n_, i, j));
    }
  }

  void FillWilliamson(const Williamson& w) {
    std::vector<int64_t> coset(static_cast<size_t>(w.p));
    int64_t power = 1;
    for (int64_t e = 0; e < w.p - 1; ++e, power = power * w.generator % w.p) {
      coset[static_cast<size_t>(power)] = e % w.num_cosets;
    }
    // Which circulant stands in block (r, c), and its sign.
    static constexpr int kBlock[4][4] = {{0, 1, 2, 3}, {1, 0, 3, 2}, {2, 3, 0, 1}, {3, 2, 1, 0}};
    static constexpr int kSign[4][4] = {{1, 1, 1, 1}, {-1, 1, -1, 1}, {-1, 1, 1, -1}, {-1, -1, 1, 1}};
    for (int64_t i = 0; i < n_; ++i) {
      for (int64_t j = 0; j < n_; ++j) {
        const int64_t r = i / w.p, c = j / w.p, d = (j % w.p + w.p - i % w.p) % w.p;
        const uint32_t bits = w.bits[static_cast<size_t>(kBlock[r][c])];
        const bool plus = d == 0 || (bits >> coset[static_cast<size_t>(d)] & 1) != 0;
        Set(i, j, plus ? kSign[r][c] : -kSign[r][c]);
      }
    }
  }

  const int64_t n_;
  std::vector<int8_t> h_;
};

// The smallest order odd * 4, odd * 8, ... with a table; 0 if none.
int64_t TableOrderOf(int64_t odd) {
  for (int64_t order = 4 * odd; order <= kMaxHadamardOrder; order *= 2) {
    if (HasHadamardTable(order)) return order;
  }
  return 0;
}

// Additions an element: 12 has a fast form, other tables are dense, a power of two is butterflies. Stored
// rotations are made of what this chooses: that paired tables take half of it came later and changes nothing.
int64_t Cost(int64_t order) {
  if (IsPowerOfTwo(order)) return std::countr_zero(static_cast<uint64_t>(order));
  return order == 12 ? 5 : order;
}
int64_t Cost(const std::vector<int64_t>& factors) {
  int64_t cost = 0;
  for (const int64_t f : factors) cost += Cost(f);
  return cost;
}

constexpr int kMaxTables = 3;

// Cheapest factors of odd * 2^exponent with at most `tables` tables of non-increasing order `limit`.
std::vector<int64_t> Best(int64_t odd, int exponent, int tables, int64_t limit) {
  if (odd == 1) return {int64_t{1} << exponent};
  std::vector<int64_t> best;
  if (tables == 0) return best;
  for (int64_t d = 3; d <= odd && 4 * d <= kMaxHadamardOrder; d += 2) {
    const int64_t order = odd % d == 0 ? TableOrderOf(d) : 0;
    if (order == 0 || order > limit) continue;
    const int used = std::countr_zero(static_cast<uint64_t>(order));
    if (used > exponent) continue;
    std::vector<int64_t> rest = Best(odd / d, exponent - used, tables - 1, order);
    if (rest.empty()) continue;
    rest.insert(rest.begin(), order);
    if (best.empty() || Cost(rest) < Cost(best)) best = std::move(rest);
  }
  return best;
}

}  // namespace

bool IsPowerOfTwo(int64_t n) { return n >= 1 && std::has_single_bit(static_cast<uint64_t>(n)); }

bool HasHadamardTable(int64_t order) {
  if (order < 1 || order > kMaxHadamardOrder) return false;
  if (IsPowerOfTwo(order)) return true;
  return order % 4 == 0 && (FindWilliamson(order) != nullptr || IsPaley1(order) || IsPaley2(order));
}

const std::vector<int8_t>& HadamardTable(int64_t order) {
  static std::mutex mutex;
  static std::map<int64_t, std::vector<int8_t>> tables;  // never moves its values
  if (!HasHadamardTable(order)) std::abort();
  const std::lock_guard<std::mutex> lock(mutex);
  std::vector<int8_t>& table = tables[order];
  if (table.empty()) table = Table(order).Make();
  return table;
}

bool IsPairedHadamard(int64_t order) {
  return HasHadamardTable(order) && !IsPowerOfTwo(order) && FindWilliamson(order) == nullptr &&
         !IsPaley1(order);
}

std::vector<float> HadamardFactorTable(int64_t order) {
  const std::vector<int8_t>& table = HadamardTable(order);
  if (!IsPairedHadamard(order)) return {table.begin(), table.end()};
  std::vector<float> c;
  for (int64_t i = 0; i < order; i += 2) {
    for (int64_t j = 0; j < order; j += 2) {
      c.push_back(i == j ? 0.0f : static_cast<float>(table[static_cast<size_t>(i * order + j)]));
    }
  }
  return c;
}

std::vector<int64_t> HadamardFactors(int64_t n) {
  if (n < 1) return {};
  const int exponent = std::countr_zero(static_cast<uint64_t>(n));
  return Best(n >> exponent, exponent, kMaxTables, kMaxHadamardOrder);
}

std::vector<int64_t> HadamardBlockFactors(int64_t n) {
  for (int64_t blocks = 1; blocks <= n; ++blocks) {
    if (n % blocks != 0) continue;
    std::vector<int64_t> factors = HadamardFactors(n / blocks);
    if (!factors.empty()) return factors;
  }
  return {};
}

}  // namespace spikefold
