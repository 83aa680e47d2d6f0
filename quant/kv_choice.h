// What is wished for a key/value cache, and the form that it gets in a model.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "calib/stats.h"
#include "formats/model_graph.h"
#include "kernels/runtime/kv_options.h"

namespace spikefold {

struct KvChoice {
  int k_bits = 32, v_bits = 32;  // 32 (both): float32 rows; 16: f16; 8, 4, 3, 2: codes
  // How keys are scaled: 'r' each row, 'p' each channel of a page, 'c' each channel (static), 0: p.
  char k_scale = 0;
  int64_t sinks = 1;    // rows of a sequence without a prefix that stay 16 bit
  int64_t recent = 16;  // latest rows that stay 16 bit
  int64_t window = 0;   // > 0: only so many rows are kept behind prefix and sinks
  bool is_float() const { return k_bits == 32; }
  bool operator==(const KvChoice&) const = default;
};

// Sets bits and scaling from a word: "float", "16", "8", "4", "3", "2" for both, "k4v2" for each, "k4cv4"
// with the keys' scaling (r, p or c). InvalidArgument: another word.
absl::Status ParseKvWord(absl::string_view word, KvChoice& choice);
std::string KvWord(const KvChoice& choice);

// The error of sizes without a form.
absl::Status KvSizesNeedForm();
// What can be said without a scan. InvalidArgument: sizes without a form, or a form that the model cannot
// have.
absl::Status CheckKvChoice(const KvChoice& choice, const ModelGraph& graph);

// Keys in scales of a channel and page, unless static ones are asked for (`keys` has what they need): with 2
// bits SmolLM2 has a KL divergence of 0.065 with the former and 0.104 with the latter. Before rotary
// embedding, unless a rotation of queries and keys stands behind it (`graph.qk_rotation`). Values in scales
// of a row and head. (KVQuant, 2401.18079; KIVI, 2402.02750.) `has_prefix`: its rows are the sinks.
// InvalidArgument: a form that the model cannot have.
absl::StatusOr<KvOptions> ChooseKv(const KvChoice& choice, const ModelGraph& graph,
                                   absl::Span<const KeyStats> keys, bool has_prefix);

}  // namespace spikefold
