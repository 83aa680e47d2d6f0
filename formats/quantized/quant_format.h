// How codes of weights and activations are made, and the words that say so in files and messages.
//
//   weights      [su][2348][cg]   "s4g"     signed: w = scale * code; u: w = scale * (code - zero);
//                                           bits; one scale a c(hannel) or g(roup along K)
//                t[23456]c     "t4c"     codes are steps of a path (trellis.h): w = scale * level, one scale
//                a channel
//   activations  [su][48][rgt]    "s8r"     one scale a r(ow = token), a g(roup of a row, its width follows:
//                                           "s4g64"), or one for the t(ensor): static
// Codes are signed integers in either case, and a zero point is an integer within their range, so that 0 is
// always a value of the grid.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace spikefold {

struct WeightFormat {
  int bits = 0;          // 2, 3, 4 or 8 (trellis: 2 to 6); 0: float, and nothing below matters
  bool grouped = false;  // one scale a group instead of one a channel (row of W)
  bool symmetric = true;
  bool trellis = false;  // per channel and symmetric

  static const WeightFormat kFloat, kS8c, kS4g;
  bool is_float() const { return bits == 0; }
  // Codes, and zero points where there are any. Symmetric 8-bit codes have no -128: kernels negate them.
  int lo() const { return -(1 << (bits - 1)) + (symmetric && bits == 8 ? 1 : 0); }
  int hi() const { return (1 << (bits - 1)) - 1; }
  friend bool operator==(const WeightFormat&, const WeightFormat&) = default;
};
inline constexpr WeightFormat WeightFormat::kFloat{};
inline constexpr WeightFormat WeightFormat::kS8c{.bits = 8};
inline constexpr WeightFormat WeightFormat::kS4g{.bits = 4, .grouped = true};

struct ActivationFormat {
  enum class Scales : uint8_t {
    kToken,   // one a row, found at run time
    kGroup,   // one for each `group` columns of a row, found at run time
    kTensor,  // one for all, stored
  };
  int bits = 0;  // 4 or 8; 0: float, and nothing below matters
  Scales scales = Scales::kToken;
  int64_t group = 0;  // kGroup: 32, 64 or 128; 0 otherwise
  bool symmetric = true;

  static const ActivationFormat kFloat, kS8Token, kS8Static;
  bool is_float() const { return bits == 0; }
  bool is_static() const { return bits > 0 && scales == Scales::kTensor; }
  // Codes and zero points. No 8-bit code is -128, with a zero point neither: kernels negate them.
  int lo() const { return symmetric || bits == 8 ? -hi() : -hi() - 1; }
  int hi() const { return (1 << (bits - 1)) - 1; }
  friend bool operator==(const ActivationFormat&, const ActivationFormat&) = default;
};
inline constexpr ActivationFormat ActivationFormat::kFloat{};
inline constexpr ActivationFormat ActivationFormat::kS8Token{.bits = 8};
inline constexpr ActivationFormat ActivationFormat::kS8Static{.bits = 8, .scales = Scales::kTensor};

std::string FormatWord(const WeightFormat& format);      // "s4g"; of float "float"
std::string FormatWord(const ActivationFormat& format);  // "s8r", "s4g64"; of float "float"
// Unimplemented with the words that are known. A weight's float has no word here: files name its type.
absl::StatusOr<WeightFormat> ParseWeightFormat(absl::string_view word);
absl::StatusOr<ActivationFormat> ParseActivationFormat(absl::string_view word);

// For people: "INT4 in groups of 64, asymmetric", "INT8 per channel"; "INT8 per token", "float".
std::string FormatText(const WeightFormat& format, int64_t group);
std::string FormatText(const ActivationFormat& format);

}  // namespace spikefold
