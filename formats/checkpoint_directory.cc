// A model directory: config.json, safetensors, tokenizer; float, or in the native quantized form.
#include "formats/checkpoint_directory.h"

#include <algorithm>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "formats/base/file.h"
#include "formats/base/status.h"
#include "formats/families/family.h"
#include "formats/gguf.h"
#include "formats/quantized/native_parts.h"
#include "formats/safetensors_model.h"

namespace spikefold {
namespace {

constexpr uint64_t kMaxConfigBytes = uint64_t{16} << 20, kMaxTokenizerBytes = uint64_t{256} << 20;

absl::StatusOr<std::string> ReadIn(const std::string& directory, const std::string& name,
                                   uint64_t max_bytes) {
  SF_ASSIGN_OR_RETURN(const std::unique_ptr<ByteSource> source, OpenFileIn(directory, name));
  return ReadToString(*source, max_bytes);
}

// null if there is no such file.
absl::StatusOr<Json> ReadOptionalJson(const std::string& directory, const std::string& name,
                                      uint64_t max_bytes) {
  const std::string path = JoinPath(directory, name);
  if (!PathExists(path)) return Json();
  SF_ASSIGN_OR_RETURN(const std::string text, ReadIn(directory, name, max_bytes));
  return ParseJson(text, path);
}

absl::StatusOr<Json> ReadConfig(const std::string& directory) {
  if (!PathExists(JoinPath(directory, "config.json"))) {
    return absl::NotFoundError(absl::StrCat(directory,
                                            ": has no config.json; a model directory holds config.json, "
                                            "*.safetensors and tokenizer.json"));
  }
  return ReadOptionalJson(directory, "config.json", kMaxConfigBytes);
}

// What travels beside the weights, unchanged.
bool IsSideFile(absl::string_view name) {
  static constexpr const char* kNames[] = {"generation_config.json",
                                           "special_tokens_map.json",
                                           "chat_template.jinja",
                                           "chat_template.json",
                                           "added_tokens.json",
                                           "vocab.json",
                                           "merges.txt",
                                           "tokenizer.model",
                                           "tokenizer.gguf"};
  if (std::find(std::begin(kNames), std::end(kNames), name) != std::end(kNames)) return true;
  return absl::StartsWith(name, "LICENSE") ||
         (absl::StartsWith(name, "tokenizer") && absl::EndsWith(name, ".json"));
}

// Without these the model would not be the same: what is wrong with them is an error.
bool DecidesTokens(absl::string_view name) {
  return name == "tokenizer.json" || name == "tokenizer_config.json" || name == "tokenizer.gguf";
}

}  // namespace

bool IsCheckpointFile(absl::string_view name) {
  return name == kConfigFile || name == kSidecarFile || name == kManifestFile || IsSideFile(name) ||
         absl::EndsWith(name, ".safetensors") || absl::EndsWith(name, ".safetensors.index.json");
}

absl::StatusOr<std::unique_ptr<Tokenizer>> DirectoryCheckpoint::LoadTokenizer() const {
  if (PathExists(JoinPath(path_, "tokenizer.json"))) {
    SF_ASSIGN_OR_RETURN(const Json json, ReadOptionalJson(path_, "tokenizer.json", kMaxTokenizerBytes));
    SF_ASSIGN_OR_RETURN(const Json config, ReadOptionalJson(path_, "tokenizer_config.json", kMaxConfigBytes));
    return Tokenizer::FromTokenizerJson(json, config, JoinPath(path_, "tokenizer.json"),
                                        graph().config.bos_id);
  }
  if (PathExists(JoinPath(path_, "tokenizer.gguf"))) {
    SF_ASSIGN_OR_RETURN(std::unique_ptr<ByteSource> source, OpenFileIn(path_, "tokenizer.gguf"));
    SF_ASSIGN_OR_RETURN(const std::unique_ptr<GgufFile> file, GgufFile::FromSource(std::move(source)));
    return Tokenizer::FromGguf(*file);
  }
  return absl::NotFoundError(absl::StrCat(path_, ": has neither tokenizer.json nor tokenizer.gguf"));
}

absl::Status DirectoryCheckpoint::FindSideFiles() {
  SF_ASSIGN_OR_RETURN(const std::vector<std::string> names, ListDirectory(path_));
  for (const std::string& name : names) {
    if (!IsSideFile(name)) continue;
    const absl::Status opened = OpenFileIn(path_, name).status();
    const bool no_file = absl::IsDataLoss(opened) || absl::IsNotFound(opened);
    if (no_file && !DecidesTokens(name)) {
      warnings_.push_back(absl::StrCat(opened.message(), "; it is left out"));
    } else {
      side_files_.push_back(name);
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<CheckpointReader::SideFile>> DirectoryCheckpoint::SideFiles() const {
  std::vector<SideFile> files;
  for (const std::string& name : side_files_) {
    SideFile file{.name = name, .bytes = ""};
    SF_ASSIGN_OR_RETURN(file.bytes, ReadIn(path_, name, kMaxTokenizerBytes));
    files.push_back(std::move(file));
  }
  return files;
}

namespace {

constexpr int64_t kBlockValues = 1 << 18;  // that are converted at a time: their bytes stay in the cache

}  // namespace

// Where rows are read a few at a time a matrix as it is stored is never in memory beside its float32 values.
absl::StatusOr<Tensor> DirectoryCheckpoint::ReadF32(absl::string_view name) const {
  Tensor whole;
  if (!ReadsRows(name)) {
    SF_ASSIGN_OR_RETURN(const Tensor raw, ReadRaw(name));
    if (!IsFloat(raw.dtype())) return NotFloat(name, raw.dtype());
    whole = ToF32(raw.view());
  } else {
    const Shape& shape = Find(name)->shape;
    whole = Tensor(DType::kF32, shape);
    const int64_t block = std::max<int64_t>(1, kBlockValues / std::max<int64_t>(1, shape[1]));
    for (int64_t begin = 0; begin < shape[0]; begin += block) {
      SF_ASSIGN_OR_RETURN(const Tensor raw, ReadRawRows(name, begin, std::min(begin + block, shape[0])));
      if (!IsFloat(raw.dtype())) return NotFloat(name, raw.dtype());
      ToF32(raw.view(), whole.as<float>().data() + begin * shape[1]);
    }
  }
  SF_RETURN_IF_ERROR(CheckFinite(whole.as<float>(), path_, name));
  return whole;
}

absl::Status DirectoryCheckpoint::ReadF32Rows(absl::string_view name, int64_t begin, int64_t end,
                                              float* out) const {
  if (!ReadsRows(name)) return CheckpointBase::ReadF32Rows(name, begin, end, out);
  SF_RETURN_IF_ERROR(CheckRows(Find(name)->shape, begin, end, path_, name));
  SF_ASSIGN_OR_RETURN(const Tensor raw, ReadRawRows(name, begin, end));
  if (!IsFloat(raw.dtype())) return NotFloat(name, raw.dtype());
  ToF32(raw.view(), out);
  return CheckFiniteRows(absl::MakeConstSpan(out, static_cast<size_t>(raw.num_elements())), name);
}

bool DirectoryCheckpoint::IsMatrix(absl::string_view name) const {
  const StoredTensor* tensor = Find(name);
  return tensor != nullptr && tensor->shape.size() == 2;
}

absl::Status DirectoryCheckpoint::SetConfig(Json config_json) {
  absl::StatusOr<ModelConfig> config = ConfigFromJson(config_json);
  absl::StatusOr<ModelGraph> graph = config.ok() ? BuildGraph(*config) : config.status();
  if (!graph.ok()) {
    return absl::Status(graph.status().code(), absl::StrCat(path_, ": ", graph.status().message()));
  }
  graph_ = *std::move(graph);
  absl::StrAppend(&meaning_, ConfigToJson(graph_.config).Dump(), "\n");
  config_json_ = std::move(config_json);
  return absl::OkStatus();
}

void DirectoryCheckpoint::AddEntry(const SafetensorsEntry& entry, absl::string_view name) {
  AddTensor({.name = std::string(name.empty() ? entry.name : name),
             .stored_name = entry.name,
             .stored_type = std::string(DTypeName(entry.dtype)),
             .shape = entry.shape,
             .bytes = entry.bytes});
}

void DirectoryCheckpoint::AddWeightFiles(const std::vector<std::string>& names) {
  for (const std::string& name : names) weight_files_.push_back({name, JoinPath(path_, name)});
}

absl::Status DirectoryCheckpoint::Missing(const ModelGraph::TensorSpec& spec) const {
  return absl::DataLossError(
      absl::StrCat(path_, ": tensor ", spec.name, " ", ShapeString(spec.shape), " is missing"));
}

absl::Status DirectoryCheckpoint::NotFloat(absl::string_view name, DType dtype) const {
  return absl::DataLossError(
      absl::StrCat(path_, ": ", name, " is ", DTypeName(dtype), "; F32, F16, BF16 or F64 is needed"));
}

absl::Status DirectoryCheckpoint::CheckTiedHead(const SafetensorsEntry& head) const {
  constexpr int64_t kComparedRows = 16;
  const std::string name = graph_.nodes.front().module + ".weight";
  const Shape& shape = Find(name)->shape;
  SF_RETURN_IF_ERROR(CheckShape(head.shape, shape, path_, head.name));
  if (!IsFloat(head.dtype)) return NotFloat(head.name, head.dtype);
  const int64_t count = std::min<int64_t>(shape[0], kComparedRows);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t row = i * shape[0] / count;
    std::vector<float> ours(static_cast<size_t>(shape[1]));
    SF_RETURN_IF_ERROR(ReadF32Rows(name, row, row + 1, ours.data()));
    SF_ASSIGN_OR_RETURN(const Tensor raw, ReadRawRows(head.name, row, row + 1));
    const Tensor theirs = ToF32(raw.view());
    if (std::equal(ours.begin(), ours.end(), theirs.as<float>().begin())) continue;
    return absl::DataLossError(
        absl::StrCat(path_, ": ", head.name, " differs from ", name, " in row ", row,
                     ", but config.json says \"tie_word_embeddings\": true; set it to false to use the "
                     "head of the file, or take the tensor out"));
  }
  return absl::OkStatus();
}

namespace {

class FloatDirectory : public DirectoryCheckpoint {
 public:
  static absl::StatusOr<std::unique_ptr<CheckpointReader>> Open(const std::string& path, Json config_json) {
    std::unique_ptr<FloatDirectory> c(new FloatDirectory(path));
    SF_RETURN_IF_ERROR(c->SetConfig(std::move(config_json)));
    SF_ASSIGN_OR_RETURN(c->model_, SafetensorsModel::Open(path));
    c->AddWeightFiles(c->model_->file_names());
    c->file_bytes_ = c->model_->file_bytes();
    c->warnings_ = c->model_->warnings();
    SF_RETURN_IF_ERROR(c->FindSideFiles());
    SF_RETURN_IF_ERROR(c->MapTensors());
    return c;
  }

  CheckpointKind kind() const override { return CheckpointKind::kSafetensors; }
  absl::StatusOr<Tensor> ReadRaw(absl::string_view name) const override {
    const StoredTensor* tensor = Find(name);
    if (tensor == nullptr) return NoSuchTensor(name);
    return model_->Read(tensor->stored_name);
  }
  bool ReadsRows(absl::string_view name) const override { return IsMatrix(name); }

 private:
  using DirectoryCheckpoint::DirectoryCheckpoint;

  absl::StatusOr<Tensor> ReadRawRows(absl::string_view name, int64_t begin, int64_t end) const override {
    const StoredTensor* tensor = Find(name);  // a tied head is compared with, and has no name of ours
    return model_->ReadRows(tensor != nullptr ? tensor->stored_name : name, begin, end);
  }

  // By its name; without the "model." that transformers leaves out of a model saved without its head; or, of
  // a tied model, the head, where a writer dropped the embedding as its alias (safetensors' save_model).
  const SafetensorsEntry* EntryOf(const std::string& name) const {
    if (const SafetensorsEntry* entry = model_->Find(name)) return entry;
    if (const SafetensorsEntry* entry = model_->Find(absl::StripPrefix(name, "model."))) return entry;
    const bool tied = graph_.config.tied_embeddings && name == graph_.nodes.front().module + ".weight";
    return tied ? model_->Find(kHead) : nullptr;
  }

  absl::Status MapTensors() {
    std::set<absl::string_view> stored;
    for (const ModelGraph::TensorSpec& spec : graph_.Tensors()) {
      const SafetensorsEntry* entry = EntryOf(spec.name);
      if (entry == nullptr) return Missing(spec);
      SF_RETURN_IF_ERROR(CheckShape(entry->shape, spec.shape, path_, spec.name));
      if (!IsFloat(entry->dtype)) return NotFloat(spec.name, entry->dtype);
      AddEntry(*entry, spec.name);
      stored.insert(entry->name);
    }
    for (const SafetensorsEntry* entry : model_->entries()) {
      // Rotary tables follow from the configuration.
      if (stored.contains(entry->name) || absl::EndsWith(entry->name, "rotary_emb.inv_freq")) continue;
      if (entry->name == kHead && graph_.config.tied_embeddings) {
        SF_RETURN_IF_ERROR(CheckTiedHead(*entry));
        continue;
      }
      return absl::UnimplementedError(absl::StrCat(path_, ": tensor \"", Printable(entry->name),
                                                   "\" has no place in a ", graph_.config.family,
                                                   " model, so the model would not be the same without it"));
    }
    return absl::OkStatus();
  }

  static constexpr absl::string_view kHead = "lm_head.weight";
  std::unique_ptr<SafetensorsModel> model_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<CheckpointReader>> OpenDirectoryCheckpoint(const std::string& path) {
  SF_ASSIGN_OR_RETURN(Json config_json, ReadConfig(path));
  if (const Json* q = config_json.Find("quantization_config"); q != nullptr && !q->is_null()) {
    const absl::StatusOr<std::string> method = q->GetString("quant_method", "config.json");
    const bool ours = method.ok() && (*method == "spikefold" || *method == "spikefold-part");
    if (ours) return OpenNativeCheckpoint(path);
    return OpenForeignCheckpoint(path, std::move(config_json));
  }
  return FloatDirectory::Open(path, std::move(config_json));
}

}  // namespace spikefold
