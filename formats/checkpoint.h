// A model on disk: a directory (config.json + safetensors + tokenizer) or a GGUF file, float or natively
// quantized.
//
//   SF_ASSIGN_OR_RETURN(auto model, CheckpointReader::Open(path));
//   model->graph()                               // config and nodes
//   model->ReadF32("model.layers.0.self_attn.q_proj.weight")   // HF names and HF row order, whatever the
//   file is
//
// All families of formats/families. Tensors are read one at a time, on demand; nothing is cached.
// In HF convention: q/k rows unpermuted; a Gemma norm gain is what HF stores (gain - norm_gain_offset).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "formats/base/json.h"
#include "formats/base/progress.h"
#include "formats/model_graph.h"
#include "formats/tensor.h"
#include "formats/tokenizer.h"
#include "formats/weight_rows.h"

namespace spikefold {

enum class CheckpointKind { kGguf, kSafetensors, kNative };
struct StoredTensor {
  std::string name;         // HF name
  std::string stored_name;  // in the file
  std::string stored_type;  // "BF16", "Q4_1", ...
  Shape shape;
  uint64_t bytes = 0;  // in the file
};

class CheckpointReader {
 public:
  // Reads headers only (milliseconds). For a native quantized directory kind() is kNative: its linears are
  // read through formats/quantized/native.h; ReadF32 still reads what is stored as float, biases included.
  // NotFound: no such path. Unimplemented: unknown architecture or quantization method. DataLoss: corrupt, or
  // a needed tensor is missing or has the wrong shape.
  static absl::StatusOr<std::unique_ptr<CheckpointReader>> Open(const std::string& path);
  virtual ~CheckpointReader() = default;

  virtual CheckpointKind kind() const = 0;
  virtual const std::string& path() const = 0;
  virtual const ModelGraph& graph() const = 0;
  virtual const std::vector<StoredTensor>& tensors() const = 0;
  virtual const StoredTensor* Find(absl::string_view name) const = 0;
  // Float32 values of a float (or GGUF block) tensor. NotFound; DataLoss with tensor, index and count if any
  // value is NaN or infinite.
  virtual absl::StatusOr<Tensor> ReadF32(absl::string_view name) const = 0;
  // Rows [begin, end) of ReadF32()'s matrix [n, k] into out [end - begin, k], checked alike. Where not
  // ReadsRows() (folds, another tool's codes) it reads the whole matrix.
  virtual absl::Status ReadF32Rows(absl::string_view name, int64_t begin, int64_t end, float* out) const;
  virtual bool ReadsRows(absl::string_view name) const;
  // What is best read in whole blocks of so many rows: WeightRows::rows_together().
  virtual int64_t RowsTogether(absl::string_view) const { return 1; }
  // ReadF32() of a matrix by blocks of rows: without ReadsRows() what is stored, or all values, stay in
  // memory.
  virtual absl::StatusOr<std::unique_ptr<WeightRows>> OpenRows(absl::string_view name) const;
  // Bytes that ReadF32() has in memory at once, at most: the values, and what the reader needs beside them.
  // 0: no such tensor.
  virtual int64_t ReadMemory(absl::string_view name) const;
  // The tensor as stored, no conversion (safetensors only; Unimplemented for GGUF).
  virtual absl::StatusOr<Tensor> ReadRaw(absl::string_view name) const = 0;
  virtual absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer() const = 0;
  // config.json as read, or the one synthesised from GGUF metadata.
  virtual const Json& config_json() const = 0;
  // Files to place beside a converted model, name -> bytes: tokenizer.json & co byte-copied, or
  // tokenizer.gguf (metadata only).
  struct SideFile {
    std::string name, bytes;
  };
  virtual absl::StatusOr<std::vector<SideFile>> SideFiles() const = 0;
  // Identity of the model: sha256 over each weight file's name and content digest and, of a directory, what
  // its config.json says. Reads the whole model once; cached.
  virtual absl::StatusOr<std::string> Fingerprint() const = 0;
  // Who is told how much of that has been read, and may stop it (Cancelled).
  virtual void WatchHashing(Progress) {}
  virtual uint64_t file_bytes() const = 0;
  // What is odd about the files and changes nothing.
  virtual const std::vector<std::string>& warnings() const;
};

// reader.ReadF32(), by all threads where it reads rows a few at a time.
absl::StatusOr<Tensor> ReadF32(const CheckpointReader& reader, absl::string_view name, ThreadPool& pool);

// Whether a reader's DataLoss is about values that are not finite, and nothing else.
bool IsNotFinite(const absl::Status& status);

// Whether a directory's file of that name is, or could become, part of a checkpoint there: configuration,
// weights, index, tokenizer, what travels beside them, sidecar and manifest.
bool IsCheckpointFile(absl::string_view name);

}  // namespace spikefold
