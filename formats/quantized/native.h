// The native quantized checkpoint: safetensors + the sidecar spikefold.json + manifest.json. Storage only; no
// arithmetic beyond packing and rounding-free conversions. docs/native_format.md describes it on disk.
//
//   config.json       as read, plus "quantization_config": {"quant_method": "spikefold", "format_version": 1}
//   spikefold.json    the sidecar: which linear is stored how, prefix, provenance, bits, xxh3 of each tensor
//   model.safetensors or shards + index: tensors of quantized linears (below) and plain tensors, HF names
//   tokenizer files   byte copies          manifest.json   written last: bytes and sha256 of every other file
//
// Tensors of a linear P (its weight is [N out, K in]; Y = X * W^T):
//   format    tensors
//   float     P.weight BF16|F16|F32 [N,K]
//   8 bit     P.weight I8 [N,K] codes
//   2-6 bit   P.weight_packed I32 [N,ceil(K*b/32)]: a row's codes as code_stream.h lays them (4 bit: code + 8
//             of element i in bits 4*(i%8) of word i/8), as compressed-tensors does; P.weight_shape I64 [2] =
//             N, K
//   scales    P.weight_scale F32 [N,1] per channel, BF16|F16|F32 [N,K/group] per group
//   zeros     P.weight_zero_point, asymmetric only: 8 bit I8 [N,G], else I32 [ceil(N*b/32),G]: the N zero
//             points of a group are one stream, as compressed-tensors packs them (G = K/group, or 1)
//   extras    P.kept_columns I32 [r] strictly ascending, P.kept_weight BF16 [N,r]; P.super_index I32 [s,2]
//             (row, column), P.super_value F32 [s]; P.bias F32 [N]; static activations: P.input_scale F32
//             [1] and, asymmetric, P.input_zero_point I8 [1]
// Kept columns and super weights hold the zero point (code 0 where there is none) and were left out of the
// scale, so that, with x^ = x_scale*(xq - x_zero) and w^ = scale*(wq - zero),
//   y = sum_k x^*w^ + sum_{k kept} x_k * kept_weight + sum_super x_col * value + bias.
// Rotations of the values between linears are named in the sidecar; their signs, never a seed, are stored:
// spikefold.rotation.NAME.sign I8 [width]. What is taken off a site's input (after its rotation) is
// spikefold.shift.SITE BF16 [K]. Those "online" are applied while the model runs; weights, kept
// columns and input scales are those of the rotated inputs.
// An embedding or a head that is quantized is a linear too: module "model.embed_tokens", N = vocab, K =
// hidden.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "formats/base/json.h"
#include "formats/base/progress.h"
#include "formats/quantized/native_kv.h"
#include "formats/quantized/quant_format.h"
#include "formats/rotation.h"
#include "formats/safetensors.h"
#include "formats/tensor.h"
#include "formats/weight_rows.h"

namespace spikefold {

// What the plan knows of a stored linear before any value is computed: everything that decides its bytes, and
// the words about it in the sidecar.
struct QuantizedLinearSpec {
  std::string module;  // "model.layers.3.mlp.down_proj"
  int64_t n = 0, k = 0;
  WeightFormat format = WeightFormat::kFloat;
  DType float_dtype = DType::kBF16;  // float weights: BF16, F16 or F32
  int64_t group = 0;                 // grouped: divides k; 0 otherwise
  DType scale_dtype = DType::kBF16;  // grouped: BF16, F16 or F32 (a channel's scale is F32)
  int64_t num_kept = 0;              // r; 0 for float weights
  int64_t num_super = 0;             // s; 0 for float weights
  bool has_bias = false;
  ActivationFormat act = ActivationFormat::kFloat;
  // Not part of the bytes; WriteLinear() takes them from the linear it is given.
  std::vector<std::string> bias_sources;  // "original", "shift", "correction" ...; may be empty
  float spike_threshold = 0;  // > 0: rows (tokens) whose |x| exceeds it are computed in float ("row split")
  int64_t max_spike_rows =
      4;  // with spike_threshold: at most so many of each 512 rows; the rest is quantized
  // What rounding costs: root of (squared error of the output / its square), with the calibrated inputs' mean
  // squares and channels taken as independent. Negative: not measured.
  double weight_error = -1;
  std::string reason;

  int64_t num_groups() const { return group > 0 ? k / group : 1; }  // scales of a row
};

struct SuperWeight {
  int32_t row = 0, col = 0;
  float value = 0;
};

// One linear in memory, codes unpacked.
struct QuantizedLinear : QuantizedLinearSpec {
  QuantizedLinear() = default;
  explicit QuantizedLinear(QuantizedLinearSpec spec) : QuantizedLinearSpec(std::move(spec)) {}

  Tensor float_weight;                     // float weights: [n, k] of float_dtype; empty otherwise
  std::vector<int8_t> codes;               // [n, k] in format.lo()..hi(); empty for float weights; trellis.h
  std::vector<float> scales;               // [n, num_groups()] values that their stored type holds exactly
  std::vector<int8_t> zeros;               // [n, num_groups()] in format.lo()..hi(); empty if symmetric
  std::vector<int32_t> kept_columns;       // [r] strictly ascending
  std::vector<uint16_t> kept_weight_bf16;  // [n, r]
  std::vector<SuperWeight> supers;         // [s] sorted by (row, col), not in kept columns
  std::vector<float> bias;                 // [n] or empty
  float input_scale = 0;                   // static activations: > 0
  int32_t input_zero = 0;                  // static asymmetric activations: act.lo()..hi()
};

// The declared tensors of a linear, and the exact number of bytes that they take (file headers excluded).
// The spec must be valid (CheckSpec).
std::vector<SafetensorsWriter::Spec> TensorSpecs(const QuantizedLinearSpec& spec);
int64_t StoredBytes(const QuantizedLinearSpec& spec);
// Whether two linears take the same tensors; the words of the sidecar may differ.
bool SameLayout(const QuantizedLinearSpec& a, const QuantizedLinearSpec& b);
// InvalidArgument with module, value and allowed values.
absl::Status CheckSpec(const QuantizedLinearSpec& spec);
// That a linear's vectors agree with its spec and with all rules above (ranges, zero codes, order, finite
// values). InvalidArgument naming module and index.
absl::Status CheckLinear(const QuantizedLinear& linear);

// Trellis codes: the INT8 matrix [n, k] that they stand for, with the same scales.
std::vector<int8_t> Levels(const QuantizedLinear& linear);

// float32 weight [n, k] that the stored parts stand for: scale * (code - zero), kept columns and super
// weights put back. For tests, export and comparison; not how the kernels compute.
Tensor Dequantize(const QuantizedLinear& linear);

// A stored linear whose rows are read a block at a time; what is read obeys the rules of CheckLinear().
// Read() gives the rows of Dequantize().
class LinearRows : public WeightRows {
 public:
  // All but the codes, or the float weight, in memory; of trellis codes those of the INT8 matrix that they
  // stand for.
  virtual const QuantizedLinear& sides() const = 0;
  // Codes of rows [begin, end) into out [end - begin, k], of trellis codes the levels that they stand for.
  virtual absl::Status Codes(int64_t begin, int64_t end, int8_t* out) const = 0;
};

// Key and value rows of prefix tokens, at positions 0..p-1, computed after RoPE; never evicted.
struct NativePrefixSpec {
  int64_t num_tokens = 0;         // p; 0: no prefix
  std::string kind;               // "bos", "tokens", ...
  bool changes_function = false;  // whether logits differ from the float model fed without the prefix
  std::vector<int> layers;        // the attention layers, ascending
  int64_t num_kv_heads = 0, head_dim = 0;
};
struct NativePrefix {
  std::vector<int32_t> ids;  // [p]
  std::vector<Tensor> k, v;  // for each of spec.layers: BF16 [num_kv_heads, p, head_dim]
};

// What is taken off the (rotated) input of a site while the model runs; its linears' biases hold its product
// with their unrounded weights.
struct NativeShift {
  std::string site;           // Site::name
  std::vector<float> values;  // [k], exact in BF16
};

// The sidecar, without what the writer itself computes.
struct NativeInfo {
  std::string tool_version;                  // "0.1.0"
  std::string architecture;                  // of the base model, HF class name
  std::string base_fingerprint;              // CheckpointReader::Fingerprint()
  std::string scheme;                        // "w8a8", ...; free text, may be empty
  std::vector<QuantizedLinearSpec> linears;  // every linear once; also a quantized embedding
  NativePrefixSpec prefix;
  std::vector<Rotation> rotations;  // ModelGraph::rotations of the model that was quantized
  std::vector<NativeShift> shifts;  // Site::shift of its sites that have one
  NativeKv kv;
  Json folds;                              // array of objects, provenance only; or null
  Json calibration;                        // object, provenance only; or null
  std::string recipe_sha256, plan_sha256;  // may be empty
  // Computed by the writer, given by the reader:
  double bits_linears = 0;  // stored bits a weight of the linears inside ".layers.", side tensors included
  double bits_all = 0;  // the same over every linear and plain tensor; bytes of prefix, signs and key scales
                        // count, their elements not
  uint64_t file_bytes = 0;  // of all safetensors files, headers included
};

struct NativeSideFile {
  std::string name, bytes;  // a plain file name
};

// A part of a checkpoint, as one of several processes writes it. On disk it looks like a checkpoint whose
// quant_method is "spikefold-part" and whose sidecar, which describes the whole, says in "x-part" what is
// there: the linears `modules`, and in one part (`common`) everything that belongs to none.
struct NativePart {
  int64_t index = 0, count = 0;  // 1..count; count 0: no part, everything
  std::vector<std::string> modules;
  bool common = false;
  // What parts of one checkpoint agree in beside their content: the build and the arithmetic.
  std::string made_by;
  std::vector<std::string> rests_on;  // `sha256` of the parts whose codes it was rounded behind
  std::string sha256;  // of the sidecar, which holds the hashes of all tensors; when it was read
};

// Writes a native checkpoint; nothing holds more than the linear being written. The order of Write calls is
// free; the bytes depend on the content only. OUT appears at Commit(); destruction before removes everything.
class NativeWriter {
 public:
  struct Options {
    bool overwrite = false;
    uint64_t max_shard_bytes = 0;  // 0: one model.safetensors
    // For the manifest; not part of any other file.
    std::vector<std::string> arguments;
    // Not empty: identifies what is written. The work is then done in OUT.partial, with a journal of the
    // linears that are there in OUT.partial.journal (native_journal.h); both stay when the writer is
    // destroyed before Commit() without Discard(), or the process is killed.
    std::string journal_fingerprint;
    bool resume = false;  // goes on where the journal ends, if there is one
    NativePart part;      // only that part is written and expected
  };
  // `plain` declares all other tensors (norm gains, float embedding ...): float dtypes, HF names. config_json
  // is the base model's; its quantization_config is replaced. Reserves the disk space: Unavailable when it is
  // not there. InvalidArgument: a spec is invalid, a name is declared twice, config.json has no object.
  static absl::StatusOr<std::unique_ptr<NativeWriter>> Create(const std::string& path, NativeInfo info,
                                                              std::vector<SafetensorsWriter::Spec> plain,
                                                              Json config_json,
                                                              const std::vector<NativeSideFile>& side_files,
                                                              const Options& options);
  virtual ~NativeWriter() = default;
  // InvalidArgument unless the linear was declared with the same shapes and passes CheckLinear().
  virtual absl::Status WriteLinear(const QuantizedLinear& linear) = 0;
  virtual absl::Status WriteTensor(absl::string_view name, const TensorView& tensor) = 0;
  virtual absl::Status WritePrefix(const NativePrefix& prefix) = 0;
  // Whether a linear has been written, maybe by the run that is gone on with; and its codes.
  virtual bool HasLinear(absl::string_view module) const = 0;
  virtual absl::StatusOr<QuantizedLinear> ReadBack(absl::string_view module) = 0;
  virtual int64_t num_resumed() const = 0;  // linears of an earlier run
  // Leaves nothing for a later run.
  virtual void Discard() = 0;
  // InvalidArgument naming the first declared tensor that was not written.
  virtual absl::Status Commit() = 0;
};
// The names of what an interrupted writer leaves beside `path`.
std::string PartialPath(const std::string& path);
std::string JournalPath(const std::string& path);

// Opens a native checkpoint: headers, sidecar, signs and key scales only. Everything that the sidecar says is
// checked against the tensors there (set, dtypes, shapes); what values must obey is checked by ReadLinear().
// DataLoss: corrupt or contradictory. Unimplemented: another format version, an unknown key (keys "x-..." are
// ignored), type word or tensor. NotFound: no such directory or file.
class NativeReader {
 public:
  static absl::StatusOr<std::unique_ptr<NativeReader>> Open(const std::string& path);
  // A part, of which only what it holds can be read. InvalidArgument: a whole checkpoint, or none of ours.
  static absl::StatusOr<std::unique_ptr<NativeReader>> OpenPart(const std::string& path);
  virtual ~NativeReader() = default;
  virtual const NativePart& part() const = 0;  // of OpenPart()
  virtual const NativeInfo& info() const = 0;
  virtual const Json& config_json() const = 0;
  virtual const QuantizedLinearSpec* FindLinear(absl::string_view module) const = 0;  // nullptr: none
  virtual absl::StatusOr<QuantizedLinear> ReadLinear(absl::string_view module) const = 0;
  virtual absl::StatusOr<std::unique_ptr<LinearRows>> OpenLinear(absl::string_view module) const = 0;
  // Plain tensors (no part of a linear, not "spikefold.*"), in file order.
  virtual const std::vector<SafetensorsEntry>& plain() const = 0;
  virtual absl::StatusOr<Tensor> ReadTensor(absl::string_view name) const = 0;
  // Rows [begin, end) of a plain matrix.
  virtual absl::StatusOr<Tensor> ReadTensorRows(absl::string_view name, int64_t begin, int64_t end) const = 0;
  virtual absl::StatusOr<NativePrefix> ReadPrefix() const = 0;  // empty ids when there is none
  virtual const std::vector<std::string>& warnings() const = 0;
};
// The bytes of the safetensors files that a NativeWriter would make of these, headers included.
uint64_t NativeFileBytes(const NativeInfo& info, const std::vector<SafetensorsWriter::Spec>& plain,
                         const NativePart& part = {});

// Puts the parts of one checkpoint together, one linear in memory at a time; the bytes are those of the run
// that was not split (but for the arguments in the manifest). InvalidArgument: a part is missing, there twice
// or of something else. DataLoss: a part is corrupt. `overwrite` and errors of writing as NativeWriter.
struct MergeOptions {
  bool overwrite = false;
  std::vector<std::string> arguments;
  Progress progress;
};
absl::Status MergeNativeParts(const std::vector<std::string>& parts, const std::string& output,
                              const MergeOptions& options);

// Whether `path` is a directory whose config.json names the quantization method "spikefold".
bool IsNativeCheckpoint(const std::string& path);

// Recomputes everything: bytes and SHA-256 of each file of manifest.json, that there is no other file, the
// xxh3 of each tensor, ReadLinear()'s rules for each linear, and `rule`, whose InvalidArgument is a DataLoss
// here. DataLoss naming the first difference.
absl::Status NativeVerify(const std::string& path, const Progress& progress = {},
                          const std::function<absl::Status(const QuantizedLinear&)>& rule = {});

}  // namespace spikefold
