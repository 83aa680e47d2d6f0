#include "quant/storage_costs.h"

#include <algorithm>
#include <array>

#include "absl/strings/str_cat.h"
#include "calib/recalibrate.h"
#include "calib/self_divergence.h"
#include "formats/base/file.h"
#include "formats/base/json.h"
#include "formats/base/status.h"
#include "formats/quantized/trellis.h"
#include "kernels/runtime/forward.h"
#include "kernels/runtime/model.h"
#include "kernels/runtime/ops.h"
#include "quant/plan.h"
#include "quant/rounding/round_weights.h"
#include "quant/rounding/sequential.h"
#include "quant/scheme.h"

namespace spikefold {
namespace {

constexpr int64_t kCacheVersion = 3;
constexpr uint64_t kMaxCacheBytes = uint64_t{1} << 20;
constexpr int64_t kMaxLayerGroups = 10;
constexpr size_t kRoundedWindows = 24;  // of text that the probes are rounded on
constexpr int64_t kSampledRows = 64;    // of a matrix, for the errors of the options
constexpr std::array<int, 3> kBits = {2, 3, 4};
constexpr std::array<int, 7> kGroups = {16, 32, 64, 96, 128, 192, 256};

using Pick = absl::FunctionRef<bool(const Node&)>;

class Measurement {
 public:
  Measurement(const StorageCostInput& in) : in_(in), graph_(in.reader->graph()) {}

  absl::StatusOr<std::vector<StorageUnit>> Run() {
    if (!ReadCache()) {
      role_loss_.clear();  // a cache may have been read in part
      layer_loss_.clear();
      SF_RETURN_IF_ERROR(MeasureAll());
      if (!in_.cache.empty())
        WriteFileAtomically(in_.cache, ToJson().Dump(1)).IgnoreError();  // as quant/prepare
    }
    double sum = 0, roles_sum = 0;
    for (const double loss : layer_loss_) sum += loss;
    for (const double loss : role_loss_) roles_sum += loss;
    const double scale = sum > 0 && roles_sum > 0 ? whole_loss_ / (sum * roles_sum) : 0;
    const std::vector<Role> roles = Roles();
    std::vector<StorageUnit> units;
    for (int g = 0; g < NumLayerGroups(); ++g) {
      for (size_t r = 0; r < roles.size(); ++r) {
        StorageUnit unit;
        unit.role = roles[r];
        unit.first_layer = FirstLayer(g);
        unit.last_layer = FirstLayer(g + 1) - 1;
        SF_RETURN_IF_ERROR(CompareGrids(unit));
        if (unit.num_weights == 0) continue;
        unit.loss = role_loss_[r] * layer_loss_[static_cast<size_t>(g)] * scale;
        units.push_back(std::move(unit));
      }
    }
    return units;
  }

 private:
  bool IsLinear(const Node& node) const {
    return node.op == Op::kLinear && node.layer >= 0 && node.role != Role::kHead;
  }

  int NumLayerGroups() const {
    return static_cast<int>(std::min<int64_t>(graph_.config.num_layers, kMaxLayerGroups));
  }
  int FirstLayer(int group) const {
    return static_cast<int>(group * graph_.config.num_layers / NumLayerGroups());
  }

  absl::Status MeasureAll() {
    SF_RETURN_IF_ERROR(Open());
    const std::vector<Role> roles = Roles();
    total_ = static_cast<int64_t>(roles.size()) + NumLayerGroups();
    SF_RETURN_IF_ERROR(RoundAll());
    SF_ASSIGN_OR_RETURN(whole_loss_, divergence_->Measure());
    SF_RETURN_IF_ERROR(Replace([](const Node&) { return true; }, false));
    for (const Role role : roles) {
      SF_ASSIGN_OR_RETURN(const double loss, Probe([&](const Node& n) { return n.role == role; }, 0));
      role_loss_.push_back(loss);
    }
    // The float layers before a group are run once for all groups.
    SF_RETURN_IF_ERROR(divergence_->Measure(nullptr, FirstLayer(NumLayerGroups() - 1)).status());
    for (int g = 0; g < NumLayerGroups(); ++g) {
      const int first = FirstLayer(g), end = FirstLayer(g + 1);
      SF_ASSIGN_OR_RETURN(const double loss,
                          Probe([&](const Node& n) { return n.layer >= first && n.layer < end; }, first));
      layer_loss_.push_back(loss);
    }
    return absl::OkStatus();
  }

  Json ToJson() const {
    const auto numbers = [](const std::vector<double>& values) {
      Json list = Json::MakeArray();
      for (const double v : values) list.Append(v);
      return list;
    };
    return Json::MakeObject()
        .Set("format_version", kCacheVersion)
        .Set("whole_loss", numbers({whole_loss_}))
        .Set("role_loss", numbers(role_loss_))
        .Set("layer_loss", numbers(layer_loss_));
  }

  // A file that cannot be used is measured again.
  bool ReadCache() {
    if (in_.cache.empty() || !PathExists(in_.cache)) return false;
    const auto text = ReadFileToString(in_.cache, kMaxCacheBytes);
    if (!text.ok()) return false;
    const auto json = ParseJson(*text, in_.cache);
    if (!json.ok() || json->GetInt("format_version", in_.cache).value_or(0) != kCacheVersion) return false;
    std::vector<double> whole;
    if (!ReadNumbers(json->Find("whole_loss"), 1, whole)) return false;
    whole_loss_ = whole[0];
    return ReadNumbers(json->Find("role_loss"), Roles().size(), role_loss_) &&
           ReadNumbers(json->Find("layer_loss"), static_cast<size_t>(NumLayerGroups()), layer_loss_);
  }
  static bool ReadNumbers(const Json* list, size_t count, std::vector<double>& out) {
    if (list == nullptr || !list->is_array() || list->array().size() != count) return false;
    out.clear();
    for (const Json& value : list->array()) {
      if (!value.is_number() || !(value.number_value() >= 0)) return false;
      out.push_back(value.number_value());
    }
    return true;
  }

  std::vector<Role> Roles() const {
    std::vector<Role> roles;
    for (const Node& node : graph_.nodes) {
      if (IsLinear(node) && std::find(roles.begin(), roles.end(), node.role) == roles.end()) {
        roles.push_back(node.role);
      }
    }
    return roles;
  }

  // The float model's outputs are computed once; the head is never rounded, so one model serves both sides.
  absl::Status Open() {
    if (in_.stats == nullptr || in_.stats->windows.empty()) {
      return absl::InvalidArgumentError("bits by measured cost need the text of a scan; scan first");
    }
    SF_ASSIGN_OR_RETURN(model_, LoadModel(*in_.reader, {.pool = in_.pool, .backend = in_.backend}));
    const std::vector<int32_t> tokens = in_.behind_prefix ? in_.stats->prefix.tokens : std::vector<int32_t>();
    KvPrefix prefix;
    if (!tokens.empty()) {
      SF_ASSIGN_OR_RETURN(prefix, ComputePrefix(*model_, tokens));
    }
    const auto all = WindowsBehind(in_.stats->windows, tokens, graph_.config.bos_id);
    const size_t half = std::max<size_t>(1, all.size() / 2);
    const size_t count = std::min(half, static_cast<size_t>(in_.max_windows));
    std::vector<std::vector<int32_t>> measured;
    for (size_t w = 0; w < all.size(); ++w) {  // spread over the text
      const bool picked = (w + 1) * count / all.size() > w * count / all.size();
      (picked ? measured : rounded_on_).push_back(all[w]);
    }
    if (rounded_on_.empty()) rounded_on_ = measured;
    if (const size_t others = rounded_on_.size(); others > kRoundedWindows) {
      for (size_t w = 0; w < kRoundedWindows; ++w) rounded_on_[w] = rounded_on_[w * others / kRoundedWindows];
      rounded_on_.resize(kRoundedWindows);
    }
    prefix_ = prefix;
    SF_ASSIGN_OR_RETURN(divergence_, SelfDivergence::Create(*model_, std::move(prefix), measured));
    return absl::OkStatus();
  }

  // The grid of the probe.
  WeightGrid ProbeGrid(int64_t k) const {
    if (in_.trellis) return {.bits = kStorageProbeBits, .trellis = true, .scale_dtype = DType::kF32};
    const int group = DefaultGroupSize({k});
    return Grid(group > 0 ? kStorageProbeBits : 8, group);
  }

  // All linears, as a quantizer would. Afterwards the model computes with them.
  absl::Status RoundAll() {
    rounded_.resize(graph_.nodes.size());
    if (!in_.gptq) {
      for (size_t i = 0; i < graph_.nodes.size(); ++i) {
        const Node& node = graph_.nodes[i];
        if (!IsLinear(node)) continue;
        SF_ASSIGN_OR_RETURN(const Tensor w, in_.reader->ReadF32(node.module + ".weight"));
        rounded_[i] =
            RoundToNearest({.w = w.as<float>(), .n = node.n, .k = node.k}, ProbeGrid(node.k), {}, *in_.pool);
      }
      return Replace([](const Node&) { return true; }, true);
    }
    SequentialOptions options;
    options.pool = in_.pool;
    options.prefix = prefix_.empty() ? nullptr : &prefix_;
    options.progress = in_.progress;
    const auto choose = [&](int index) -> absl::StatusOr<LinearRounding> {
      const Node& node = graph_.nodes[static_cast<size_t>(index)];
      LinearRounding wanted;
      wanted.round = IsLinear(node);
      if (wanted.round) wanted.grid = ProbeGrid(node.k);
      return wanted;
    };
    const auto take = [&](int index, RoundedWeights rounded) {
      rounded_[static_cast<size_t>(index)] = std::move(rounded);
      return absl::OkStatus();
    };
    return RoundSequentially(*in_.reader, *model_, rounded_on_, options, choose, take);
  }

  WeightGrid Grid(int bits, int group) const {
    if (group == 0) return {.bits = bits, .scale_dtype = DType::kF32, .scales = ScaleMethod::kAbsMax};
    return {.bits = bits, .symmetric = !in_.zeros, .group = group};
  }

  // KL divergence from the float model with the picked linears, none before `first_layer`, rounded.
  absl::StatusOr<double> Probe(Pick pick, int first_layer) {
    if (!Report(in_.progress, "pricing bits", done_++, total_)) {
      return absl::CancelledError("pricing bits: stopped");
    }
    SF_RETURN_IF_ERROR(Replace(pick, true));
    SF_ASSIGN_OR_RETURN(const double divergence, divergence_->Measure(nullptr, first_layer));
    SF_RETURN_IF_ERROR(Replace(pick, false));
    return divergence;
  }

  absl::Status Replace(Pick pick, bool rounded) {
    for (size_t i = 0; i < graph_.nodes.size(); ++i) {
      const Node& node = graph_.nodes[i];
      if (!IsLinear(node) || !pick(node)) continue;
      Tensor w;
      if (rounded) {
        w = Tensor::FromFloats({node.n, node.k}, Dequantize(rounded_[i], node.n, node.k, *in_.pool));
      } else {
        SF_ASSIGN_OR_RETURN(w, in_.reader->ReadF32(node.module + ".weight"));
      }
      LinearWeights weights;
      weights.bias = model_->linear(static_cast<int>(i))->bias;
      SF_RETURN_IF_ERROR(model_->ops().PackF32(w, weights));
      SF_RETURN_IF_ERROR(model_->ops().Prepare(weights));
      SF_RETURN_IF_ERROR(model_->ReplaceLinear(static_cast<int>(i), std::move(weights)));
    }
    return absl::OkStatus();
  }

  // Errors of all grids on rows of the unit's first layer: weights of a role are alike in neighbouring ones.
  absl::Status CompareGrids(StorageUnit& unit) {
    std::vector<float> rows;
    int64_t n = 0, k = 0;
    for (const Node& node : graph_.nodes) {
      if (!IsLinear(node) || node.role != unit.role || node.layer < unit.first_layer ||
          node.layer > unit.last_layer) {
        continue;
      }
      unit.num_weights += node.n * node.k;
      if (!rows.empty()) continue;
      SF_ASSIGN_OR_RETURN(const Tensor w, in_.reader->ReadF32(node.module + ".weight"));
      n = node.n;
      k = node.k;
      const int64_t count = std::min(node.n, kSampledRows);
      for (int64_t i = 0; i < count; ++i) {
        const float* row = w.as<float>().data() + i * node.n / count * k;
        rows.insert(rows.end(), row, row + k);
      }
    }
    if (rows.empty()) return absl::OkStatus();
    const double power = SumOfSquares(rows);
    const double probe =
        in_.trellis ? TrellisError(kStorageProbeBits) * power : ErrorOf(rows, k, ProbeGrid(k));
    const auto add = [&](StorageChoice choice, double error) {
      StorageOption option;
      static_cast<StorageChoice&>(option) = choice;
      option.bits_a_weight = StoredBits(choice, n, k);
      option.error = probe > 0 ? error / probe : 0;
      unit.options.push_back(option);
    };
    const auto add_grid = [&](int bits, int group) {
      add({.bits = bits, .group = group}, ErrorOf(rows, k, Grid(bits, group)));
    };
    for (const int bits : kBits) {
      for (const int group : kGroups) {
        if (k % group == 0 && !in_.trellis) add_grid(bits, group);
      }
    }
    for (int bits = kTrellisMinBits; bits <= kTrellisMaxBits && in_.trellis; ++bits) {
      add({.bits = bits, .trellis = true}, TrellisError(bits) * power);
    }
    add_grid(8, 0);
    return absl::OkStatus();
  }

  // All that a linear's tensors take but its bias.
  double StoredBits(const StorageChoice& choice, int64_t n, int64_t k) const {
    TensorDecision d;
    d.module = "linear";
    d.n = n;
    d.k = k;
    d.weight_bits = choice.bits;
    d.group_size = choice.group;
    d.trellis = choice.trellis;
    d.weight_zeros = in_.zeros && choice.group > 0;
    return 8.0 * static_cast<double>(StoredBytes(SpecOf(d))) / static_cast<double>(n * k);
  }

  static double SumOfSquares(const std::vector<float>& values) {
    double sum = 0;
    for (const float v : values) sum += static_cast<double>(v) * static_cast<double>(v);
    return sum;
  }

  static double ErrorOf(const std::vector<float>& rows, int64_t k, const WeightGrid& grid) {
    const int64_t width = grid.group_width(k);
    double error = 0;
    for (size_t at = 0; at < rows.size(); at += static_cast<size_t>(width)) {
      const GroupScale s = ChooseScale(rows.data() + at, nullptr, width, grid);
      error += GroupError(rows.data() + at, nullptr, width, s, grid);
    }
    return error;
  }

  const StorageCostInput& in_;
  const ModelGraph& graph_;
  std::unique_ptr<RuntimeModel> model_;
  std::unique_ptr<SelfDivergence> divergence_;
  std::vector<double> role_loss_, layer_loss_;  // of Roles(), of the groups of layers
  double whole_loss_ = 0;                       // of all linears at once
  KvPrefix prefix_;
  std::vector<std::vector<int32_t>> rounded_on_;  // text
  std::vector<RoundedWeights> rounded_;           // of the graph's nodes
  int64_t done_ = 0, total_ = 0;
};

}  // namespace

absl::StatusOr<std::vector<StorageUnit>> MeasureStorageCosts(const StorageCostInput& input) {
  return Measurement(input).Run();
}

}  // namespace spikefold
