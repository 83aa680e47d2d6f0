#include "quant/forecast.h"

#include <algorithm>

#include "absl/types/span.h"
#include "quant/round_linear.h"
#include "quant/rounding/row_panel.h"
#include "quant/rounding/sequential.h"
#include "quant/rounding/trellis_panel.h"

namespace spikefold {
namespace {

constexpr int64_t kFloat = sizeof(float), kDouble = sizeof(double);

class Forecaster {
 public:
  explicit Forecaster(const MemoryInput& input)
      : in_(input), graph_(input.reader->graph()), config_(graph_.config) {
    for (const int64_t w : in_.windows) tokens_ += w, longest_ = std::max(longest_, w);
  }

  MemoryForecast Run() {
    SeeNearest(in_.plan->embedding);
    for (const TensorDecision& d : in_.plan->linears) SeeNearest(d);
    if (in_.plan->has_head) SeeNearest(in_.plan->head);
    const bool gptq = std::any_of(in_.plan->linears.begin(), in_.plan->linears.end(),
                                  [&](const TensorDecision& d) { return IsGptq(d) && in_.writes(d); });
    if (gptq) SeeGptq();
    return out_;
  }

 private:
  static bool IsGptq(const TensorDecision& d) { return d.rounding == Rounding::kGptq; }

  void See(const std::string& at, int64_t bytes, int64_t text = 0) {
    if (bytes > out_.bytes) out_ = {.bytes = bytes, .at = at, .text_bytes = text};
  }

  void SeeNearest(const TensorDecision& d) {
    if (!IsGptq(d) && in_.writes(d)) See(d.module, RoundLinearMemory(d, *in_.reader, in_.num_threads));
  }

  const Node& NodeOf(int node) const { return graph_.nodes[static_cast<size_t>(node)]; }
  int64_t Packed(int node) const { return kFloat * NodeOf(node).n * NodeOf(node).k; }

  // Linears that the text passes between two sites; the largest is read and packed beside them.
  int64_t LinearsBetween(int begin, int end) const {
    int64_t bytes = 0;
    for (int node = begin; node < end; ++node) {
      const Op op = NodeOf(node).op;
      if (op == Op::kLinear || op == Op::kEmbed) bytes += Packed(node);
    }
    return bytes;
  }
  int64_t LargestRead(int begin, int end) const {
    int64_t bytes = 0;
    for (int node = begin; node < end; ++node) {
      const Node& n = NodeOf(node);
      if (n.op != Op::kLinear && n.op != Op::kEmbed) continue;
      const int64_t read = in_.reader->ReadMemory(n.module + ".weight");
      bytes = std::max({bytes, Packed(node), read - Packed(node)});
    }
    return bytes;
  }

  // Keys and values of a window.
  int64_t CacheBytes() const {
    return 2 * kFloat * config_.num_layers * (longest_ + in_.prefix) * config_.num_kv_heads *
           config_.head_dim;
  }
  // And the values of one layer: walk.cc.
  int64_t ForwardBytes() const {
    const int64_t q = config_.num_heads * config_.head_dim, kv = config_.num_kv_heads * config_.head_dim;
    const int64_t row = 3 * config_.hidden + 2 * q + 2 * kv + 3 * config_.intermediate;
    return CacheBytes() + kFloat * longest_ * row;
  }

  void SeeGptq() {
    int at = 0;
    int64_t widest = 0;
    for (const Site& site : graph_.sites) {
      bool rounds = false, mine = false;
      for (const int node : site.linears) {
        const TensorDecision* d = in_.plan->Find(NodeOf(node).module);
        rounds = rounds || (d != nullptr && IsGptq(*d));
        mine = mine || (d != nullptr && IsGptq(*d) && in_.writes(*d));
      }
      if (!rounds) continue;  // passed on the way to the next
      widest = std::max(widest, site.k);
      // Residuals, and the rows where the text stands, which give way to wider ones window by window.
      const int64_t text = kFloat * tokens_ * (config_.hidden + widest);
      SeeSite(site, at, mine, text);
      at = site.linears.front();
    }
  }

  void SeeSite(const Site& site, int at, bool mine, int64_t text) {
    const int64_t k = site.k, squares = k * k, forward = text + ForwardBytes();
    const int64_t passed = LinearsBetween(at, site.linears.front());
    const std::string where = site.name;
    const int64_t residual = kFloat * tokens_ * config_.hidden;  // all that is there before the first forward
    See(where, (at == 0 ? residual + CacheBytes() : forward) + passed + LargestRead(at, site.linears.front()),
        at == 0 ? residual : text);
    if (!mine) return;
    const int64_t tiles = kDouble * squares / 2 + kDouble * k * 64;
    const int64_t chunk = 2 * kFloat * k * std::min<int64_t>(512, longest_);
    See(where, forward + passed + tiles + chunk, text);             // the text runs through
    See(where, forward + tiles + chunk + kDouble * squares, text);  // halves become a whole
    // Whole, as float32, and its factor in double and then in float32.
    See(where, forward + (2 * kDouble + 2 * kFloat) * squares, text);
    const int64_t ready = forward + (kDouble + 2 * kFloat) * squares;
    int64_t packed = 0;  // of the site, rounded and back in the model
    for (auto linears = LinearsOf(site); !linears.empty();) {
      size_t count = 0;  // rounded in one go, if all keep the same columns
      for (int64_t sum = 0; count < linears.size(); ++count) {
        sum += linears[count].n * linears[count].k;
        if (count > 0 && sum > kRoundedTogether) break;
      }
      packed = SeeTogether(absl::MakeSpan(linears).first(count), ready, packed, text);
      linears.erase(linears.begin(), linears.begin() + static_cast<std::ptrdiff_t>(count));
    }
  }

  struct RoundedLinear {
    const TensorDecision* decision;
    int64_t n, k;
    int64_t values() const { return kFloat * n * k; }
    int64_t groups() const { return decision->group_size > 0 ? k / decision->group_size : 1; }
    int64_t codes() const { return n * k + kFloat * n * groups(); }
  };
  // While codes become what is stored: the weights are read again for what is kept of them, and a bias that
  // was shifted is made from them.
  int64_t TakeMemory(const RoundedLinear& l) const {
    const TensorDecision& d = *l.decision;
    const bool keeps = !d.kept.empty() || !d.supers.empty();
    const int64_t weights = keeps ? l.values() : 0;
    const int64_t read = keeps ? in_.reader->ReadMemory(d.module + ".weight") : 0;
    const int64_t bias = weights + in_.reader->ReadMemory(d.module + ".bias");
    return std::max(l.codes() + std::max(read, bias), weights + StoredMemory(d));
  }
  std::vector<RoundedLinear> LinearsOf(const Site& site) const {
    std::vector<RoundedLinear> linears;
    for (const int node : site.linears) {
      const Node& n = NodeOf(node);
      const TensorDecision* d = in_.plan->Find(n.module);
      if (d != nullptr && IsGptq(*d)) linears.push_back({.decision = d, .n = n.n, .k = n.k});
    }
    return linears;
  }

  // Rounded side by side, then one after the other packed and taken. Returns what is packed afterwards.
  int64_t SeeTogether(absl::Span<const RoundedLinear> linears, int64_t ready, int64_t packed, int64_t text) {
    int64_t waiting = 0, panels = 0;   // weights and codes of all; one of each thread
    int64_t before = 0;                // weights that are there while the next is read
    int64_t num_paths = 0, paths = 0;  // panels of trellis codes, which are few and large
    for (const RoundedLinear& l : linears) {
      const int64_t lanes = RowPanel::kRows;
      const std::string& module = l.decision->module;
      See(module, ready + packed + before + in_.reader->ReadMemory(module + ".weight"), text);
      before += l.values();
      waiting += l.values() + l.codes();
      if (l.decision->trellis) {
        num_paths += TrellisPanel::CountOf(l.n);
        paths = std::max(paths, TrellisPanel::BytesOf(l.decision->weight_bits, l.k));
        continue;
      }
      panels =
          std::max(panels, in_.num_threads * lanes * (5 * kFloat * l.k + kDouble * l.groups() * l.groups()));
    }
    panels = std::max(panels, std::min<int64_t>(in_.num_threads, num_paths) * paths);
    See(linears.front().decision->module, ready + packed + waiting + panels, text);
    for (const RoundedLinear& l : linears) {
      const std::string& module = l.decision->module;
      const int64_t values = l.values();
      See(module, ready + packed + waiting + 2 * values, text);  // what the codes stand for, packed
      waiting -= values + l.codes();
      packed += values;
      See(module, ready + packed + waiting + TakeMemory(l), text);
    }
    return packed;
  }

  const MemoryInput& in_;
  const ModelGraph& graph_;
  const ModelConfig& config_;
  int64_t tokens_ = 0, longest_ = 0;
  MemoryForecast out_;
};

}  // namespace

MemoryForecast ForecastMemory(const MemoryInput& input) { return Forecaster(input).Run(); }

}  // namespace spikefold
