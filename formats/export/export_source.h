// What an export reads: a float model or a native quantized one, as a list of weights in HF names and row
// order.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "formats/checkpoint.h"
#include "formats/quantized/native.h"

namespace spikefold {

// A node of the graph that has a weight.
struct ExportWeight {
  Node node;
  Shape shape;  // [n, k], or [k] of a gain
  // Of a native checkpoint's linear, trellis codes as the INT8 levels that they stand for; nullptr otherwise.
  const QuantizedLinearSpec* spec = nullptr;
  std::string stored_type;  // "s4g32", "BF16", "Q4_1"
  bool has_bias = false;    // also where only a fold brought one in

  bool quantized() const { return spec != nullptr && !spec->format.is_float(); }
  bool is_linear() const { return IsLinearRole(node.role); }
  std::string weight_name() const { return node.module + ".weight"; }
  std::string bias_name() const { return node.module + ".bias"; }
};

class ExportSource {
 public:
  // As CheckpointReader::Open().
  static absl::StatusOr<std::unique_ptr<ExportSource>> Open(const std::string& path);

  // Of a float model that outlives it.
  static std::unique_ptr<ExportSource> Of(const CheckpointReader& reader);

  const std::string& path() const { return reader_->path(); }
  const CheckpointReader& reader() const { return *reader_; }
  const ModelConfig& config() const { return reader_->graph().config; }
  const NativeInfo* native() const { return native_ == nullptr ? nullptr : &native_->info(); }
  // In order of execution; the head only where it has a weight of its own.
  const std::vector<ExportWeight>& weights() const { return weights_; }
  bool has_head() const;

  // Of a native linear.
  absl::StatusOr<std::unique_ptr<LinearRows>> OpenLinear(const ExportWeight& weight) const;
  // Of a matrix: the values that the stored parts stand for.
  absl::StatusOr<std::unique_ptr<WeightRows>> OpenRows(const ExportWeight& weight) const;
  // float32 values; a gain as HF stores it.
  absl::StatusOr<Tensor> ReadWeight(const ExportWeight& weight) const;
  // float32 [n]; zeros where the linear has none. What the native model takes off the input is folded in:
  // with float activations y = W x + this is the same function.
  absl::StatusOr<Tensor> ReadBias(const ExportWeight& weight, ThreadPool& pool) const;
  // The prefix; empty ids when there is none.
  absl::StatusOr<NativePrefix> ReadPrefix() const;

 private:
  ExportSource() = default;
  void ListWeights();
  // Taken off the inputs of a linear; nullptr: nothing.
  const NativeShift* ShiftOf(const ExportWeight& weight) const;

  std::unique_ptr<CheckpointReader> owned_;
  const CheckpointReader* reader_ = nullptr;
  std::unique_ptr<NativeReader> native_;  // null: a float model
  std::vector<ExportWeight> weights_;
  std::vector<std::unique_ptr<QuantizedLinearSpec>> levels_;  // of trellis codes
};

// Which linears must have a bias in a format that switches biases on for a whole group: where one of them has
// one, all get one, zeros where there was none.
struct BiasGroups {
  bool attention = false;  // any of q, k, v, o
  bool mlp = false;        // any of gate, up, down
  bool qkv = false, o = false;
};
BiasGroups FindBiases(const ExportSource& source);
// Whether this weight is written with a bias in such a format.
bool NeedsBias(const BiasGroups& groups, Role role);

// Why a format that keeps codes alone, one precision a linear, must store this quantized weight in 16 bit;
// empty: it need not.
std::string WhySixteenBit(const ExportWeight& weight);

// Refuses what no other engine computes: an online rotation of down_proj's inputs, which the weights are
// rotated for (Unimplemented, naming the remedy).
absl::Status CheckExportable(const ExportSource& source, absl::string_view format);

}  // namespace spikefold
