#include "calib/observers/hessian_observer.h"

namespace spikefold {

HessianObserver::HessianObserver(const ModelGraph& graph, const std::vector<int>& sites,
                                 const RowWeighting& weighting, ThreadPool& pool)
    : weighting_(weighting), pool_(pool) {
  for (const int site : sites) {
    const Site& s = graph.sites[static_cast<size_t>(site)];
    watched_.push_back({&s, Hessian(s.k)});
  }
}

int HessianObserver::Find(int layer, ValueKind value) const {
  for (size_t i = 0; i < watched_.size(); ++i) {
    if (watched_[i].site->layer == layer && watched_[i].site->value == value) return static_cast<int>(i);
  }
  return -1;
}

void HessianObserver::OnRows(const TapRows& rows) {
  Hessian& hessian = watched_[static_cast<size_t>(Find(rows.layer, rows.value))].hessian;
  status_.Update(hessian.AddRows(rows.data, rows.num_rows, weighting_, pool_));
}

}  // namespace spikefold
