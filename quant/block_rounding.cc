#include "quant/block_rounding.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "formats/base/status.h"
#include "kernels/runtime/model.h"
#include "quant/rounding/block_scales.h"
#include "quant/rounding/sequential.h"

namespace spikefold {
namespace {

class BlockRounder {
 public:
  BlockRounder(const CheckpointReader& reader, const std::map<std::string, GgmlType>& types,
               const BlockRoundingOptions& options)
      : reader_(reader), graph_(reader.graph()), types_(types), options_(options) {}

  absl::StatusOr<std::map<std::string, std::string>> Run() {
    bool calibrated = false;
    for (const Node& node : graph_.nodes) {
      const GgmlScaleLayout* layout = LayoutOf(node);
      if (layout == nullptr) continue;
      SF_RETURN_IF_ERROR(CheckGrid(node.module, node.k, BlockGrid(*layout)));
      const bool linear = node.op == Op::kLinear;
      if (linear && options_.stats != nullptr) {
        calibrated = true;
      } else {
        SF_RETURN_IF_ERROR(RoundNearest(node, *layout));
      }
    }
    if (calibrated) SF_RETURN_IF_ERROR(RoundCalibrated());
    return std::move(out_);
  }

 private:
  bool IsTiedHead(const Node& node) const {
    return node.role == Role::kHead && graph_.config.tied_embeddings;
  }

  const GgmlScaleLayout* LayoutOf(const Node& node) const {
    if ((node.op != Op::kLinear && node.op != Op::kEmbed) || IsTiedHead(node)) return nullptr;
    const auto type = types_.find(node.module);
    return type == types_.end() ? nullptr : FindGgmlScaleLayout(type->second);
  }

  absl::Status RoundNearest(const Node& node, const GgmlScaleLayout& layout) {
    if (!Report(options_.progress, "rounding", 0, 1)) return absl::CancelledError("rounding: interrupted");
    SF_ASSIGN_OR_RETURN(const Tensor w, reader_.ReadF32(absl::StrCat(node.module, ".weight")));
    out_[node.module] = EncodeBlocks(layout, w.as<float>(), node.k, Importance(node), *options_.pool);
    return absl::OkStatus();
  }

  // Of a tied embedding: mean squares of what the head multiplies. Its other use knows no such weights.
  std::vector<float> Importance(const Node& node) const {
    if (options_.stats == nullptr || node.op != Op::kEmbed || !graph_.config.tied_embeddings) return {};
    const StatsArm* arm = options_.stats->FindArm("plain");
    if (arm == nullptr || arm->sites.empty()) return {};
    const SiteStats& site = arm->sites.back();
    const bool head = graph_.sites[static_cast<size_t>(site.site)].layer < 0;
    if (!head || site.k != node.k || site.rows == 0) return {};
    std::vector<float> out;
    for (const double sum : site.sum_sq)
      out.push_back(static_cast<float>(sum / static_cast<double>(site.rows)));
    return out;
  }

  absl::Status RoundCalibrated() {
    if (options_.stats->windows.empty()) {
      return absl::InvalidArgumentError("the scan has no text to round on; scan again");
    }
    SF_ASSIGN_OR_RETURN(const auto model,
                        LoadModel(reader_, {.pool = options_.pool, .progress = options_.progress}));
    SequentialOptions sequential;
    sequential.pool = options_.pool;
    sequential.progress = options_.progress;
    const auto choose = [&](int node) -> absl::StatusOr<LinearRounding> {
      const GgmlScaleLayout* layout = LayoutOf(graph_.nodes[static_cast<size_t>(node)]);
      if (layout == nullptr) return LinearRounding{};
      LinearRounding wanted;
      wanted.round = true;
      wanted.grid = BlockGrid(*layout);
      return wanted;
    };
    const auto take = [&](int node, RoundedWeights rounded) {
      out_[graph_.nodes[static_cast<size_t>(node)].module] = std::move(rounded.blocks);
      return absl::OkStatus();
    };
    return RoundSequentially(reader_, *model, options_.stats->windows, sequential, choose, take);
  }

  const CheckpointReader& reader_;
  const ModelGraph& graph_;
  const std::map<std::string, GgmlType>& types_;
  const BlockRoundingOptions& options_;
  std::map<std::string, std::string> out_;
};

}  // namespace

absl::StatusOr<std::map<std::string, std::string>> RoundToBlocks(const CheckpointReader& reader,
                                                                 const std::map<std::string, GgmlType>& types,
                                                                 const BlockRoundingOptions& options) {
  return BlockRounder(reader, types, options).Run();
}

}  // namespace spikefold
