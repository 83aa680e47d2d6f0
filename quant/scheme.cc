#include "quant/scheme.h"

#include <array>
#include <cstdint>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "formats/base/suggest.h"

namespace spikefold {
namespace {

using enum Granularity;
// Below 8 bits weights have zero points: at equal bits they lose a quarter less than codes around 0
// (docs/results.md); so do activations of 4 bits, whose 16 levels then span the range of their row.
constexpr Scheme Grouped(const char* name, int bits, int activation_bits, Granularity activation_scales,
                         const char* summary) {
  return {.name = name,
          .weight_bits = bits,
          .weight_scales = kPerGroup,
          .activation_bits = activation_bits,
          .activation_scales = activation_scales,
          .summary = summary,
          .weights_symmetric = false,
          .activations_symmetric = activation_bits != 4,
          .activation_group = activation_scales == kPerGroup ? 64 : 0};
}
constexpr std::array<Scheme, 11> kSchemes = {{
    {"w8a16", 8, kPerChannel, 16, kNone, "INT8 weights per channel, float activations"},
    {"w8a8", 8, kPerChannel, 8, kPerToken, "INT8 weights per channel, INT8 activations per token"},
    {"w8a8-static", 8, kPerChannel, 8, kPerTensor,
     "INT8 weights per channel, INT8 activations with one static scale"},
    Grouped("w4a16", 4, 16, kNone, "4-bit weights, float activations"),
    Grouped("w3a16", 3, 16, kNone, "3-bit weights, float activations"),
    Grouped("w2a16", 2, 16, kNone, "2-bit weights, float activations"),
    Grouped("w4a8", 4, 8, kPerToken, "4-bit weights, INT8 activations per token"),
    Grouped("w4a8-static", 4, 8, kPerTensor, "4-bit weights, INT8 activations with one static scale"),
    Grouped("w4a4", 4, 4, kPerToken, "4-bit weights, INT4 activations per token"),
    Grouped("w4a4-group", 4, 4, kPerGroup, "4-bit weights, INT4 activations per group"),
    Grouped("w4a4-static", 4, 4, kPerTensor, "4-bit weights, INT4 activations with one static scale"),
}};
constexpr std::array<int, 7> kGroupSizes = {64, 128, 32, 96, 192, 48, 16};

}  // namespace

absl::Span<const Scheme> Schemes() { return kSchemes; }

absl::StatusOr<const Scheme*> FindScheme(absl::string_view name) {
  std::vector<std::string> names;
  for (const Scheme& scheme : kSchemes) {
    if (name == scheme.name) return &scheme;
    names.emplace_back(scheme.name);
  }
  return absl::InvalidArgumentError(absl::StrCat("scheme \"", name, "\" is unknown", DidYouMean(name, names),
                                                 "; use ", absl::StrJoin(names, ", ")));
}

WeightFormat WeightFormatOf(const Scheme& scheme, bool symmetric) {
  return {.bits = scheme.weight_bits, .grouped = scheme.weight_scales == kPerGroup, .symmetric = symmetric};
}

ActivationFormat ActivationFormatOf(const Scheme& scheme, bool symmetric) {
  using Scales = ActivationFormat::Scales;
  if (scheme.activation_scales == kNone) return ActivationFormat::kFloat;
  return {.bits = scheme.activation_bits,
          .scales = scheme.activation_scales == kPerToken   ? Scales::kToken
                    : scheme.activation_scales == kPerGroup ? Scales::kGroup
                                                            : Scales::kTensor,
          .group = scheme.activation_group,
          .symmetric = symmetric};
}

absl::Status CheckFormats(const WeightFormat& weights, const ActivationFormat& activations) {
  const std::string w = FormatWord(weights), a = FormatWord(activations);
  const auto parsed = ParseActivationFormat(a);
  if (!weights.is_float() && !ParseWeightFormat(w).ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("weights of ", weights.bits, " bits; use 2, 3, 4 or 8, or float"));
  }
  if (!parsed.ok() || *parsed != activations) {
    return absl::InvalidArgumentError(absl::StrCat("activations \"", a, "\" of ", activations.bits,
                                                   " bits in groups of ", activations.group,
                                                   "; use 4 or 8 bits, or 4 in groups of 32, 64 or 128"));
  }
  if (weights.is_float() && !activations.is_float()) {
    return absl::InvalidArgumentError(
        absl::StrCat("float weights on ", FormatText(activations), " activations; quantize both"));
  }
  return absl::OkStatus();
}

int DefaultGroupSize(absl::Span<const int64_t> widths) {
  constexpr int kSmallest = 16;  // divides the others
  for (const int group : kGroupSizes) {
    bool all = true, any = false;
    for (const int64_t k : widths) {
      all = all && (k % group == 0 || k % kSmallest != 0);
      any = any || k % group == 0;
    }
    if (all && any) return group;
  }
  return 0;
}

absl::Status CheckGroupSize(absl::string_view module, int64_t k, int group_size) {
  const bool supported = group_size >= 16 && group_size <= 256 && group_size % 16 == 0;
  if (supported && k % group_size == 0) return absl::OkStatus();
  std::vector<int> usable;
  for (int group = 16; group <= 256; group += 16) {
    if (k % group == 0) usable.push_back(group);
  }
  const std::string remedy = usable.empty()
                                 ? std::string("no group size fits this width; use an 8-bit scheme")
                                 : absl::StrCat("use ", absl::StrJoin(usable, ", "));
  if (!supported) {
    return absl::InvalidArgumentError(absl::StrCat(module, ": group_size=", group_size,
                                                   " is not a multiple of 16 from 16 to 256; ", remedy));
  }
  return absl::InvalidArgumentError(
      absl::StrCat(module, ": K=", k, " is not a multiple of group_size=", group_size, "; ", remedy));
}

}  // namespace spikefold
