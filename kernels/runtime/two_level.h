// Weights in groups whose scales are whole multiples of one scale a channel: then the matrix is one of INT8
// codes with a scale a channel, and its products with INT8 rows are integers up to the end (two integer
// levels, as in QServe, arXiv 2405.04532).
//   w[n,k] = scale[n] * (factor[n,g] * (code[n,k] - zero[n,g]))
// What a file says of it are the group scales alone; that they are multiples is found in their values.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "kernels/runtime/weights.h"

namespace spikefold {

inline constexpr int kMaxGroupFactor = 16;

struct TwoLevel {
  std::vector<float> scale;     // [n]
  std::vector<uint8_t> factor;  // [n, k/group], 1 to kMaxGroupFactor
};

// Of a row the scale is its smallest group scale over the first of 1, 2, ... that makes every group's a
// multiple, exactly. Empty: the weight has no groups or more than 4 bits, a row has no such scale, or some
// factor * (code - zero) lies outside -127 to 127.
std::optional<TwoLevel> FindTwoLevel(const CodeMatrix& w);

// The same where products with rows of this form are computed so, on every backend: they are codes with one
// scale a row and no wide zero points, and no scale is close to where float32 loses bits.
std::optional<TwoLevel> TwoLevelsFor(const CodeMatrix& w, const ActivationFormat& act);

}  // namespace spikefold
