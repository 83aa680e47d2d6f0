// What the tool and its LibTorch plugin say to each other: plain structs and functions in C's manner, so that
// neither side sees the other's library. Pointers are borrowed for the length of a call; sizes stand beside
// them. Every function returns 0, or 1 with a text in its SfTorchError.
//
// The tool describes its ModelGraph node by node, hands over the weights one linear at a time, and then runs
// windows of tokens. The plugin knows no file, no name and no family: what it computes follows from the
// nodes.
#pragma once

#include <cstdint>

extern "C" {

// Of everything below; a plugin of another version is refused.
enum { kSfTorchAbi = 2 };

enum SfTorchOp { kSfEmbed, kSfNorm, kSfLinear, kSfHeadNorm, kSfRope, kSfAttention, kSfGatedMul, kSfAdd };

typedef struct SfTorchNode {
  int32_t op;             // SfTorchOp
  int32_t layer;          // -1: outside the blocks
  int32_t in0, in1, out;  // values by number, below SfTorchGraph::num_values
  int32_t site;           // kSfLinear: index into SfTorchGraph::sites; else -1
  int64_t n, k;           // linear and embedding [n, k]; norms: k
} SfTorchNode;

// x <- (x * scale) * (I (x) H_0 (x) H_1 ...) over blocks of the last axis.
typedef struct SfTorchRotation {
  int64_t width;
  const float* scale;  // [width]
  int32_t num_factors;
  const int64_t* orders;        // [num_factors]
  const float* const* factors;  // each [order, order]
} SfTorchRotation;

// How the input of a site's linears is treated, in this order: rotated, shifted, turned, rounded, turned
// back. (A turn is an orthogonal matrix that is learnt; what is rounded is what a model would round whose
// weights held it.)
typedef struct SfTorchSite {
  int64_t k;
  int32_t rotation;    // index into SfTorchGraph::rotations; -1: none
  const float* shift;  // [k] or null
  int32_t act_bits;    // 0: float
  int32_t act_lo, act_hi, act_symmetric;
  int64_t act_group;   // columns that share a scale; 0: the row
  float static_scale;  // > 0: one stored scale
  int32_t static_zero;
  float spike_threshold;  // > 0: rows with a larger value stay in float
  int32_t turn;           // index into SfTorchGraph::turn_orders, repeated along the row; -1: none
  int64_t num_kept, num_super;
  const int32_t* kept;   // columns in bf16, which the codes leave out
  const int32_t* super;  // columns whose bf16 value super weights multiply
} SfTorchSite;

typedef struct SfTorchRope {
  double theta, factor, low_freq_factor, high_freq_factor;
  int64_t original_max_positions;
  int32_t scaling;  // 0: none, 1: linear, 2: Llama 3
} SfTorchRope;

typedef struct SfTorchGraph {
  int32_t num_nodes, num_values, num_sites, num_rotations, num_layers;
  const SfTorchNode* nodes;
  const SfTorchSite* sites;
  const SfTorchRotation* rotations;
  int32_t value_residual, value_v, value_k;  // numbers of the values that ops name implicitly
  int32_t qk_rotation;                       // index, or -1
  int32_t tied_head;                         // the head multiplies with the embedding's table
  int32_t gelu;                              // gate activation: 0 SiLU, 1 GELU (tanh)
  int64_t num_heads, num_kv_heads, head_dim, sliding_window;
  const uint8_t* slides;  // [num_layers] or null
  float norm_eps, embedding_scale, attention_scale;
  SfTorchRope rope, rope_local;
  // How it computes.
  int32_t bf16;  // products of linears in bfloat16 with float32 sums; 0: all in float32
  // Gradients flow through the scales of rounded activations, so that alone the rounding passes them straight
  // through; 0: the scales are constants, and clipping passes gradients as well.
  int32_t scale_gradients;
  int32_t num_turns;
  const int64_t* turn_orders;  // [num_turns]; all begin as the identity and are learnt
  int32_t num_threads;
  const char* device;  // "cpu", "cuda"
} SfTorchGraph;

// w = scale * (value - zero); super weights are added, kept columns replaced.
typedef struct SfTorchLinear {
  const float* values_f32;  // [n, k]; or
  const int8_t* values_s8;  // [n, k]
  int64_t num_groups;       // scales of a row; 0: none (values are the weights)
  const float* scales;      // [n, num_groups]
  const int8_t* zeros;      // [n, num_groups] or null
  const float* bias;        // [n] or null
  const float* kept;        // [n, num_kept of the site] or null
  int64_t num_super;
  const int32_t *super_row, *super_slot;  // slot: index into the site's super columns
  const float* super_value;
} SfTorchLinear;

enum SfTorchParameter { kSfScales, kSfBias, kSfGain };

typedef struct SfTorchError {
  char text[512];
} SfTorchError;
typedef struct SfTorchModel SfTorchModel;

// A window: rows `first_scored` .. num_tokens - 1 of the output are wanted.
typedef struct SfTorchWindow {
  const int32_t* tokens;
  int64_t num_tokens, first_scored;
} SfTorchWindow;

typedef struct SfTorchApi {
  int32_t abi;
  const char* torch_version;
  int32_t (*cuda_devices)();  // usable ones
  int32_t (*create)(const SfTorchGraph*, SfTorchModel**, SfTorchError*);
  void (*destroy)(SfTorchModel*);
  int32_t (*set_linear)(SfTorchModel*, int32_t node, const SfTorchLinear*, SfTorchError*);
  int32_t (*set_gain)(SfTorchModel*, int32_t node, const float* gain, int64_t size, SfTorchError*);
  // [num_kv_heads, positions, head_dim] each, of every layer or of none.
  int32_t (*set_prefix)(SfTorchModel*, int32_t layer, int64_t positions, const float* k, const float* v,
                        SfTorchError*);
  // logits [scored rows, vocab].
  int32_t (*logits)(SfTorchModel*, const SfTorchWindow*, float* logits, SfTorchError*);
  // Mean over the scored rows of KL(target || model) in nats, target as logits [scored rows, vocab].
  int32_t (*divergence)(SfTorchModel*, const SfTorchWindow*, const float* target, double* mean,
                        SfTorchError*);

  // Learning. Parameters that are learnt are w = w0 * (1 + t), biases b = b0 + unit * t.
  int32_t (*learn)(SfTorchModel*, int32_t node, int32_t parameter, float unit, SfTorchError*);
  // Adds the gradient of the window's mean divergence, divided by `count`, to what is there.
  int32_t (*accumulate)(SfTorchModel*, const SfTorchWindow*, const float* target, double count, double* mean,
                        SfTorchError*);
  // One step of Adam from the gradients there are, which are then forgotten. *finite: 0 if they were not, and
  // nothing was changed.
  int32_t (*adam_step)(SfTorchModel*, double rate, double beta1, double beta2, int32_t* finite,
                       SfTorchError*);
  int32_t (*remember)(SfTorchModel*, SfTorchError*);  // parameters and turns as they are now,
  int32_t (*recall)(SfTorchModel*, SfTorchError*);    // and back to them
  int32_t (*read)(SfTorchModel*, int32_t node, int32_t parameter, float* values, int64_t size, SfTorchError*);
  // One step of all turns along their gradients, which are then forgotten: momentum in the frame that turns
  // with the matrix, its length `rate` radians an axis where gradients agree, and Cayley's map, which leaves
  // the matrix orthogonal. *finite as above.
  int32_t (*cayley_step)(SfTorchModel*, double rate, double beta1, double beta2, int32_t* finite,
                         SfTorchError*);
  int32_t (*read_turn)(SfTorchModel*, int32_t turn, double* values, int64_t size, SfTorchError*);
} SfTorchApi;

// The one symbol of the plugin.
typedef const SfTorchApi* (*SfTorchEntry)();
#define SPIKEFOLD_TORCH_ENTRY "spikefold_torch_api"

}  // extern "C"
