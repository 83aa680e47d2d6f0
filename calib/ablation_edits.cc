#include "calib/ablation_edits.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "calib/spike_stages.h"

namespace spikefold {
namespace {

// A control token stands among the first few, so that about as many rows see it as see the sink.
constexpr int64_t kControlPositions = 16;

int64_t Below(std::mt19937_64& random, int64_t bound) {
  return static_cast<int64_t>(random() % static_cast<uint64_t>(bound));
}

// Box and Muller; std::normal_distribution differs between libraries.
double Normal(std::mt19937_64& random) {
  const auto uniform = [&] { return (static_cast<double>(random() >> 11) + 0.5) * 0x1p-53; };
  const double radius = std::sqrt(-2 * std::log(uniform()));
  return radius * std::cos(2 * std::acos(-1.0) * uniform());
}

int64_t Leader(const SpikeStage& stage) {
  for (const SpikeChannel& channel : stage.channels) {
    if (channel.leader) return channel.channel;
  }
  return 0;
}

}  // namespace

void ChannelMoments::Add(float v) {
  sum += static_cast<double>(v);
  sum_sq += static_cast<double>(v) * static_cast<double>(v);
  ++count;
}
double ChannelMoments::rms() const { return count > 0 ? std::sqrt(sum_sq / static_cast<double>(count)) : 0; }

SpikeTest::SpikeTest(const SpikeStage& stage)
    : layer(stage.step_up), leader(Leader(stage)), threshold(kSpikeRowShare * stage.plateau) {}
bool SpikeTest::operator()(const float* row) const {
  return static_cast<double>(std::fabs(row[leader])) > threshold;
}

AblationObserver::AblationObserver(const OutlierMap& map, const ModelConfig& config) {
  for (const SpikeStage& stage : map.stages) tests_.emplace_back(stage);
  const std::vector<ChannelMoments> residual(static_cast<size_t>(config.hidden));
  const std::vector<ChannelMoments> value(static_cast<size_t>(config.num_kv_heads * config.head_dim));
  spikes_.assign(tests_.size(), residual);
  ordinary_ = spikes_;
  sink_values_.assign(static_cast<size_t>(config.num_layers), value);
  other_values_ = sink_values_;
  contexts_.assign(static_cast<size_t>(config.num_layers),
                   std::vector<ChannelMoments>(static_cast<size_t>(config.num_heads * config.head_dim)));
}

bool AblationObserver::Wants(int layer, ValueKind value) const {
  if (layer >= 0 && (value == ValueKind::kV || value == ValueKind::kCtx)) return true;
  return value == ValueKind::kResidual &&
         std::any_of(tests_.begin(), tests_.end(), [&](const SpikeTest& t) { return t.layer == layer; });
}

void AblationObserver::OnRows(const TapRows& rows) {
  const auto add = [&](int64_t t, std::vector<ChannelMoments>& out) {
    for (int64_t c = 0; c < rows.width; ++c) out[static_cast<size_t>(c)].Add(rows.data[t * rows.width + c]);
  };
  for (int64_t t = 0; t < rows.num_rows; ++t) {
    if (rows.value == ValueKind::kV) {
      add(t, (t == 0 ? sink_values_ : other_values_)[static_cast<size_t>(rows.layer)]);
      continue;
    }
    if (rows.value == ValueKind::kCtx) {
      if (t > 0) add(t, contexts_[static_cast<size_t>(rows.layer)]);
      continue;
    }
    for (size_t s = 0; s < tests_.size(); ++s) {
      if (tests_[s].layer != rows.layer) continue;
      add(t, (tests_[s](rows.data + t * rows.width) ? spikes_ : ordinary_)[s]);
    }
  }
}

SpikeEdit::SpikeEdit(const SpikeStage& stage, const AblationArm& arm, const AblationObserver& seen,
                     uint64_t seed)
    : test_(stage),
      edit_(arm.edit),
      control_(arm.control),
      first_only_(arm.first_only),
      moments_((arm.control ? seen.ordinary() : seen.spikes())[static_cast<size_t>(arm.stage)]),
      random_(seed) {
  for (const SpikeChannel& channel : stage.channels) channels_.push_back(channel.channel);
}

bool SpikeEdit::Wants(int layer, ValueKind value) const {
  return layer == test_.layer && value == ValueKind::kResidual;
}

void SpikeEdit::Edit(int, ValueKind, float* data, int64_t num_rows, int64_t width, int64_t) {
  std::vector<int64_t> rows, others;
  for (int64_t t = 0; t < num_rows; ++t) (test_(data + t * width) ? rows : others).push_back(t);
  if (first_only_ && rows.size() > 1) rows.erase(rows.begin() + 1, rows.end());
  if (!control_) {
    for (const int64_t t : rows) Change(data + t * width, channels_, width);
    return;
  }
  const int64_t count = std::min(static_cast<int64_t>(rows.size()), static_cast<int64_t>(others.size()));
  for (int64_t i = 0; i < count; ++i) {  // the beginning of a shuffle
    const int64_t j = i + Below(random_, static_cast<int64_t>(others.size()) - i);
    std::swap(others[static_cast<size_t>(i)], others[static_cast<size_t>(j)]);
    Change(data + others[static_cast<size_t>(i)] * width, OtherChannels(channels_, width), width);
  }
}

// As many as the stage has, none of the stage's and none of `without`.
std::vector<int64_t> SpikeEdit::OtherChannels(const std::vector<int64_t>& without, int64_t width) {
  std::vector<int64_t> out;
  const auto holds = [](const std::vector<int64_t>& channels, int64_t c) {
    return std::count(channels.begin(), channels.end(), c) > 0;
  };
  const auto taken = [&](int64_t c) { return holds(channels_, c) || holds(without, c) || holds(out, c); };
  size_t num_free = 0;
  for (int64_t c = 0; c < width; ++c) num_free += !taken(c);
  const size_t count = std::min(channels_.size(), num_free);
  while (out.size() < count) {
    const int64_t c = Below(random_, width);
    if (!taken(c)) out.push_back(c);
  }
  return out;
}

void SpikeEdit::Change(float* row, const std::vector<int64_t>& channels, int64_t width) {
  num_changed_ += static_cast<int64_t>(channels.size());
  const size_t count = channels.size();
  if (edit_ == AblationEdit::kShuffle) {
    std::vector<int64_t> from = channels;
    if (count == 1) from.push_back(OtherChannels(channels, width).front());  // alone: with one of no stage
    const int64_t shift = 1 + Below(random_, static_cast<int64_t>(from.size()) - 1);  // none stays in place
    std::vector<float> values;
    values.reserve(from.size());
    for (const int64_t c : from) values.push_back(row[c]);
    for (size_t i = 0; i < from.size(); ++i) {
      row[from[(i + static_cast<size_t>(shift)) % from.size()]] = values[i];
    }
    return;
  }
  for (const int64_t c : channels) {
    const ChannelMoments& m = moments_[static_cast<size_t>(c)];
    const double value = edit_ == AblationEdit::kZero   ? 0
                         : edit_ == AblationEdit::kMean ? m.mean()
                                                        : m.rms() * Normal(random_);
    row[c] = static_cast<float>(value);
  }
}

SinkEdit::SinkEdit(const ModelConfig& config, const AblationArm& arm, int late, const AblationObserver& seen,
                   uint64_t seed)
    : config_(config), edit_(arm.edit), control_(arm.control), late_(late), seen_(seen), random_(seed) {}

void SinkEdit::Begin(int64_t num_rows) {
  const int64_t last = std::min(kControlPositions, num_rows) - 1;
  position_ = control_ && last > 0 ? 1 + Below(random_, last) : 0;
  ++num_changed_;
}

AttentionView SinkEdit::View(int layer) const {
  const bool hide = edit_ == AblationEdit::kHide || (edit_ == AblationEdit::kHideLate && layer >= late_);
  return {.hidden_position = hide ? position_ : -1};
}

bool SinkEdit::Wants(int layer, ValueKind value) const {
  if (layer < 0 || edit_ == AblationEdit::kHide || edit_ == AblationEdit::kHideLate) return false;
  return value == ValueKind::kV || (value == ValueKind::kCtx && position_ == 0);
}

void SinkEdit::Edit(int layer, ValueKind value, float* data, int64_t, int64_t width, int64_t) {
  if (value == ValueKind::kCtx) {
    // The first row attends to itself alone, so its context is its own value, once a query head.
    const int64_t group = config_.num_heads / config_.num_kv_heads;
    for (int64_t i = 0; i < width; ++i) {
      const int64_t kv_head = i / config_.head_dim / group;
      data[i] = own_[static_cast<size_t>(kv_head * config_.head_dim + i % config_.head_dim)];
    }
    return;
  }
  float* row = data + position_ * width;
  own_.assign(row, row + width);
  const auto& means =
      (position_ == 0 ? seen_.sink_values() : seen_.other_values())[static_cast<size_t>(layer)];
  for (int64_t c = 0; c < width; ++c) {
    row[c] = edit_ == AblationEdit::kZero ? 0 : static_cast<float>(means[static_cast<size_t>(c)].mean());
  }
}

std::vector<HeadVariation> VariationOfHeads(const ModelConfig& config, const AblationObserver& seen) {
  std::vector<HeadVariation> heads;
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    const std::vector<ChannelMoments>& moments = seen.contexts()[static_cast<size_t>(layer)];
    for (int64_t head = 0; head < config.num_heads; ++head) {
      double power = 0, constant = 0;
      for (int64_t i = 0; i < config.head_dim; ++i) {
        const ChannelMoments& m = moments[static_cast<size_t>(head * config.head_dim + i)];
        power += m.rms() * m.rms();
        constant += m.mean() * m.mean();
      }
      heads.push_back({static_cast<int>(layer), head, power > 0 ? 1 - constant / power : 0});
    }
  }
  return heads;
}

HeadEdit::HeadEdit(const ModelConfig& config, const AblationArm& arm, const AblationObserver& seen,
                   uint64_t seed)
    : config_(config), edit_(arm.edit), seen_(seen), heads_(VariationOfHeads(config, seen)) {
  const size_t count = std::min(static_cast<size_t>(arm.heads), heads_.size());
  if (arm.control) {
    std::mt19937_64 random(seed);
    for (size_t i = 0; i < count; ++i) {
      std::swap(heads_[i],
                heads_[i + static_cast<size_t>(Below(random, static_cast<int64_t>(heads_.size() - i)))]);
    }
  } else {
    std::stable_sort(heads_.begin(), heads_.end(),
                     [](const HeadVariation& a, const HeadVariation& b) { return a.share < b.share; });
  }
  heads_.resize(count);
}

bool HeadEdit::Wants(int layer, ValueKind value) const {
  return value == ValueKind::kCtx &&
         std::any_of(heads_.begin(), heads_.end(), [&](const HeadVariation& h) { return h.layer == layer; });
}

void HeadEdit::Edit(int layer, ValueKind, float* data, int64_t num_rows, int64_t width, int64_t) {
  const std::vector<ChannelMoments>& means = seen_.contexts()[static_cast<size_t>(layer)];
  for (const HeadVariation& h : heads_) {
    if (h.layer != layer) continue;
    for (int64_t i = h.head * config_.head_dim; i < (h.head + 1) * config_.head_dim; ++i) {
      const float value =
          edit_ == AblationEdit::kZero ? 0 : static_cast<float>(means[static_cast<size_t>(i)].mean());
      for (int64_t t = 0; t < num_rows; ++t) data[t * width + i] = value;
    }
  }
}

}  // namespace spikefold
