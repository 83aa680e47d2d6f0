// Trellis codes: weights of 2 to 6 bits whose value depends on the codes above it in its column, so that a
// column of codes is a path through a graph of states and the best path, not the best value, is stored
// (trellis-coded quantization; M. Marcellin, T. Fischer 1990; A. Tseng et al., "QTIP", 2406.11235, for
// weights).
//
//   state_0 = c_0,   state_i = (state_(i-1) * 2^b + c_i) mod 2^12,   w_i = scale * level(state_i)
//
// c_i = code + 2^(b-1), i counts the rows of a segment: rows 256 s ... 256 s + 255 of the matrix. Levels are
// integers in -127..127, near to Gaussian; a channel has one scale. So the decoded matrix is an INT8 matrix
// with a scale a channel, and every kernel for those computes with it. Against Gaussian weights of variance 1
// the mean squared error is 0.074, 0.019, 0.0050, 0.0013, 0.00036 at 2 to 6 bits (measured, encoder of
// kernels/trellis_s8_f32); the best 16 levels without memory leave 0.0095 at 4 bits, the rate-distortion
// bound is 4^-b.
#pragma once

#include <cstdint>

namespace spikefold {

inline constexpr int kTrellisMinBits = 2, kTrellisMaxBits = 6;
inline constexpr int kTrellisStateBits = 12;
inline constexpr int kTrellisStates = 1 << kTrellisStateBits;
inline constexpr int64_t kTrellisSegment = 256;  // rows

// The level of each state [kTrellisStates]: the bytes of a multiple of the state, added up and centred. The
// multiplier is the best of 3,000 random ones by the errors above.
const int8_t* TrellisLevels();

// codes [n, k] in -2^(b-1) .. 2^(b-1) - 1 -> levels [n, k]; `levels` may be `codes`.
void DecodeTrellis(int bits, const int8_t* codes, int64_t n, int64_t k, int8_t* levels);

// Mean squared error against Gaussian weights of variance 1, and the scale at which it is reached.
double TrellisError(int bits);
double TrellisScale(int bits);

}  // namespace spikefold
