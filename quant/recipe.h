// What the user asks for. A recipe is a wish: `planner` turns it into a Plan, where each tensor has exactly
// one decision.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "formats/base/json.h"
#include "quant/kv_choice.h"

namespace spikefold {

// How a scale is chosen from what was seen.
enum class ScaleMethod {
  kAbsMax,      // nothing clips
  kPercentile,  // the 99.99 % quantile of |x|
  kMse,         // least squared error, weighted by what an error in a channel costs downstream
};
absl::StatusOr<ScaleMethod> ParseScaleMethod(absl::string_view name);  // "absmax", "percentile", "mse"
const char* ScaleMethodName(ScaleMethod method);

// How weights become codes.
enum class Rounding {
  kAuto,     // GPTQ where a scan is there (at 8 bits with outliers "auto" only), else to the nearest
  kNearest,  // each weight alone
  kGptq,     // column by column, each taking up the error before it; inputs come through the rounded layers
};
absl::StatusOr<Rounding> ParseRounding(absl::string_view name);  // "auto", "nearest", "gptq"
const char* RoundingName(Rounding rounding);

enum class OutlierMode {
  kAuto,      // what pays for this scheme and this model, with the reason in words
  kNone,      // nothing, not even clipped scales: the control, what a min-max observer gives
  kKeep,      // outlier columns stay in bf16
  kFold,      // the spike token becomes a KV prefix
  kFoldKeep,  // both
};
absl::StatusOr<OutlierMode> ParseOutlierMode(
    absl::string_view name);  // "auto", "none", "keep", "fold", "fold+keep"
const char* OutlierModeName(OutlierMode mode);

// Which codes get an integer zero point beside their scale.
enum class ZeroPoints {
  kAuto,         // what the scheme says
  kNone,         // codes around 0 on both sides
  kWeights,      // one for each scale of the weights
  kActivations,  // one for each scale of the activations
  kBoth,
};
absl::StatusOr<ZeroPoints> ParseZeroPoints(
    absl::string_view name);  // "auto", "none", "weights", "activations", "both"
const char* ZeroPointsName(ZeroPoints zero_points);

// What weights of fewer than 8 bits become.
enum class Codes {
  kAuto,     // a trellis where it pays, on rotated weights, which are nearly Gaussian, or where the model's
             // widths have no groups; if nothing asks for a grid
  kGrid,     // points of a grid, one scale a group
  kTrellis,  // steps of a path (formats/quantized/trellis.h), one scale a channel
};
absl::StatusOr<Codes> ParseCodes(absl::string_view name);  // "auto", "grid", "trellis"
const char* CodesName(Codes codes);

// What the scales of a row's groups are (points of a grid below 8 bits).
enum class GroupScales {
  kAuto,       // multiples where activations are INT8 with one scale a row or for all, and Spikefold runs it
  kFloat,      // each by itself
  kMultiples,  // whole multiples, 1 to 16, of one scale a channel: products stay integers
};
absl::StatusOr<GroupScales> ParseGroupScales(absl::string_view name);  // "auto", "float", "multiples"
const char* GroupScalesName(GroupScales scales);

// Rotations by the names of quant/folds: R1 residual, R2 values, R3 queries and keys, R4 down_proj's input.
struct RotationChoice {
  bool automatic = true;  // what pays for the scheme
  bool r1 = false, r2 = false, r3 = false, r4 = false;
  bool any() const { return r1 || r2 || r3 || r4; }
};
// "auto", "none", "offline" (R1+R2: nothing rotates while the model runs), "online" (R1+R2+R4), or names
// joined by '+', as in "R2+R4".
absl::StatusOr<RotationChoice> ParseRotations(absl::string_view words);
std::string RotationWords(const RotationChoice& choice);

// Constants taken off the linears' inputs (quant/folds/shift.cc).
enum class Shift {
  kAuto,  // means where activations have 4 bits, or one static scale beside weights of few
  kNone,
  kMean,
};
absl::StatusOr<Shift> ParseShift(absl::string_view name);  // "auto", "none", "mean"
const char* ShiftName(Shift shift);

// "auto", or a power of two from 1 (none) to 65536, into rescale and rescale_auto.
struct Recipe;
absl::Status ParseRescale(absl::string_view word, Recipe& recipe);
std::string RescaleWord(const Recipe& recipe);

// How the sites are found that get per-token scales in a static scheme (quant/dynamic_sites.h).
enum class DynamicBy {
  kDamage,  // what a static scale there does to the model, measured
  kScore,   // the scan's site score: a control
  kRandom,  // a control
};
absl::StatusOr<DynamicBy> ParseDynamicBy(absl::string_view name);  // "damage", "score", "random"
const char* DynamicByName(DynamicBy by);

// The engine that a model is for (target.h).
enum class Target { kNative, kVllm, kLlamaCpp, kAll };
absl::StatusOr<Target> ParseTarget(absl::string_view name);  // "native", "vllm", "llamacpp", "all"
const char* TargetName(Target target);

struct Recipe {
  std::string scheme;  // a row of Schemes()
  RotationChoice rotate;
  std::string rotations_sha256;  // of learned R1 and R2 (quant/folds/learned_rotations.h); empty: Hadamard
  Rounding rounding = Rounding::kAuto;
  double smooth = 0;           // > 0: channel scales with this alpha on all four sites (2211.10438); 0: none
  bool smooth_search = false;  // channel scales chosen site by site instead (quant/folds/smooth_search.h)
  Shift shift = Shift::kAuto;
  double rescale = 1;    // the residual stream is divided by this power of two; 1: it is not
  double qk_smooth = 0;  // > 0: scales of rotary pairs with this alpha, from queries to keys (qk_scales.h)
  bool rescale_auto = false;  // by what keeps the scan's spikes below an eighth of float16's end
  OutlierMode outliers = OutlierMode::kAuto;
  Target target = Target::kNative;  // another: only what survives there
  int group_size = 0;               // 0: the scheme's default for this model
  // At most one of the three is > 0: a budget that is spent where rounding hurts most. All 0: all linears
  // alike.
  double bits = 0;        // at most so many a weight of the linears, everything stored counted
  int64_t max_bytes = 0;  // of all that is stored
  double max_kld =
      0;  // expected KL divergence from the float model, nats a token; the least bits that reach it
  bool random_bits = false;  // the control: spent without looking at what rounding costs
  bool has_budget() const { return bits > 0 || max_bytes > 0 || max_kld > 0; }
  Codes codes = Codes::kAuto;
  ZeroPoints zero_points = ZeroPoints::kAuto;
  GroupScales group_scales = GroupScales::kAuto;
  int keep_columns = -1;        // kept columns a site; -1: what the mode says
  bool random_columns = false;  // the control: as many columns, chosen at random
  int keep_modules = 0;         // linears of that many sites of highest score stay in 16 bit
  int dynamic_sites = 0;        // so many sites of a static scheme get per-token scales
  DynamicBy dynamic_by = DynamicBy::kDamage;
  bool keep_rows = false;           // spike rows found at run time are computed in float
  bool keep_super_weights = false;  // exact scalars beside the codes
  std::vector<std::string> keep;    // module paths to leave in 16 bit; '*' matches any run of characters
  ScaleMethod activation_scales = ScaleMethod::kMse;
  bool activation_scales_set = false;  // false: absmax with outliers "none" (the untreated control), mse else
  ScaleMethod weight_scales = ScaleMethod::kMse;
  bool weight_scales_set = false;  // false: absmax at 8 bits, mse (importance-weighted clip search) below
  int head_bits = 8;               // 8 or 16: embedding and head
  bool head_bits_set = false;      // false: a target may choose
  KvChoice kv;                     // how sequences keep keys and values
  uint64_t seed = 1;               // of random columns, bits and sites, and of the rotations' signs
};
Json RecipeToJson(const Recipe& recipe);
// The method in force: what was set, else the default of the outlier mode.
ScaleMethod ActivationScales(const Recipe& recipe);
// DataLoss: wrong types, unknown keys (with a did-you-mean). InvalidArgument: unknown words.
absl::StatusOr<Recipe> RecipeFromJson(const Json& json, absl::string_view where);

}  // namespace spikefold
