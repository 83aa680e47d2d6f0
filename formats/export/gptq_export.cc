#include "formats/export/gptq_export.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "formats/base/file.h"
#include "formats/base/status.h"
#include "formats/export/hf_directory.h"
#include "formats/quantized/code_stream.h"
#include "formats/safetensors_model.h"

namespace spikefold {
namespace {

// A linear that keeps its codes; float16 otherwise, with the reason.
struct Decision {
  bool codes = false;
  std::string reason;
};

Decision Decide(const ExportWeight& w) {
  if (!w.quantized()) return {};
  if (std::string why = WhySixteenBit(w); !why.empty()) return {.reason = std::move(why)};
  const QuantizedLinearSpec& s = *w.spec;
  if (s.k % 32 != 0 || s.n % 32 != 0) return {.reason = "sizes that 32 does not divide are not packed"};
  return {.codes = true};
}

// Of a weight without codes: norms are float32.
DType FloatTypeOf(const ExportWeight& w) { return w.shape.size() == 1 ? DType::kF32 : DType::kF16; }

int BitsOf(const QuantizedLinearSpec& s) { return s.format.bits == 8 ? 8 : 4; }

// A word of qweight: codes of a row that follow each other, the first lowest, counted from the lowest code.
template <int kBits>
uint32_t PackWord(const int8_t* codes) {
  if constexpr (kBits == 8) {
    uint32_t bytes;
    std::memcpy(&bytes, codes, sizeof bytes);
    return bytes ^ 0x80808080u;
  } else {
    static_assert(kBits == 4);
    uint64_t bytes;
    std::memcpy(&bytes, codes, sizeof bytes);
    bytes = (bytes ^ 0x0808080808080808u) & 0x0f0f0f0f0f0f0f0fu;  // + 8, of four bits
    bytes = (bytes | bytes >> 4) & 0x00ff00ff00ff00ffu;
    bytes = (bytes | bytes >> 8) & 0x0000ffff0000ffffu;
    return static_cast<uint32_t>(bytes | bytes >> 16);
  }
}

// Rows [begin, end) of codes in qweight [k / (32 / kBits), n].
template <int kBits>
void PackColumns(const int8_t* codes, int64_t begin, int64_t end, int64_t k, int64_t n, int32_t* qweight) {
  constexpr int64_t kPerWord = 32 / kBits;
  for (int64_t word = 0; word < k / kPerWord; ++word) {
    for (int64_t row = begin; row < end; ++row) {
      const uint32_t packed = PackWord<kBits>(codes + (row - begin) * k + word * kPerWord);
      qweight[word * n + row] = static_cast<int32_t>(packed);
    }
  }
}

Tensor ToF16(const std::vector<float>& values, Shape shape) {
  return RoundTo(DType::kF16, TensorView{DType::kF32, std::move(shape), values.data()});
}

class Exporter {
 public:
  Exporter(const ExportSource& source, const GptqExportOptions& options)
      : source_(source), options_(options), pool_(options.pool == nullptr ? one_thread_ : *options.pool) {}

  absl::StatusOr<ExportReport> Run(const std::string& output) {
    report_.format = options_.v2 ? "gptq_v2" : "gptq";
    SF_RETURN_IF_ERROR(CheckExportable(source_, "GPTQ"));
    SF_ASSIGN_OR_RETURN(report_.losses, CommonLosses(source_, false));
    for (const ExportWeight& w : source_.weights()) decisions_.push_back(Decide(w));
    SF_RETURN_IF_ERROR(Check());
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
  absl::Status Check() {
    bool any = false;
    int64_t activations = 0;
    for (size_t i = 0; i < decisions_.size(); ++i) {
      const ExportWeight& w = source_.weights()[i];
      any = any || decisions_[i].codes;
      if (decisions_[i].codes && !w.spec->act.is_float()) ++activations;
      const bool fits =
          w.node.role == Role::kQProj || w.node.role == Role::kKProj || w.node.role == Role::kVProj;
      if (w.has_bias && !(fits && source_.config().family == "qwen2")) {
        return absl::UnimplementedError(absl::StrCat(source_.path(), ": ", w.node.module,
                                                     " has a bias; export it to compressed-tensors"));
      }
    }
    if (activations > 0) {
      report_.losses.push_back(
          {.what = "activations",
           .detail = absl::StrCat("codes of ", activations,
                                  " linears' inputs: GPTQ's kernels read float activations")});
    }
    if (any) return absl::OkStatus();
    return absl::UnimplementedError(absl::StrCat(source_.path(),
                                                 ": has no linear whose codes GPTQ's layout holds (a grid, "
                                                 "nothing kept, sizes that 32 divides); quantize with "
                                                 "--scheme w4a16 or w8a16, or export to compressed-tensors"));
  }

  // What most linears are; the others are rules of "dynamic".
  std::pair<int, int64_t> Main() const {
    std::map<std::pair<int, int64_t>, int> count;
    for (size_t i = 0; i < decisions_.size(); ++i) {
      if (decisions_[i].codes) ++count[FormatOf(source_.weights()[i])];
    }
    return std::max_element(count.begin(), count.end(),
                            [](const auto& a, const auto& b) { return a.second < b.second; })
        ->first;
  }
  static std::pair<int, int64_t> FormatOf(const ExportWeight& w) {
    return {BitsOf(*w.spec), w.spec->format.grouped ? w.spec->group : -1};
  }

  Json Config() const {
    const std::pair<int, int64_t> main = Main();
    bool symmetric = true;
    Json dynamic = Json::MakeObject();
    for (size_t i = 0; i < decisions_.size(); ++i) {
      const ExportWeight& w = source_.weights()[i];
      if (!w.is_linear() || w.node.role == Role::kHead) continue;
      const std::string pattern = absl::StrCat("^", absl::StrReplaceAll(w.node.module, {{".", "\\."}}), "$");
      if (!decisions_[i].codes) {
        dynamic.Set(absl::StrCat("-:", pattern), Json::MakeObject());
        continue;
      }
      symmetric = symmetric && w.spec->format.symmetric;
      const auto format = FormatOf(w);
      if (format == main) continue;
      dynamic.Set(absl::StrCat("+:", pattern),
                  Json::MakeObject().Set("bits", format.first).Set("group_size", format.second));
    }
    Json quantization = Json::MakeObject();
    quantization.Set("quant_method", "gptq").Set("bits", main.first).Set("group_size", main.second);
    quantization.Set("desc_act", false).Set("sym", symmetric).Set("lm_head", false);
    quantization.Set("checkpoint_format", options_.v2 ? "gptq_v2" : "gptq");
    if (!dynamic.object().empty()) quantization.Set("dynamic", std::move(dynamic));
    Json config = ConfigWithType(source_, "float16");
    config.Set("quantization_config", std::move(quantization));
    return config;
  }

  std::vector<SafetensorsWriter::Spec> Specs() const {
    std::vector<SafetensorsWriter::Spec> specs;
    for (size_t i = 0; i < decisions_.size(); ++i) {
      const ExportWeight& w = source_.weights()[i];
      if (!decisions_[i].codes) {
        specs.push_back({w.weight_name(), FloatTypeOf(w), w.shape});
      } else {
        const QuantizedLinearSpec& s = *w.spec;
        const int64_t per_word = 32 / BitsOf(s), groups = s.num_groups();
        const std::string& m = w.node.module;
        specs.push_back({m + ".qweight", DType::kI32, {s.k / per_word, s.n}});
        specs.push_back({m + ".qzeros", DType::kI32, {groups, s.n / per_word}});
        specs.push_back({m + ".scales", DType::kF16, {groups, s.n}});
        specs.push_back({m + ".g_idx", DType::kI32, {s.k}});
      }
      if (w.has_bias) specs.push_back({w.bias_name(), DType::kF16, {w.node.n}});
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
      if (decisions_[i].codes) {
        SF_RETURN_IF_ERROR(WriteCodes(w));
      } else {
        SF_RETURN_IF_ERROR(WriteFloats(source_, w, FloatTypeOf(w), pool_, *tensors_));
      }
      if (w.has_bias) {
        SF_ASSIGN_OR_RETURN(const Tensor bias, source_.ReadBias(w, pool_));
        SF_RETURN_IF_ERROR(tensors_->Write(w.bias_name(), RoundTo(DType::kF16, bias.view()).view()));
      }
      report_.tensors.push_back({.name = w.weight_name(),
                                 .from = w.stored_type,
                                 .to = decisions_[i].codes ? absl::StrCat("GPTQ ", BitsOf(*w.spec), " bits")
                                                           : std::string(DTypeName(FloatTypeOf(w))),
                                 .same_codes = decisions_[i].codes,
                                 .reason = decisions_[i].reason});
    }
    return absl::OkStatus();
  }

  absl::Status WriteCodes(const ExportWeight& w) {
    SF_ASSIGN_OR_RETURN(const std::unique_ptr<LinearRows> rows, source_.OpenLinear(w));
    const QuantizedLinear& q = rows->sides();
    const int bits = BitsOf(q);
    const int32_t middle = 1 << (bits - 1), top = (1 << bits) - 1;
    const int64_t n = q.n, k = q.k, groups = q.num_groups(), per_word = 32 / bits;
    Tensor index(DType::kI32, {k});
    for (int64_t c = 0; c < k; ++c) {
      index.as<int32_t>()[static_cast<size_t>(c)] = static_cast<int32_t>(c / (k / groups));
    }
    std::vector<int8_t> zeros(static_cast<size_t>(groups * n));
    std::vector<float> scales(zeros.size());
    const bool lowest = std::any_of(q.zeros.begin(), q.zeros.end(), [&](int8_t z) { return z == -middle; });
    if (lowest && !options_.v2) {
      return absl::UnimplementedError(absl::StrCat(w.node.module,
                                                   ": a zero point is the lowest code, which \"gptq\" stores "
                                                   "as -1; use gptq_v2"));
    }
    constexpr int64_t kTileRows = 64;  // whose lines stay in the cache while columns become rows
    pool_.ParallelFor(n, kTileRows, [&](int64_t begin, int64_t end) {
      for (int64_t g = 0; g < groups; ++g) {
        for (int64_t r = begin; r < end; ++r) {
          const size_t from = static_cast<size_t>(r * groups + g), to = static_cast<size_t>(g * n + r);
          const int32_t zero = (q.zeros.empty() ? 0 : q.zeros[from]) + middle;
          zeros[to] = static_cast<int8_t>((options_.v2 ? zero : (zero - 1) & top) - middle);
          scales[to] = q.scales[from];
        }
      }
    });
    Tensor qweight(DType::kI32, {k / per_word, n}), qzeros(DType::kI32, {groups, n / per_word});
    PackStream(bits, zeros.data(), groups * n, 1, qzeros.as<int32_t>().data(), 1);
    const auto pack = [&](int64_t begin, int64_t end) -> absl::Status {
      std::vector<int8_t> codes(static_cast<size_t>((end - begin) * k));
      SF_RETURN_IF_ERROR(rows->Codes(begin, end, codes.data()));
      const auto columns = bits == 8 ? PackColumns<8> : PackColumns<4>;
      columns(codes.data(), begin, end, k, n, qweight.as<int32_t>().data());
      return absl::OkStatus();
    };
    constexpr int64_t kLineRows = 16;  // words of a cache line of qweight; rows_together() is 1 or a multiple
    SF_RETURN_IF_ERROR(ForRowBlocks(pool_, n, k, std::max(kLineRows, rows->rows_together()), pack));
    const std::string& m = w.node.module;
    SF_RETURN_IF_ERROR(tensors_->Write(m + ".qweight", qweight.view()));
    SF_RETURN_IF_ERROR(tensors_->Write(m + ".qzeros", qzeros.view()));
    SF_RETURN_IF_ERROR(tensors_->Write(m + ".scales", ToF16(scales, {groups, n}).view()));
    return tensors_->Write(m + ".g_idx", index.view());
  }

  absl::Status ReadBack(const std::string& path) {
    SF_ASSIGN_OR_RETURN(const auto written, CheckpointReader::Open(path));
    for (size_t i = 0; i < decisions_.size(); ++i) {
      report_.tensors[i].bytes = written->Find(source_.weights()[i].weight_name())->bytes;
    }
    WrittenWeights weights = ReadWith(*written, source_);
    weights.type = "float16";
    return CompareWithSource(source_, weights, pool_, options_.progress, report_);
  }

  const ExportSource& source_;
  const GptqExportOptions& options_;
  ThreadPool one_thread_{1};
  ThreadPool& pool_;
  std::vector<Decision> decisions_;  // one for each of source_.weights()
  std::unique_ptr<SafetensorsModelWriter> tensors_;
  ExportReport report_;
};

}  // namespace

absl::StatusOr<ExportReport> ExportGptq(const ExportSource& source, const std::string& output,
                                        const GptqExportOptions& options) {
  return Exporter(source, options).Run(output);
}

}  // namespace spikefold
