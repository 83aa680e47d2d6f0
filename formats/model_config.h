// What a decoder-only transformer is, in numbers. One struct for all families; differences are fields, not
// classes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace spikefold {

enum class GateActivation { kSilu, kGeluTanh };

enum class RopeScaling { kNone, kLinear, kLlama3 };
struct RopeConfig {
  double theta = 10000.0;
  RopeScaling scaling = RopeScaling::kNone;
  double factor = 1.0;
  double low_freq_factor = 1.0, high_freq_factor = 4.0;  // kLlama3
  int64_t original_max_positions = 8192;                 // kLlama3
  bool operator==(const RopeConfig&) const = default;
};

struct ModelConfig {
  std::string family;        // "llama", "mistral", "qwen2", "qwen3", "gemma3": a row of formats/families
  std::string architecture;  // HF class name, e.g. "LlamaForCausalLM"
  int64_t hidden = 0;        // d   width of the residual stream
  int64_t intermediate = 0;  // f   width of the FFN
  int64_t num_layers = 0;
  int64_t num_heads = 0;     // query heads, each head_dim wide
  int64_t num_kv_heads = 0;  // divides num_heads
  int64_t head_dim = 0;      // often hidden / num_heads, but not always
  int64_t vocab = 0;
  int64_t max_positions = 0;  // 0: the file does not say
  float norm_eps = 1e-6f;
  GateActivation activation = GateActivation::kSilu;
  bool qkv_bias = false, o_bias = false, mlp_bias = false;
  bool qk_norm = false;        // RMSNorm of q and k per head, before RoPE
  bool sandwich_norm = false;  // an extra RMSNorm on each branch's output before the residual add
  float norm_gain_offset = 0;  // a stored gain g means gain g + offset (Gemma on disk: 1)
  bool tied_embeddings = false;
  float embedding_scale = 1;         // Gemma: sqrt(hidden) in float32, see families/gemma3.cc
  float attention_scale = 0;         // multiplies q.k; usually 1/sqrt(head_dim)
  RopeConfig rope;                   // of full-attention layers
  RopeConfig rope_local;             // of sliding-window layers
  int64_t sliding_window = 0;        // 0: none. A position sees itself and the window - 1 before it
  std::vector<bool> sliding_layers;  // [num_layers]; empty means none slides
  int64_t bos_id = -1, eos_id = -1;  // -1: none. Further end ids in eos_ids
  std::vector<int64_t> eos_ids;
  bool operator==(const ModelConfig&) const = default;
};

}  // namespace spikefold
