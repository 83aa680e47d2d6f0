// Local improvements of one rounded row in the norm of its Hessian: loss = e H e^T, e = w - scale * code.
#pragma once

#include <cstdint>

namespace spikefold {

struct RowState {
  int64_t k = 0, width = 0;                  // columns, columns a group
  const float* h = nullptr;                  // [k, k]
  float damping = 0;                         // added to its diagonal
  float* code = nullptr;                     // [k] code - zero
  float* error = nullptr;                    // [k] e
  float* gradient = nullptr;                 // [k] (H + damping) e
  const float* scale = nullptr;              // [k / width]
  const float *lo = nullptr, *hi = nullptr;  // [k / width] bounds of the codes
  const uint8_t* fixed = nullptr;            // [k] 1: not to be changed
};

// Moves one code after the other to where the loss is least with all others as they are, until a pass changes
// nothing or `max_passes` are done. Every move lowers the loss. Returns how many codes moved.
int64_t DescendRow(const RowState& row, int max_passes);

}  // namespace spikefold
