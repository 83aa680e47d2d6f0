#include "apps/report/decisions.h"

#include <algorithm>
#include <map>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "formats/quantized/quant_format.h"

namespace spikefold {
namespace {

using Signature = std::tuple<std::string, std::string, int64_t, int64_t, bool, bool>;
Signature SignatureOf(const LinearDecision& d) {
  return {d.weight, d.act, d.group, d.kept, d.super > 0, d.spike_threshold > 0};
}

// The most frequent signature of each role.
std::map<std::string, Signature> Usual(const std::vector<LinearDecision>& linears) {
  std::map<std::string, std::map<Signature, int>> counts;
  for (const LinearDecision& d : linears) ++counts[d.role][SignatureOf(d)];
  std::map<std::string, Signature> out;
  for (const auto& [role, signatures] : counts) {
    out[role] = std::max_element(signatures.begin(), signatures.end(), [](const auto& a, const auto& b) {
                  return a.second < b.second;
                })->first;
  }
  return out;
}

void AddErrors(std::vector<double> errors, RoleSummary& s) {
  if (errors.empty()) return;
  std::sort(errors.begin(), errors.end());
  s.error_median = errors[errors.size() / 2];
  s.error_max = errors.back();
}

RoleSummary Summarize(const std::string& role, const Signature& usual,
                      const std::vector<const LinearDecision*>& members) {
  RoleSummary s{.role = role, .weight = std::get<0>(usual), .act = std::get<1>(usual)};
  s.group = std::get<2>(usual);
  s.kept_min = s.kept_max = members.front()->kept;
  double bits = 0, weights = 0, worst = -1;
  std::vector<double> errors;
  for (const LinearDecision* d : members) {
    ++s.count;
    s.exceptions += SignatureOf(*d) != usual;
    s.kept_min = std::min(s.kept_min, d->kept);
    s.kept_max = std::max(s.kept_max, d->kept);
    s.supers += d->super;
    const double size = static_cast<double>(d->n) * static_cast<double>(d->k);
    bits += d->bits * size;
    weights += size;
    if (d->weight_error >= 0) errors.push_back(d->weight_error);
    if (d->weight_error > worst) {
      worst = d->weight_error;
      s.worst = d->module;
    }
  }
  s.bits = weights > 0 ? bits / weights : 0;
  AddErrors(std::move(errors), s);
  return s;
}

}  // namespace

std::vector<RoleSummary> SummarizeRoles(const std::vector<LinearDecision>& linears) {
  const auto usual = Usual(linears);
  std::vector<std::string> order;
  std::map<std::string, std::vector<const LinearDecision*>> members;
  for (const LinearDecision& d : linears) {
    if (members[d.role].empty()) order.push_back(d.role);
    members[d.role].push_back(&d);
  }
  std::vector<RoleSummary> out;
  out.reserve(order.size());
  for (const std::string& role : order) out.push_back(Summarize(role, usual.at(role), members.at(role)));
  return out;
}

std::vector<const LinearDecision*> Exceptions(const std::vector<LinearDecision>& linears) {
  const auto usual = Usual(linears);
  std::vector<const LinearDecision*> out;
  for (const LinearDecision& d : linears) {
    if (SignatureOf(d) != usual.at(d.role)) out.push_back(&d);
  }
  return out;
}

std::vector<const LinearDecision*> WorstTensors(const std::vector<LinearDecision>& linears, size_t count) {
  std::vector<const LinearDecision*> out;
  for (const LinearDecision& d : linears) {
    if (d.weight_error >= 0) out.push_back(&d);
  }
  std::stable_sort(out.begin(), out.end(), [](const LinearDecision* a, const LinearDecision* b) {
    return a->weight_error > b->weight_error;
  });
  if (out.size() > count) out.resize(count);
  return out;
}

std::string WeightWords(const std::string& weight, int64_t group) {
  const auto format = ParseWeightFormat(weight);
  return format.ok() ? FormatText(*format, group) : weight;
}
std::string ActivationWords(const std::string& act) {
  const auto format = ParseActivationFormat(act);
  return format.ok() ? FormatText(*format) : act;
}

std::string SiteKind(const std::string& site) {
  const size_t dot = site.rfind('.');
  return dot == std::string::npos ? site : site.substr(dot + 1);
}

}  // namespace spikefold
