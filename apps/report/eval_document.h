// eval.json: one evaluation of one model, with all that is needed to compare it with another. Keys, types and
// units: docs/report.md.
//
//   SF_ASSIGN_OR_RETURN(EvalResult result, Evaluate(...));
//   SF_ASSIGN_OR_RETURN(EvalDocument document,
//                       MakeEvalDocument({.result = &result, .model = &model, .reference = &reference,
//                       ...}));
//   SF_RETURN_IF_ERROR(WriteFileAtomic(path, EvalDocumentToJson(document)));
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "calib/dataset.h"
#include "calib/evaluate.h"
#include "formats/base/json.h"
#include "formats/checkpoint.h"
#include "kernels/runtime/kv_options.h"

namespace spikefold {

const char* ProtocolName(Protocol protocol);                     // "paper", "llama.cpp", "chunks"
absl::StatusOr<Protocol> ParseProtocol(absl::string_view name);  // InvalidArgument naming the known ones
const char* BosModeName(BosMode mode);                           // "none", "once", "window"
absl::StatusOr<BosMode> ParseBosMode(absl::string_view name);

// How one linear (or the embedding) is stored.
struct LinearDecision {
  std::string module, role;  // role: "q_proj", ..., "embedding"
  int layer = -1;            // -1: outside the blocks
  int64_t n = 0, k = 0;      // weight [n, k]
  std::string weight;        // "s8c", "u4g", "bf16", "f16", "f32"; of a file that is not native its own word
  int64_t group = 0;         // of weights in groups
  std::string act;           // "s8r", "s8t", "s4g64", ..., "float"
  int64_t kept = 0, super = 0;  // columns in bf16, exact scalars
  double spike_threshold = 0;   // > 0: rows above it are computed in float
  double bits = 0;              // stored bits a weight, all side data included
  double weight_error = -1;     // relative error of the output that rounding causes; negative: not measured
  std::string reason;
};

struct EvalDocument {
  struct Model {
    std::string path, fingerprint, architecture;
    uint64_t file_bytes = 0;
  };
  struct Prefix {
    int64_t tokens = 0;  // 0: none
    std::string kind;    // "bos", "tokens"
    bool changes_function = false;
  };

  // Of a GPU beside the CPU, on the beginning of the text (calib/parity.h).
  struct Parity {
    int64_t tokens = 0;
    int64_t outputs = 0, different = 0, rounded = 0;  // of integer linears
    double logits_worst = 0, kld_mean = 0, kld_max = 0, same_top = 1;
  };

  int format_version = 1;
  std::string tool_version;      // "0.1.0 (729b392)"
  std::string name;              // what the report calls it
  std::string scheme, backend;   // "w8a8-static", or "float"; "cpu", "cpu-simulated", ...
  std::string command, machine;  // as typed; what it ran on; may be empty
  int threads = 0;
  double seconds = 0;  // of the whole command
  Model model, reference;
  std::string text_source, text_sha256;
  int64_t text_bytes = 0;
  Json calibration, kv, folds;             // from the sidecar; null: none
  std::string recipe_sha256, plan_sha256;  // may be empty
  EvalResult result;
  double bits_linear = 0;         // stored bits a weight of the decoder's linears
  double bits_total = 0;          // of all weights, embedding and head included
  double activation_bits = 16;    // of the decoder's linears, weighted by multiply-adds; float counts 16
  double kv_bytes_per_token = 0;  // float counts 16 bits a value
  Prefix prefix;
  Json static_ranges;  // what this text did at inputs with a static scale (calib/static_ranges.h); null: none
  Json kernel_notes;   // a list of Ops::notes(); null: none
  std::optional<Parity> parity;         // nothing: not compared, as always on the CPU
  std::vector<LinearDecision> linears;  // in the model's order
};

struct EvalRun {
  const EvalResult* result = nullptr;                             // required
  const CheckpointReader *model = nullptr, *reference = nullptr;  // required; may be the same
  const TokenStream* text = nullptr;                              // required
  Json static_ranges;
  std::vector<std::string> kernel_notes;
  KvOptions kv;      // how the model kept keys and values
  std::string name;  // empty: the last component of the model's path
  std::string backend = "cpu", command, machine;
  int threads = 0;
  double seconds = 0;
};
// Reads the sidecar of a native checkpoint again; takes bits of other files from their stored tensors.
absl::StatusOr<EvalDocument> MakeEvalDocument(const EvalRun& run);

// One linear a line; values that are not finite are spelled "Infinity", "-Infinity", "NaN".
std::string EvalDocumentToJson(const EvalDocument& document);
// DataLoss naming `where` and key: malformed, a key is missing, of another type or out of range.
// Unimplemented: another format version, or an unknown key (keys "x-..." are ignored).
absl::StatusOr<EvalDocument> EvalDocumentFromJson(absl::string_view text, absl::string_view where);

}  // namespace spikefold
