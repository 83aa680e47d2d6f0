// Named intermediate values, for observers. A tap sees float rows as they are computed; it must not keep the
// pointer.
#pragma once

#include <cstdint>

#include "formats/model_graph.h"

namespace spikefold {

// What a tap can ask for. Values are those of ModelGraph; every one is [num_rows, width] float32.
struct TapRows {
  int layer = -1;
  ValueKind value = ValueKind::kResidual;
  const float* data = nullptr;  // [num_rows, width]
  int64_t num_rows = 0, width = 0;
  int64_t first_position = 0;  // cache position of row 0 (prefix rows count)
};
// Attention of one layer: how much softmax mass each cache position received.
struct TapAttention {
  int layer = -1;
  const double* column_mass =
      nullptr;  // [num_heads, num_positions], summed over the query rows that can see the position
  int64_t num_heads = 0, num_positions = 0, num_rows = 0;
};

class Taps {
 public:
  virtual ~Taps() = default;
  // kResidual of layer l is the residual after layer l (after its FFN add); the embedding is layer -1. A
  // residual after the attention add is not tapped. kFinal has layer -1; kTokens and kLogits are not tapped
  // (Logits() hands them out). kQ and kK are what attention sees: after head norm, RoPE and rotation.
  // kAttnOut and kFfnOut are what is added to the residual: after the sandwich norm, where there is one.
  // Inputs of linears (kAttnIn, kCtx, kFfnIn, kDownIn) are shown as the linears want them: rotated, but not
  // quantized yet. An intervention edits first.
  virtual bool Wants(int layer, ValueKind value) const = 0;
  virtual void OnRows(const TapRows& rows) = 0;
  virtual bool WantsAttention(int layer) const { return layer < 0; }
  virtual void OnAttention(const TapAttention&) {}
};

// What the attention of a layer may see, beside causality and the layer's own window.
struct AttentionView {
  int64_t hidden_position = -1;  // a position that no later row sees; -1: none
  bool only_itself = false;      // each row sees itself alone, as a sequence's first row does
};

// Replaces values while the model runs: ablations and interventions. May be null.
class Interventions {
 public:
  virtual ~Interventions() = default;
  // A hidden position: on the CPU with a float cache, and not while a tap counts attention; Unimplemented
  // elsewhere.
  virtual AttentionView View(int) const { return {}; }
  virtual bool Wants(int layer, ValueKind value) const = 0;
  virtual void Edit(int layer, ValueKind value, float* data, int64_t num_rows, int64_t width,
                    int64_t first_position) = 0;
};

}  // namespace spikefold
