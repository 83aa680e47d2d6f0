// Keys before rotary embedding, channel by channel: what static key scales are chosen from.
#pragma once

#include <cstdint>
#include <vector>

#include "calib/stats.h"
#include "formats/base/thread_pool.h"
#include "kernels/runtime/rope.h"
#include "kernels/runtime/tap.h"

namespace spikefold {

class KeyObserver : public Taps {
 public:
  // Rows at cache positions before `first_position` are left out: those that stay 16 bit anyway (a prefix,
  // the first row, a sink). A model that rotates keys behind their embedding is not observed: its keys are
  // coded as attention sees them. Of each layer up to `max_rows` rows are kept, evenly spread over those
  // seen.
  KeyObserver(const ModelGraph& graph, int64_t first_position, ThreadPool& pool, int64_t max_rows = 2048);

  bool Wants(int layer, ValueKind value) const override {
    return observes_ && layer >= 0 && value == ValueKind::kK;
  }
  void OnRows(const TapRows& rows) override;
  std::vector<KeyStats> Take();  // empty if nothing was seen

 private:
  struct Layer {
    std::vector<float> min, max;  // [width] of all rows
    std::vector<float> kept;      // [rows, width] every stride-th row
    int64_t seen = 0, stride = 1;
  };
  void Keep(Layer& layer, const std::vector<float>& row);

  ThreadPool& pool_;
  const ModelConfig config_;
  const bool observes_;
  const int64_t first_position_, max_rows_, width_;
  RopeTable rope_, rope_local_;
  std::vector<Layer> layers_;
};

}  // namespace spikefold
