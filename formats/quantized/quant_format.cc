#include "formats/quantized/quant_format.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "formats/base/json.h"
#include "formats/quantized/trellis.h"

namespace spikefold {
namespace {

constexpr char kKnownWeights[] =
    "s8c, s8g, s4c, s4g, s3c, s3g, s2c, s2g, each also with u for s, t2c to t6c, bf16, f16, f32";
constexpr char kKnownActivations[] =
    "float, s8r, s8t, s4r, s4t, s4g32, s4g64, s4g128, each also with u for s";

absl::Status Unknown(absl::string_view word, absl::string_view known) {
  return absl::UnimplementedError(absl::StrCat("\"", Printable(word), "\" is not supported; known: ", known));
}

char SignLetter(bool symmetric) { return symmetric ? 's' : 'u'; }

char ScalesLetter(ActivationFormat::Scales scales) {
  return scales == ActivationFormat::Scales::kToken   ? 'r'
         : scales == ActivationFormat::Scales::kGroup ? 'g'
                                                      : 't';
}

}  // namespace

std::string FormatWord(const WeightFormat& f) {
  if (f.is_float()) return "float";
  const char letter = f.trellis ? 't' : SignLetter(f.symmetric);
  return absl::StrCat(std::string(1, letter), f.bits, f.grouped ? "g" : "c");
}

std::string FormatWord(const ActivationFormat& f) {
  if (f.is_float()) return "float";
  std::string word =
      absl::StrCat(std::string(1, SignLetter(f.symmetric)), f.bits, std::string(1, ScalesLetter(f.scales)));
  if (f.scales == ActivationFormat::Scales::kGroup) absl::StrAppend(&word, f.group);
  return word;
}

// A word is taken if it is what some format is called: no second spelling can slip in.
absl::StatusOr<WeightFormat> ParseWeightFormat(absl::string_view word) {
  for (const int bits : {8, 4, 3, 2}) {
    for (const bool grouped : {false, true}) {
      for (const bool symmetric : {true, false}) {
        const WeightFormat f{.bits = bits, .grouped = grouped, .symmetric = symmetric};
        if (word == FormatWord(f)) return f;
      }
    }
  }
  for (int bits = kTrellisMinBits; bits <= kTrellisMaxBits; ++bits) {
    const WeightFormat f{.bits = bits, .trellis = true};
    if (word == FormatWord(f)) return f;
  }
  return Unknown(word, kKnownWeights);
}

absl::StatusOr<ActivationFormat> ParseActivationFormat(absl::string_view word) {
  using Scales = ActivationFormat::Scales;
  if (word == "float") return ActivationFormat::kFloat;
  for (const bool symmetric : {true, false}) {
    for (const int bits : {8, 4}) {
      for (const Scales scales : {Scales::kToken, Scales::kTensor}) {
        const ActivationFormat f{.bits = bits, .scales = scales, .symmetric = symmetric};
        if (word == FormatWord(f)) return f;
      }
    }
    for (const int64_t group : {32, 64, 128}) {
      const ActivationFormat f{.bits = 4, .scales = Scales::kGroup, .group = group, .symmetric = symmetric};
      if (word == FormatWord(f)) return f;
    }
  }
  return Unknown(word, kKnownActivations);
}

std::string FormatText(const WeightFormat& f, int64_t group) {
  if (f.is_float()) return "float";
  if (f.trellis) return absl::StrCat(f.bits, "-bit trellis codes per channel");
  return absl::StrCat("INT", f.bits, f.grouped ? absl::StrCat(" in groups of ", group) : " per channel",
                      f.symmetric ? "" : ", asymmetric");
}

std::string FormatText(const ActivationFormat& f) {
  if (f.is_float()) return "float";
  const std::string scales = f.scales == ActivationFormat::Scales::kToken ? " per token"
                             : f.scales == ActivationFormat::Scales::kGroup
                                 ? absl::StrCat(" in groups of ", f.group)
                                 : " static";
  return absl::StrCat("INT", f.bits, scales, f.symmetric ? "" : ", asymmetric");
}

}  // namespace spikefold
