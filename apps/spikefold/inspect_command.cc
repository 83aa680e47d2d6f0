#include "apps/spikefold/inspect_command.h"

#include <algorithm>
#include <map>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "apps/spikefold/native_summary.h"
#include "apps/spikefold/text.h"
#include "apps/spikefold/text_table.h"
#include "calib/format_count.h"
#include "formats/base/status.h"
#include "quant/recipe.h"
#include "quant/scheme.h"

namespace spikefold {
namespace {

struct StoredTotal {
  int64_t tensors = 0, weights = 0;
  uint64_t bytes = 0;
  double bits() const {
    return weights == 0 ? 0 : 8 * static_cast<double>(bytes) / static_cast<double>(weights);
  }
  void Add(const StoredTensor& tensor) {
    ++tensors;
    weights += NumElements(tensor.shape);
    bytes += tensor.bytes;
  }
};

struct Inspection {
  const CheckpointReader& reader;
  std::map<std::string, StoredTotal> by_type;
  StoredTotal linears, embedding, head, rest, all;
  absl::Status tokenizer;  // whether it can be read
  int group_size = 0;      // of 4-bit schemes; 0: none fits, so that their codes are a trellis
  uint64_t cache_bytes_per_token = 0;
};

const char* KindText(CheckpointKind kind) {
  switch (kind) {
    case CheckpointKind::kGguf:
      return "GGUF";
    case CheckpointKind::kSafetensors:
      return "safetensors";
    case CheckpointKind::kNative:
      return "Spikefold native";
  }
  return "?";
}

Inspection Examine(const CheckpointReader& reader) {
  Inspection inspection{.reader = reader};
  const ModelGraph& graph = reader.graph();
  absl::flat_hash_map<std::string, int> nodes;
  for (const ModelGraph::TensorSpec& spec : graph.Tensors()) nodes[spec.name] = spec.node;
  for (const StoredTensor& tensor : reader.tensors()) {
    const auto it = nodes.find(tensor.name);
    const Node* node = it == nodes.end() ? nullptr : &graph.nodes[static_cast<size_t>(it->second)];
    StoredTotal* total = &inspection.rest;
    if (node != nullptr && node->op == Op::kLinear)
      total = node->role == Role::kHead ? &inspection.head : &inspection.linears;
    if (node != nullptr && node->op == Op::kEmbed) total = &inspection.embedding;
    total->Add(tensor);
    inspection.all.Add(tensor);
    inspection.by_type[tensor.stored_type].Add(tensor);
  }
  const auto tokenizer = reader.LoadTokenizer();
  inspection.tokenizer = tokenizer.status();
  std::vector<int64_t> widths;
  for (const Node& node : graph.nodes) {
    if (node.op == Op::kLinear && node.role != Role::kHead) widths.push_back(node.k);
  }
  inspection.group_size = DefaultGroupSize(widths);
  const ModelConfig& c = graph.config;
  inspection.cache_bytes_per_token =
      2 * sizeof(float) * static_cast<uint64_t>(c.num_layers * c.num_kv_heads * c.head_dim);
  return inspection;
}

std::string SchemesText(const Inspection& inspection) {
  std::vector<std::string> names;
  for (const Scheme& scheme : Schemes()) {
    if (scheme.weight_scales != Granularity::kPerGroup) {
      names.emplace_back(scheme.name);
    } else if (inspection.group_size > 0) {
      names.push_back(absl::StrCat(scheme.name, " (group size ", inspection.group_size, ")"));
    } else {
      names.push_back(absl::StrCat(scheme.name, " (trellis codes)"));
    }
  }
  return absl::StrJoin(names, ", ");
}

std::string LayersText(const ModelConfig& c) {
  std::string text =
      absl::StrFormat("%d of width %s, FFN %s (%s)", c.num_layers, FormatCount(c.hidden),
                      FormatCount(c.intermediate), c.activation == GateActivation::kSilu ? "SiLU" : "GELU");
  if (c.sandwich_norm) text += ", sandwich norm";
  return text;
}

std::string AttentionText(const ModelConfig& c) {
  std::string text =
      absl::StrFormat("%d query and %d key/value heads of %d, RoPE base %s", c.num_heads, c.num_kv_heads,
                      c.head_dim, FormatCount(static_cast<int64_t>(c.rope.theta)));
  if (c.qk_norm) text += ", QK-norm";
  if (c.qkv_bias) text += ", biased";
  const auto sliding = std::count(c.sliding_layers.begin(), c.sliding_layers.end(), true);
  if (c.sliding_window > 0 && sliding > 0) {
    absl::StrAppend(&text, ", ", sliding, " layers slide over ", FormatCount(c.sliding_window), " positions");
  }
  return text;
}

std::string VocabularyText(const ModelConfig& c) {
  std::string text =
      absl::StrCat(FormatCount(c.vocab), c.tied_embeddings ? ", head tied to the embedding" : ", own head");
  if (c.bos_id >= 0) absl::StrAppend(&text, ", BOS ", c.bos_id);
  if (c.eos_id >= 0) absl::StrAppend(&text, ", EOS ", c.eos_id);
  return text;
}

std::vector<std::string> StoredRow(const std::string& name, const StoredTotal& total) {
  return {name, absl::StrCat(total.tensors), CompactCount(total.weights), BytesText(total.bytes),
          BitsText(total.bits())};
}

std::string StoredText(const Inspection& inspection) {
  TextTable table("lrrrr");
  table.Row({"", "tensors", "weights", "bytes", "bits"});
  for (const auto& [type, total] : inspection.by_type) table.Row(StoredRow(type, total));
  table.Row({});
  table.Row(StoredRow("linears", inspection.linears));
  table.Row(StoredRow("embedding", inspection.embedding));
  if (inspection.head.tensors > 0) table.Row(StoredRow("head", inspection.head));
  table.Row(StoredRow("norms, biases", inspection.rest));
  table.Row(StoredRow("all", inspection.all));
  return table.Text();
}

void PrintAbilities(const Inspection& inspection, Console& console) {
  console.Print(absl::StrCat("\n", console.Bold("Spikefold can"), "\n"));
  const bool quantized = inspection.reader.kind() == CheckpointKind::kNative;
  TextTable table("ll");
  if (inspection.tokenizer.ok()) {
    table.Row({"run it", quantized ? "eval, generate, bench, verify" : "scan, eval, generate, bench"});
  } else {
    table.Row({"run it", "bench only; text needs a tokenizer:"});
    table.Row({"", std::string(inspection.tokenizer.message())});
  }
  if (!quantized) table.Row({"quantize it", SchemesText(inspection)});
  console.Print(table.Text());
}

void PrintText(const Inspection& inspection, const std::string& native, Console& console) {
  const CheckpointReader& reader = inspection.reader;
  const ModelConfig& c = reader.graph().config;
  console.Print(absl::StrCat(console.Bold(Printable(reader.path(), 1024)), ": ", Printable(c.architecture),
                             ", ", CompactCount(inspection.all.weights), " weights, ",
                             KindText(reader.kind()), ", ", BytesText(reader.file_bytes()), "\n\n"));
  TextTable table("ll");
  table.Row({"layers", LayersText(c)});
  table.Row({"attention", AttentionText(c)});
  table.Row({"vocabulary", VocabularyText(c)});
  table.Row({"context", absl::StrCat(c.max_positions > 0 ? FormatCount(c.max_positions) : "unknown",
                                     " positions, ", BytesText(inspection.cache_bytes_per_token),
                                     " of keys and values a token when it runs")});
  table.Row({"memory", absl::StrCat(BytesText(WeightMemory(reader, false)), " of weights when it runs")});
  console.Print(table.Text());
  console.Print(absl::StrCat("\n", console.Bold("Stored"), "\n", StoredText(inspection)));
  console.Print(native);
  PrintAbilities(inspection, console);
}

Json TotalJson(const StoredTotal& total) {
  return Json::MakeObject()
      .Set("tensors", total.tensors)
      .Set("weights", total.weights)
      .Set("bytes", total.bytes)
      .Set("bits", total.bits());
}

Json ConfigJson(const ModelConfig& c) {
  return Json::MakeObject()
      .Set("architecture", c.architecture)
      .Set("family", c.family)
      .Set("layers", c.num_layers)
      .Set("hidden", c.hidden)
      .Set("intermediate", c.intermediate)
      .Set("heads", c.num_heads)
      .Set("kv_heads", c.num_kv_heads)
      .Set("head_dim", c.head_dim)
      .Set("vocabulary", c.vocab)
      .Set("max_positions", c.max_positions)
      .Set("tied_embeddings", c.tied_embeddings)
      .Set("qk_norm", c.qk_norm)
      .Set("sandwich_norm", c.sandwich_norm)
      .Set("sliding_window", c.sliding_window);
}

Json Document(const Inspection& inspection, Json native) {
  const CheckpointReader& reader = inspection.reader;
  Json types = Json::MakeObject();
  for (const auto& [type, total] : inspection.by_type) types.Set(type, TotalJson(total));
  Json schemes = Json::MakeArray();
  for (const Scheme& scheme : Schemes()) {
    const bool grouped = scheme.weight_scales == Granularity::kPerGroup;
    if (reader.kind() == CheckpointKind::kNative) continue;
    Json entry = Json::MakeObject();
    entry.Set("scheme", scheme.name).Set("group_size", grouped ? inspection.group_size : 0);
    if (grouped && inspection.group_size == 0) entry.Set("codes", CodesName(Codes::kTrellis));
    schemes.Append(std::move(entry));
  }
  Json document = NewDocument("inspect")
                      .Set("path", reader.path())
                      .Set("format", KindText(reader.kind()))
                      .Set("file_bytes", reader.file_bytes())
                      .Set("model", ConfigJson(reader.graph().config))
                      .Set("stored_types", std::move(types))
                      .Set("linears", TotalJson(inspection.linears))
                      .Set("embedding", TotalJson(inspection.embedding))
                      .Set("head", TotalJson(inspection.head))
                      .Set("all", TotalJson(inspection.all))
                      .Set("weight_memory_bytes", WeightMemory(reader, false))
                      .Set("cache_bytes_per_token", inspection.cache_bytes_per_token)
                      .Set("tokenizer", inspection.tokenizer.ok())
                      .Set("schemes", std::move(schemes));
  if (!native.is_null()) document.Set("native", std::move(native));
  return document;
}

}  // namespace

absl::Status RunInspect(const InspectCommandOptions& options, Context& context) {
  SF_ASSIGN_OR_RETURN(const auto reader, OpenReader(context, options.model));
  const Inspection inspection = Examine(*reader);
  NativeSummary native;
  if (reader->kind() == CheckpointKind::kNative) {
    SF_ASSIGN_OR_RETURN(native, SummarizeNative(options.model, reader->graph()));
  }
  if (context.console.json()) return context.console.PrintJson(Document(inspection, native.ToJson()));
  PrintText(inspection, native.Text(context.console), context.console);
  return context.console.Flush();
}

}  // namespace spikefold
