#include "formats/export/export_source.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "formats/base/status.h"

namespace spikefold {

absl::StatusOr<std::unique_ptr<ExportSource>> ExportSource::Open(const std::string& path) {
  std::unique_ptr<ExportSource> source(new ExportSource);
  SF_ASSIGN_OR_RETURN(source->owned_, CheckpointReader::Open(path));
  source->reader_ = source->owned_.get();
  if (source->reader_->kind() == CheckpointKind::kNative) {
    SF_ASSIGN_OR_RETURN(source->native_, NativeReader::Open(path));
  }
  source->ListWeights();
  return source;
}

std::unique_ptr<ExportSource> ExportSource::Of(const CheckpointReader& reader) {
  std::unique_ptr<ExportSource> source(new ExportSource);
  source->reader_ = &reader;
  source->ListWeights();
  return source;
}

void ExportSource::ListWeights() {
  for (const Node& node : reader_->graph().nodes) {
    const bool vector = node.op == Op::kNorm || node.op == Op::kHeadNorm;
    if (!vector && node.op != Op::kEmbed && node.op != Op::kLinear) continue;
    ExportWeight w{.node = node, .shape = vector ? Shape{node.k} : Shape{node.n, node.k}};
    const StoredTensor* stored = reader_->Find(w.weight_name());
    if (stored == nullptr) continue;  // a tied head
    w.stored_type = stored->stored_type;
    w.has_bias = reader_->Find(w.bias_name()) != nullptr;
    if (native_ != nullptr) w.spec = native_->FindLinear(node.module);
    if (w.spec != nullptr && w.spec->format.trellis) {
      levels_.push_back(std::make_unique<QuantizedLinearSpec>(*w.spec));
      levels_.back()->format = WeightFormat::kS8c;
      w.spec = levels_.back().get();
    }
    weights_.push_back(std::move(w));
  }
}

bool ExportSource::has_head() const { return !weights_.empty() && weights_.back().node.role == Role::kHead; }

absl::StatusOr<std::unique_ptr<LinearRows>> ExportSource::OpenLinear(const ExportWeight& weight) const {
  return native_->OpenLinear(weight.node.module);
}

absl::StatusOr<std::unique_ptr<WeightRows>> ExportSource::OpenRows(const ExportWeight& weight) const {
  if (weight.spec == nullptr) return reader_->OpenRows(weight.weight_name());
  return OpenLinear(weight);
}

const NativeShift* ExportSource::ShiftOf(const ExportWeight& weight) const {
  if (native_ == nullptr) return nullptr;
  const ModelGraph& graph = reader_->graph();
  const int site = graph.SiteOf(graph.FindModule(weight.node.module));
  if (site < 0) return nullptr;
  for (const NativeShift& shift : native_->info().shifts) {
    if (shift.site == graph.sites[static_cast<size_t>(site)].name) return &shift;
  }
  return nullptr;
}

absl::StatusOr<Tensor> ExportSource::ReadWeight(const ExportWeight& weight) const {
  if (weight.spec == nullptr) return reader_->ReadF32(weight.weight_name());
  SF_ASSIGN_OR_RETURN(const QuantizedLinear linear, native_->ReadLinear(weight.node.module));
  return Dequantize(linear);
}

absl::StatusOr<Tensor> ExportSource::ReadBias(const ExportWeight& weight, ThreadPool& pool) const {
  if (!weight.has_bias) return Tensor(DType::kF32, {weight.node.n});
  SF_ASSIGN_OR_RETURN(Tensor bias, reader_->ReadF32(weight.bias_name()));
  const NativeShift* shift = ShiftOf(weight);
  if (shift == nullptr) return bias;
  SF_ASSIGN_OR_RETURN(const std::unique_ptr<WeightRows> rows, OpenRows(weight));
  const int64_t n = weight.node.n, k = weight.node.k;
  float* b = bias.as<float>().data();
  const auto fold = [&](int64_t begin, int64_t end) -> absl::Status {
    SF_ASSIGN_OR_RETURN(const auto values, ReadBlock(*rows, begin, end, k));
    for (int64_t row = begin; row < end; ++row) {
      const float* w = values.get() + (row - begin) * k;
      double product = 0;
      for (int64_t i = 0; i < k; ++i) {
        product += static_cast<double>(w[i]) * static_cast<double>(shift->values[static_cast<size_t>(i)]);
      }
      b[row] = static_cast<float>(static_cast<double>(b[row]) - product);
    }
    return absl::OkStatus();
  };
  SF_RETURN_IF_ERROR(ForRowBlocks(pool, n, k, rows->rows_together(), fold));
  return bias;
}

absl::StatusOr<NativePrefix> ExportSource::ReadPrefix() const {
  if (native_ == nullptr) return NativePrefix{};
  return native_->ReadPrefix();
}

namespace {

bool IsQkv(Role role) { return role == Role::kQProj || role == Role::kKProj || role == Role::kVProj; }
bool IsMlp(Role role) { return role == Role::kGateProj || role == Role::kUpProj || role == Role::kDownProj; }

}  // namespace

BiasGroups FindBiases(const ExportSource& source) {
  BiasGroups groups;
  for (const ExportWeight& w : source.weights()) {
    if (!w.has_bias) continue;
    groups.qkv = groups.qkv || IsQkv(w.node.role);
    groups.o = groups.o || w.node.role == Role::kOProj;
    groups.mlp = groups.mlp || IsMlp(w.node.role);
  }
  groups.attention = groups.qkv || groups.o;
  return groups;
}

bool NeedsBias(const BiasGroups& groups, Role role) {
  return IsMlp(role) ? groups.mlp : IsQkv(role) ? groups.qkv : role == Role::kOProj && groups.o;
}

std::string WhySixteenBit(const ExportWeight& weight) {
  if (!weight.is_linear() || weight.node.role == Role::kHead) return "embedding and head are 16 bit there";
  const QuantizedLinearSpec& s = *weight.spec;
  if (s.num_kept + s.num_super == 0) return "";
  return absl::StrCat(s.num_kept, " kept columns and ", s.num_super,
                      " super weights have no place beside codes: the linear is 16 bit");
}

absl::Status CheckExportable(const ExportSource& source, absl::string_view format) {
  if (source.native() == nullptr) return absl::OkStatus();
  for (const Rotation& rotation : source.native()->rotations) {
    if (rotation.place != RotationPlace::kDownIn) continue;
    return absl::UnimplementedError(
        absl::StrCat(source.path(), ": rotation ", rotation.name,
                     " turns the inputs of down_proj while the model runs, which ", format,
                     " cannot say; quantize with --rotate offline (or none) for this target"));
  }
  return absl::OkStatus();
}

}  // namespace spikefold
