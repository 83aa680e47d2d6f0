// Tables of the scan, of provenance, and how a table is written.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "apps/report/tables.h"
#include "apps/report/text.h"

namespace spikefold {
namespace {

constexpr size_t kMaxListed = 4;

std::string UnitWords(const std::vector<UnitRef>& units) {
  std::vector<std::string> words;
  for (size_t i = 0; i < std::min(units.size(), kMaxListed); ++i) {
    words.push_back(absl::StrCat(units[i].layer, ":", units[i].unit));
  }
  if (units.size() > kMaxListed) words.push_back("…");
  return words.empty() ? "none found" : absl::StrJoin(words, ", ");
}

std::string ChannelWords(const std::vector<SpikeChannel>& channels) {
  std::vector<std::string> words;
  for (size_t i = 0; i < std::min(channels.size(), kMaxListed); ++i) {
    words.push_back(absl::StrCat(channels[i].channel, " (", Significant(channels[i].peak), ")"));
  }
  if (channels.size() > kMaxListed) words.push_back("…");
  return absl::StrJoin(words, ", ");
}

std::string TokenWords(const SpikeStage& stage) {
  std::vector<std::string> words;
  for (size_t i = 0; i < std::min(stage.tokens.size(), kMaxListed); ++i) {
    words.push_back(absl::StrCat("“", stage.tokens[i].first, "” ", Percent(stage.tokens[i].second, 0)));
  }
  return words.empty() ? "none" : absl::StrJoin(words, ", ");
}

const char* SeenBy(bool weights, bool activations) {
  return weights && activations ? "both" : weights ? "weights" : activations ? "activations" : "neither";
}

using Facts = std::vector<std::pair<std::string, std::string>>;

std::string Members(const Json& json) {
  if (json.is_null()) return "none";
  if (!json.is_object()) return Shortened(json.Dump(), 1000);
  std::vector<std::string> words;
  for (const auto& [key, value] : json.object()) {
    words.push_back(absl::StrCat(key, ": ", value.is_string() ? value.string_value() : value.Dump()));
  }
  return Shortened(absl::StrJoin(words, ", "), 1000);
}

std::string OrNone(const std::string& text) { return text.empty() ? "none" : text; }

std::string ListWords(const Json& list) {
  std::vector<std::string> words;
  if (list.is_array()) {
    for (const Json& word : list.array()) words.push_back(word.is_string() ? word.string_value() : "?");
  }
  return absl::StrJoin(words, "; ");
}

std::string ParityWords(const EvalDocument::Parity& p) {
  const std::string linears =
      p.outputs == 0    ? "no integer linears"
      : p.different > 0 ? absl::StrCat(Thousands(p.different), " of ", Thousands(p.outputs),
                                       " outputs of integer linears differ")
                        : absl::StrCat("all ", Thousands(p.outputs), " outputs of integer linears equal",
                                       p.rounded > 0 ? " but for kept columns' rounding" : "");
  return absl::StrCat(linears, ", KL divergence ", Significant(p.kld_mean), " on ", Thousands(p.tokens),
                      " tokens");
}

Facts FactsOf(const EvalDocument& e) {
  return {{"protocol", ProtocolWords(e)},
          {"text", e.text_source},
          {"text SHA-256", e.text_sha256},
          {"text size",
           absl::StrCat(Thousands(e.text_bytes), " bytes, ", Thousands(e.result.num_text_tokens), " tokens")},
          {"windows", absl::StrCat(Thousands(e.result.num_windows), " of ", e.result.context, " tokens")},
          {"reference", e.reference.path},
          {"reference fingerprint", e.reference.fingerprint},
          {"model", e.model.path},
          {"model fingerprint", e.model.fingerprint},
          {"scheme", e.scheme},
          {"prefix", e.prefix.tokens == 0
                         ? "none"
                         : absl::StrCat(e.prefix.tokens, " tokens, ", e.prefix.kind,
                                        e.prefix.changes_function ? ", changes the function" : ", exact")},
          {"calibration", Members(e.calibration)},
          {"folds", Members(e.folds)},
          {"KV cache", e.kv.is_null() ? "float" : Members(e.kv)},
          {"recipe SHA-256", OrNone(e.recipe_sha256)},
          {"plan SHA-256", OrNone(e.plan_sha256)},
          {"tool", e.tool_version},
          {"backend", e.backend},
          {"machine", OrNone(e.machine)},
          {"kernels", e.backend != "cuda"        ? "does not apply"
                      : e.kernel_notes.is_null() ? "of the weights' forms"
                                                 : ListWords(e.kernel_notes)},
          {"beside the CPU", e.parity              ? ParityWords(*e.parity)
                             : e.backend != "cuda" ? "does not apply"
                                                   : "not compared"},
          {"threads", absl::StrCat(e.threads)},
          {"seconds", Significant(e.seconds)},
          {"command", OrNone(e.command)}};
}

}  // namespace

Table StageTable(const OutlierMap& map) {
  Table t{.caption =
              "Stages: a spike is written at one layer, carried by the residual and removed at another. "
              "Units are layer:unit of the FFN."};
  t.columns = {{"written"},
               {"removed"},
               {"height |h|"},
               {"channels (peak)", false},
               {"at position 0"},
               {"others a window"},
               {"tokens that spike", false},
               {"constancy"},
               {"writers", false},
               {"removers", false}};
  for (const SpikeStage& s : map.stages) {
    t.rows.push_back({absl::StrCat(s.step_up),
                      s.step_down >= map.num_layers ? "never" : absl::StrCat(s.step_down),
                      Significant(s.plateau), ChannelWords(s.channels), Percent(s.first_position_share, 0),
                      Significant(s.per_window, 2), TokenWords(s), Significant(s.near_constancy),
                      UnitWords(s.writers), UnitWords(s.removers)});
  }
  return t;
}

Table WorstSiteTable(const ReportScan& scan, size_t count) {
  const bool prefix = !scan.map.prefix.empty();
  Table t{.caption =
              "Linear inputs with the highest scores: the window's largest row over its median row, mean "
              "over windows. Above 64 a row is an outlier."};
  t.columns = {
      {"site", false}, {"score"}, {"largest |x|"}, {"median row peak"}, {"rows above 64 × a window"}};
  if (prefix) {
    t.columns.push_back({"score behind the prefix"});
    t.columns.push_back({"largest |x| behind it"});
  }
  for (const SiteReport* s : WorstSites(scan.map, count)) {
    std::vector<Cell> row = {Cell(SiteName(scan, *s), "key"), Significant(s->score), Significant(s->absmax),
                             Significant(s->median_peak), Significant(s->upper_per_window)};
    if (prefix) {
      row.emplace_back(Significant(s->score_prefix));
      row.emplace_back(Significant(s->absmax_prefix));
    }
    t.rows.push_back(std::move(row));
  }
  return t;
}

Table PrefixTable(const OutlierMap& map) {
  Table t{.caption =
              "Prefixes that were tried: the float model's perplexity behind them over the one without, and "
              "the worst site's score."};
  t.columns = {{"prefix", false}, {"tokens", false}, {"perplexity ratio"},
               {"worst score"},   {"chosen", false}, {"reason", false}};
  for (const PrefixCandidate& p : map.prefixes) {
    t.rows.push_back({Cell(absl::StrCat("“", p.text, "”"), "key"), absl::StrJoin(p.tokens, ", "),
                      Significant(p.ppl_ratio, 4), Significant(p.score),
                      Cell(p.chosen ? "yes" : "no", p.chosen ? "good" : ""), Cell(p.reason, "wide")});
  }
  return t;
}

Table SuperWeightTable(const OutlierMap& map, size_t count) {
  Table t{.caption = "Super weights: single values of down projections that a spike hangs on"};
  if (map.super_weights.size() > count)
    absl::StrAppend(&t.caption, " (", count, " of ", map.super_weights.size(), ")");
  t.columns = {{"layer"}, {"row"}, {"column"}, {"value"}, {"seen by", false}};
  for (size_t i = 0; i < std::min(map.super_weights.size(), count); ++i) {
    const SuperWeightRef& w = map.super_weights[i];
    t.rows.push_back({absl::StrCat(w.layer), absl::StrCat(w.row), absl::StrCat(w.column),
                      Significant(static_cast<double>(w.value)), SeenBy(w.by_weights, w.by_activations)});
  }
  return t;
}

Provenance ProvenanceTables(const ReportInput& input, const Findings& findings) {
  Provenance out;
  out.common.columns = {{"fact", false}, {"value", false}};
  out.different.columns = {{"configuration", false}, {"fact", false}, {"value", false}};
  std::vector<Facts> facts;
  for (const EvalDocument& eval : input.evals) facts.push_back(FactsOf(eval));
  for (size_t f = 0; !facts.empty() && f < facts[0].size(); ++f) {
    const bool same = std::all_of(facts.begin(), facts.end(),
                                  [&](const Facts& other) { return other[f].second == facts[0][f].second; });
    if (same) out.common.rows.push_back({Cell(facts[0][f].first, "key"), Cell(facts[0][f].second, "hash")});
  }
  for (size_t i = 0; i < facts.size(); ++i) {
    for (size_t f = 0; f < facts[i].size(); ++f) {
      const bool same = std::all_of(facts.begin(), facts.end(), [&](const Facts& other) {
        return other[f].second == facts[0][f].second;
      });
      if (!same)
        out.different.rows.push_back({Cell(findings.configurations[i].name, "key"), facts[i][f].first,
                                      Cell(facts[i][f].second, "hash")});
    }
  }
  if (input.scan) {
    out.common.rows.push_back({Cell("scan", "key"), Cell(OrNone(input.scan->source), "hash")});
    out.common.rows.push_back(
        {Cell("scan provenance", "key"), Cell(Members(input.scan->map.provenance), "hash")});
  }
  if (!input.command.empty())
    out.common.rows.push_back({Cell("report command", "key"), Cell(input.command, "hash")});
  return out;
}

std::string HtmlTable(const Table& table) {
  std::string out;
  if (!table.caption.empty()) absl::StrAppend(&out, "<p class=\"caption\">", Html(table.caption), "</p>\n");
  absl::StrAppend(&out, "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"",
                  Html(table.caption.empty() ? "table" : table.caption), "\"><table>");
  out.append("<thead><tr>");
  for (const Table::Column& column : table.columns) {
    absl::StrAppend(&out, column.number ? "<th scope=\"col\" class=\"n\">" : "<th scope=\"col\">",
                    Html(column.head), "</th>");
  }
  out.append("</tr></thead><tbody>\n");
  for (const std::vector<Cell>& row : table.rows) {
    out.append("<tr>");
    for (size_t i = 0; i < row.size(); ++i) {
      const std::string css =
          absl::StrCat(table.columns[i].number ? "n" : "",
                       row[i].css.empty() || !table.columns[i].number ? "" : " ", row[i].css);
      absl::StrAppend(&out, css.empty() ? "<td>" : absl::StrCat("<td class=\"", css, "\">"),
                      Html(row[i].text), "</td>");
    }
    out.append("</tr>\n");
  }
  out.append("</tbody></table></div>\n");
  return out;
}

std::string MarkdownTable(const Table& table) {
  std::string out;
  if (!table.caption.empty()) absl::StrAppend(&out, Markdown(table.caption), "\n\n");
  std::string rule = "|";
  out.append("|");
  for (const Table::Column& column : table.columns) {
    absl::StrAppend(&out, " ", Markdown(column.head), " |");
    rule.append(column.number ? " ---: |" : " --- |");
  }
  absl::StrAppend(&out, "\n", rule, "\n");
  for (const std::vector<Cell>& row : table.rows) {
    out.append("|");
    for (const Cell& cell : row) absl::StrAppend(&out, " ", Markdown(cell.text), " |");
    out.append("\n");
  }
  return out + "\n";
}

}  // namespace spikefold
