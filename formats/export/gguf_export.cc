#include "formats/export/gguf_export.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "formats/base/file.h"
#include "formats/base/status.h"
#include "formats/export/gguf_metadata.h"
#include "formats/families/gguf_names.h"
#include "formats/gguf_encode.h"
#include "formats/gguf_writer.h"

namespace spikefold {
namespace {

constexpr int64_t kBlock = 32;

std::string TypeName(GgmlType type) { return std::string(GgmlTypeName(static_cast<uint32_t>(type))); }
const GgmlTypeInfo& InfoOf(GgmlType type) { return *FindGgmlType(static_cast<uint32_t>(type)); }
bool IsBlockType(GgmlType type) { return InfoOf(type).block_elements > 1; }

GgufDecision DecideCodes(const QuantizedLinearSpec& s) {
  if (s.k % kBlock != 0) {
    return {.type = GgmlType::kF16, .reason = absl::StrCat("rows of ", s.k, " are no whole blocks of 32")};
  }
  if (s.format.grouped && s.group % kBlock != 0) {
    return {.type = GgmlType::kF16, .reason = absl::StrCat("groups of ", s.group, " split a block of 32")};
  }
  if (s.format.bits == 8) {
    if (!s.format.symmetric) {
      return {.type = GgmlType::kF16, .reason = "codes minus zero points of 8 bits need 9 bits"};
    }
    GgufDecision d{.type = GgmlType::kQ8_0, .codes = true};
    if (s.num_kept + s.num_super > 0) {
      d.reason = absl::StrCat("blocks with one of the ", s.num_kept, " kept columns or ", s.num_super,
                              " super weights are rounded to 8 bits");
    }
    return d;
  }
  if (s.num_kept + s.num_super > 0) {
    return {.type = GgmlType::kQ8_0,
            .codes = true,
            .reason = absl::StrCat(s.num_kept, " kept columns and ", s.num_super,
                                   " super weights need 8 bits; blocks without them keep their codes")};
  }
  const bool minimum = s.format.bits == 4 && !s.format.symmetric;
  return {.type = minimum ? GgmlType::kQ4_1 : GgmlType::kQ4_0, .codes = true};
}

// Where rows are no whole super-blocks: the block of 32 with the next more bits.
GgmlType SmallerBlocks(GgmlType type) {
  switch (type) {
    case GgmlType::kQ4_K:
      return GgmlType::kQ5_0;
    case GgmlType::kQ5_K:
      return GgmlType::kQ5_1;
    default:
      return GgmlType::kQ8_0;
  }
}

GgmlType OwnType(const std::string& stored) {
  if (stored == "BF16") return GgmlType::kBF16;
  if (stored == "F32" || stored == "F64") return GgmlType::kF32;
  return GgmlType::kF16;
}

}  // namespace

GgufDecision DecideGguf(const ExportWeight& w, const GgufExportOptions& options) {
  if (w.shape.size() == 1) return {.type = GgmlType::kF32};
  if (w.quantized()) return DecideCodes(*w.spec);
  if (const auto type = options.types.find(w.node.module); type != options.types.end()) {
    return {.type = type->second};
  }
  if (!options.type) return {.type = OwnType(w.stored_type)};
  GgmlType type = *options.type;
  std::string reason;
  const bool table = w.node.role == Role::kEmbedding || w.node.role == Role::kHead;
  if (table && IsBlockType(type) && type != GgmlType::kQ8_0) {
    type = GgmlType::kQ8_0;
    reason = "embedding and head keep 8 bits";
  }
  if (InfoOf(type).block_elements == 256 && w.node.k % 256 != 0) {
    type = SmallerBlocks(type);
    reason = absl::StrCat("rows of ", w.node.k, " are no whole blocks of 256");
  }
  if (IsBlockType(type) && w.node.k % kBlock != 0) {
    return {.type = GgmlType::kF16,
            .reason = absl::StrCat("rows of ", w.node.k, " are no whole blocks of 32")};
  }
  return {.type = type, .reason = std::move(reason)};
}

namespace {

// Which blocks of a row cannot keep their codes: those with kept columns, in every row, and with super
// weights.
class MixedBlocks {
 public:
  explicit MixedBlocks(const QuantizedLinear& q)
      : blocks_(static_cast<size_t>(q.k / kBlock)), kept_(blocks_), super_(q.supers) {
    for (const int32_t column : q.kept_columns) kept_[static_cast<size_t>(column / kBlock)] = true;
  }
  bool any() const { return !super_.empty() || std::find(kept_.begin(), kept_.end(), true) != kept_.end(); }
  bool Has(int64_t row, int64_t block) const {
    if (kept_[static_cast<size_t>(block)]) return true;
    return std::any_of(super_.begin(), super_.end(),
                       [&](const SuperWeight& s) { return s.row == row && s.col / kBlock == block; });
  }

 private:
  size_t blocks_;
  std::vector<bool> kept_;
  std::vector<SuperWeight> super_;
};

std::string EncodeFloats(absl::Span<const float> values, GgmlType type) {
  const GgmlTypeInfo& info = InfoOf(type);
  const size_t blocks = values.size() / static_cast<size_t>(info.block_elements);
  std::string out(blocks * static_cast<size_t>(info.block_bytes), '\0');
  EncodeGguf(type, values, out.data());
  return out;
}

// The blocks of rows [begin, end) of a matrix, as HF orders them.
using EncodeRows = absl::FunctionRef<absl::StatusOr<std::string>(int64_t begin, int64_t end)>;

// Keeps the codes of a linear.
class CodeEncoder {
 public:
  CodeEncoder(const LinearRows& rows, GgmlType type)
      : rows_(rows), q_(rows.sides()), mixed_(q_), type_(type) {}

  absl::StatusOr<std::string> operator()(int64_t begin, int64_t end) const {
    const size_t count = static_cast<size_t>((end - begin) * q_.k);
    std::vector<int8_t> codes(count);
    std::vector<float> values(mixed_.any() ? count : 0);
    SF_RETURN_IF_ERROR(rows_.Codes(begin, end, codes.data()));
    if (mixed_.any()) SF_RETURN_IF_ERROR(rows_.Read(begin, end, values.data()));
    const size_t block_bytes = static_cast<size_t>(InfoOf(type_).block_bytes);
    std::string out(count / kBlock * block_bytes, '\0');
    char* to = out.data();
    size_t at = 0;
    for (int64_t row = begin; row < end; ++row) {
      for (int64_t block = 0; block < q_.k / kBlock; ++block, to += block_bytes, at += kBlock) {
        if (mixed_.any() && mixed_.Has(row, block)) {
          EncodeGguf(type_, absl::MakeConstSpan(values).subspan(at, kBlock), to);
        } else {
          EncodeBlock(row, block, codes.data() + at, to);
        }
      }
    }
    return out;
  }

 private:
  void EncodeBlock(int64_t row, int64_t block, const int8_t* codes, char* to) const {
    const int64_t groups = q_.num_groups(), group = q_.k / groups;
    const size_t scale = static_cast<size_t>(row * groups + block * kBlock / group);
    EncodeCodeBlock(type_, q_.scales[scale], codes, q_.zeros.empty() ? 0 : q_.zeros[scale], to);
  }

  const LinearRows& rows_;
  const QuantizedLinear& q_;
  const MixedBlocks mixed_;
  const GgmlType type_;
};

class Exporter {
 public:
  Exporter(const ExportSource& source, const GgufExportOptions& options)
      : source_(source), options_(options), pool_(options.pool == nullptr ? one_thread_ : *options.pool) {}

  absl::StatusOr<ExportReport> Run(const std::string& output) {
    report_.format = "gguf";
    SF_RETURN_IF_ERROR(CheckExportable(source_, "GGUF"));
    SF_ASSIGN_OR_RETURN(arch_, GgufArchitecture(source_.config()));
    SF_RETURN_IF_ERROR(ChooseBiases());
    SF_ASSIGN_OR_RETURN(report_.losses, CommonLosses(source_, false));
    for (const ExportWeight& w : source_.weights()) decisions_.push_back(DecideGguf(w, options_));
    ReportActivations();
    GgufMetadata metadata;
    std::string name = options_.name.empty() ? Basename(source_.path()) : options_.name;
    SF_RETURN_IF_ERROR(AddModelMetadata(source_.config(), name, MainType(), &metadata, &report_));
    SF_RETURN_IF_ERROR(AddTokenizer(source_, &metadata, &report_));
    SF_ASSIGN_OR_RETURN(const auto target, AtomicFile::Create(output));
    SF_ASSIGN_OR_RETURN(writer_, GgufWriter::Create(target->partial_path(), metadata, Specs()));
    SF_RETURN_IF_ERROR(WriteAll());
    report_.file_bytes = writer_->file_bytes();
    SF_RETURN_IF_ERROR(writer_->Finish());
    SF_RETURN_IF_ERROR(ReadBack(target->partial_path()));
    SF_RETURN_IF_ERROR(target->Commit());
    return std::move(report_);
  }

 private:
  // llama.cpp: "llama" takes a bias on each projection, the others only on q, k and v.
  absl::Status ChooseBiases() {
    biases_ = FindBiases(source_);
    const bool llama = arch_ == "llama";
    if (llama) biases_.qkv = biases_.o = biases_.attention;
    for (const ExportWeight& w : source_.weights()) {
      const bool fits = llama ? w.node.role != Role::kHead : NeedsBias({.qkv = true}, w.node.role);
      if (!w.has_bias || fits) continue;
      return absl::UnimplementedError(
          absl::StrCat(source_.path(), ": ", w.node.module, " has a bias, for which llama.cpp's ", arch_,
                       " architecture has no place; quantize without what brought it in"));
    }
    return absl::OkStatus();
  }

  void ReportActivations() {
    if (source_.native() == nullptr) return;
    std::map<std::string, int> formats;
    for (const QuantizedLinearSpec& s : source_.native()->linears) {
      if (!s.act.is_float()) ++formats[FormatText(s.act)];
    }
    for (const auto& [text, count] : formats) {
      report_.losses.push_back(
          {.what = "activations",
           .detail = absl::StrCat(text, " of ", count,
                                  " linears is not carried over: the other "
                                  "engine rounds activations its own way (llama.cpp on a "
                                  "processor: INT8 in blocks of 32)")});
    }
  }

  // The type of most weights.
  GgmlType MainType() const {
    std::map<GgmlType, int64_t> weights;
    for (size_t i = 0; i < decisions_.size(); ++i) {
      if (source_.weights()[i].is_linear())
        weights[decisions_[i].type] += NumElements(source_.weights()[i].shape);
    }
    GgmlType main = GgmlType::kF32;
    int64_t most = 0;
    for (const auto& [type, count] : weights) {
      if (count > most) std::tie(main, most) = std::make_pair(type, count);
    }
    return main;
  }

  std::vector<GgufWriter::Spec> Specs() const {
    std::vector<GgufWriter::Spec> specs;
    const int64_t pairs = static_cast<int64_t>(RopeFactors(source_.config()).size());
    if (pairs > 0) specs.push_back({"rope_freqs.weight", {pairs}, GgmlType::kF32});
    for (size_t i = 0; i < decisions_.size(); ++i) {
      const ExportWeight& w = source_.weights()[i];
      specs.push_back({GgufModule(w.node) + ".weight", w.shape, decisions_[i].type});
      if (NeedsBias(biases_, w.node.role)) {
        specs.push_back({GgufModule(w.node) + ".bias", {w.node.n}, GgmlType::kF32});
      }
    }
    return specs;
  }

  absl::Status WriteAll() {
    const std::vector<float> factors = RopeFactors(source_.config());
    if (!factors.empty()) {
      const char* bytes = reinterpret_cast<const char*>(factors.data());
      SF_RETURN_IF_ERROR(writer_->Write("rope_freqs.weight", absl::string_view(bytes, factors.size() * 4)));
    }
    const int64_t total = static_cast<int64_t>(decisions_.size());
    for (size_t i = 0; i < decisions_.size(); ++i) {
      if (!Report(options_.progress, "writing tensors", static_cast<int64_t>(i), total)) {
        return absl::CancelledError("export: interrupted");
      }
      SF_RETURN_IF_ERROR(WriteWeight(source_.weights()[i], decisions_[i]));
    }
    return absl::OkStatus();
  }

  absl::Status WriteWeight(const ExportWeight& w, const GgufDecision& decision) {
    SF_RETURN_IF_ERROR(w.shape.size() == 1 ? WriteGain(w) : WriteMatrix(w, decision));
    report_.tensors.push_back({.name = w.weight_name(),
                               .from = w.stored_type,
                               .to = TypeName(decision.type),
                               .same_codes = decision.codes,
                               .reason = decision.reason,
                               .bytes = GgufWriter::Spec{"", w.shape, decision.type}.bytes()});
    if (!NeedsBias(biases_, w.node.role)) return absl::OkStatus();
    SF_ASSIGN_OR_RETURN(const Tensor bias, source_.ReadBias(w, pool_));
    return WriteRows(w, GgufModule(w.node) + ".bias", 0, w.node.n,
                     EncodeFloats(bias.as<float>(), GgmlType::kF32));
  }

  absl::Status WriteGain(const ExportWeight& w) {
    SF_ASSIGN_OR_RETURN(Tensor values, source_.ReadWeight(w));
    if (arch_ == "gemma3") {  // GGUF holds the whole gain
      for (float& gain : values.as<float>()) gain += source_.config().norm_gain_offset;
    }
    return writer_->Write(GgufModule(w.node) + ".weight", EncodeFloats(values.as<float>(), GgmlType::kF32));
  }

  absl::Status WriteMatrix(const ExportWeight& w, const GgufDecision& decision) {
    const std::string name = GgufModule(w.node) + ".weight";
    if (decision.codes) {
      SF_ASSIGN_OR_RETURN(const std::unique_ptr<LinearRows> rows, source_.OpenLinear(w));
      return WriteBlocks(w, name, rows->rows_together(), CodeEncoder(*rows, decision.type));
    }
    if (options_.blocks != nullptr && options_.blocks->count(w.node.module) > 0) {
      const std::string& blocks = options_.blocks->at(w.node.module);
      const uint64_t bytes = GgufWriter::Spec{"", w.shape, decision.type}.bytes();
      if (blocks.size() == bytes) return WriteRows(w, name, 0, w.node.n, blocks);
      return absl::InvalidArgumentError(absl::StrCat(w.node.module, ": ", blocks.size(), " bytes of blocks; ",
                                                     TypeName(decision.type), " takes ", bytes));
    }
    SF_ASSIGN_OR_RETURN(const std::unique_ptr<WeightRows> rows, source_.OpenRows(w));
    const auto encode = [&](int64_t begin, int64_t end) -> absl::StatusOr<std::string> {
      SF_ASSIGN_OR_RETURN(const auto values, ReadBlock(*rows, begin, end, w.node.k));
      return EncodeFloats({values.get(), static_cast<size_t>((end - begin) * w.node.k)}, decision.type);
    };
    return WriteBlocks(w, name, rows->rows_together(), encode);
  }

  // By whole heads where the file has their rows in another order.
  absl::Status WriteBlocks(const ExportWeight& w, const std::string& name, int64_t together,
                           EncodeRows encode) {
    together = std::lcm(together, std::max<int64_t>(1, RotaryRows(w)));
    return ForRowBlocks(pool_, w.node.n, w.node.k, together, [&](int64_t begin, int64_t end) -> absl::Status {
      SF_ASSIGN_OR_RETURN(const std::string blocks, encode(begin, end));
      return WriteRows(w, name, begin, end, blocks);
    });
  }

  // Rows in HF order, or the elements of a bias, to where the file has them.
  absl::Status WriteRows(const ExportWeight& w, const std::string& name, int64_t begin, int64_t end,
                         absl::string_view rows) {
    const size_t row_bytes = rows.size() / static_cast<size_t>(end - begin);
    const uint64_t offset = static_cast<uint64_t>(begin) * row_bytes;
    const int64_t head_dim = RotaryRows(w);
    if (head_dim == 0) return writer_->WritePart(name, offset, rows);
    std::string permuted(rows.size(), '\0');
    for (int64_t row = begin; row < end; ++row) {
      const size_t from = static_cast<size_t>(row - begin) * row_bytes;
      const size_t to = static_cast<size_t>(GgufRotaryRow(row, head_dim) - begin) * row_bytes;
      std::memcpy(permuted.data() + to, rows.data() + from, row_bytes);
    }
    return writer_->WritePart(name, offset, permuted);
  }

  // Rows of a head of q and k, which the file has in another order; 0: as they are.
  int64_t RotaryRows(const ExportWeight& w) const {
    if (arch_ != "llama") return 0;
    if (w.node.role == Role::kQProj) return w.node.n / source_.config().num_heads;
    return w.node.role == Role::kKProj ? w.node.n / source_.config().num_kv_heads : 0;
  }

  // Reads the file as any user of it would, and compares what it says with what we have.
  absl::Status ReadBack(const std::string& path) {
    SF_ASSIGN_OR_RETURN(const auto written, CheckpointReader::Open(path));
    WrittenWeights weights = ReadWith(*written, source_);
    weights.limit = [&](size_t i) {
      return IsBlockType(decisions_[i].type) && !decisions_[i].codes ? 0.5 : kExportTolerance;
    };
    weights.type = "that type, choose another with --type or leave the linear in 16 bit";
    return CompareWithSource(source_, weights, pool_, options_.progress, report_);
  }

  const ExportSource& source_;
  const GgufExportOptions& options_;
  ThreadPool one_thread_{1};
  ThreadPool& pool_;
  std::string arch_;
  BiasGroups biases_;
  std::vector<GgufDecision> decisions_;  // one for each of source_.weights()
  std::unique_ptr<GgufWriter> writer_;
  ExportReport report_;
};

}  // namespace

absl::StatusOr<ExportReport> ExportGguf(const ExportSource& source, const std::string& output,
                                        const GgufExportOptions& options) {
  return Exporter(source, options).Run(output);
}

}  // namespace spikefold
