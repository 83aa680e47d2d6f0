#include "quant/rounding/gptq_gain.h"

#include <algorithm>
#include <utility>

#include "formats/base/status.h"
#include "quant/rounding/hessian_factor.h"

namespace spikefold {
namespace {

double GainOf(const HessianFactor& factor, double rows) {
  double nearest = 0, gptq = 0;
  const size_t m = factor.order.size();
  for (size_t i = 0; i < m; ++i) {
    const double h = static_cast<double>(factor.diagonal[static_cast<size_t>(factor.order[i])]);
    if (h <= 0) continue;  // a dead column
    const double left = std::max(0.1, 1.0 - static_cast<double>(m - 1 - i) / std::max(1.0, rows));
    nearest += h;
    gptq += std::min(h, static_cast<double>(factor.pivot[i]) / left);
  }
  return nearest > 0 ? gptq / nearest : 1.0;
}

}  // namespace

HessianTaps::HessianTaps(std::vector<const Site*> sites, ThreadPool& pool)
    : sites_(std::move(sites)), pool_(pool) {
  for (const Site* site : sites_) hessians_.emplace_back(site->k);
}

bool HessianTaps::Wants(int layer, ValueKind value) const {
  return std::any_of(sites_.begin(), sites_.end(),
                     [&](const Site* s) { return s->layer == layer && s->value == value; });
}

void HessianTaps::OnRows(const TapRows& rows) {
  for (size_t i = 0; i < sites_.size(); ++i) {
    if (sites_[i]->layer != rows.layer || sites_[i]->value != rows.value) continue;
    status_.Update(hessians_[i].AddRows(rows.data, rows.num_rows, RowWeighting{}, pool_));
  }
}

absl::StatusOr<std::vector<double>> HessianTaps::Gains() {
  SF_RETURN_IF_ERROR(status_);
  std::vector<double> gains;
  for (Hessian& hessian : hessians_) {
    SF_ASSIGN_OR_RETURN(const HessianFactor factor, FactorHessian(hessian.Full(), hessian.k(), {}, pool_));
    gains.push_back(GainOf(factor, hessian.weight()));
  }
  return gains;
}

}  // namespace spikefold
