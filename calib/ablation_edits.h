// The changes themselves, and the means that they put in place of a value.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

#include "calib/ablate.h"
#include "kernels/runtime/tap.h"

namespace spikefold {

// Mean and root mean square of one channel.
struct ChannelMoments {
  double sum = 0, sum_sq = 0;
  int64_t count = 0;
  void Add(float v);
  double mean() const { return count > 0 ? sum / static_cast<double>(count) : 0; }
  double rms() const;
};

// Which rows of the residual after `layer` carry the spike of a stage.
struct SpikeTest {
  int layer = 0;
  int64_t leader = 0;
  double threshold = 0;
  explicit SpikeTest(const SpikeStage& stage);
  bool operator()(const float* row) const;
};

// What spike entries, ordinary entries and the sink's values are on average.
class AblationObserver : public Taps {
 public:
  AblationObserver(const OutlierMap& map, const ModelConfig& config);
  bool Wants(int layer, ValueKind value) const override;
  void OnRows(const TapRows& rows) override;

  // [stage][hidden]
  const std::vector<std::vector<ChannelMoments>>& spikes() const { return spikes_; }
  const std::vector<std::vector<ChannelMoments>>& ordinary() const { return ordinary_; }
  // [num_layers][num_kv_heads * head_dim]: of the first position, of all others.
  const std::vector<std::vector<ChannelMoments>>& sink_values() const { return sink_values_; }
  const std::vector<std::vector<ChannelMoments>>& other_values() const { return other_values_; }
  // [num_layers][num_heads * head_dim]: of all positions but the first.
  const std::vector<std::vector<ChannelMoments>>& contexts() const { return contexts_; }

 private:
  std::vector<SpikeTest> tests_;
  std::vector<std::vector<ChannelMoments>> spikes_, ordinary_, sink_values_, other_values_, contexts_;
};

// One arm. Begin() before each window.
class AblationIntervention : public Interventions {
 public:
  virtual void Begin(int64_t num_rows) = 0;
  int64_t num_changed() const { return num_changed_; }

 protected:
  int64_t num_changed_ = 0;
};

class SpikeEdit : public AblationIntervention {
 public:
  SpikeEdit(const SpikeStage& stage, const AblationArm& arm, const AblationObserver& seen, uint64_t seed);
  bool Wants(int layer, ValueKind value) const override;
  void Edit(int layer, ValueKind value, float* data, int64_t num_rows, int64_t width,
            int64_t first_position) override;
  void Begin(int64_t) override {}

 private:
  void Change(float* row, const std::vector<int64_t>& channels, int64_t width);
  std::vector<int64_t> OtherChannels(const std::vector<int64_t>& without, int64_t width);

  SpikeTest test_;
  std::vector<int64_t> channels_;
  AblationEdit edit_;
  bool control_, first_only_;
  const std::vector<ChannelMoments>& moments_;  // [hidden] of the entries that are changed
  std::mt19937_64 random_;
};

class SinkEdit : public AblationIntervention {
 public:
  // kHideLate: from layer `late` on.
  SinkEdit(const ModelConfig& config, const AblationArm& arm, int late, const AblationObserver& seen,
           uint64_t seed);
  AttentionView View(int layer) const override;
  bool Wants(int layer, ValueKind value) const override;
  void Edit(int layer, ValueKind value, float* data, int64_t num_rows, int64_t width,
            int64_t first_position) override;
  void Begin(int64_t num_rows) override;

 private:
  const ModelConfig& config_;
  AblationEdit edit_;
  bool control_;
  int late_;
  const AblationObserver& seen_;
  std::mt19937_64 random_;
  int64_t position_ = 0;
  std::vector<float> own_;  // [num_kv_heads * head_dim] the first position's value, as it was
};

// An attention head of a layer, and the share of its context's power that is not that of its mean: 0 is a
// constant.
struct HeadVariation {
  int layer = 0;
  int64_t head = 0;
  double share = 0;
};
std::vector<HeadVariation> VariationOfHeads(const ModelConfig& config, const AblationObserver& seen);

// Heads whose context becomes zero or its mean.
class HeadEdit : public AblationIntervention {
 public:
  HeadEdit(const ModelConfig& config, const AblationArm& arm, const AblationObserver& seen, uint64_t seed);
  bool Wants(int layer, ValueKind value) const override;
  void Edit(int layer, ValueKind value, float* data, int64_t num_rows, int64_t width,
            int64_t first_position) override;
  void Begin(int64_t) override { num_changed_ += static_cast<int64_t>(heads_.size()); }

 private:
  const ModelConfig& config_;
  const AblationEdit edit_;
  const AblationObserver& seen_;
  std::vector<HeadVariation> heads_;
};

}  // namespace spikefold
