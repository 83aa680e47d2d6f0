#include "apps/spikefold/eval_text.h"

#include <array>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "apps/spikefold/text.h"
#include "apps/spikefold/text_table.h"
#include "calib/format_count.h"

namespace spikefold {
namespace {

// Texts whose perplexities are published everywhere, so that a number can be compared with others'.
constexpr std::array<std::pair<const char*, const char*>, 2> kKnownTexts = {{
    {"173c87a53759e0201f33e0ccf978e510c2042d7f2cb78229d9a50d79b9e7dd08", "WikiText-2 test, raw"},
    {"696cca6b65a171b0a358a4be6732cdfdf2dd6164a32e20fd70e3c13fc4dfae83", "WikiText-2 test, joined"},
}};

std::string TextName(const EvalDocument& d) {
  for (const auto& [sha256, name] : kKnownTexts) {
    if (d.text_sha256 == sha256) return absl::StrCat(Printable(d.text_source), " (", name, ")");
  }
  return Printable(d.text_source);
}

std::string HowText(const EvalDocument& d) {
  const EvalResult& r = d.result;
  return absl::StrCat(TextName(d), ", ", r.num_windows, " windows of ", FormatCount(r.context),
                      " tokens (protocol ", ProtocolName(r.protocol), ", BOS ", BosModeName(r.bos), "), ",
                      FormatCount(r.num_scored), " tokens scored");
}

// The change in words, if it is larger than its error.
std::string ChangeText(const EvalResult& r) {
  if (!(std::abs(r.ppl_ratio - 1) > 2 * r.ppl_ratio_se)) return "no change beyond twice its error";
  return absl::StrFormat("%+.2f %%", 100 * (r.ppl_ratio - 1));
}

void AddAccuracy(const EvalResult& r, TextTable& table) {
  table.Row({"perplexity", PlusMinus(r.ppl, r.ppl_se, 3),
             absl::StrCat("reference ", PlusMinus(r.ppl_reference, r.ppl_reference_se, 3))});
  table.Row({"ratio", PlusMinus(r.ppl_ratio, r.ppl_ratio_se, 4), ChangeText(r)});
  table.Row({"KL divergence", PlusMinus(r.kld_mean, r.kld_se, 5),
             absl::StrFormat("median %.5f, 99 %% %.4f, max %.3f", r.kld.p50, r.kld.p99, r.kld.max)});
  table.Row({"same top token", absl::StrCat(PlusMinus(100 * r.same_top, 100 * r.same_top_se, 2), " %"), ""});
}

void AddDoubts(const EvalResult& r, TextTable& table) {
  if (r.nonfinite_share > 0) {
    table.Row({"not finite", absl::StrCat(PercentText(r.nonfinite_share), " of the scored tokens"), ""});
  }
  if (r.num_saturated > 0) {
    table.Row(
        {"clipped", absl::StrCat(FormatCount(r.num_saturated), " activations beyond a static scale"), ""});
  }
  if (r.num_missed_spike_rows > 0) {
    table.Row({"missed",
               absl::StrCat(FormatCount(r.num_missed_spike_rows),
                            " spike rows beyond the number computed in float"),
               ""});
  }
}

// "k u4c before RoPE, v u4r, recent 16"
std::string KvText(const Json& kv) {
  const auto word = [&](const char* key) {
    const Json* value = kv.Find(key);
    return value != nullptr && value->is_string() ? Printable(value->string_value(), 8) : std::string("?");
  };
  const auto flag = [&](const char* key) {
    const Json* value = kv.Find(key);
    return value != nullptr && value->is_bool() && value->bool_value();
  };
  const auto rows = [&](const char* key, const char* text) {
    const Json* value = kv.Find(key);
    const int64_t n = value != nullptr && value->is_int() ? value->int_value() : 0;
    return n > 0 ? absl::StrCat(", ", text, " ", n) : std::string();
  };
  return absl::StrCat("keys ", word("k"), flag("before_rope") ? " before RoPE" : "", ", values ", word("v"),
                      rows("sinks", "sinks"), rows("window", "recent"), rows("evict", "window"));
}

}  // namespace

std::string EvalText(const EvalDocument& d, absl::string_view prefix, const Console& console) {
  const EvalResult& r = d.result;
  const bool itself = d.model.fingerprint == d.reference.fingerprint;
  const bool alone = itself && d.kv.is_null();
  const std::string beside = alone    ? ""
                             : itself ? " beside itself with float keys and values"
                                      : absl::StrCat(" beside ", Printable(d.reference.path, 1024));
  std::string text = absl::StrCat(console.Bold(Printable(d.name)), beside, "\n", HowText(d), "\n\n");
  TextTable table("lll");
  if (alone) {
    table.Row({"perplexity", PlusMinus(r.ppl, r.ppl_se, 3), ""});
    table.Row({"bits a byte", absl::StrFormat("%.4f", r.bits_per_byte), ""});
  } else {
    AddAccuracy(r, table);
  }
  if (r.noise_floor_kld > 0) {
    table.Row({"noise floor", absl::StrFormat("%.6f", r.noise_floor_kld),
               absl::StrCat("same top ", PercentText(r.noise_floor_same_top),
                            ": the reference with bf16 activations")});
  }
  table.Row({"bits a weight", absl::StrCat(BitsText(d.bits_linear), " in the linears"),
             absl::StrCat(BitsText(d.bits_total), " in all; activations ", BitsText(d.activation_bits))});
  if (!d.kv.is_null()) {
    table.Row(
        {"keys and values", absl::StrFormat("%.1f KiB a token", d.kv_bytes_per_token / 1024), KvText(d.kv)});
  }
  if (!prefix.empty()) {
    table.Row({"prefix", absl::StrCat("\"", prefix, "\" in both models"),
               absl::StrFormat("the reference behind it: x %.4f", r.prefix_ratio)});
  }
  if (const auto& p = d.parity; p.has_value()) {
    table.Row({"beside the CPU",
               p->outputs == 0     ? "no integer linears"
               : p->different == 0 ? absl::StrCat("all ", FormatCount(p->outputs), " integer outputs equal")
                                   : absl::StrCat(FormatCount(p->different), " of ", FormatCount(p->outputs),
                                                  " integer outputs differ"),
               absl::StrFormat("KL divergence %.2g, at most %.2g, on %d tokens", p->kld_mean, p->kld_max,
                               p->tokens)});
  }
  AddDoubts(r, table);
  absl::StrAppend(&text, table.Text());
  if (d.backend == "cpu-simulated") text += "  simulated in float: the integer kernels did not run\n";
  absl::StrAppend(&text, "  ", SecondsText(r.seconds_quantized), alone ? "" : " for the model, ",
                  alone ? "" : SecondsText(r.seconds_reference), alone ? "" : " for the reference", "\n");
  return text;
}

}  // namespace spikefold
