// report.json and report.csv: a row a configuration, for programs.
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "apps/report/analysis.h"
#include "apps/report/decisions.h"
#include "apps/report/text.h"
#include "formats/base/version.h"

namespace spikefold {
namespace {

struct Field {
  const char* key;
  Json value;
};

// Columns of the CSV and members of a row of the JSON, in this order. New ones go to the end.
std::vector<Field> RowOf(const Configuration& c, const Findings& findings) {
  const EvalDocument& e = *c.eval;
  const EvalResult& r = e.result;
  const Json dominated = c.dominated_by > 0 ? Json(findings.at(c.dominated_by).name) : Json("");
  return {{"name", c.name},
          {"grade", GradeName(c.grade)},
          {"scheme", e.scheme},
          {"backend", e.backend},
          {"bits_linear", e.bits_linear},
          {"bits_total", e.bits_total},
          {"activation_bits", e.activation_bits},
          {"activations", FormatText(c.activations)},
          {"ppl", r.ppl},
          {"ppl_se", r.ppl_se},
          {"ppl_reference", r.ppl_reference},
          {"ppl_ratio", r.ppl_ratio},
          {"ppl_ratio_se", r.ppl_ratio_se},
          {"kld_mean", r.kld_mean},
          {"kld_se", r.kld_se},
          {"kld_p50", r.kld.p50},
          {"kld_p99", r.kld.p99},
          {"kld_p999", r.kld.p999},
          {"kld_max", r.kld.max},
          {"same_top", r.same_top},
          {"same_top_se", r.same_top_se},
          {"num_scored", r.num_scored},
          {"protocol", ProtocolName(r.protocol)},
          {"bos", BosModeName(r.bos)},
          {"context", r.context},
          {"prefix_tokens", e.prefix.tokens},
          {"prefix_ratio", r.prefix_ratio},
          {"nonfinite_share", r.nonfinite_share},
          {"noise_floor_kld", r.noise_floor_kld},
          {"file_bytes", Json(e.model.file_bytes)},
          {"kv_bytes_per_token", e.kv_bytes_per_token},
          {"tokens_per_second", c.tokens_per_second},
          {"pareto", c.pareto},
          {"dominated_by", dominated},
          {"comparable", c.comparable()},
          {"not_comparable", c.not_comparable},
          {"text_sha256", e.text_sha256},
          {"model_fingerprint", e.model.fingerprint},
          {"reference_fingerprint", e.reference.fingerprint},
          {"tool_version", e.tool_version}};
}

std::string CsvField(const Json& value) {
  if (value.is_string()) return CsvText(value.string_value());
  const std::string text = value.Dump();  // values that are not finite come quoted: "Infinity"
  return text.front() == '"' ? text.substr(1, text.size() - 2) : text;
}

Json Texts(const std::vector<std::string>& texts) {
  Json out = Json::MakeArray();
  for (const std::string& text : texts) out.Append(text);
  return out;
}

Json RoleToJson(const RoleSummary& s) {
  return Json::MakeObject()
      .Set("role", s.role)
      .Set("tensors", s.count)
      .Set("weight", s.weight)
      .Set("group", s.group)
      .Set("act", s.act)
      .Set("kept_min", s.kept_min)
      .Set("kept_max", s.kept_max)
      .Set("super", s.supers)
      .Set("bits", s.bits)
      .Set("weight_error_median", s.error_median)
      .Set("weight_error_max", s.error_max)
      .Set("worst", s.worst)
      .Set("exceptions", s.exceptions);
}

Json ConfigurationToJson(const Configuration& c, const Findings& findings) {
  Json out = Json::MakeObject();
  for (Field& field : RowOf(c, findings)) out.Set(field.key, std::move(field.value));
  Json roles = Json::MakeArray(), exceptions = Json::MakeArray(), worst = Json::MakeArray();
  for (const RoleSummary& role : SummarizeRoles(c.eval->linears)) roles.Append(RoleToJson(role));
  for (const LinearDecision* d : Exceptions(c.eval->linears)) {
    exceptions.Append(Json::MakeObject().Set("module", d->module).Set("reason", d->reason));
  }
  for (const LinearDecision* d : WorstTensors(c.eval->linears, 10)) {
    worst.Append(Json::MakeObject().Set("module", d->module).Set("weight_error", d->weight_error));
  }
  out.Set("verdict", c.verdict).Set("flags", Texts(c.flags)).Set("roles", std::move(roles));
  return out.Set("exceptions", std::move(exceptions)).Set("worst_tensors", std::move(worst));
}

Json ScanToJson(const ReportScan& scan) {
  Json sites = Json::MakeArray();
  for (const SiteReport* s : WorstSites(scan.map, 10)) {
    sites.Append(Json::MakeObject()
                     .Set("site", SiteName(scan, *s))
                     .Set("score", s->score)
                     .Set("score_prefix", s->score_prefix)
                     .Set("absmax", s->absmax)
                     .Set("absmax_prefix", s->absmax_prefix));
  }
  return Json::MakeObject()
      .Set("source", scan.source)
      .Set("treatment_needed", scan.map.treatment_needed)
      .Set("verdict", scan.map.verdict)
      .Set("warnings", Texts(scan.map.warnings))
      .Set("provenance", scan.map.provenance)
      .Set("worst_sites", std::move(sites));
}

}  // namespace

std::string RenderJson(const ReportInput& input) {
  const Findings findings = Analyze(input);
  Json out = Json::MakeObject();
  out.Set("format_version", 1).Set("tool_version", ToolVersionAndCommit()).Set("title", findings.title);
  out.Set("headline", findings.headline).Set("protocol", findings.protocol);
  out.Set("noise_floor_kld", findings.noise_floor);
  Json rows = Json::MakeArray(), gaps = Json::MakeArray();
  for (const Configuration& c : findings.configurations) rows.Append(ConfigurationToJson(c, findings));
  for (const SimulationGap& gap : findings.gaps) {
    gaps.Append(Json::MakeObject()
                    .Set("real", findings.at(gap.real).name)
                    .Set("simulated", findings.at(gap.simulated).name)
                    .Set("kld_gap", gap.kld_gap)
                    .Set("ratio_gap", gap.ratio_gap));
  }
  Json treatments = Json::MakeArray();
  for (const TreatmentEffect& effect : findings.treatments) {
    const Configuration &without = findings.at(effect.without), &with = findings.at(effect.with);
    treatments.Append(Json::MakeObject()
                          .Set("without", without.name)
                          .Set("with", with.name)
                          .Set("treatment", TreatmentWords(*with.eval))
                          .Set("bits_paid", with.eval->bits_linear - without.eval->bits_linear)
                          .Set("kld_without", without.eval->result.kld_mean)
                          .Set("kld_with", with.eval->result.kld_mean));
  }
  out.Set("configurations", std::move(rows)).Set("treatments", std::move(treatments));
  out.Set("simulation_gaps", std::move(gaps));
  out.Set("scan", input.scan ? ScanToJson(*input.scan) : Json());
  return out.Dump(2) + "\n";
}

std::string RenderCsv(const ReportInput& input) {
  const Findings findings = Analyze(input);
  // The header comes from a row, so that the two cannot differ; without evaluations from an empty one.
  const EvalDocument nothing;
  std::vector<std::string> line;
  for (const Field& field : RowOf({.eval = &nothing}, findings)) line.emplace_back(field.key);
  std::string out = absl::StrCat(absl::StrJoin(line, ","), "\r\n");
  for (const Configuration& c : findings.configurations) {
    line.clear();
    for (const Field& field : RowOf(c, findings)) line.push_back(CsvField(field.value));
    absl::StrAppend(&out, absl::StrJoin(line, ","), "\r\n");
  }
  return out;
}

}  // namespace spikefold
