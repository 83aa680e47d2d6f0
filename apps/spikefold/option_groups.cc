#include "apps/spikefold/option_groups.h"

#include <algorithm>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "formats/base/json.h"
#include "formats/base/suggest.h"
#include "quant/scheme.h"

namespace spikefold {

CLI::Validator Integer(int64_t min, int64_t max) {
  const auto check = [min, max](std::string& text) -> std::string {
    int64_t value = 0;
    if (absl::SimpleAtoi(text, &value) && value >= min && value <= max) return "";
    return absl::StrCat("'", Printable(text), "' is not a whole number from ", min, " to ", max);
  };
  return CLI::Validator(check, "", "integer");
}
CLI::Validator Number(double min, double max) {
  const auto check = [min, max](std::string& text) -> std::string {
    double value = 0;
    if (absl::SimpleAtod(text, &value) && value >= min && value <= max) return "";
    return absl::StrCat("'", Printable(text), "' is not a number from ", min, " to ", max);
  };
  return CLI::Validator(check, "", "number");
}
CLI::Validator OneOf(const std::vector<std::string>& words) {
  const auto check = [words](std::string& text) -> std::string {
    if (std::count(words.begin(), words.end(), text) > 0) return "";
    return absl::StrCat("'", Printable(text), "' is unknown", DidYouMean(text, words), "; use ",
                        absl::StrJoin(words, ", "));
  };
  return CLI::Validator(check, "", absl::StrCat(kWordsPrefix, absl::StrJoin(words, "|")));
}

void AddScanText(CLI::App* c, ScanTextOptions& o) {
  c->add_option("--text", o.texts, "UTF-8 text to calibrate on; without it the model writes its own")
      ->type_name("FILE...");
  c->add_option("--windows", o.windows, "Windows of text [64 of a file, 32 of its own text]")
      ->check(Integer(2, 1 << 20))
      ->type_name("N");
  c->add_option("--length", o.length, "Tokens of a window [512 of a file, 128 of its own text]")
      ->check(Integer(8, 1 << 20))
      ->type_name("N");
  c->add_flag("--no-prefix", o.no_prefix, "Do not look for a prefix that takes the spikes away");
}

void AddKv(CLI::App* c, KvFlags& o, const char* form) {
  c->add_option("--kv", o.form, form)->type_name("FORM");
  c->add_option("--kv-sinks", o.sinks, "First rows of a sequence without prefix that stay 16 bit [1]")
      ->check(Integer(0, 1 << 20))
      ->type_name("N");
  c->add_option("--kv-recent", o.recent, "Latest rows that stay 16 bit [16]")
      ->check(Integer(1, 1 << 20))
      ->type_name("N");
  c->add_option("--kv-window", o.window, "Keep only so many rows behind prefix and sinks; 0: all [0]")
      ->check(Integer(0, 1 << 20))
      ->type_name("N");
}
void AddRecipe(CLI::App* c, RecipeOptions& o) {
  std::vector<std::string> schemes;
  for (const Scheme& scheme : Schemes()) schemes.push_back(absl::StrCat(scheme.name, ": ", scheme.summary));
  c->add_option("--scheme", o.scheme, absl::StrJoin(schemes, "\n"))->type_name("NAME");
  c->add_option("--recipe", o.file, "A JSON file with these wishes; options here override it")
      ->type_name("FILE");
  c->add_option("--target", o.target,
                "The engine this is for: only what survives its export is used: native, vllm, llamacpp, all "
                "[native]")
      ->type_name("ENGINE");
  c->add_option("--outliers", o.outliers,
                "auto: what pays, with the reason; none; keep: columns in bf16; fold: spikes become a KV "
                "prefix; fold+keep")
      ->type_name("HOW");
  c->add_option(
       "--rotate", o.rotate,
       "auto: what pays; none; offline: R1+R2, nothing rotates at run time; online: R1+R2+R4; or names "
       "joined by +")
      ->type_name("HOW");
  c->add_option("--rounding", o.rounding,
                "Weights to codes: auto (gptq where there is a scan), nearest, gptq")
      ->type_name("HOW");
  c->add_option(
       "--smooth", o.smooth,
       "Channel scales with this alpha on all four sites, 0.5 to 0.95; search (weights alone): the best "
       "of many, by the expected error; 0: none")
      ->type_name("ALPHA");
  c->add_option(
       "--qk-smooth", o.qk_smooth,
       "Scales of rotary pairs with this alpha from keys to queries, exact, for caches that scale keys "
       "by row or block; 0: none")
      ->check(Number(0, 1))
      ->type_name("ALPHA");
  c->add_option("--rescale", o.rescale,
                "Divide the residual stream by this power of two, exactly, for engines whose activations are "
                "float16; auto: until the scan's spikes stay below 8192 [1]")
      ->type_name("LAMBDA");
  c->add_option("--group-size", o.group_size,
                "Weights a scale below 8 bits [64 where it fits, else 128, 32 ...]")
      ->check(Integer(1, 1 << 20))
      ->type_name("N");
  c->add_option("--bits", o.bits,
                "At most so many bits a weight of the linears in the mean, all that they store counted: more "
                "bits, or finer groups, where rounding measurably hurts most [all linears alike]")
      ->type_name("B");
  c->add_option("--max-bytes", o.max_bytes,
                "The same, within so many bytes for all that is stored: 80MB, 1.5GiB")
      ->type_name("SIZE");
  c->add_option("--max-kld", o.max_kld,
                "The same, with the least bits whose expected KL divergence is at most this")
      ->type_name("NATS");
  c->add_option(
       "--shift", o.shift,
       "mean: the mean of each linear's input is taken off it and goes into the bias; none, auto (mean "
       "for INT4 activations, and for static INT8 ones beside weights of few bits)")
      ->type_name("HOW");
  c->add_option(
       "--codes", o.codes,
       "What weights below 8 bits become: grid (points, one scale a group), trellis (paths, one scale "
       "a channel), auto (a trellis on rotated weights, and where no group fits)")
      ->type_name("HOW");
  c->add_option("--zero-points", o.zero_points,
                "Codes with an integer zero point beside each scale: auto (what the scheme says), none, "
                "weights, activations, both")
      ->type_name("HOW");
  c->add_option("--group-scales", o.group_scales,
                "Scales of groups below 8 bits: float (each by itself), multiples (whole multiples of one a "
                "channel: products with INT8 rows stay integers), auto (multiples beside INT8 activations)")
      ->type_name("HOW");
  c->add_option("--keep-columns", o.keep_columns, "Input columns of each linear that stay in bf16")
      ->check(Integer(0, 1 << 20))
      ->type_name("N");
  c->add_flag("--random-bits", o.random_bits, "Spend the budget without looking at the costs: a control");
  c->add_flag("--random-columns", o.random_columns, "Choose them at random: a control");
  c->add_option("--keep-modules", o.keep_modules, "Linears of the N widest-ranging inputs stay in 16 bit")
      ->check(Integer(0, 1 << 20))
      ->type_name("N");
  c->add_option("--dynamic-sites", o.dynamic_sites,
                "Linears of the N inputs that a static scale hurts most get per-token scales")
      ->check(Integer(0, 1 << 20))
      ->type_name("N");
  c->add_option("--dynamic-by", o.dynamic_by,
                "damage: measured on the scan's text; controls: score, random [damage]")
      ->type_name("HOW");
  c->add_flag("--keep-rows", o.keep_rows, "Compute spike rows in float when the model runs");
  c->add_flag("--keep-super-weights", o.keep_super_weights, "Keep super weights exact");
  c->add_option("--keep", o.keep, "Leave linears in 16 bit, e.g. '*.layers.3.mlp.down_proj'")
      ->type_name("PATTERN...");
  c->add_option("--activation-scales", o.activation_scales,
                "Static scales: mse, absmax or percentile [mse; absmax with --outliers none]")
      ->type_name("HOW");
  c->add_option("--weight-scales", o.weight_scales, "absmax or mse, of grids [absmax at 8 bits, mse below]")
      ->type_name("HOW");
  c->add_option("--head-bits", o.head_bits, "Embedding and head: 8 or 16 bits [8]")
      ->check(Integer(1, 32))
      ->type_name("N");
  AddKv(c, o.kv, "Keys and values of sequences: float, 16, 8, 4, 3 or 2 bits, or apart, as in k4v2 [float]");
}

}  // namespace spikefold
