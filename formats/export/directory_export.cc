#include "formats/export/directory_export.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "formats/base/file.h"
#include "formats/base/status.h"
#include "formats/export/hf_directory.h"
#include "formats/quantized/code_stream.h"
#include "formats/quantized/native_parts.h"
#include "formats/safetensors_model.h"

namespace spikefold {

DirectoryDecision DecideDirectory(const ExportWeight& w, bool compressed_tensors, DType dtype) {
  DirectoryDecision d{.dtype = w.shape.size() == 1 ? DType::kF32 : dtype};
  if (!w.quantized() || !compressed_tensors) return d;
  d.reason = WhySixteenBit(w);
  if (!d.reason.empty()) return d;
  const QuantizedLinearSpec& s = *w.spec;
  d.codes = true;
  d.spec = s;
  d.spec.has_bias = false;
  if (s.format.bits < 4) {
    d.spec.format.bits = 4;
    d.reason =
        absl::StrCat(s.format.bits, "-bit codes take 4 bits: packing of fewer differs between versions");
  }
  d.packed = d.spec.format.bits != 8 || s.act.is_float();
  return d;
}

namespace {

bool PacksBytes(const DirectoryDecision& d) { return d.packed && d.spec.format.bits == 8; }

// 8-bit codes as pack-quantized holds them: code + 128 in byte i % 4 of word i / 4.
std::vector<SafetensorsWriter::Spec> TensorsOf(const DirectoryDecision& d) {
  std::vector<SafetensorsWriter::Spec> specs = TensorSpecs(d.spec);
  if (!PacksBytes(d)) return specs;
  const QuantizedLinearSpec& s = d.spec;
  for (SafetensorsWriter::Spec& spec : specs) {
    if (spec.name == s.module + ".weight") {
      spec = {s.module + ".weight_packed", DType::kI32, {s.n, StreamWords(8, s.k)}};
    } else if (spec.name == s.module + ".weight_zero_point") {
      spec = {spec.name, DType::kI32, {StreamWords(8, s.n), s.num_groups()}};
    }
  }
  specs.push_back({s.module + ".weight_shape", DType::kI64, {2}});
  return specs;
}

// Rows of codes [rows, k] as the tensor holds them that has their name.
Tensor PackRows(const std::vector<int8_t>& codes, const DirectoryDecision& d) {
  const int64_t k = d.spec.k, rows = static_cast<int64_t>(codes.size()) / k;
  const int bits = d.spec.format.bits;
  if (bits == 8 && !d.packed) {
    Tensor out(DType::kI8, {rows, k});
    std::memcpy(out.data(), codes.data(), codes.size());
    return out;
  }
  const int64_t words = StreamWords(bits, k);
  Tensor out(DType::kI32, {rows, words});
  int32_t* to = out.as<int32_t>().data();
  for (int64_t row = 0; row < rows; ++row)
    PackStream(bits, codes.data() + row * k, k, 1, to + row * words, 1);
  return out;
}
std::string PlaceOfCodes(const DirectoryDecision& d) {
  return d.spec.module + (d.packed ? ".weight_packed" : ".weight");
}
// Zero points [n, groups] are packed along the rows.
Tensor PackZeros(const int8_t* zeros, const QuantizedLinearSpec& spec) {
  const int64_t groups = spec.num_groups();
  Tensor out(DType::kI32, {StreamWords(8, spec.n), groups});
  int32_t* to = static_cast<int32_t*>(out.data());
  for (int64_t g = 0; g < groups; ++g) PackStream(8, zeros + g, spec.n, groups, to + g, groups);
  return out;
}
Tensor UnpackBytes(const Tensor& packed, const QuantizedLinearSpec& spec) {
  Tensor out(DType::kI8, {packed.dim(0), spec.k});
  int8_t* to = static_cast<int8_t*>(out.data());
  const int32_t* words = static_cast<const int32_t*>(packed.data());
  for (int64_t row = 0; row < packed.dim(0); ++row) {
    UnpackStream(8, words + row * packed.dim(1), 1, spec.k, 1, to + row * spec.k);
  }
  return out;
}
Tensor UnpackZeros(const Tensor& packed, const QuantizedLinearSpec& spec) {
  const int64_t groups = spec.num_groups();
  Tensor out(DType::kI8, {spec.n, groups});
  int8_t* to = static_cast<int8_t*>(out.data());
  const int32_t* words = static_cast<const int32_t*>(packed.data());
  for (int64_t g = 0; g < groups; ++g) UnpackStream(8, words + g, groups, spec.n, groups, to + g);
  return out;
}

// Of a float matrix as written.
class FloatRows : public WeightRows {
 public:
  FloatRows(const SafetensorsModel& written, std::string name) : written_(written), name_(std::move(name)) {}
  absl::Status Read(int64_t begin, int64_t end, float* out) const override {
    SF_ASSIGN_OR_RETURN(const Tensor raw, written_.ReadRows(name_, begin, end));
    ToF32(raw.view(), out);
    return absl::OkStatus();
  }

 private:
  const SafetensorsModel& written_;
  const std::string name_;
};
absl::StatusOr<std::unique_ptr<WeightRows>> OpenFloats(const SafetensorsModel& written, std::string name) {
  return std::make_unique<FloatRows>(written, std::move(name));
}

class Exporter {
 public:
  Exporter(const ExportSource& source, const DirectoryExportOptions& options)
      : source_(source), options_(options), pool_(options.pool == nullptr ? one_thread_ : *options.pool) {}

  absl::StatusOr<ExportReport> Run(const std::string& output) {
    report_.format = options_.compressed_tensors ? "compressed-tensors" : "safetensors";
    SF_RETURN_IF_ERROR(CheckExportable(source_, report_.format));
    dtype_ = ChooseType();
    SF_RETURN_IF_ERROR(ChooseBiases());
    SF_ASSIGN_OR_RETURN(report_.losses, CommonLosses(source_, options_.compressed_tensors));
    for (const ExportWeight& w : source_.weights()) {
      decisions_.push_back(DecideDirectory(w, options_.compressed_tensors, dtype_));
    }
    ReportActivations();
    SF_ASSIGN_OR_RETURN(const auto directory, AtomicDirectory::Create(output, options_.overwrite));
    const std::string& path = directory->partial_path();
    SF_RETURN_IF_ERROR(WriteConfigAndSideFiles(source_, Config(), path, report_));
    SF_ASSIGN_OR_RETURN(tensors_, SafetensorsModelWriter::Create(path, Specs(), uint64_t{5} << 30));
    SF_RETURN_IF_ERROR(WriteAll());
    SF_RETURN_IF_ERROR(tensors_->Finish());
    report_.file_bytes = tensors_->file_bytes();
    SF_RETURN_IF_ERROR(ReadBack(path));
    SF_RETURN_IF_ERROR(directory->Commit());
    return std::move(report_);
  }

 private:
  // Engines keep scales in the model's type: float16 where our scales are. Gemma's residual exceeds float16.
  DType ChooseType() const {
    if (source_.native() == nullptr || source_.config().family == "gemma3") return DType::kBF16;
    for (const QuantizedLinearSpec& s : source_.native()->linears) {
      if (options_.compressed_tensors && s.format.grouped && s.scale_dtype == DType::kF16) return DType::kF16;
    }
    return DType::kBF16;
  }

  absl::Status ChooseBiases() {
    biases_ = FindBiases(source_);
    const std::string& family = source_.config().family;
    if (family != "qwen2") biases_.qkv = biases_.o = biases_.attention;
    const bool llama = family == "llama";
    for (const ExportWeight& w : source_.weights()) {
      const bool attention =
          w.node.role == Role::kOProj ? family != "qwen2" : NeedsBias({.qkv = true}, w.node.role);
      const bool fits = family == "mistral" ? false : llama ? w.node.role != Role::kHead : attention;
      if (!w.has_bias || fits) continue;
      return absl::UnimplementedError(absl::StrCat(source_.path(), ": ", w.node.module,
                                                   " has a bias, for which ", source_.config().architecture,
                                                   " has no place; quantize without what brought it in"));
    }
    return absl::OkStatus();
  }

  void ReportActivations() {
    if (source_.native() == nullptr) return;
    int64_t lost = 0, fixed = 0;
    for (size_t i = 0; i < decisions_.size(); ++i) {
      const QuantizedLinearSpec* spec = source_.weights()[i].spec;
      if (spec == nullptr || spec->act.is_float()) continue;
      lost += decisions_[i].codes ? 0 : 1;
      fixed += decisions_[i].codes && spec->act.is_static() ? 1 : 0;
    }
    if (lost > 0) {
      report_.losses.push_back({.what = "activations",
                                .detail = absl::StrCat(lost,
                                                       " linears whose weights are 16 bit here read float "
                                                       "activations, not codes")});
    }
    if (fixed > 0 && source_.native()->prefix.num_tokens > 0) {
      report_.losses.push_back({.what = "static scales",
                                .detail = absl::StrCat("those of ", fixed,
                                                       " linears were chosen behind the prefix: "
                                                       "without it, spikes saturate"),
                                .changes_function = true});
    }
  }

  Json Config() const {
    Json config = ConfigWithType(source_, dtype_ == DType::kF16 ? "float16" : "bfloat16");
    if (biases_.attention && source_.config().family != "qwen2") config.Set("attention_bias", true);
    if (biases_.mlp) config.Set("mlp_bias", true);
    if (options_.compressed_tensors) {
      Json quantization = CompressedTensorsConfig(source_.weights(), decisions_);
      if (!quantization.is_null()) config.Set("quantization_config", std::move(quantization));
    }
    return config;
  }

  std::vector<SafetensorsWriter::Spec> Specs() const {
    std::vector<SafetensorsWriter::Spec> specs;
    for (size_t i = 0; i < decisions_.size(); ++i) {
      const ExportWeight& w = source_.weights()[i];
      if (decisions_[i].codes) {
        for (SafetensorsWriter::Spec& spec : TensorsOf(decisions_[i])) specs.push_back(std::move(spec));
      } else {
        specs.push_back({w.weight_name(), decisions_[i].dtype, w.shape});
      }
      if (NeedsBias(biases_, w.node.role)) specs.push_back({w.bias_name(), DType::kF32, {w.node.n}});
    }
    return specs;
  }

  absl::Status WriteAll() {
    const int64_t total = static_cast<int64_t>(decisions_.size());
    for (size_t i = 0; i < decisions_.size(); ++i) {
      if (!Report(options_.progress, "writing tensors", static_cast<int64_t>(i), total)) {
        return absl::CancelledError("export: interrupted");
      }
      const ExportWeight& w = source_.weights()[i];
      const DirectoryDecision& d = decisions_[i];
      if (d.codes) {
        SF_RETURN_IF_ERROR(WriteCodes(w, d));
      } else {
        SF_RETURN_IF_ERROR(WriteFloats(source_, w, d.dtype, pool_, *tensors_));
      }
      if (NeedsBias(biases_, w.node.role)) {
        SF_ASSIGN_OR_RETURN(const Tensor bias, source_.ReadBias(w, pool_));
        SF_RETURN_IF_ERROR(tensors_->Write(w.bias_name(), bias.view()));
      }
      AddToReport(w, d);
    }
    return absl::OkStatus();
  }

  absl::Status WriteCodes(const ExportWeight& w, const DirectoryDecision& d) {
    SF_ASSIGN_OR_RETURN(const std::unique_ptr<LinearRows> rows, source_.OpenLinear(w));
    QuantizedLinear sides(d.spec);  // no extras and no bias
    sides.scales = rows->sides().scales;
    sides.zeros = rows->sides().zeros;
    sides.input_scale = rows->sides().input_scale;
    sides.input_zero = rows->sides().input_zero;
    const int64_t n = d.spec.n, k = d.spec.k;
    SF_RETURN_IF_ERROR(EncodeSides(sides, [&](const std::string& name, const TensorView& t) {
      if (!PacksBytes(d) || name != d.spec.module + ".weight_zero_point") return tensors_->Write(name, t);
      return tensors_->Write(name, PackZeros(t.as<int8_t>().data(), d.spec).view());
    }));
    if (PacksBytes(d)) {
      const int64_t shape[2] = {n, k};
      SF_RETURN_IF_ERROR(
          tensors_->Write(d.spec.module + ".weight_shape", TensorView{DType::kI64, {2}, shape}));
    }
    const auto write = [&](int64_t begin, int64_t end) -> absl::Status {
      std::vector<int8_t> codes(static_cast<size_t>((end - begin) * k));
      SF_RETURN_IF_ERROR(rows->Codes(begin, end, codes.data()));
      return tensors_->WriteRows(PlaceOfCodes(d), begin, PackRows(codes, d).view());
    };
    return ForRowBlocks(pool_, n, k, rows->rows_together(), write);
  }

  void AddToReport(const ExportWeight& w, const DirectoryDecision& d) {
    ExportedTensor t{
        .name = w.weight_name(), .from = w.stored_type, .same_codes = d.codes, .reason = d.reason};
    t.to = std::string(DTypeName(d.dtype));
    if (d.codes)
      t.to = absl::StrCat(FormatWord(d.spec.format), d.spec.group > 0 ? absl::StrCat(d.spec.group) : "");
    const std::vector<SafetensorsWriter::Spec> all =
        d.codes ? TensorsOf(d) : std::vector<SafetensorsWriter::Spec>{{"", d.dtype, w.shape}};
    for (const auto& spec : all)
      t.bytes += static_cast<uint64_t>(NumElements(spec.shape) * DTypeBytes(spec.dtype));
    report_.tensors.push_back(std::move(t));
  }

  static absl::StatusOr<std::unique_ptr<WeightRows>> OpenCodes(const SafetensorsModel& written,
                                                               const DirectoryDecision& d) {
    const auto read = [&](const std::string& name) -> absl::StatusOr<Tensor> {
      SF_ASSIGN_OR_RETURN(Tensor tensor, written.Read(name));
      const bool words = PacksBytes(d) && name == d.spec.module + ".weight_zero_point";
      return words ? UnpackZeros(tensor, d.spec) : std::move(tensor);
    };
    const auto read_rows = [&](const std::string&, int64_t begin, int64_t end) -> absl::StatusOr<Tensor> {
      SF_ASSIGN_OR_RETURN(Tensor rows, written.ReadRows(PlaceOfCodes(d), begin, end));
      return PacksBytes(d) ? UnpackBytes(rows, d.spec) : std::move(rows);
    };
    return OpenLinearRows(d.spec, read, read_rows);
  }

  absl::Status ReadBack(const std::string& path) {
    SF_ASSIGN_OR_RETURN(const auto written, SafetensorsModel::Open(path));
    const auto rows = [&](size_t i) {
      const ExportWeight& w = source_.weights()[i];
      return decisions_[i].codes ? OpenCodes(*written, decisions_[i]) : OpenFloats(*written, w.weight_name());
    };
    const auto vector = [&](size_t i) -> absl::StatusOr<Tensor> {
      SF_ASSIGN_OR_RETURN(const Tensor raw, written->Read(source_.weights()[i].weight_name()));
      return ToF32(raw.view());
    };
    return CompareWithSource(source_, {rows, vector, [](size_t) { return kExportTolerance; }, "that type"},
                             pool_, options_.progress, report_);
  }

  const ExportSource& source_;
  const DirectoryExportOptions& options_;
  ThreadPool one_thread_{1};
  ThreadPool& pool_;
  DType dtype_ = DType::kBF16;
  BiasGroups biases_;
  std::vector<DirectoryDecision> decisions_;  // one for each of source_.weights()
  std::unique_ptr<SafetensorsModelWriter> tensors_;
  ExportReport report_;
};

}  // namespace

absl::StatusOr<ExportReport> ExportDirectory(const ExportSource& source, const std::string& output,
                                             const DirectoryExportOptions& options) {
  return Exporter(source, options).Run(output);
}

}  // namespace spikefold
