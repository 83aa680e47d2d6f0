#include "quant/kv_choice.h"

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "formats/base/json.h"
#include "formats/base/status.h"
#include "quant/rounding/key_scales.h"

namespace spikefold {
namespace {

bool TakeBits(absl::string_view& word, int* bits) {
  for (const int b : {16, 8, 4, 3, 2}) {
    if (!absl::ConsumePrefix(&word, absl::StrCat(b))) continue;
    *bits = b;
    return true;
  }
  return false;
}

// "k4v2", "k4cv2"
bool ParseBoth(absl::string_view word, KvChoice& choice) {
  if (!absl::ConsumePrefix(&word, "k") || !TakeBits(word, &choice.k_bits)) return false;
  choice.k_scale = 0;
  for (const char scale : {'r', 'p', 'c'}) {
    if (choice.k_bits == 16 || choice.k_scale != 0) break;  // nothing to scale; one scaling alone
    if (absl::ConsumePrefix(&word, absl::string_view(&scale, 1))) choice.k_scale = scale;
  }
  return absl::ConsumePrefix(&word, "v") && TakeBits(word, &choice.v_bits) && word.empty();
}

}  // namespace

absl::Status ParseKvWord(absl::string_view word, KvChoice& choice) {
  KvChoice out = choice;
  absl::string_view rest = word;
  if (word == "float") {
    out.k_bits = out.v_bits = 32;
    out.k_scale = 0;
  } else if (TakeBits(rest, &out.k_bits) && rest.empty()) {
    out.v_bits = out.k_bits;
    out.k_scale = 0;
  } else if (!ParseBoth(word, out)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "kv \"", Printable(word),
        "\" is unknown; use float, 16, 8, 4, 3 or 2 bits, or keys and values apart, as in k4v2"));
  }
  choice = out;
  return absl::OkStatus();
}

std::string KvWord(const KvChoice& c) {
  if (c.is_float()) return "float";
  if (c.k_bits == c.v_bits && c.k_scale == 0) return absl::StrCat(c.k_bits);
  const std::string scale = c.k_scale == 0 ? "" : std::string(1, c.k_scale);
  return absl::StrCat("k", c.k_bits, scale, "v", c.v_bits);
}

absl::Status KvSizesNeedForm() {
  return absl::InvalidArgumentError(
      "kv: sinks, recent rows and a window need a form of the cache; give kv 16, 8, 4, 3 or 2");
}

absl::Status CheckKvChoice(const KvChoice& choice, const ModelGraph& graph) {
  const KvChoice sizes = {.sinks = choice.sinks, .recent = choice.recent, .window = choice.window};
  if (choice.is_float() && sizes != KvChoice()) return KvSizesNeedForm();
  KvChoice paged = choice;  // static scales ask a scan
  if (paged.k_scale == 'c') paged.k_scale = 'p';
  return ChooseKv(paged, graph, {}, false).status();
}

absl::StatusOr<KvOptions> ChooseKv(const KvChoice& choice, const ModelGraph& graph,
                                   absl::Span<const KeyStats> keys, bool has_prefix) {
  KvOptions kv;
  if (choice.is_float()) return kv;
  const bool rotated = graph.qk_rotation >= 0;
  if (choice.window > 0 && rotated) return EvictsBehindRotation();
  kv.k_bits = choice.k_bits;
  kv.v_bits = choice.v_bits;
  kv.sinks = has_prefix ? 0 : choice.sinks;
  kv.recent = choice.recent;
  kv.evict = choice.window;
  const char scale = choice.k_scale == 0 ? 'p' : choice.k_scale;
  kv.k_before_rope = !rotated && scale != 'r' && choice.k_bits < 16;
  kv.k_scale = scale == 'r'   ? kernels::KeyScale::kToken
               : scale == 'p' ? kernels::KeyScale::kPage
                              : kernels::KeyScale::kChannel;
  if (scale == 'c' && choice.k_bits < 16) {
    if (keys.empty()) {
      return absl::InvalidArgumentError(
          "kv: static scales of keys need a scan that has seen keys before rotary embedding, and no rotation "
          "of queries and keys; use scales of a page, as in k4pv4");
    }
    SF_ASSIGN_OR_RETURN(kv.channels, ChooseKeyScales(keys, graph.config, choice.k_bits));
  }
  SF_RETURN_IF_ERROR(CheckKvOptions(kv, graph.config));
  return kv;
}

}  // namespace spikefold
