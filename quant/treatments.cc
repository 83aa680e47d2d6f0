#include "quant/treatments.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "quant/folds/folds.h"

namespace spikefold {
namespace {

// Kept columns of a site where the mode asks for some and gives no number: the knee on SmolLM2-135M
// (docs/results.md); 64 of 576 inputs cost 1.8 bits a weight there, 0.25 at K = 4096.
constexpr int kDefaultKept = 64;
// Where the residual stream cannot be rotated: a 40th of its width, 0.3 bits a weight, the knee on
// Gemma-3-270M (docs/results.md); whole steps of a tensor core.
constexpr int64_t kKeptShare = 40, kKeptStep = 16;

bool HasPrefix(const OutlierMap* map, const CalibStats* stats) {
  return map != nullptr && stats != nullptr && !map->prefix.empty() && !stats->prefix.empty();
}

std::string PrefixWords(const OutlierMap& map) {
  for (const PrefixCandidate& candidate : map.prefixes) {
    if (candidate.chosen) return absl::StrCat("\"", Printable(candidate.text, 40), "\"");
  }
  return absl::StrCat("token ", absl::StrJoin(map.prefix, ", "));
}

// What pays, by what the activations' scales must bear.
Treatments Automatic(const Scheme& scheme, const OutlierMap* map, const CalibStats* stats) {
  Treatments t;
  if (map == nullptr) {
    t.reason = "no scan was made: nothing is treated";
    return t;
  }
  const bool is_static = scheme.activation_scales == Granularity::kPerTensor;
  if (!map->treatment_needed && !is_static) {
    t.reason = "no outliers: no treatment needed";
    return t;
  }
  if (scheme.weight_bits >= 8 && scheme.activation_bits == 16) {
    t.reason = "INT8 weights with float activations lose next to nothing to outliers: nothing is treated";
    return t;
  }
  t.fold = HasPrefix(map, stats);
  t.rotate = {.automatic = false, .r1 = true, .r2 = true, .r4 = true};
  t.reason = t.fold ? absl::StrCat(PrefixWords(*map),
                                   " becomes a KV prefix, so that no row of the text carries a spike")
                    : "no prefix takes the spikes away";
  t.reason += "; rotations spread the wide channels over all";
  // With INT8 weights one static scale loses too little for 0.06 bits a weight of shifts and biases.
  t.shift = scheme.activation_bits == 4 || (is_static && scheme.weight_bits < 8);
  if (t.shift) t.reason += "; the mean of every linear's input goes into its bias";
  return t;
}

// Of an automatic choice: other engines know no prefix and nothing that turns or shifts values while a model
// runs.
void OnlyWhatSurvives(const Recipe& recipe, Treatments& t) {
  if (recipe.outliers != OutlierMode::kAuto) return;
  const bool narrowed = t.fold || t.shift || t.rotate.r3 || t.rotate.r4;
  t.fold = t.shift = t.rotate.r3 = t.rotate.r4 = false;
  if (!narrowed) return;
  t.reason = absl::StrCat(
      "for target \"", TargetName(recipe.target), "\" no prefix and nothing that runs online: ",
      t.rotate.any() ? "offline rotations spread the wide channels over all" : "nothing is treated");
}

}  // namespace

double ResidualPeak(const OutlierMap& map) {
  double peak = 0;
  for (const auto* life : {&map.life_plain, &map.life_bos}) {
    for (const LayerLife& layer : *life) peak = std::max(peak, layer.top[0]);
  }
  return peak;
}

absl::StatusOr<Treatments> ChooseTreatments(const Recipe& recipe, const Scheme& scheme, const OutlierMap* map,
                                            const CalibStats* stats) {
  Treatments t;
  const bool wants_fold = recipe.outliers == OutlierMode::kFold || recipe.outliers == OutlierMode::kFoldKeep;
  const bool wants_keep = recipe.outliers == OutlierMode::kKeep || recipe.outliers == OutlierMode::kFoldKeep;
  if (recipe.outliers == OutlierMode::kAuto) {
    t = Automatic(scheme, map, stats);
  } else {
    t.fold = wants_fold;
    t.keep_columns = wants_keep ? kDefaultKept : 0;
    t.reason = absl::StrCat("outliers \"", OutlierModeName(recipe.outliers), "\" was asked for");
  }
  t.rotate.automatic = false;
  if (recipe.target != Target::kNative) OnlyWhatSurvives(recipe, t);
  if (!recipe.rotate.automatic) t.rotate = recipe.rotate;
  t.smooth = recipe.smooth;
  t.smooth_search = recipe.smooth_search;
  if (t.smooth_search && t.smooth > 0) {
    return absl::InvalidArgumentError(absl::StrCat("smooth=", t.smooth, " and a search for it; choose one"));
  }
  if (t.smooth_search && stats == nullptr) {
    return absl::InvalidArgumentError("smooth \"search\" needs a scan to take ranges from");
  }
  if (!(t.smooth >= 0 && t.smooth <= 1)) {
    return absl::InvalidArgumentError(
        absl::StrCat("smooth=", t.smooth, "; alpha must be from 0 (none) to 1"));
  }
  if (t.smooth > 0 && stats == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat("smooth=", t.smooth, " needs a scan to take ranges from"));
  }
  if (recipe.qk_smooth != 0 && stats == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("qk_smooth=", recipe.qk_smooth, " needs a scan to take the keys' ranges from"));
  }
  t.rescale = recipe.rescale;
  if (recipe.rescale_auto) {
    if (map == nullptr) {
      return absl::InvalidArgumentError(
          "rescale \"auto\" needs a scan to take the residual's peak from; scan, or give a power of two");
    }
    const double peak = ResidualPeak(*map);
    t.rescale = RescaleFor(peak);
    absl::StrAppend(&t.reason, "; the residual reaches ", std::llround(peak), " and is divided by ",
                    t.rescale);
  }
  if (recipe.shift != Shift::kAuto) t.shift = recipe.shift == Shift::kMean;
  if (t.shift && stats == nullptr) {
    return absl::InvalidArgumentError("shift \"mean\" needs a scan to take means from");
  }
  if (recipe.keep_columns >= 0) t.keep_columns = recipe.keep_columns;
  if (wants_fold && !HasPrefix(map, stats)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "outliers \"", OutlierModeName(recipe.outliers),
        "\": ", map == nullptr ? "needs a scan" : "the scan found no prefix that takes spikes away",
        "; use \"auto\", \"keep\" or \"none\""));
  }
  if (t.keep_columns > 0 && stats == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("keep_columns=", t.keep_columns, " needs a scan to choose them from"));
  }
  if (t.keep_columns > 0 && recipe.random_columns) t.reason += "; the kept columns are random: a control";
  return t;
}

void WithoutResidualRotation(const Recipe& recipe, const Scheme& scheme, int64_t hidden, Treatments& t) {
  const bool automatic = recipe.outliers == OutlierMode::kAuto && recipe.rotate.automatic;
  const bool integers = scheme.activation_bits < 16;
  if (!automatic || !integers || recipe.keep_columns >= 0 || recipe.target != Target::kNative) return;
  t.keep_columns = static_cast<int>((hidden / kKeptShare + kKeptStep - 1) / kKeptStep * kKeptStep);
  absl::StrAppend(&t.reason,
                  "; where that is not legal one scale cannot serve the widest channels: ", t.keep_columns,
                  " columns a site stay in bf16");
}

}  // namespace spikefold
