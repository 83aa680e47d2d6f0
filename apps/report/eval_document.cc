#include "apps/report/eval_document.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "formats/base/dtype.h"
#include "formats/base/status.h"
#include "formats/base/suggest.h"
#include "formats/base/version.h"
#include "formats/quantized/native.h"

namespace spikefold {
namespace {

template <typename T>
struct Word {
  const char* name;
  T value;
};
constexpr Word<Protocol> kProtocols[] = {
    {"paper", Protocol::kPaper}, {"llama.cpp", Protocol::kLlamaCpp}, {"chunks", Protocol::kChunks}};
constexpr Word<BosMode> kBosModes[] = {
    {"none", BosMode::kNone}, {"once", BosMode::kOnce}, {"window", BosMode::kWindow}};

template <typename T, size_t N>
const char* NameOf(const Word<T> (&words)[N], T value) {
  for (const Word<T>& word : words) {
    if (word.value == value) return word.name;
  }
  return "";
}
template <typename T, size_t N>
absl::StatusOr<T> Parse(const Word<T> (&words)[N], absl::string_view name, absl::string_view what) {
  std::vector<std::string> names;
  for (const Word<T>& word : words) {
    if (name == word.name) return word.value;
    names.emplace_back(word.name);
  }
  return absl::InvalidArgumentError(absl::StrCat(what, " \"", Printable(name), "\" is unknown",
                                                 DidYouMean(name, names), "; use ", names[0], ", ", names[1],
                                                 " or ", names[2]));
}

std::string WeightWord(const QuantizedLinearSpec& spec) {
  if (!spec.format.is_float()) return FormatWord(spec.format);
  return spec.float_dtype == DType::kBF16 ? "bf16" : spec.float_dtype == DType::kF16 ? "f16" : "f32";
}

// Role and layer come from the graph: nobody reads them out of names.
void SetPlace(const ModelGraph& graph, LinearDecision& d) {
  const int node = graph.FindModule(d.module);
  if (node < 0) return;
  d.role = std::string(RoleName(graph.nodes[static_cast<size_t>(node)].role));
  d.layer = graph.nodes[static_cast<size_t>(node)].layer;
}

LinearDecision FromSpec(const QuantizedLinearSpec& spec, const ModelGraph& graph) {
  LinearDecision d{.module = spec.module, .n = spec.n, .k = spec.k, .weight = WeightWord(spec)};
  d.group = spec.group;
  d.act = FormatWord(spec.act);
  d.kept = spec.num_kept;
  d.super = spec.num_super;
  d.spike_threshold = static_cast<double>(spec.spike_threshold);
  d.bits = 8.0 * static_cast<double>(StoredBytes(spec)) / static_cast<double>(spec.n * spec.k);
  d.weight_error = spec.weight_error;
  d.reason = spec.reason;
  SetPlace(graph, d);
  return d;
}

// What was calibrated on, without what it saw, which static_ranges tells.
Json Provenance(const Json& calibration) {
  if (!calibration.is_object()) return calibration;
  Json out = Json::MakeObject();
  for (const auto& [key, value] : calibration.object()) {
    if (key != "static_sites") out.Set(key, value);
  }
  return out;
}

void DescribeNative(const NativeInfo& info, const ModelGraph& graph, EvalDocument& doc) {
  doc.scheme = info.scheme;
  doc.calibration = Provenance(info.calibration);
  doc.folds = info.folds;
  doc.recipe_sha256 = info.recipe_sha256;
  doc.plan_sha256 = info.plan_sha256;
  doc.bits_linear = info.bits_linears;
  doc.bits_total = info.bits_all;
  if (info.prefix.num_tokens > 0) {
    doc.prefix = {info.prefix.num_tokens, info.prefix.kind, info.prefix.changes_function};
  }
  for (const QuantizedLinearSpec& spec : info.linears) doc.linears.push_back(FromSpec(spec, graph));
}

// Any other checkpoint: what its tensors take in the file. Activations are float.
void DescribeStored(const CheckpointReader& model, EvalDocument& doc) {
  doc.scheme = "float";
  double linear_bytes = 0, linear_weights = 0, bytes = 0, weights = 0;
  for (const StoredTensor& tensor : model.tensors()) {
    const double size = static_cast<double>(tensor.bytes);
    bytes += size;
    if (!absl::EndsWith(tensor.name, ".weight")) continue;
    const double count = static_cast<double>(NumElements(tensor.shape));
    weights += count;
    LinearDecision d{.module = std::string(absl::StripSuffix(tensor.name, ".weight"))};
    SetPlace(model.graph(), d);
    if (tensor.shape.size() != 2 || d.role.empty()) continue;
    d.n = tensor.shape[0];
    d.k = tensor.shape[1];
    d.weight = tensor.stored_type;
    d.act = "float";
    d.bits = 8 * size / count;
    if (d.layer >= 0) {
      linear_bytes += size;
      linear_weights += count;
    }
    doc.linears.push_back(std::move(d));
  }
  doc.bits_linear = linear_weights > 0 ? 8 * linear_bytes / linear_weights : 0;
  doc.bits_total = weights > 0 ? 8 * bytes / weights : 0;
}

double ActivationBits(const std::vector<LinearDecision>& linears) {
  double macs = 0, mac_bits = 0;
  for (const LinearDecision& d : linears) {
    if (d.layer < 0) continue;
    const double n = static_cast<double>(d.n), k = static_cast<double>(d.k);
    const auto act = ParseActivationFormat(d.act);
    const double kept = static_cast<double>(d.kept), bits = act.ok() && !act->is_float() ? act->bits : 16;
    macs += n * k;
    mac_bits += n * (kept * 16 + (k - kept) * bits);
  }
  return macs > 0 ? mac_bits / macs : 16;
}

absl::StatusOr<EvalDocument::Model> Describe(const CheckpointReader& reader) {
  EvalDocument::Model model{.path = reader.path()};
  SF_ASSIGN_OR_RETURN(model.fingerprint, reader.Fingerprint());
  model.architecture = reader.graph().config.architecture;
  model.file_bytes = reader.file_bytes();
  return model;
}

std::string LastComponent(absl::string_view path) {
  while (absl::EndsWith(path, "/")) path.remove_suffix(1);
  const size_t slash = path.rfind('/');
  return std::string(slash == absl::string_view::npos ? path : path.substr(slash + 1));
}

}  // namespace

const char* ProtocolName(Protocol protocol) { return NameOf(kProtocols, protocol); }
absl::StatusOr<Protocol> ParseProtocol(absl::string_view name) { return Parse(kProtocols, name, "protocol"); }
const char* BosModeName(BosMode mode) { return NameOf(kBosModes, mode); }
absl::StatusOr<BosMode> ParseBosMode(absl::string_view name) { return Parse(kBosModes, name, "BOS mode"); }

absl::StatusOr<EvalDocument> MakeEvalDocument(const EvalRun& run) {
  EvalDocument doc;
  doc.tool_version = ToolVersionAndCommit();
  doc.name = run.name.empty() ? LastComponent(run.model->path()) : run.name;
  doc.backend = run.backend;
  doc.command = run.command;
  doc.static_ranges = run.static_ranges;
  if (!run.kernel_notes.empty()) {
    doc.kernel_notes = Json::MakeArray();
    for (const std::string& note : run.kernel_notes) doc.kernel_notes.Append(note);
  }
  doc.machine = run.machine;
  doc.threads = run.threads;
  doc.seconds = run.seconds;
  SF_ASSIGN_OR_RETURN(doc.model, Describe(*run.model));
  SF_ASSIGN_OR_RETURN(doc.reference, Describe(*run.reference));
  doc.text_source = run.text->source;
  doc.text_sha256 = run.text->sha256;
  doc.text_bytes = run.text->num_bytes;
  doc.result = *run.result;
  if (run.model->kind() == CheckpointKind::kNative) {
    SF_ASSIGN_OR_RETURN(const auto native, NativeReader::Open(run.model->path()));
    DescribeNative(native->info(), run.model->graph(), doc);
  } else {
    DescribeStored(*run.model, doc);
  }
  doc.activation_bits = ActivationBits(doc.linears);
  const ModelConfig& c = run.model->graph().config;
  doc.kv = NativeKvToJson(KvToNative(run.kv, c));
  doc.kv_bytes_per_token = run.kv.is_float()
                               ? static_cast<double>(2 * 2 * c.num_layers * c.num_kv_heads * c.head_dim)
                               : KvBytesPerPosition(run.kv, c);
  return doc;
}

}  // namespace spikefold
