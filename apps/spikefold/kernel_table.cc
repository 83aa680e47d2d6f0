#include "apps/spikefold/kernel_table.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "apps/spikefold/text.h"

namespace spikefold {
namespace {

constexpr size_t kTextWidth = 110;

std::string Number(double value) { return absl::StrFormat("%.*f", value < 10 ? 2 : 1, value); }
std::string Micros(double seconds) { return absl::StrFormat("%.1f", seconds * 1e6); }
// "-" where there is nothing to divide by, or nothing to say.
std::string Ratio(double value, double by, int digits) {
  return value > 0 && by > 0 ? absl::StrFormat("%.*f", digits, value / by) : "-";
}

// Columns as wide as their widest cell, numbers to the right.
std::string Table(std::vector<std::vector<std::string>> rows) {
  std::vector<size_t> widths(rows.front().size(), 0);
  for (const auto& row : rows) {
    for (size_t c = 0; c < row.size(); ++c) widths[c] = std::max(widths[c], DisplayWidth(row[c]));
  }
  std::vector<std::string> line;
  for (size_t c = 0; c < widths.size(); ++c) {
    line.emplace_back(widths[c], '-');
    if (c > 0) line.back().back() = ':';
  }
  rows.insert(rows.begin() + 1, line);
  std::string text;
  for (const auto& row : rows) {
    text += "|";
    for (size_t c = 0; c < row.size(); ++c) {
      const std::string padding(widths[c] - DisplayWidth(row[c]), ' ');
      absl::StrAppend(&text, " ", c == 0 ? "" : padding, row[c], c == 0 ? padding : "", " |");
    }
    text += "\n";
  }
  return text;
}

// Seconds that the arithmetic of these products takes at the peak.
double AtPeak(const OpTime& kernel, const Ops::Limits& limits) {
  if (limits.ops == 0 || limits.int8_ops == 0) return 0;
  return (kernel.ops - kernel.int8_ops) / limits.ops + kernel.int8_ops / limits.int8_ops;
}

OpTime Sum(const std::vector<OpTime>& kernels) {
  OpTime sum = {.name = "sum"};
  for (const OpTime& kernel : kernels) {
    sum.calls += kernel.calls;
    sum.seconds += kernel.seconds;
  }
  return sum;
}

std::vector<std::string> Row(const OpTime& kernel, const WalkProfile& profile, const KernelLimits& limits) {
  const double rate = static_cast<double>(kernel.bytes) / kernel.seconds;
  std::vector<std::string> row = {absl::StrCat(kernel.name, kernel.repeats_fit ? " *" : ""),
                                  absl::StrCat(kernel.calls),
                                  Micros(kernel.seconds / static_cast<double>(kernel.calls)),
                                  Micros(kernel.seconds),
                                  PercentText(kernel.seconds / profile.seconds),
                                  kernel.bytes > 0 ? Number(rate * 1e-9) : "-",
                                  Ratio(rate, limits.read_rate, 2),
                                  kernel.ops > 0 ? Number(kernel.ops / kernel.seconds * 1e-12) : "-"};
  if (limits.device.ops > 0) row.push_back(Ratio(AtPeak(kernel, limits.device), kernel.seconds, 3));
  if (limits.is_gpu) row.push_back(Ratio(kernel.peer_seconds, kernel.seconds, 2));
  return row;
}

std::string Legend(const WalkProfile& profile, const KernelLimits& limits) {
  std::string text = "GB/s are of weights";
  if (limits.read_rate > 0) absl::StrAppendFormat(&text, ", memory gives %.1f", limits.read_rate * 1e-9);
  absl::StrAppend(&text, ". Tops/s are of linears");
  if (limits.device.ops > 0) {
    absl::StrAppendFormat(&text,
                          ", the peak is %.0f at %.0f MHz (%.0f where codes meet codes), less where the "
                          "card throttles",
                          limits.device.ops * 1e-12, limits.device.clock_hz * 1e-6,
                          limits.device.int8_ops * 1e-12);
  }
  absl::StrAppend(&text, ".");
  if (std::any_of(profile.kernels.begin(), profile.kernels.end(),
                  [](const OpTime& kernel) { return kernel.repeats_fit; })) {
    absl::StrAppend(&text, " *: all of these weights fit into the cache of ",
                    BytesText(limits.device.cache_bytes), " and may have been read from there.");
  }
  if (profile.has_host) {
    text += " Some calls could not be recorded: the host's part is in their times.";
  }
  if (limits.is_gpu && !profile.no_peer.empty()) {
    absl::StrAppend(&text, " No peer: ", profile.no_peer, ".");
  }
  return Wrap(text, 0, kTextWidth) + "\n";
}

// Where the kinds one after the other do not take what the walk takes.
std::string SumText(const OpTime& sum, const WalkProfile& profile, bool is_gpu) {
  const double ratio = sum.seconds / profile.seconds;
  if (std::abs(ratio - 1) < 0.02) return "";
  absl::string_view why = "";
  if (is_gpu && ratio > 1) why = ": there each launch overlaps the end of the one before";
  if (is_gpu && ratio < 1) why = ": there each finds less in the caches, and the launches take their time";
  return absl::StrFormat("The kinds together take %.2f of the whole%s.\n", ratio, why);
}

}  // namespace

std::string KernelText(absl::string_view what, const WalkProfile& profile, const KernelLimits& limits) {
  std::vector<std::string> header = {"kernel", "calls", "us each",   "us",
                                     "share",  "GB/s",  "of memory", "Tops/s"};
  if (limits.device.ops > 0) header.push_back("of peak");
  if (limits.is_gpu) header.push_back("over cuBLASLt bf16");
  std::vector<std::vector<std::string>> rows = {header};
  for (const OpTime& kernel : profile.kernels) rows.push_back(Row(kernel, profile, limits));
  const OpTime sum = Sum(profile.kernels);
  rows.push_back(Row(sum, profile, limits));
  rows.back()[2].assign(1, '-');  // of a mean kernel
  return absl::StrCat("\n", what, " at position ", profile.position, ", ", Micros(profile.seconds),
                      " us; each kind of kernel by itself, over all layers:\n", Table(std::move(rows)),
                      SumText(sum, profile, limits.is_gpu), Legend(profile, limits));
}

void AddKernels(absl::string_view walk, const WalkProfile& profile, bool is_gpu, Json& kernels,
                Json& document) {
  for (const OpTime& kernel : profile.kernels) {
    Json entry = Json::MakeObject()
                     .Set("walk", walk)
                     .Set("name", kernel.name)
                     .Set("calls", kernel.calls)
                     .Set("seconds", kernel.seconds)
                     .Set("bytes", kernel.bytes)
                     .Set("ops", kernel.ops)
                     .Set("int8_ops", kernel.int8_ops)
                     .Set("repeats_fit", kernel.repeats_fit);
    if (kernel.peer_seconds > 0) entry.Set("peer_seconds", kernel.peer_seconds);
    kernels.Append(std::move(entry));
  }
  document.Set(absl::StrCat(walk, "_walk_rows"), profile.rows)
      .Set(absl::StrCat(walk, "_walk_position"), profile.position)
      .Set(absl::StrCat(walk, "_walk_seconds"), profile.seconds);
  if (profile.has_host) document.Set(absl::StrCat(walk, "_has_host"), true);
  if (is_gpu && !profile.no_peer.empty()) document.Set(absl::StrCat(walk, "_no_peer"), profile.no_peer);
}

}  // namespace spikefold
