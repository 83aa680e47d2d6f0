#include "kernels/runtime/forward.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "formats/base/status.h"
#include "kernels/runtime/ops.h"
#include "kernels/runtime/walk.h"

namespace spikefold {
namespace {

const ActivationForm kFloatForm;

}  // namespace

absl::Status NotFinite(int64_t token) {
  return absl::DataLossError(absl::StrCat("logits: that of token ", token,
                                          " is not finite; the model computes nothing to choose from"));
}

namespace {

// One pass over the nodes for one block of rows.
class Pass {
 public:
  // One cache: rows are consecutive positions of one sequence. Several: row i is the next position of
  // sequence i.
  Pass(const RuntimeModel& model, Walk& walk, absl::Span<KvCache* const> caches,
       const ForwardOptions& options)
      : model_(model),
        graph_(model.graph()),
        ops_(model.ops()),
        walk_(walk),
        caches_(caches),
        taps_(options.taps),
        edits_(options.interventions) {}

  // Rows from `wanted` on go to `hidden`.
  absl::Status Run(absl::Span<const int32_t> tokens, int64_t wanted, float* hidden) {
    SF_RETURN_IF_ERROR(RunAll(tokens, false));
    if (wanted < rows_) SF_RETURN_IF_ERROR(ops_.ReadFrom(Final(), wanted, rows_ - wanted, hidden));
    Advance();
    return absl::OkStatus();
  }

  // The likeliest token behind each row. DataLoss: a logit is not finite.
  absl::Status FindBest(absl::Span<const int32_t> tokens, int32_t* next) {
    SF_RETURN_IF_ERROR(RunAll(tokens, true));
    std::vector<Ops::Best> best(tokens.size());
    SF_RETURN_IF_ERROR(ops_.ReadBest(rows_, best.data()));
    for (size_t i = 0; i < best.size(); ++i) {
      if (best[i].odd < 0) continue;
      const absl::Status status = NotFinite(best[i].odd);
      return best.size() == 1
                 ? status
                 : absl::Status(status.code(), absl::StrCat("batch: sequence ", i, ": ", status.message()));
    }
    for (const Ops::Best& b : best) *next++ = b.top;
    Advance();
    return absl::OkStatus();
  }

  absl::Status RunPart(NodeRange range, absl::Span<const int32_t> tokens, float* residual) {
    const int64_t rows = static_cast<int64_t>(tokens.size());
    Buffer& buffer = *walk_.buffer(ValueKind::kResidual);
    const bool touched = TouchesResidual(range);
    if (touched && range.begin > 0) SF_RETURN_IF_ERROR(ops_.Write(residual, rows, buffer));
    if (!range.input.empty()) SF_RETURN_IF_ERROR(SetInput(range, rows));
    Take(tokens);
    SF_RETURN_IF_ERROR(Steps(range));
    if (branch_ != nullptr) SF_RETURN_IF_ERROR(AddNorm(nullptr, nullptr, nullptr));
    return touched ? ops_.Read(buffer, rows, residual) : absl::OkStatus();
  }

 private:
  absl::Status RunAll(absl::Span<const int32_t> tokens, bool finds_best) {
    const auto steps = [&]() -> absl::Status {
      SF_RETURN_IF_ERROR(Steps({.begin = 0, .end = static_cast<int>(graph_.nodes.size())}));
      if (!finds_best) return absl::OkStatus();
      const Site& head = graph_.sites.back();
      return ops_.FindBest(*model_.linear(head.linears.front()), model_.form(head.id), rows_, Final());
    };
    Take(tokens);
    const bool repeats = tokens.size() == caches_.size() && taps_ == nullptr && edits_ == nullptr;
    return repeats ? ops_.Step({.config = &graph_.config,
                                .tokens = tokens,
                                .sequences = sequences_,
                                .rope_positions = walk_.rope.positions(),
                                .finds_best = finds_best},
                               steps)
                   : steps();
  }
  const Buffer& Final() const { return walk_.activation(ValueKind::kFinal)->floats(); }
  void Advance() {
    for (const SequenceRows& sequence : sequences_) sequence.cache->Advance(sequence.rows);
  }

  bool TouchesResidual(const NodeRange& range) const {
    const auto nodes =
        absl::MakeConstSpan(graph_.nodes)
            .subspan(static_cast<size_t>(range.begin), static_cast<size_t>(range.end - range.begin));
    return std::any_of(nodes.begin(), nodes.end(), [](const Node& node) {
      return node.op == Op::kEmbed || node.op == Op::kAdd || IsResidualNorm(node);
    });
  }

  absl::Status SetInput(const NodeRange& range, int64_t rows) {
    Activation& x = *walk_.activation(graph_.nodes[static_cast<size_t>(range.begin)].in0);
    x.form = &model_.form(walk_.site_of[static_cast<size_t>(range.begin)]);
    x.rows = rows;
    return ops_.SetRows(range.input.data(), x);
  }

  // What to walk with: as many tokens of each sequence.
  void Take(absl::Span<const int32_t> tokens) {
    tokens_ = tokens;
    rows_ = static_cast<int64_t>(tokens.size());
    first_ = caches_.front()->length();
    const int64_t each = rows_ / static_cast<int64_t>(caches_.size());
    sequences_.clear();
    for (KvCache* const cache : caches_) {
      const int64_t begin = each * static_cast<int64_t>(sequences_.size());
      sequences_.push_back({.cache = cache, .first = cache->length(), .begin = begin, .rows = each});
    }
  }

  absl::Status Steps(NodeRange range) {
    branch_ = nullptr;  // of a walk that ended early
    branch_gain_ = q_gain_ = k_gain_ = nullptr;
    for (int i = range.begin; i < range.end; ++i) {
      const Node& node = graph_.nodes[static_cast<size_t>(i)];
      if (node.role == Role::kHead && node.op == Op::kLinear) break;  // Logits()
      SF_RETURN_IF_ERROR(Step(i, node));
    }
    return absl::OkStatus();
  }

  absl::Status Step(int i, const Node& node) {
    switch (node.op) {
      case Op::kEmbed:
        return Embed(i, node);
      case Op::kNorm:
        return Norm(i, node);
      case Op::kLinear:
        return Linears(i, node);
      case Op::kHeadNorm:
        (node.role == Role::kQNorm ? q_gain_ : k_gain_) = &model_.gain(i);
        return absl::OkStatus();
      case Op::kRope:  // q and k rotate together, at k's node
        return node.in0 == ValueKind::kK ? Rope(node) : absl::OkStatus();
      case Op::kAttention:
        return Attention(i, node);
      case Op::kGatedMul:
        return GatedMul(i, node);
      case Op::kAdd:
        return Add(node);
    }
    return absl::InternalError("forward: unknown op");
  }

  absl::Status Embed(int i, const Node& node) {
    Buffer& out = *walk_.buffer(ValueKind::kResidual);
    const Site& head = graph_.sites.back();
    const bool shared = model_.linear(i) == model_.linear(head.linears.front());
    const ActivationForm& form = shared ? model_.form(head.id) : kFloatForm;
    SF_RETURN_IF_ERROR(ops_.Embed(*model_.linear(i), form, tokens_, graph_.config.embedding_scale, out));
    return Show(node.layer, ValueKind::kResidual, out).status();
  }

  absl::Status Norm(int i, const Node& node) {
    if (node.in0 != ValueKind::kResidual) {  // sandwich: applied when the branch is added
      branch_gain_ = &model_.gain(i);
      return absl::OkStatus();
    }
    Activation& out = Out(i, node);
    SF_RETURN_IF_ERROR(AddNorm(&model_.gain(i), FormOf(i, node), &out));
    return ShowActivation(node.layer, node.out, out);
  }

  // residual += pending branch; out = norm(residual) if there is a gain.
  absl::Status AddNorm(const std::vector<float>* gain, const ActivationForm* form, Activation* out) {
    const AddNormArgs args = {.rows = rows_,
                              .residual = walk_.buffer(ValueKind::kResidual),
                              .branch = branch_,
                              .branch_gain = branch_gain_,
                              .gain = gain,
                              .eps = graph_.config.norm_eps,
                              .form = form,
                              .out = out};
    branch_ = nullptr;
    branch_gain_ = nullptr;
    return ops_.AddNorm(args);
  }

  // The first linear of a site runs them all.
  absl::Status Linears(int i, const Node& node) {
    const Site& site = graph_.sites[static_cast<size_t>(walk_.site_of[static_cast<size_t>(i)])];
    if (site.linears.front() != i) return absl::OkStatus();
    const LinearWeights* weights[4];
    Buffer* outs[4];
    const size_t count = site.linears.size();
    if (count > 4) return absl::InternalError("forward: more than 4 linears read one value");
    for (size_t l = 0; l < count; ++l) {
      weights[l] = model_.linear(site.linears[l]);
      outs[l] = walk_.buffer(graph_.nodes[static_cast<size_t>(site.linears[l])].out);
    }
    SF_RETURN_IF_ERROR(ops_.Linears(*walk_.activation(node.in0), {weights, count}, {outs, count}));
    for (size_t l = 0; l < count; ++l) {
      const ValueKind v = graph_.nodes[static_cast<size_t>(site.linears[l])].out;
      if (v == ValueKind::kGate || v == ValueKind::kUp) {
        SF_RETURN_IF_ERROR(Show(node.layer, v, *outs[l]).status());
      }
    }
    return absl::OkStatus();
  }

  absl::Status Rope(const Node& node) {
    const ModelConfig& c = graph_.config;
    Buffer& q = *walk_.buffer(ValueKind::kQ);
    Buffer& k = *walk_.buffer(ValueKind::kK);
    SF_RETURN_IF_ERROR(ops_.HeadNormRope({.rows = rows_,
                                          .sequences = sequences_,
                                          .num_heads = c.num_heads,
                                          .num_kv_heads = c.num_kv_heads,
                                          .head_dim = c.head_dim,
                                          .q = &q,
                                          .k = &k,
                                          .q_gain = q_gain_,
                                          .k_gain = k_gain_,
                                          .eps = c.norm_eps,
                                          .rope = Slides(node.layer) ? &walk_.rope_local : &walk_.rope,
                                          .rotation = model_.qk_rotation()}));
    q_gain_ = k_gain_ = nullptr;
    SF_RETURN_IF_ERROR(Show(node.layer, ValueKind::kQ, q).status());
    SF_RETURN_IF_ERROR(Show(node.layer, ValueKind::kK, k).status());
    return Show(node.layer, ValueKind::kV, *walk_.buffer(ValueKind::kV)).status();
  }

  absl::Status Attention(int i, const Node& node) {
    const ModelConfig& c = graph_.config;
    const bool mass = taps_ != nullptr && taps_->WantsAttention(node.layer);
    const int64_t positions = first_ + rows_;
    const AttentionView view = edits_ != nullptr ? edits_->View(node.layer) : AttentionView();
    if (mass) walk_.column_mass.assign(static_cast<size_t>(c.num_heads * positions), 0.0);
    Activation& out = Out(i, node);
    SF_RETURN_IF_ERROR(ops_.Attention({.rows = rows_,
                                       .sequences = sequences_,
                                       .num_heads = c.num_heads,
                                       .num_kv_heads = c.num_kv_heads,
                                       .head_dim = c.head_dim,
                                       .scale = c.attention_scale,
                                       .window = view.only_itself     ? 1
                                                 : Slides(node.layer) ? c.sliding_window
                                                                      : 0,
                                       .hidden_position = view.hidden_position,
                                       .layer = node.layer,
                                       .q = walk_.buffer(ValueKind::kQ),
                                       .k = walk_.buffer(ValueKind::kK),
                                       .v = walk_.buffer(ValueKind::kV),
                                       .column_mass = mass ? walk_.column_mass.data() : nullptr,
                                       .form = FormOf(i, node),
                                       .reader = ReaderOf(i),
                                       .out = &out}));
    if (mass) {
      taps_->OnAttention({.layer = node.layer,
                          .column_mass = walk_.column_mass.data(),
                          .num_heads = c.num_heads,
                          .num_positions = positions,
                          .num_rows = rows_});
    }
    return ShowActivation(node.layer, node.out, out);
  }

  absl::Status GatedMul(int i, const Node& node) {
    Activation& out = Out(i, node);
    SF_RETURN_IF_ERROR(ops_.GatedMul(graph_.config.activation, rows_, *walk_.buffer(ValueKind::kGate),
                                     *walk_.buffer(ValueKind::kUp), *FormOf(i, node), out));
    return ShowActivation(node.layer, node.out, out);
  }

  // Left pending, so that the next norm adds in the same pass over the rows, unless somebody looks.
  absl::Status Add(const Node& node) {
    branch_ = walk_.buffer(node.in1);
    if (Wanted(node.layer, node.in1)) SF_RETURN_IF_ERROR(ShowBranch(node));
    const bool ffn = node.in1 == ValueKind::kFfnOut;
    if (!ffn || !Wanted(node.layer, ValueKind::kResidual)) return absl::OkStatus();
    SF_RETURN_IF_ERROR(AddNorm(nullptr, nullptr, nullptr));
    return Show(node.layer, ValueKind::kResidual, *walk_.buffer(ValueKind::kResidual)).status();
  }

  // A branch is shown as it is added: after its own norm, where it has one.
  absl::Status ShowBranch(const Node& node) {
    if (branch_gain_ != nullptr) {
      Activation& scratch = *walk_.activation(ValueKind::kFinal);  // its rows have been consumed
      SF_RETURN_IF_ERROR(ops_.AddNorm({.rows = rows_,
                                       .residual = branch_,
                                       .gain = branch_gain_,
                                       .eps = graph_.config.norm_eps,
                                       .form = &kFloatForm,
                                       .out = &scratch}));
      walk_.host_rows.resize(static_cast<size_t>(rows_ * branch_->width()));
      SF_RETURN_IF_ERROR(ops_.Read(scratch.floats(), rows_, walk_.host_rows.data()));
      SF_RETURN_IF_ERROR(ops_.Write(walk_.host_rows.data(), rows_, *branch_));
      branch_gain_ = nullptr;
    }
    return Show(node.layer, node.in1, *branch_).status();
  }

  bool Wanted(int layer, ValueKind v) const {
    return (taps_ != nullptr && taps_->Wants(layer, v)) || (edits_ != nullptr && edits_->Wants(layer, v));
  }

  // Lets interventions edit rows, then shows them to taps. True if they were edited.
  absl::StatusOr<bool> Show(int layer, ValueKind v, Buffer& buffer) {
    const bool edit = edits_ != nullptr && edits_->Wants(layer, v);
    const bool tap = taps_ != nullptr && taps_->Wants(layer, v);
    if (!edit && !tap) return false;
    float* data = buffer.host();
    if (data == nullptr) {
      walk_.host_rows.resize(static_cast<size_t>(rows_ * buffer.width()));
      data = walk_.host_rows.data();
      SF_RETURN_IF_ERROR(ops_.Read(buffer, rows_, data));
    }
    if (edit) {
      edits_->Edit(layer, v, data, rows_, buffer.width(), first_);
      if (buffer.host() == nullptr) SF_RETURN_IF_ERROR(ops_.Write(data, rows_, buffer));
    }
    if (tap) {
      taps_->OnRows({.layer = layer,
                     .value = v,
                     .data = data,
                     .num_rows = rows_,
                     .width = buffer.width(),
                     .first_position = first_});
    }
    return edit;
  }

  absl::Status ShowActivation(int layer, ValueKind v, Activation& x) {
    SF_ASSIGN_OR_RETURN(const bool edited, Show(layer, v, x.floats()));
    return edited ? ops_.Reform(x) : absl::OkStatus();
  }

  Activation& Out(int i, const Node& node) {
    Activation& out = *walk_.activation(node.out);
    out.keep_floats = node.out == ValueKind::kFinal || Wanted(node.layer, node.out) || ReadsFloats(i);
    return out;
  }

  // Whether a linear of the site that node i feeds was left in high precision, or is not there to be asked.
  bool ReadsFloats(int i) const {
    const Site& site = graph_.sites[static_cast<size_t>(walk_.site_of[static_cast<size_t>(i)])];
    return std::any_of(site.linears.begin(), site.linears.end(), [&](int linear) {
      const LinearWeights* const w = model_.linear(linear);
      return w == nullptr || w->kind == LinearWeights::Kind::kF32;
    });
  }

  // The linear of the site that node i feeds, if it is one.
  const LinearWeights* ReaderOf(int i) const {
    const Site& site = graph_.sites[static_cast<size_t>(walk_.site_of[static_cast<size_t>(i)])];
    return site.linears.size() == 1 ? model_.linear(site.linears.front()) : nullptr;
  }

  // The rows for the head leave as floats: Logits() quantizes them itself.
  const ActivationForm* FormOf(int i, const Node& node) const {
    if (node.out == ValueKind::kFinal) return &kFloatForm;
    return &model_.form(walk_.site_of[static_cast<size_t>(i)]);
  }

  bool Slides(int layer) const {
    const auto& slides = graph_.config.sliding_layers;
    return !slides.empty() && slides[static_cast<size_t>(layer)];
  }

  const RuntimeModel& model_;
  const ModelGraph& graph_;
  Ops& ops_;
  Walk& walk_;
  absl::Span<KvCache* const> caches_;
  std::vector<SequenceRows> sequences_;
  Taps* taps_;
  Interventions* edits_;

  absl::Span<const int32_t> tokens_;
  int64_t rows_ = 0, first_ = 0;                     // position of the first row
  Buffer* branch_ = nullptr;                         // to be added to the residual
  const std::vector<float>* branch_gain_ = nullptr;  // norm of that branch
  const std::vector<float>*q_gain_ = nullptr, *k_gain_ = nullptr;
};

absl::Status CheckIds(const RuntimeModel& model, absl::Span<const int32_t> tokens) {
  const ModelConfig& c = model.graph().config;
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < 0 || tokens[i] >= c.vocab) {
      return absl::InvalidArgumentError(absl::StrCat(
          "token ", i, ": id ", tokens[i], " is outside the vocabulary; 0 to ", c.vocab - 1, " are allowed"));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckRows(const RuntimeModel& model, absl::Span<const int32_t> tokens, size_t hidden_rows,
                       size_t hidden_size) {
  SF_RETURN_IF_ERROR(CheckIds(model, tokens));
  const ModelConfig& c = model.graph().config;
  const size_t want = hidden_rows * static_cast<size_t>(c.hidden);
  if (hidden_size == want) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("hidden: room for ", hidden_size, " values; ", want,
                                                 " needed (", hidden_rows, " tokens x ", c.hidden, ")"));
}

absl::Status CheckCall(const RuntimeModel& model, absl::Span<const int32_t> tokens, const KvCache& cache,
                       size_t hidden_rows, size_t hidden_size) {
  SF_RETURN_IF_ERROR(CheckRows(model, tokens, hidden_rows, hidden_size));
  const int64_t needed = cache.length() + static_cast<int64_t>(tokens.size());
  if (needed <= cache.capacity()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("cache: ", needed, " positions needed; ", cache.capacity(),
                                                 " allowed; make it larger or feed fewer tokens"));
}

// Rotary tables for the whole cache at once; the capacity of an evicting one costs nothing and may be
// anything.
int64_t RopePositions(const KvCache& cache, int64_t rows) {
  constexpr int64_t kStep = 4096;
  if (cache.options().evict == 0) return cache.capacity();
  return std::min(cache.capacity(), (cache.length() + rows + kStep - 1) / kStep * kStep);
}

}  // namespace

absl::Status Forward(const RuntimeModel& model, absl::Span<const int32_t> tokens, KvCache& cache,
                     absl::Span<float> hidden, const ForwardOptions& options) {
  const int64_t total = static_cast<int64_t>(tokens.size());
  const int64_t first_wanted = options.last_row_only ? std::max<int64_t>(total - 1, 0) : 0;
  SF_RETURN_IF_ERROR(
      CheckCall(model, tokens, cache, static_cast<size_t>(total - first_wanted), hidden.size()));
  SF_ASSIGN_OR_RETURN(Walk* const walk, Walk::Of(model));
  const bool watched = options.taps != nullptr || options.interventions != nullptr;
  const int64_t block = watched ? std::max<int64_t>(total, 1) : model.ops().block_rows();
  SF_RETURN_IF_ERROR(walk->Reserve(model.ops(), std::min(block, total), RopePositions(cache, total)));
  const int64_t before = cache.length();
  const int64_t d = model.graph().config.hidden;
  for (int64_t at = 0; at < total; at += block) {
    const int64_t rows = std::min(block, total - at);
    KvCache* const caches[] = {&cache};
    const int64_t wanted = std::max(at, first_wanted);  // row of the text
    absl::Status status = Pass(model, *walk, caches, options)
                              .Run(tokens.subspan(static_cast<size_t>(at), static_cast<size_t>(rows)),
                                   wanted - at, hidden.data() + (wanted - first_wanted) * d);
    if (!status.ok()) {
      cache.Truncate(before);
      return status;
    }
  }
  return absl::OkStatus();
}

bool IsResidualNorm(const Node& node) { return node.op == Op::kNorm && node.in0 == ValueKind::kResidual; }

namespace {

absl::Status CheckRange(const ModelGraph& graph, const NodeRange& range, size_t num_tokens) {
  const int count = static_cast<int>(graph.nodes.size());
  const auto fail = [&](absl::string_view must) {
    return absl::InvalidArgumentError(
        absl::StrCat("nodes ", range.begin, " to ", range.end, " of ", count, ": a part ", must));
  };
  if (range.begin < 0 || range.begin >= range.end || range.end > count) return fail("holds a node at least");
  const Node& first = graph.nodes[static_cast<size_t>(range.begin)];
  if (range.input.empty()) {
    if (range.begin == 0 || IsResidualNorm(first)) return absl::OkStatus();
    return fail("without an input begins with the embedding or a norm of the residual");
  }
  for (const Site& site : graph.sites) {
    if (site.linears.front() != range.begin) continue;
    const size_t want = num_tokens * static_cast<size_t>(site.k);
    if (range.input.size() == want) return absl::OkStatus();
    return fail(absl::StrCat("of ", num_tokens, " tokens needs an input of ", want, " values; ",
                             range.input.size(), " given"));
  }
  return fail("with an input begins with the first linear of a site");
}

}  // namespace

absl::Status ForwardNodes(const RuntimeModel& model, NodeRange range, absl::Span<const int32_t> tokens,
                          KvCache& cache, absl::Span<float> residual, const ForwardOptions& options) {
  SF_RETURN_IF_ERROR(CheckRange(model.graph(), range, tokens.size()));
  SF_RETURN_IF_ERROR(CheckCall(model, tokens, cache, tokens.size(), residual.size()));
  if (tokens.empty()) return absl::OkStatus();
  SF_ASSIGN_OR_RETURN(Walk* const walk, Walk::Of(model));
  SF_RETURN_IF_ERROR(walk->Reserve(model.ops(), static_cast<int64_t>(tokens.size()), cache.capacity()));
  KvCache* const caches[] = {&cache};
  return Pass(model, *walk, caches, options).RunPart(range, tokens, residual.data());
}

namespace {

// Positions that a step of a token a sequence needs rotary tables for.
absl::StatusOr<int64_t> CheckStep(absl::Span<const int32_t> tokens, absl::Span<KvCache* const> caches) {
  if (tokens.empty() || tokens.size() != caches.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("batch: ", tokens.size(), " tokens for ", caches.size(), " caches; one each is needed"));
  }
  int64_t positions = 0;
  for (size_t i = 0; i < caches.size(); ++i) {
    const KvCache& cache = *caches[i];
    if (cache.length() == cache.capacity()) {
      return absl::InvalidArgumentError(absl::StrCat("batch: sequence ", i, ": its cache of ",
                                                     cache.capacity(), " positions is full; make it larger"));
    }
    positions = std::max(positions, RopePositions(cache, 1));
  }
  return positions;
}

}  // namespace

absl::Status ForwardBatch(const RuntimeModel& model, absl::Span<const int32_t> tokens,
                          absl::Span<KvCache* const> caches, absl::Span<float> hidden) {
  SF_ASSIGN_OR_RETURN(const int64_t positions, CheckStep(tokens, caches));
  if (tokens.size() == 1) return Forward(model, tokens, *caches.front(), hidden, {});
  SF_RETURN_IF_ERROR(CheckRows(model, tokens, tokens.size(), hidden.size()));
  SF_ASSIGN_OR_RETURN(Walk* const walk, Walk::Of(model));
  SF_RETURN_IF_ERROR(walk->Reserve(model.ops(), static_cast<int64_t>(tokens.size()), positions));
  return Pass(model, *walk, caches, {}).Run(tokens, 0, hidden.data());
}

absl::Status ForwardGreedy(const RuntimeModel& model, absl::Span<const int32_t> tokens,
                           absl::Span<KvCache* const> caches, absl::Span<int32_t> next) {
  SF_ASSIGN_OR_RETURN(const int64_t positions, CheckStep(tokens, caches));
  SF_RETURN_IF_ERROR(CheckIds(model, tokens));
  if (next.size() != tokens.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("batch: room for ", next.size(), " tokens; ", tokens.size(), " needed"));
  }
  SF_ASSIGN_OR_RETURN(Walk* const walk, Walk::Of(model));
  SF_RETURN_IF_ERROR(walk->Reserve(model.ops(), static_cast<int64_t>(tokens.size()), positions));
  return Pass(model, *walk, caches, {}).FindBest(tokens, next.data());
}

absl::Status Logits(const RuntimeModel& model, absl::Span<const float> hidden, absl::Span<float> logits) {
  const ModelGraph& graph = model.graph();
  const size_t d = static_cast<size_t>(graph.config.hidden), vocab = static_cast<size_t>(graph.config.vocab);
  const size_t rows = hidden.size() / d;
  if (hidden.size() != rows * d || logits.size() != rows * vocab) {
    return absl::InvalidArgumentError(absl::StrCat("logits: ", hidden.size(), " hidden values and room for ",
                                                   logits.size(), " logits; ", d, " and ", vocab,
                                                   " a row are needed"));
  }
  if (rows == 0) return absl::OkStatus();
  const Site& site = graph.sites.back();
  return model.ops().Head(*model.linear(site.linears.front()), model.form(site.id),
                          static_cast<int64_t>(rows), hidden.data(), logits.data());
}

absl::StatusOr<KvPrefix> ComputePrefix(const RuntimeModel& model, absl::Span<const int32_t> tokens) {
  const ModelConfig& c = model.graph().config;
  const int64_t p = static_cast<int64_t>(tokens.size()), width = c.num_kv_heads * c.head_dim;
  KvPrefix prefix;
  prefix.tokens.assign(tokens.begin(), tokens.end());
  KvCache cache(c, p);
  std::vector<float> hidden(static_cast<size_t>(p * c.hidden));
  SF_RETURN_IF_ERROR(Forward(model, tokens, cache, absl::MakeSpan(hidden), {}));
  SF_RETURN_IF_ERROR(model.ops().ReadCache(cache));
  const auto round = [&](const float* rows) {
    std::vector<uint16_t> out(static_cast<size_t>(p * width));
    for (int64_t h = 0; h < c.num_kv_heads; ++h) {
      for (int64_t t = 0; t < p; ++t) {
        for (int64_t i = 0; i < c.head_dim; ++i) {
          out[static_cast<size_t>((h * p + t) * c.head_dim + i)] =
              FloatToBf16(rows[t * width + h * c.head_dim + i]);
        }
      }
    }
    return out;
  };
  for (int layer = 0; layer < c.num_layers; ++layer) {
    prefix.k.push_back(round(cache.k(layer)));
    prefix.v.push_back(round(cache.v(layer)));
  }
  return prefix;
}

}  // namespace spikefold
