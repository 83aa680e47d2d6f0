// Small models with known weights: random ones of any shape, and ones with a planted life cycle of massive
// activations (step-up neuron, plateau, step-down neuron, sink head), so that what a census must find is
// known.
//
//   TinyModel tiny = MakeTinyModel({.spike_channels = {70, 301}, .step_up = 1, .step_down = 3});
//   auto model = LoadModel(*tiny.checkpoint, {.pool = &pool});
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/testing/memory_checkpoint.h"

namespace spikefold::testing {

struct TinyModelOptions {
  int64_t hidden = 512, intermediate = 256, num_layers = 5;
  int64_t num_heads = 4, num_kv_heads = 2, head_dim = 64;
  int64_t vocab = 256, max_positions = 1024;
  float norm_eps = 1e-5f;
  GateActivation activation = GateActivation::kSilu;
  bool tied = false, qkv_bias = false, o_bias = false, mlp_bias = false, qk_norm = false, sandwich = false;
  float norm_gain_offset = 0, embedding_scale = 1;
  bool random_gains = false;  // norm gains in [0.5, 1.5] instead of 1; not with planted spikes
  int64_t sliding_window = 0;
  std::vector<bool> sliding_layers;
  RopeConfig rope, rope_local;
  int64_t bos_id = -1;
  // Size of what a layer's random part writes to the residual, whose entries are about 0.5.
  double write_scale = 0.02;
  uint64_t seed = 1;

  // Planted life cycle (METHODS of the census): nothing is planted without channels.
  std::vector<int64_t> spike_channels;
  std::vector<double> betas = {4, 2};  // height of each channel's spike over d * cos^2; the last repeats
  int step_up = 1, step_down = 3;      // layers whose FFN writes and removes the spike
  int32_t sink_token = 7;              // spikes wherever it stands
  double sink_mass = 0.9;              // attention mass on it in the sink heads, at `sink_window` positions
  int64_t sink_window = 64;
};

// What was planted.
struct PlantedSpikes {
  std::vector<int64_t> channels;
  std::vector<double> heights;    // plateau |h| a channel: beta * d * cos^2(s, x)
  std::vector<double> direction;  // s, [d], of unit length
  int step_up = -1, step_down = -1;
  int64_t writer_unit = 0, remover_unit = 0;  // FFN units
  int32_t token = -1;
  std::vector<std::pair<int, int>> sink_heads;  // (layer, query head)
};

struct TinyModel {
  std::unique_ptr<MemoryCheckpoint> checkpoint;
  PlantedSpikes planted;
};
// Aborts on impossible options: they are the test's own bug.
TinyModel MakeTinyModel(const TinyModelOptions& options = {});

}  // namespace spikefold::testing
