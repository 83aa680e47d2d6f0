#include <sys/stat.h>

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "formats/base/file.h"
#include "formats/families/family.h"
#include "formats/gguf.h"
#include "formats/model_graph.h"
#include "formats/quantized/code_stream.h"
#include "formats/quantized/foreign.h"
#include "formats/quantized/native_journal.h"
#include "formats/quantized/native_parts.h"
#include "formats/quantized/trellis.h"
#include "formats/safetensors.h"
#include "formats/safetensors_model.h"
#include "formats/tokenizer.h"
#include "tests/fuzz/targets.h"
#include "tests/testing/temp_directory.h"

namespace spikefold::fuzz {
namespace {

constexpr JsonLimits kJsonLimits = {.max_values = 1 << 16};

// A directory that lives as long as the process.
const testing::TempDirectory& Workplace() {
  static const testing::TempDirectory directory;
  return directory;
}
void Write(const std::string& path, absl::string_view bytes) {
  FUZZ_CHECK(WriteFileAtomically(path, bytes).ok());
}
std::unique_ptr<ByteSource> Source(absl::string_view bytes) {
  return MemorySource(std::string(bytes), "fuzz");
}

// Text in, ids in range, and a decoder that takes them back.
void TryTokenizer(const Tokenizer& tokenizer, absl::string_view text) {
  const auto ids = tokenizer.Encode(text, {.parse_special = true});
  if (!ids.ok()) return;
  for (const int32_t id : *ids) FUZZ_CHECK(id >= 0 && id < tokenizer.vocab_size());
  (void)tokenizer.Decode(*ids);
  (void)tokenizer.fingerprint();
}

}  // namespace

void StHeader(absl::string_view bytes) {
  const auto file = SafetensorsFile::FromSource(Source(bytes));
  if (!file.ok()) return;
  uint64_t covered = 0;
  for (const SafetensorsEntry& e : (*file)->entries()) {
    FUZZ_CHECK(e.offset <= bytes.size() && e.bytes <= bytes.size() - e.offset);
    FUZZ_CHECK((*file)->Find(e.name) == &e);
    const auto tensor = (*file)->Read(e);
    FUZZ_CHECK(tensor.ok());
    FUZZ_CHECK(e.bytes == 0 || std::memcmp(tensor->data(), bytes.data() + e.offset, e.bytes) == 0);
    covered += e.bytes;
  }
  FUZZ_CHECK(covered < bytes.size());
}

void StIndex(absl::string_view bytes) {
  const std::string directory = Workplace() / "st_index";
  static const bool ready = [&] {
    FUZZ_CHECK(mkdir(directory.c_str(), 0700) == 0);
    for (const char* shard : {"a.safetensors", "b.safetensors"}) {
      const std::string name = absl::StrCat("t", std::string(1, shard[0]));
      auto writer = SafetensorsWriter::Create(JoinPath(directory, shard), {{name, DType::kF32, {1}}});
      FUZZ_CHECK(writer.ok());
      const float one = 1;
      FUZZ_CHECK((*writer)->Write(name, TensorView{DType::kF32, {1}, &one}).ok() && (*writer)->Finish().ok());
    }
    return true;
  }();
  FUZZ_CHECK(ready);
  Write(JoinPath(directory, "model.safetensors.index.json"), bytes);
  const auto model = SafetensorsModel::Open(directory);
  if (!model.ok()) return;
  for (const SafetensorsEntry* e : (*model)->entries()) FUZZ_CHECK((*model)->Read(e->name).ok());
}

void Gguf(absl::string_view bytes) {
  const auto file = GgufFile::FromSource(Source(bytes));
  if (!file.ok()) return;
  for (const GgufTensor& t : (*file)->tensors()) {
    FUZZ_CHECK(t.offset <= bytes.size() && t.bytes <= bytes.size() - t.offset);
    if (NumElements(t.shape) <= 1 << 20) FUZZ_CHECK((*file)->ReadF32(t).ok());
  }
  for (const std::string& key : (*file)->keys()) FUZZ_CHECK((*file)->Find(key) != nullptr);
  // A copy has no data that another alignment could be of.
  const auto copy = (*file)->MetadataOnly([](absl::string_view key) { return key != "general.alignment"; });
  FUZZ_CHECK(copy.ok());
  const auto again = GgufFile::FromSource(Source(*copy));
  FUZZ_CHECK(again.ok());
  for (const std::string& key : (*again)->keys()) FUZZ_CHECK((*file)->Find(key) != nullptr);
  if (const auto config = ConfigFromGguf(**file); config.ok()) (void)BuildGraph(*config);
  if (const auto tokenizer = Tokenizer::FromGguf(**file); tokenizer.ok()) {
    TryTokenizer(**tokenizer, "Hello  world 123\n\xE2\x96\x81\xFF <s>");
  }
}

void GgufBlocks(absl::string_view bytes) {
  if (bytes.empty()) return;
  const GgmlTypeInfo* type = FindGgmlType(static_cast<unsigned char>(bytes[0]) % 40);
  if (type == nullptr) return;
  const int64_t blocks = static_cast<int64_t>(bytes.size() - 1) / type->block_bytes;
  std::vector<float> values(static_cast<size_t>(blocks * type->block_elements));
  type->decode(reinterpret_cast<const uint8_t*>(bytes.data() + 1), blocks, values.data());
}

void TokenizerJson(absl::string_view bytes) {
  const size_t end = bytes.find('\0');  // behind it: text
  const auto json = ParseJson(bytes.substr(0, end), "fuzz", kJsonLimits);
  if (!json.ok()) return;
  const auto tokenizer = Tokenizer::FromTokenizerJson(*json, Json(), "fuzz");
  if (!tokenizer.ok()) return;
  const absl::string_view text = end == absl::string_view::npos ? "" : bytes.substr(end + 1);
  TryTokenizer(**tokenizer, text.empty() ? "Hello  world 123\n\xE2\x96\x81\xFF <s>" : text);
}

void Tokenize(absl::string_view bytes) {
  static const std::unique_ptr<Tokenizer> kTokenizers[] = {
      [] {
        const std::string path = SPIKEFOLD_TEST_DATA "/tokenizer/llama3.tokenizer.json";
        const auto json = ParseJson(*ReadFileToString(path, 1 << 24), path);
        auto tokenizer = Tokenizer::FromTokenizerJson(*json, Json(), path);
        FUZZ_CHECK(tokenizer.ok());
        return *std::move(tokenizer);
      }(),
      [] {
        const auto file = GgufFile::Open(SPIKEFOLD_TEST_DATA "/tokenizer/llama2.vocab.gguf");
        FUZZ_CHECK(file.ok());
        auto tokenizer = Tokenizer::FromGguf(**file);
        FUZZ_CHECK(tokenizer.ok());
        return *std::move(tokenizer);
      }(),
  };
  for (const auto& tokenizer : kTokenizers) TryTokenizer(*tokenizer, bytes);
}

void ConfigJson(absl::string_view bytes) {
  const auto json = ParseJson(bytes, "fuzz", kJsonLimits);
  if (!json.ok()) return;
  FUZZ_CHECK(ParseJson(json->Dump(), "again").ok());
  const auto config = ConfigFromJson(*json);
  if (!config.ok()) return;
  const auto graph = BuildGraph(*config);
  if (!graph.ok()) return;
  for (const ModelGraph::TensorSpec& t : graph->Tensors()) FUZZ_CHECK(NumElements(t.shape) > 0);
}

void Sidecar(absl::string_view bytes) {
  const auto json = ParseJson(bytes, "fuzz", kJsonLimits);
  if (!json.ok()) return;
  NativeInfo info;
  TensorHashes hashes;
  if (!SidecarFromJson(*json, "fuzz", &info, &hashes).ok()) return;
  for (const QuantizedLinearSpec& linear : info.linears) {
    FUZZ_CHECK(CheckSpec(linear).ok());
    FUZZ_CHECK(StoredBytes(linear) >= 0);
  }
  (void)PartTensorSpecs(info, {}, {});
  // What was read is written, read and written again to the same text.
  const std::string text = SidecarToJson(info, hashes).Dump();
  NativeInfo info2;
  TensorHashes hashes2;
  const auto again = ParseJson(text, "again");
  FUZZ_CHECK(again.ok() && SidecarFromJson(*again, "again", &info2, &hashes2).ok());
  FUZZ_CHECK(SidecarToJson(info2, hashes2).Dump() == text);
}

void Foreign(absl::string_view bytes) {
  const size_t end = bytes.find('\0');  // {"n", "k", "quantization_config"}, and behind it a safetensors file
  const auto json = ParseJson(bytes.substr(0, end), "fuzz", kJsonLimits);
  if (!json.ok() || end == absl::string_view::npos) return;
  const auto n = json->GetInt("n", "fuzz"), k = json->GetInt("k", "fuzz");
  const Json* said = json->Find("quantization_config");
  if (!n.ok() || !k.ok() || *n < 1 || *n > 256 || *k < 1 || *k > 256 || said == nullptr) return;
  const auto config = ParseForeignConfig(*said, "fuzz");
  if (!config.ok()) return;
  const auto file = SafetensorsFile::FromSource(Source(bytes.substr(end + 1)));
  if (!file.ok()) return;
  const ForeignParts parts{
      .has = [&](absl::string_view suffix) { return (*file)->Find(absl::StrCat("m.", suffix)) != nullptr; },
      .read = [&](absl::string_view suffix) -> absl::StatusOr<Tensor> {
        const SafetensorsEntry* entry = (*file)->Find(absl::StrCat("m.", suffix));
        if (entry == nullptr) return absl::NotFoundError(suffix);
        return (*file)->Read(*entry);
      }};
  const auto weights = DequantizeForeign(*config, parts, "m", *n, *k);
  if (!weights.ok()) return;
  FUZZ_CHECK(weights->dtype() == DType::kF32 && weights->shape() == Shape({*n, *k}));
}

void Journal(absl::string_view bytes) {
  const std::string path = Workplace() / "journal";
  Write(path, bytes);
  (void)NativeJournal::CountRecords(path);
  const auto journal = NativeJournal::Open(path, "f", true);
  if (!journal.ok()) return;
  // One record more is found again behind those that were whole.
  const size_t count = (*journal)->records().size();
  bool known = false;
  for (const JournalRecord& r : (*journal)->records()) known = known || r.module == "fuzz";
  FUZZ_CHECK((*journal)->Add({.module = "fuzz", .weight_error = 0.1, .tensors = {{"t", "0"}}}).ok());
  FUZZ_CHECK(NativeJournal::CountRecords(path) == static_cast<int64_t>(count + (known ? 0 : 1)));
}

void PackRoundTrip(absl::string_view bytes) {
  if (bytes.size() < 2) return;
  constexpr int kBits[] = {2, 3, 4, 5, 6, 8};
  const int bits = kBits[static_cast<unsigned char>(bytes[0]) % 6];
  const absl::string_view rest = bytes.substr(1, 4096);
  const int64_t count = static_cast<int64_t>(rest.size()), words = StreamWords(bits, count);
  std::vector<int8_t> codes, back(rest.size());
  for (const char c : rest) {
    const int code = static_cast<unsigned char>(c) & ((1 << bits) - 1);
    codes.push_back(static_cast<int8_t>(code - (1 << (bits - 1))));
  }
  std::vector<int32_t> packed(static_cast<size_t>(words));
  PackStream(bits, codes.data(), count, 1, packed.data(), 1);
  FUZZ_CHECK(UnpackStream(bits, packed.data(), 1, count, 1, back.data()) == -1);
  FUZZ_CHECK(back == codes);
  // Any words at all are read without a fault; codes lie in range.
  for (size_t i = 0; i < packed.size() && 4 * i + 4 <= rest.size(); ++i) {
    std::memcpy(&packed[i], rest.data() + 4 * i, 4);
  }
  (void)UnpackStream(bits, packed.data(), 1, count, 1, back.data());
  const int lowest = -(1 << (bits - 1));
  for (const int8_t code : back) FUZZ_CHECK(code >= lowest && code < -lowest);
  if (bits >= kTrellisMinBits && bits <= kTrellisMaxBits) {
    DecodeTrellis(bits, back.data(), count, 1, back.data());
    for (const int8_t level : back) FUZZ_CHECK(level >= -127);
  }
}

}  // namespace spikefold::fuzz
