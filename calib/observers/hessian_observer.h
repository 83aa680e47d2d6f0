// Hessians of some linear inputs, as the model runs.
#pragma once

#include <utility>
#include <vector>

#include "calib/hessian.h"
#include "formats/model_graph.h"
#include "kernels/runtime/tap.h"

namespace spikefold {

class HessianObserver : public Taps {
 public:
  // `sites`: indices into graph.sites. A Hessian of k channels takes 4 k^2 bytes. References outlive the
  // observer.
  HessianObserver(const ModelGraph& graph, const std::vector<int>& sites, const RowWeighting& weighting,
                  ThreadPool& pool);
  bool Wants(int layer, ValueKind value) const override { return Find(layer, value) >= 0; }
  bool WantsAttention(int) const override { return false; }
  void OnRows(const TapRows& rows) override;

  const absl::Status& status() const { return status_; }  // the first error
  // Of the i-th of the sites that were asked for.
  const Hessian& hessian(size_t i) const { return watched_[i].hessian; }

 private:
  struct Watched {
    const Site* site;
    Hessian hessian;
  };
  int Find(int layer, ValueKind value) const;  // index, -1: not watched

  const RowWeighting weighting_;
  ThreadPool& pool_;
  std::vector<Watched> watched_;
  absl::Status status_;
};

}  // namespace spikefold
