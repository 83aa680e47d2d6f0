#include "quant/apply.h"

#include <algorithm>
#include <cmath>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "calib/recalibrate.h"
#include "formats/base/hash.h"
#include "formats/base/status.h"
#include "formats/base/version.h"
#include "formats/quantized/input_form.h"
#include "formats/quantized/native.h"
#include "quant/calibrated_ranges.h"
#include "quant/round_linear.h"
#include "quant/rounding/sequential.h"

namespace spikefold {
namespace {

bool SameSupers(const std::vector<PlannedSuper>& a, const std::vector<PlannedSuper>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const PlannedSuper& x, const PlannedSuper& y) {
    return x.row == y.row && x.column == y.column;
  });
}

// Whether two decisions on one linear give GPTQ the same task.
bool SameRounding(const TensorDecision& a, const TensorDecision& b) {
  return a.n == b.n && a.k == b.k && a.weight_bits == b.weight_bits && a.group_size == b.group_size &&
         a.trellis == b.trellis && a.weight_zeros == b.weight_zeros && a.weight_scales == b.weight_scales &&
         a.scale_multiples == b.scale_multiples && a.kept == b.kept && SameSupers(a.supers, b.supers) &&
         a.spike_threshold == b.spike_threshold;
}

class Applier {
 public:
  Applier(const Plan& plan, const CheckpointReader& reader, const ApplyOptions& options)
      : plan_(plan), reader_(reader), graph_(reader.graph()), options_(options) {}

  absl::Status Run() {
    absl::Status status = WriteAll();
    // Another error would come again, unless it is a device's.
    const bool of_device =
        options_.backend != Backend::kCpu && (absl::IsAborted(status) || absl::IsInternal(status));
    const bool worth_resuming = absl::IsCancelled(status) || absl::IsResourceExhausted(status) || of_device;
    if (!status.ok() && writer_ != nullptr && !worth_resuming) writer_->Discard();
    return status;
  }

  absl::StatusOr<ApplyForecast> Forecast() {
    SF_RETURN_IF_ERROR(Check());
    SF_ASSIGN_OR_RETURN(const NativeInfo info, Info());
    FindPlainTensors();
    const auto is_mine = [this](const TensorDecision& d) { return IsMine(d); };
    MemoryInput input{.plan = &plan_,
                      .reader = &reader_,
                      .writes = is_mine,
                      .windows = {},
                      .prefix = static_cast<int64_t>(plan_.prefix.size()),
                      .num_threads = options_.pool->num_threads()};
    if (options_.stats != nullptr) {
      for (const auto& w : WindowsBehind(options_.stats->windows, plan_.prefix, graph_.config.bos_id)) {
        input.windows.push_back(static_cast<int64_t>(w.size()));
      }
    }
    return ApplyForecast{.file_bytes = NativeFileBytes(info, plain_, Part()),
                         .memory = ForecastMemory(input)};
  }

 private:
  absl::Status Check() {
    SF_RETURN_IF_ERROR(CheckModel());
    for (const TensorDecision* d : AllDecisions()) SF_RETURN_IF_ERROR(CheckSpec(SpecFor(*d, reader_)));
    SF_RETURN_IF_ERROR(CheckInputs());
    SF_RETURN_IF_ERROR(CheckStats());
    return CheckShard();
  }

  absl::Status WriteAll() {
    SF_RETURN_IF_ERROR(Check());
    SF_RETURN_IF_ERROR(Open());
    const auto decisions = MyDecisions();
    const int64_t total = static_cast<int64_t>(decisions.size());
    for (int64_t i = 0; i < total; ++i) {
      const TensorDecision& decision = *decisions[static_cast<size_t>(i)];
      if (decision.rounding == Rounding::kGptq || writer_->HasLinear(decision.module)) continue;
      if (!Report(options_.progress, "quantizing", i, total))
        return absl::CancelledError("quantize: stopped");
      SF_RETURN_IF_ERROR(WriteDecision(decision));
    }
    SF_RETURN_IF_ERROR(WriteGptq());
    for (const auto& spec : HasCommon() ? plain_ : std::vector<SafetensorsWriter::Spec>()) {
      SF_ASSIGN_OR_RETURN(const Tensor values, reader_.ReadF32(spec.name));
      SF_RETURN_IF_ERROR(writer_->WriteTensor(spec.name, values.view()));
    }
    if (HasCommon()) SF_RETURN_IF_ERROR(WritePrefix());
    if (!Report(options_.progress, "quantizing", total, total))
      return absl::CancelledError("quantize: stopped");
    return writer_->Commit();
  }

  std::vector<const TensorDecision*> AllDecisions() const {
    std::vector<const TensorDecision*> all = {&plan_.embedding};
    for (const TensorDecision& d : plan_.linears) all.push_back(&d);
    if (plan_.has_head) all.push_back(&plan_.head);
    return all;
  }

  bool IsSplit() const { return options_.shard.count > 0; }
  bool HasCommon() const { return options_.shard.index == options_.shard.count; }
  // Layers of shards 1..i.
  int LayersUntil(int i) const {
    return static_cast<int>(int64_t{graph_.config.num_layers} * i / std::max(1, options_.shard.count));
  }
  // The shard that rounds a linear.
  int ShardOf(const TensorDecision& d) const {
    if (!IsSplit() || d.role == Role::kEmbedding) return IsSplit() ? 1 : 0;
    int i = 1;
    while (i < options_.shard.count && (d.role == Role::kHead || d.layer >= LayersUntil(i))) ++i;
    return i;
  }
  bool IsMine(const TensorDecision& d) const { return ShardOf(d) == options_.shard.index; }

  std::vector<const TensorDecision*> MyDecisions() const {
    std::vector<const TensorDecision*> mine = AllDecisions();
    mine.erase(std::remove_if(mine.begin(), mine.end(), [this](const auto* d) { return !IsMine(*d); }),
               mine.end());
    return mine;
  }

  std::string MadeBy() const { return absl::StrCat(ToolVersionAndCommit(), " ", options_.journal_key); }
  NativePart Part() const {
    NativePart part{.index = options_.shard.index,
                    .count = options_.shard.count,
                    .modules = {},
                    .common = HasCommon(),
                    .made_by = MadeBy(),
                    .rests_on = {},
                    .sha256 = {}};
    for (const TensorDecision* d : MyDecisions()) part.modules.push_back(d->module);
    for (const NativeReader* earlier : options_.earlier) part.rests_on.push_back(earlier->part().sha256);
    std::sort(part.rests_on.begin(), part.rests_on.end());
    return part;
  }

  // GPTQ needs what was rounded before.
  absl::Status CheckShard() const {
    const Shard& shard = options_.shard;
    if (!IsSplit()) return absl::OkStatus();
    if (shard.index < 1 || shard.index > shard.count || shard.count > graph_.config.num_layers) {
      return absl::InvalidArgumentError(absl::StrCat("shard ", shard.index, "/", shard.count,
                                                     ": the model has ", graph_.config.num_layers,
                                                     " layers; split it into 1/n to n/n, n at most that"));
    }
    const std::string plan = Sha256Hex(PlanToJson(plan_)), made_by = MadeBy();
    for (const NativeReader* part : options_.earlier) {
      const NativePart& from = part->part();
      if (from.index >= shard.index || from.count != shard.count) {
        return absl::InvalidArgumentError(
            absl::StrCat("part ", from.index, " of ", from.count, ": is not before shard ", shard.index, "/",
                         shard.count, "; give the parts of the shards before this one"));
      }
      if (part->info().plan_sha256 != plan) {
        return absl::InvalidArgumentError(absl::StrCat("part ", from.index, " of ", from.count,
                                                       ": was written from another plan; give those of this "
                                                       "one"));
      }
      if (from.made_by == made_by) continue;
      return absl::InvalidArgumentError(absl::StrCat("part ", from.index, " of ", from.count,
                                                     ": was made by ", Printable(from.made_by), ", this is ",
                                                     made_by, "; write all by one"));
    }
    const bool gptq = AnyGptq();
    for (const TensorDecision* d : AllDecisions()) {
      if (!gptq || d->rounding != Rounding::kGptq || ShardOf(*d) >= shard.index) continue;
      if (PartWith(d->module) != nullptr) continue;
      return absl::InvalidArgumentError(absl::StrCat(
          "shard ", shard.index, "/", shard.count,
          ": GPTQ rounds each layer on what the ones before it hand ", "over, and ", d->module,
          " is in none of the parts given; write shard ", ShardOf(*d), "/", shard.count,
          " first and give the parts of all before this one by --after, or use --rounding nearest"));
    }
    return absl::OkStatus();
  }
  bool AnyGptq() const {
    const auto mine = MyDecisions();
    return std::any_of(mine.begin(), mine.end(),
                       [](const TensorDecision* d) { return d->rounding == Rounding::kGptq; });
  }
  absl::Status CheckStored(const NativeReader& part, const TensorDecision& d) const {
    const QuantizedLinearSpec* stored = part.FindLinear(d.module);
    if (stored != nullptr && SameLayout(*stored, SpecFor(d, reader_))) return absl::OkStatus();
    return absl::DataLossError(absl::StrCat("part ", part.part().index, " of ", part.part().count, ": ",
                                            d.module, " is not as the plan says; write the part again"));
  }
  const NativeReader* PartWith(const std::string& module) const {
    for (const NativeReader* part : options_.earlier) {
      const auto& modules = part->part().modules;
      if (std::find(modules.begin(), modules.end(), module) != modules.end()) return part;
    }
    return nullptr;
  }

  absl::Status CheckModel() const {
    SF_ASSIGN_OR_RETURN(const std::string fingerprint, reader_.Fingerprint());
    if (fingerprint != plan_.model_fingerprint) {
      return absl::InvalidArgumentError(absl::StrCat("the plan is for model ", plan_.model_fingerprint,
                                                     ", this is model ", fingerprint, "; plan this model"));
    }
    absl::flat_hash_set<std::string> planned;
    for (const TensorDecision* d : AllDecisions()) {
      const int node = graph_.FindModule(d->module);
      const bool fits = node >= 0 && graph_.nodes[static_cast<size_t>(node)].n == d->n &&
                        graph_.nodes[static_cast<size_t>(node)].k == d->k &&
                        graph_.nodes[static_cast<size_t>(node)].has_bias == d->has_bias;
      if (!fits || !planned.insert(d->module).second) {
        return absl::InvalidArgumentError(
            absl::StrCat("plan: ", Printable(d->module), " [", d->n, ", ", d->k,
                         "] is no linear of this model, or stands there twice; plan this model"));
      }
    }
    for (const Node& node : graph_.nodes) {
      const bool decided = node.op == Op::kEmbed || (node.op == Op::kLinear && !IsTiedHead(node));
      if (decided && !planned.contains(node.module)) {
        return absl::InvalidArgumentError(
            absl::StrCat("plan: no decision for ", node.module, "; plan this model"));
      }
    }
    return absl::OkStatus();
  }

  absl::Status CheckInputs() const {
    InputForms inputs(graph_);
    for (const TensorDecision& d : plan_.linears) {
      if (d.weight_bits == 16) continue;
      const QuantizedLinearSpec spec = SpecOf(d);
      const absl::Status same = inputs.Add({.module = d.module,
                                            .format = spec.act,
                                            .scale = d.activation_static ? d.activation_scale : 0,
                                            .zero = d.activation_static ? d.activation_zero : 0,
                                            .kept = d.kept,
                                            .spike_threshold = d.spike_threshold,
                                            .max_spike_rows = spec.max_spike_rows});
      if (!same.ok()) return absl::InvalidArgumentError(absl::StrCat("plan: ", same.message()));
    }
    return absl::OkStatus();
  }

  bool IsTiedHead(const Node& node) const {
    return node.role == Role::kHead && graph_.config.tied_embeddings;
  }

  absl::Status CheckStats() {
    if (options_.stats != nullptr) {
      arm_ = options_.stats->FindArm(plan_.prefix.empty() ? "plain" : "prefix");
      if (options_.stats->model_fingerprint != plan_.model_fingerprint) {
        return absl::InvalidArgumentError(absl::StrCat("the scan is of model ",
                                                       options_.stats->model_fingerprint, ", the plan for ",
                                                       plan_.model_fingerprint, "; scan this model"));
      }
    }
    if (plan_.prefix.empty()) return absl::OkStatus();
    if (options_.stats != nullptr && options_.stats->prefix.tokens == plan_.prefix) return absl::OkStatus();
    return absl::InvalidArgumentError(
        "plan: it folds a prefix whose keys and values are not in the scan; give the scan it was made from");
  }

  absl::StatusOr<NativeInfo> Info() const {
    NativeInfo info;
    info.tool_version = ToolVersion();
    info.architecture = graph_.config.architecture;
    info.base_fingerprint =
        options_.base_fingerprint.empty() ? plan_.model_fingerprint : options_.base_fingerprint;
    info.scheme = plan_.recipe.scheme;
    for (const TensorDecision* d : AllDecisions()) info.linears.push_back(SpecFor(*d, reader_));
    info.prefix = PrefixSpec();
    info.rotations = graph_.rotations;
    for (const Site& site : graph_.sites) {
      if (!site.shift.empty()) info.shifts.push_back({site.name, site.shift});
    }
    SF_ASSIGN_OR_RETURN(
        const KvOptions kv,
        ChooseKv(plan_.recipe.kv, graph_, arm_ == nullptr ? absl::Span<const KeyStats>() : arm_->keys,
                 !plan_.prefix.empty()));
    info.kv = KvToNative(kv, graph_.config);
    info.folds = options_.folds;
    info.calibration = Calibration();
    info.recipe_sha256 = Sha256Hex(RecipeToJson(plan_.recipe).Dump());
    info.plan_sha256 = Sha256Hex(PlanToJson(plan_));
    return info;
  }

  absl::Status Open() {
    SF_ASSIGN_OR_RETURN(NativeInfo info, Info());
    FindPlainTensors();
    SF_ASSIGN_OR_RETURN(const auto files, reader_.SideFiles());
    std::vector<NativeSideFile> side_files;
    side_files.reserve(files.size());
    for (const auto& file : files) side_files.push_back({file.name, file.bytes});
    NativeWriter::Options options;
    options.overwrite = options_.overwrite;
    if (options_.journal) options.journal_fingerprint = Fingerprint(info);
    options.resume = options_.resume;
    if (IsSplit()) options.part = Part();
    if (!options_.command.empty()) options.arguments = {options_.command};
    SF_ASSIGN_OR_RETURN(writer_, NativeWriter::Create(options_.output, std::move(info), plain_,
                                                      reader_.config_json(), std::move(side_files), options));
    if (options_.num_resumed != nullptr) *options_.num_resumed = writer_->num_resumed();
    return absl::OkStatus();
  }

  // Everything that decides the bytes of the linears.
  std::string Fingerprint(const NativeInfo& info) const {
    return Sha256Hex(absl::StrCat(ToolVersionAndCommit(), "\n", info.base_fingerprint, "\n", info.plan_sha256,
                                  "\n", info.folds.Dump(), "\n", info.calibration.Dump(), "\n",
                                  options_.journal_key, "\n", options_.shard.index, "/", options_.shard.count,
                                  "\n", absl::StrJoin(Part().rests_on, "\n")));
  }

  // Norm gains, in float32.
  void FindPlainTensors() {
    for (const ModelGraph::TensorSpec& tensor : graph_.Tensors()) {
      const Node& node = graph_.nodes[static_cast<size_t>(tensor.node)];
      if (node.op != Op::kNorm && node.op != Op::kHeadNorm) continue;
      plain_.push_back({.name = tensor.name, .dtype = DType::kF32, .shape = tensor.shape});
    }
  }

  NativePrefixSpec PrefixSpec() const {
    NativePrefixSpec spec;
    if (plan_.prefix.empty()) return spec;
    const ModelConfig& c = graph_.config;
    const bool bos_alone = plan_.prefix.size() == 1 && plan_.prefix[0] == c.bos_id;
    spec.num_tokens = static_cast<int64_t>(plan_.prefix.size());
    spec.kind = bos_alone ? "bos" : "tokens";
    spec.changes_function = plan_.prefix_changes_function;
    for (int l = 0; l < c.num_layers; ++l) spec.layers.push_back(l);
    spec.num_kv_heads = c.num_kv_heads;
    spec.head_dim = c.head_dim;
    return spec;
  }

  Json Calibration() const {
    const CalibStats* stats = options_.stats;
    if (stats == nullptr) return Json();
    Json out = Json::MakeObject()
                   .Set("source", stats->text_source)
                   .Set("sha256", stats->text_sha256)
                   .Set("tokens", stats->num_windows * stats->window_length)
                   .Set("windows", stats->num_windows)
                   .Set("bos", stats->bos)
                   .Set("seed", static_cast<int64_t>(stats->seed));
    if (arm_ != nullptr) {
      Json ranges = CalibratedRanges(plan_, graph_, *arm_);
      if (!ranges.is_null()) out.Set("static_sites", std::move(ranges));
    }
    return out;
  }

  absl::Status WriteDecision(const TensorDecision& d) {
    SF_ASSIGN_OR_RETURN(const QuantizedLinear q, RoundLinear(d, reader_, Importance(d), *options_.pool));
    return writer_->WriteLinear(q);
  }

  // Linears rounded one after the other, each on what the ones before it hand over.
  absl::Status WriteGptq() {
    if (!AnyGptq()) return absl::OkStatus();
    if (options_.stats == nullptr || options_.stats->windows.empty()) {
      return absl::InvalidArgumentError(
          "rounding \"gptq\" needs the text of a scan; give the scan the plan was made from");
    }
    SF_ASSIGN_OR_RETURN(const bool shared, SharesCodes());
    if (shared) return TakeCodes();
    SF_ASSIGN_OR_RETURN(
        const auto model,
        LoadModel(reader_, {.pool = options_.pool, .backend = options_.backend, .linears = false}));
    const auto windows = WindowsBehind(options_.stats->windows, plan_.prefix, graph_.config.bos_id);
    SequentialOptions sequential;
    sequential.pool = options_.pool;
    sequential.weights_on_demand = true;
    sequential.prefix = plan_.prefix.empty() ? nullptr : &options_.stats->prefix;
    sequential.progress = options_.progress;
    sequential.host_rounding = options_.host_rounding;
    const auto choose = [&](int node) -> absl::StatusOr<LinearRounding> {
      const TensorDecision* d = plan_.Find(graph_.nodes[static_cast<size_t>(node)].module);
      if (d == nullptr || d->rounding != Rounding::kGptq || ShardOf(*d) > options_.shard.index) {
        return LinearRounding{};
      }
      LinearRounding rounding{.round = true,
                              .grid = GridOf(*d),
                              .kept = d->kept,
                              .supers = d->supers,
                              .spike_threshold = d->spike_threshold};
      const NativeReader* part = PartWith(d->module);
      if (part != nullptr) SF_RETURN_IF_ERROR(CheckStored(*part, *d));
      if (part != nullptr || writer_->HasLinear(d->module)) {
        SF_ASSIGN_OR_RETURN(QuantizedLinear stored,
                            part != nullptr ? part->ReadLinear(d->module) : writer_->ReadBack(d->module));
        rounding.done.emplace();
        rounding.done->codes = std::move(stored.codes);
        rounding.done->scales = std::move(stored.scales);
        rounding.done->zeros = std::move(stored.zeros);
        rounding.done->trellis_bits = d->trellis ? d->weight_bits : 0;
      }
      return rounding;
    };
    const auto take = [&](int node, RoundedWeights rounded) -> absl::Status {
      const TensorDecision& d = *plan_.Find(graph_.nodes[static_cast<size_t>(node)].module);
      Tensor w;
      if (!d.kept.empty() || !d.supers.empty()) {
        SF_ASSIGN_OR_RETURN(w, reader_.ReadF32(d.module + ".weight"));
      }
      SF_ASSIGN_OR_RETURN(const QuantizedLinear q,
                          FinishLinear(d, reader_, w.as<float>(), std::move(rounded)));
      return writer_->WriteLinear(q);
    };
    return RoundSequentially(reader_, *model, windows, sequential, choose, take);
  }

  // Whether the earlier checkpoint is what its plan says and was rounded as this plan asks, behind the same
  // prefix keys and values.
  absl::StatusOr<bool> SharesCodes() const {
    const EarlierCheckpoint& from = options_.codes_from;
    if (from.plan == nullptr || from.native == nullptr || !SharesRounding(*from.plan, plan_)) return false;
    if (from.native->info().plan_sha256 != Sha256Hex(PlanToJson(*from.plan))) return false;
    if (plan_.prefix.empty()) return true;
    SF_ASSIGN_OR_RETURN(const NativePrefix prefix, from.native->ReadPrefix());
    const auto same = [](const std::vector<Tensor>& stored, const std::vector<std::vector<uint16_t>>& rows) {
      return std::equal(stored.begin(), stored.end(), rows.begin(), rows.end(),
                        [](const Tensor& t, const std::vector<uint16_t>& r) {
                          const auto values = t.as<uint16_t>();
                          return std::equal(values.begin(), values.end(), r.begin(), r.end());
                        });
    };
    return same(prefix.k, options_.stats->prefix.k) && same(prefix.v, options_.stats->prefix.v);
  }

  // What WriteGptq() would compute, from the earlier checkpoint.
  absl::Status TakeCodes() {
    const auto decisions = AllDecisions();
    const int64_t total = static_cast<int64_t>(decisions.size());
    for (int64_t i = 0; i < total; ++i) {
      const TensorDecision& d = *decisions[static_cast<size_t>(i)];
      if (d.rounding != Rounding::kGptq || writer_->HasLinear(d.module)) continue;
      if (!Report(options_.progress, "copying codes", i, total))
        return absl::CancelledError("quantize: stopped");
      SF_ASSIGN_OR_RETURN(const Tensor w, reader_.ReadF32(d.module + ".weight"));
      SF_ASSIGN_OR_RETURN(QuantizedLinear stored, options_.codes_from.native->ReadLinear(d.module));
      RoundedWeights codes;
      codes.codes = std::move(stored.codes);
      codes.scales = std::move(stored.scales);
      codes.zeros = std::move(stored.zeros);
      SF_ASSIGN_OR_RETURN(QuantizedLinear q, FinishLinear(d, reader_, w.as<float>(), std::move(codes)));
      q.weight_error = stored.weight_error;
      SF_RETURN_IF_ERROR(writer_->WriteLinear(q));
    }
    return absl::OkStatus();
  }

  // Mean squares of the linear's input. The embedding has none.
  std::vector<float> Importance(const TensorDecision& d) const {
    const int site = graph_.SiteOf(graph_.FindModule(d.module));
    if (arm_ == nullptr || site < 0 || d.role == Role::kEmbedding) return {};
    const SiteStats& stats = arm_->sites[static_cast<size_t>(site)];
    if (stats.k != d.k || stats.rows == 0) return {};
    std::vector<float> out;
    for (const double sum : stats.sum_sq) {
      out.push_back(static_cast<float>(sum / static_cast<double>(stats.rows)));
    }
    return out;
  }

  absl::Status WritePrefix() {
    if (plan_.prefix.empty()) return absl::OkStatus();
    const ModelConfig& c = graph_.config;
    const KvPrefix& from = options_.stats->prefix;
    const Shape shape = {c.num_kv_heads, from.size(), c.head_dim};
    NativePrefix prefix;
    prefix.ids = from.tokens;
    const auto tensor = [&](const std::vector<uint16_t>& values) -> absl::StatusOr<Tensor> {
      if (values.size() != static_cast<size_t>(NumElements(shape))) {
        return absl::DataLossError("scan: the prefix's keys and values do not fit the model; scan again");
      }
      Tensor t(DType::kBF16, shape);
      std::copy(values.begin(), values.end(), t.as<uint16_t>().begin());
      return t;
    };
    if (from.k.size() != static_cast<size_t>(c.num_layers) || from.v.size() != from.k.size()) {
      return absl::DataLossError("scan: the prefix's keys and values do not fit the model; scan again");
    }
    for (size_t l = 0; l < from.k.size(); ++l) {
      SF_ASSIGN_OR_RETURN(Tensor k, tensor(from.k[l]));
      SF_ASSIGN_OR_RETURN(Tensor v, tensor(from.v[l]));
      prefix.k.push_back(std::move(k));
      prefix.v.push_back(std::move(v));
    }
    return writer_->WritePrefix(prefix);
  }

  const Plan& plan_;
  const CheckpointReader& reader_;
  const ModelGraph& graph_;
  const ApplyOptions& options_;
  const StatsArm* arm_ = nullptr;
  std::vector<SafetensorsWriter::Spec> plain_;
  std::unique_ptr<NativeWriter> writer_;
};

}  // namespace

bool SharesRounding(const Plan& a, const Plan& b) {
  if (a.model_fingerprint != b.model_fingerprint || a.prefix != b.prefix || a.scan_sha256 != b.scan_sha256 ||
      a.linears.size() != b.linears.size()) {
    return false;
  }
  bool any = false;
  const auto same = [&any](const TensorDecision& x, const TensorDecision* y) {
    const bool gptq = x.rounding == Rounding::kGptq;
    if (y == nullptr || gptq != (y->rounding == Rounding::kGptq)) return false;
    any = any || gptq;
    return !gptq || SameRounding(x, *y);
  };
  for (const TensorDecision& d : a.linears) {
    if (!same(d, b.Find(d.module))) return false;
  }
  if (!same(a.embedding, b.Find(a.embedding.module))) return false;
  return any && a.has_head == b.has_head && (!a.has_head || same(a.head, b.Find(a.head.module)));
}

absl::StatusOr<ApplyForecast> ForecastApply(const Plan& plan, const CheckpointReader& reader,
                                            const ApplyOptions& options) {
  return Applier(plan, reader, options).Forecast();
}

absl::Status ApplyPlan(const Plan& plan, const CheckpointReader& reader, const ApplyOptions& options) {
  return Applier(plan, reader, options).Run();
}

}  // namespace spikefold
