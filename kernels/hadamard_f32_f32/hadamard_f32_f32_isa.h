// Between the dispatcher and the targets: what a row goes through.
#pragma once

#include <cstdint>

namespace spikefold::kernels::hadamard_f32_f32 {

inline constexpr int kMaxTables = 3;

// Products of `order` points that lie `stride` apart.
struct TablePass {
  int64_t order = 0, stride = 0;
  const float* table = nullptr;  // HadamardFactorTable()
  bool paired = false;           // IsPairedHadamard()
};

struct Plan {
  int64_t n = 0;
  const float* scale = nullptr;  // [n]
  int64_t power = 1;             // butterflies over so many neighbours
  int num_tables = 0;
  TablePass tables[kMaxTables];
};

using RowsFunction = void(const Plan& plan, float* x, int64_t num_rows);
RowsFunction RowsPlain, RowsAvx2, RowsAvx512;

}  // namespace spikefold::kernels::hadamard_f32_f32
