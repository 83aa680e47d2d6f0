// A closer look at one stage: which channels spike, how alike the spike rows are, which FFN units write and
// remove the spike.
#pragma once

#include <cstdint>
#include <vector>

#include "calib/spike_stages.h"
#include "kernels/runtime/tap.h"

namespace spikefold {

// What one step of the stage adds to the leader channel of its spike rows, in the direction of the spike.
struct StepParts {
  std::vector<double> unit;       // [intermediate] mean of a[t,i] * D[leader,i] * sign(h[t,leader])
  double ffn = 0, attention = 0;  // the same of the whole branches, as added to the residual
  int64_t rows = 0;
};

class StageObserver : public Taps {
 public:
  // `down_up`, `down_down`: row `leader` of the down_proj of layers step_up and step_down (empty without a
  // step down). `plateau`: height of the spike on the leader channel.
  StageObserver(const StageShape& stage, double plateau, std::vector<float> down_up,
                std::vector<float> down_down, int64_t num_layers, int64_t hidden);
  bool Wants(int layer, ValueKind value) const override;
  void OnRows(const TapRows& rows) override;

  StepParts step_up() const { return Mean(up_); }
  StepParts step_down() const { return Mean(down_); }
  int64_t spike_rows() const { return spike_rows_; }
  double near_constancy() const;  // mean cosine of spike rows to their mean direction
  const std::vector<double>& peak() const { return peak_; }  // [hidden] max |h| of spike rows
  std::vector<double> mean_spike() const;                    // [hidden] mean |h| over spike rows
  std::vector<double> mean_ordinary() const;                 // [hidden] mean |h| over the other rows

 private:
  struct Step {
    std::vector<float> row;             // [intermediate] of down_proj
    std::vector<float> down_in;         // [rows, intermediate] of the window
    std::vector<float> ffn, attention;  // [rows] the branches on the leader channel
    StepParts sum;
  };
  static StepParts Mean(const Step& step);
  void Keep(const TapRows& rows, Step& step);
  void AddParts(const std::vector<float>& height, Step& step);
  void AddPeakRows(const TapRows& rows);
  bool IsSpike(float height) const;
  std::vector<float> Heights(const TapRows& rows) const;

  StageShape stage_;
  double threshold_;
  bool removed_;
  Step up_, down_;
  std::vector<float> heights_before_;  // [rows] on the leader channel, before the step down
  int64_t spike_rows_ = 0, ordinary_rows_ = 0;
  std::vector<double> peak_, spike_sum_, ordinary_sum_, direction_;  // [hidden]
};

}  // namespace spikefold
