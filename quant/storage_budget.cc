#include "quant/storage_budget.h"

#include <algorithm>

#include "absl/strings/str_format.h"

namespace spikefold {
namespace {

// The options of a unit that are best at some price of a bit, by ascending bits.
std::vector<StorageOption> Hull(std::vector<StorageOption> options) {
  std::stable_sort(options.begin(), options.end(), [](const StorageOption& a, const StorageOption& b) {
    return a.bits_a_weight != b.bits_a_weight ? a.bits_a_weight < b.bits_a_weight : a.error < b.error;
  });
  std::vector<StorageOption> hull;
  for (const StorageOption& o : options) {
    if (!hull.empty() && o.error >= hull.back().error) continue;
    const auto gain = [](const StorageOption& from, const StorageOption& to) {
      return (from.error - to.error) / (to.bits_a_weight - from.bits_a_weight);
    };
    while (hull.size() >= 2 && gain(hull.back(), o) >= gain(hull[hull.size() - 2], hull.back())) {
      hull.pop_back();
    }
    hull.push_back(o);
  }
  return hull;
}

class Spending {
 public:
  explicit Spending(absl::Span<const StorageUnit> units) : units_(units), at_(units.size()) {
    for (const StorageUnit& unit : units) {
      hulls_.push_back(Hull(unit.options));
      total_weights_ += static_cast<double>(unit.num_weights);
    }
  }

  absl::StatusOr<StoragePlan> Spend(double budget) {
    double bits = 0;
    for (size_t u = 0; u < units_.size(); ++u) bits += Share(u) * hulls_[u][0].bits_a_weight;
    if (bits > budget * (1 + 1e-9)) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "bits=%.4g: the least that this scheme takes for these linears is %.4g", budget, bits));
    }
    for (;;) {
      size_t best = units_.size();
      double best_gain = 0;
      for (size_t u = 0; u < units_.size(); ++u) {
        if (at_[u] + 1 >= hulls_[u].size() || bits + StepBits(u) > budget * (1 + 1e-9)) continue;
        const double gain = StepGain(u) / StepBits(u);
        if (gain > best_gain) {
          best_gain = gain;
          best = u;
        }
      }
      if (best == units_.size()) break;
      bits += StepBits(best);
      ++at_[best];
    }
    StoragePlan plan{.bits = bits};
    for (size_t u = 0; u < units_.size(); ++u) {
      const StorageOption& o = hulls_[u][at_[u]];
      plan.choices.push_back(o);
      plan.loss += units_[u].loss * o.error;
    }
    return plan;
  }

 private:
  double Share(size_t u) const { return static_cast<double>(units_[u].num_weights) / total_weights_; }
  double StepBits(size_t u) const {
    return Share(u) * (hulls_[u][at_[u] + 1].bits_a_weight - hulls_[u][at_[u]].bits_a_weight);
  }
  double StepGain(size_t u) const {
    return units_[u].loss * (hulls_[u][at_[u]].error - hulls_[u][at_[u] + 1].error);
  }

  absl::Span<const StorageUnit> units_;
  std::vector<std::vector<StorageOption>> hulls_;
  std::vector<size_t> at_;  // index into the unit's hull
  double total_weights_ = 0;
};

}  // namespace

absl::StatusOr<StoragePlan> SpendBits(absl::Span<const StorageUnit> units, double budget) {
  for (const StorageUnit& unit : units) {
    if (unit.options.empty() || unit.num_weights <= 0) {
      return absl::InvalidArgumentError(
          absl::StrFormat("storage: %s of layers %d to %d has no way to be stored", RoleName(unit.role),
                          unit.first_layer, unit.last_layer));
    }
  }
  return Spending(units).Spend(budget);
}

}  // namespace spikefold
