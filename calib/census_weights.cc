#include "calib/census_weights.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "calib/median.h"
#include "formats/base/status.h"

namespace spikefold {
namespace {

constexpr int64_t kColumnBlock = 64;

// out[k] += sum over rows of W[:, k]^2.
void AddColumnSquares(const Tensor& w, ThreadPool& pool, std::vector<double>& out) {
  const int64_t rows = w.dim(0), k = w.dim(1);
  const float* data = w.as<float>().data();
  out.resize(static_cast<size_t>(k), 0);
  pool.ParallelFor((k + kColumnBlock - 1) / kColumnBlock, 1, [&](int64_t begin, int64_t end) {
    const int64_t first = begin * kColumnBlock, last = std::min(k, end * kColumnBlock);
    for (int64_t n = 0; n < rows; ++n) {
      for (int64_t c = first; c < last; ++c) {
        const double v = static_cast<double>(data[n * k + c]);
        out[static_cast<size_t>(c)] += v * v;
      }
    }
  });
}

// Length of each row times the norm's gain.
std::vector<double> RowNorms(const Tensor& w, const std::vector<double>& gain, ThreadPool& pool) {
  const int64_t k = w.dim(1);
  const float* data = w.as<float>().data();
  std::vector<double> out(static_cast<size_t>(w.dim(0)));
  pool.ParallelFor(w.dim(0), 32, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      double sum = 0;
      for (int64_t c = 0; c < k; ++c) {
        const double v = static_cast<double>(data[n * k + c]) * gain[static_cast<size_t>(c)];
        sum += v * v;
      }
      out[static_cast<size_t>(n)] = std::sqrt(sum);
    }
  });
  return out;
}

class Census {
 public:
  Census(const CheckpointReader& reader, ThreadPool& pool, const Progress& progress)
      : reader_(reader), graph_(reader.graph()), pool_(pool), progress_(progress) {}

  absl::StatusOr<WeightCensus> Run() {
    const int64_t layers = graph_.config.num_layers;
    out_.site_weight_sq.resize(graph_.sites.size());
    for (int64_t l = 0; l < layers; ++l) {
      if (!Report(progress_, "reading weights", l, layers)) {
        return absl::CancelledError(absl::StrCat("weights: stopped after ", l, " of ", layers, " layers"));
      }
      SF_RETURN_IF_ERROR(RunLayer(static_cast<int>(l)));
    }
    const Node& head = graph_.nodes[static_cast<size_t>(graph_.sites.back().linears.front())];
    const char* tied = "model.embed_tokens.weight";
    SF_ASSIGN_OR_RETURN(
        const Tensor table,
        ReadF32(reader_, graph_.config.tied_embeddings ? tied : absl::StrCat(head.module, ".weight"), pool_));
    AddColumnSquares(table, pool_, out_.site_weight_sq.back());
    Report(progress_, "reading weights", layers, layers);
    return std::move(out_);
  }

 private:
  absl::StatusOr<std::vector<double>> Gain(int layer, Role role) const {
    std::vector<double> gain(static_cast<size_t>(graph_.config.hidden), 1.0);
    for (const Node& node : graph_.nodes) {
      if (node.layer != layer || node.op != Op::kNorm || node.role != role) continue;
      SF_ASSIGN_OR_RETURN(const Tensor stored, reader_.ReadF32(absl::StrCat(node.module, ".weight")));
      for (size_t i = 0; i < gain.size(); ++i) {
        gain[i] =
            static_cast<double>(stored.as<float>()[i]) + static_cast<double>(graph_.config.norm_gain_offset);
      }
    }
    return gain;  // ones where the layer has no such norm
  }

  absl::Status RunLayer(int layer) {
    std::vector<double> gate, up;
    SF_ASSIGN_OR_RETURN(const std::vector<double> before, Gain(layer, Role::kFfnNorm));
    SF_ASSIGN_OR_RETURN(const std::vector<double> after, Gain(layer, Role::kPostFfnNorm));
    for (const Site& site : graph_.sites) {
      if (site.layer != layer) continue;
      for (const int linear : site.linears) {
        const Node& node = graph_.nodes[static_cast<size_t>(linear)];
        SF_ASSIGN_OR_RETURN(const Tensor w, ReadF32(reader_, absl::StrCat(node.module, ".weight"), pool_));
        AddColumnSquares(w, pool_, out_.site_weight_sq[static_cast<size_t>(site.id)]);
        if (node.role == Role::kGateProj) gate = RowNorms(w, before, pool_);
        if (node.role == Role::kUpProj) up = RowNorms(w, before, pool_);
        if (node.role == Role::kDownProj) AddUnits(w, gate, up, after);
      }
    }
    return absl::OkStatus();
  }

  void AddUnits(const Tensor& down, const std::vector<double>& gate, const std::vector<double>& up,
                const std::vector<double>& gain) {
    const int64_t d = down.dim(0), f = down.dim(1);
    const float* data = down.as<float>().data();
    std::vector<UnitStrength> units(static_cast<size_t>(f));
    for (int64_t k = 0; k < d; ++k) {
      const double g = std::fabs(gain[static_cast<size_t>(k)]);
      for (int64_t i = 0; i < f; ++i) {
        UnitStrength& unit = units[static_cast<size_t>(i)];
        const float written = static_cast<float>(std::fabs(static_cast<double>(data[k * f + i])) * g);
        if (written > unit.strength) {
          unit = {.strength = written, .channel = static_cast<int32_t>(k), .value = data[k * f + i]};
        }
      }
    }
    std::vector<double> strengths;
    for (size_t i = 0; i < units.size(); ++i) {
      units[i].strength = static_cast<float>(static_cast<double>(units[i].strength) * gate[i] * up[i]);
      strengths.push_back(static_cast<double>(units[i].strength));
    }
    out_.median.push_back(Median(std::move(strengths)));
    out_.units.push_back(std::move(units));
  }

  const CheckpointReader& reader_;
  const ModelGraph& graph_;
  ThreadPool& pool_;
  const Progress& progress_;
  WeightCensus out_;
};

}  // namespace

absl::StatusOr<WeightCensus> CensusWeights(const CheckpointReader& reader, ThreadPool& pool,
                                           const Progress& progress) {
  return Census(reader, pool, progress).Run();
}

}  // namespace spikefold
