#include "kernels/runtime/pass.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "formats/base/status.h"

namespace spikefold {
namespace {

const ActivationForm kFloatForm;

}  // namespace

absl::Status Pass::Run(absl::Span<const int32_t> tokens, int64_t wanted, float* hidden) {
  SF_RETURN_IF_ERROR(RunAll(tokens, false));
  if (wanted < rows_) SF_RETURN_IF_ERROR(ops_.ReadFrom(Final(), wanted, rows_ - wanted, hidden));
  Advance();
  return absl::OkStatus();
}

absl::Status Pass::FindBest(absl::Span<const int32_t> tokens, int32_t* next) {
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

absl::Status Pass::RunPart(NodeRange range, absl::Span<const int32_t> tokens, float* residual) {
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

absl::Status Pass::RunAll(absl::Span<const int32_t> tokens, bool finds_best) {
  const auto steps = [&]() -> absl::Status {
    SF_RETURN_IF_ERROR(Steps(AllNodes()));
    return finds_best ? FindBestOf(rows_) : absl::OkStatus();
  };
  Take(tokens);
  const bool repeats = tokens.size() == caches_.size() && taps_ == nullptr && edits_ == nullptr;
  return repeats ? ops_.Step(ArgsOf(finds_best), steps) : steps();
}

StepArgs Pass::ArgsOf(bool finds_best) const {
  return {.config = &graph_.config,
          .tokens = tokens_,
          .sequences = sequences_,
          .rope_positions = walk_.rope.positions(),
          .finds_best = finds_best};
}

absl::Status Pass::FindBestOf(int64_t rows) {
  const Site& head = graph_.sites.back();
  return ops_.FindBest(*model_.linear(head.linears.front()), model_.form(head.id), rows, Final());
}

absl::StatusOr<Ops::Timing> Pass::Time(absl::Span<const int32_t> tokens, const NodeFilter* filter,
                                       int times) {
  Take(tokens);
  filter_ = filter;
  const int64_t sequences = static_cast<int64_t>(caches_.size());
  const bool finds_best = Works(graph_.sites.back().linears.front());
  const auto walk = [&]() -> absl::Status {
    for (const SequenceRows& sequence : sequences_) sequence.cache->Truncate(sequence.first);
    SF_RETURN_IF_ERROR(Steps(AllNodes()));
    return finds_best ? FindBestOf(sequences) : absl::OkStatus();  // any rows: they cost the same
  };
  const absl::StatusOr<Ops::Timing> timing = ops_.Time(ArgsOf(finds_best), times, walk);
  filter_ = nullptr;
  for (const SequenceRows& sequence : sequences_) sequence.cache->Truncate(sequence.first);
  return timing;
}

void Pass::Advance() {
  for (const SequenceRows& sequence : sequences_) sequence.cache->Advance(sequence.rows);
}

bool Pass::TouchesResidual(const NodeRange& range) const {
  const auto nodes =
      absl::MakeConstSpan(graph_.nodes)
          .subspan(static_cast<size_t>(range.begin), static_cast<size_t>(range.end - range.begin));
  return std::any_of(nodes.begin(), nodes.end(), [](const Node& node) {
    return node.op == Op::kEmbed || node.op == Op::kAdd || IsResidualNorm(node);
  });
}

absl::Status Pass::SetInput(const NodeRange& range, int64_t rows) {
  Activation& x = *walk_.activation(graph_.nodes[static_cast<size_t>(range.begin)].in0);
  x.form = &model_.form(walk_.site_of[static_cast<size_t>(range.begin)]);
  x.rows = rows;
  return ops_.SetRows(range.input.data(), x);
}

void Pass::Take(absl::Span<const int32_t> tokens) {
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

absl::Status Pass::Steps(NodeRange range) {
  branch_ = nullptr;  // of a walk that ended early
  branch_gain_ = q_gain_ = k_gain_ = nullptr;
  for (int i = range.begin; i < range.end; ++i) {
    const Node& node = graph_.nodes[static_cast<size_t>(i)];
    if (node.role == Role::kHead && node.op == Op::kLinear) break;  // Logits()
    SF_RETURN_IF_ERROR(Step(i, node));
  }
  return absl::OkStatus();
}

absl::Status Pass::Step(int i, const Node& node) {
  if (!Works(i)) {
    if (IsResidualNorm(node)) {  // would have added it
      branch_ = nullptr;
      branch_gain_ = nullptr;
    }
    return absl::OkStatus();
  }
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

absl::Status Pass::Embed(int i, const Node& node) {
  Buffer& out = *walk_.buffer(ValueKind::kResidual);
  const Site& head = graph_.sites.back();
  const bool shared = model_.linear(i) == model_.linear(head.linears.front());
  const ActivationForm& form = shared ? model_.form(head.id) : kFloatForm;
  SF_RETURN_IF_ERROR(ops_.Embed(*model_.linear(i), form, tokens_, graph_.config.embedding_scale, out));
  return Show(node.layer, ValueKind::kResidual, out).status();
}

absl::Status Pass::Norm(int i, const Node& node) {
  if (node.in0 != ValueKind::kResidual) {  // sandwich: applied when the branch is added
    branch_gain_ = &model_.gain(i);
    return absl::OkStatus();
  }
  Activation& out = Out(i, node);
  SF_RETURN_IF_ERROR(AddNorm(&model_.gain(i), FormOf(i, node), &out));
  return ShowActivation(node.layer, node.out, out);
}

absl::Status Pass::AddNorm(const std::vector<float>* gain, const ActivationForm* form, Activation* out) {
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

absl::Status Pass::Linears(int i, const Node& node) {
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
  Activation& x = *walk_.activation(node.in0);
  if (filter_ != nullptr) SF_RETURN_IF_ERROR(ops_.SetForm(model_.form(site.id), rows_, x));
  SF_RETURN_IF_ERROR(ops_.Linears(x, {weights, count}, {outs, count}));
  for (size_t l = 0; l < count; ++l) {
    const ValueKind v = graph_.nodes[static_cast<size_t>(site.linears[l])].out;
    if (v == ValueKind::kGate || v == ValueKind::kUp) {
      SF_RETURN_IF_ERROR(Show(node.layer, v, *outs[l]).status());
    }
  }
  return absl::OkStatus();
}

absl::Status Pass::Rope(const Node& node) {
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

absl::Status Pass::Attention(int i, const Node& node) {
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

absl::Status Pass::GatedMul(int i, const Node& node) {
  Activation& out = Out(i, node);
  SF_RETURN_IF_ERROR(ops_.GatedMul(graph_.config.activation, rows_, *walk_.buffer(ValueKind::kGate),
                                   *walk_.buffer(ValueKind::kUp), *FormOf(i, node), out));
  return ShowActivation(node.layer, node.out, out);
}

absl::Status Pass::Add(const Node& node) {
  branch_ = walk_.buffer(node.in1);
  if (Wanted(node.layer, node.in1)) SF_RETURN_IF_ERROR(ShowBranch(node));
  const bool ffn = node.in1 == ValueKind::kFfnOut;
  if (!ffn || !Wanted(node.layer, ValueKind::kResidual)) return absl::OkStatus();
  SF_RETURN_IF_ERROR(AddNorm(nullptr, nullptr, nullptr));
  return Show(node.layer, ValueKind::kResidual, *walk_.buffer(ValueKind::kResidual)).status();
}

absl::Status Pass::ShowBranch(const Node& node) {
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

bool Pass::Wanted(int layer, ValueKind v) const {
  return (taps_ != nullptr && taps_->Wants(layer, v)) || (edits_ != nullptr && edits_->Wants(layer, v));
}

absl::StatusOr<bool> Pass::Show(int layer, ValueKind v, Buffer& buffer) {
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

absl::Status Pass::ShowActivation(int layer, ValueKind v, Activation& x) {
  SF_ASSIGN_OR_RETURN(const bool edited, Show(layer, v, x.floats()));
  return edited ? ops_.Reform(x) : absl::OkStatus();
}

Activation& Pass::Out(int i, const Node& node) {
  Activation& out = *walk_.activation(node.out);
  out.keep_floats = node.out == ValueKind::kFinal || Wanted(node.layer, node.out) || ReadsFloats(i);
  return out;
}

bool Pass::ReadsFloats(int i) const {
  const Site& site = graph_.sites[static_cast<size_t>(walk_.site_of[static_cast<size_t>(i)])];
  return std::any_of(site.linears.begin(), site.linears.end(), [&](int linear) {
    const LinearWeights* const w = model_.linear(linear);
    return w == nullptr || w->kind == LinearWeights::Kind::kF32;
  });
}

const LinearWeights* Pass::ReaderOf(int i) const {
  const Site& site = graph_.sites[static_cast<size_t>(walk_.site_of[static_cast<size_t>(i)])];
  return site.linears.size() == 1 ? model_.linear(site.linears.front()) : nullptr;
}

const ActivationForm* Pass::FormOf(int i, const Node& node) const {
  if (node.out == ValueKind::kFinal) return &kFloatForm;
  return &model_.form(walk_.site_of[static_cast<size_t>(i)]);
}

bool Pass::Slides(int layer) const {
  const auto& slides = graph_.config.sliding_layers;
  return !slides.empty() && slides[static_cast<size_t>(layer)];
}

}  // namespace spikefold
