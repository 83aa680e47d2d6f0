// How much of the damage of rounding to the nearest GPTQ leaves.
#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "calib/hessian.h"
#include "formats/base/thread_pool.h"
#include "formats/model_graph.h"
#include "kernels/runtime/tap.h"

namespace spikefold {

// Collects the Hessians of some sites while windows of text run through the model.
class HessianTaps : public Taps {
 public:
  HessianTaps(std::vector<const Site*> sites, ThreadPool& pool);
  bool Wants(int layer, ValueKind value) const override;
  bool WantsAttention(int) const override { return false; }
  void OnRows(const TapRows& rows) override;

  // Of each site: independent errors of equal size e make an output error of e^2 sum_j H_jj to the nearest,
  // and of e^2 sum_j D_j by GPTQ, D being the pivots of H = U D U^T (hessian_factor.h). Their ratio, from 0
  // to 1. D_j is what is left of column j when the later ones have explained what they can; from few rows
  // they seem to explain too much, so it is divided by the share of the rows that they leave.
  absl::StatusOr<std::vector<double>> Gains();

 private:
  std::vector<const Site*> sites_;
  std::vector<Hessian> hessians_;
  ThreadPool& pool_;
  absl::Status status_;
};

}  // namespace spikefold
