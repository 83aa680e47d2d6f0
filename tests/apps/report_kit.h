// Evaluations and scans made by hand, with numbers that a test can reason about.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "apps/report/report.h"

namespace spikefold::testing {

struct EvalValues {
  std::string name = "w8a8", act = "s8r", backend = "cpu";
  double bits = 8, activation_bits = 8, kld = 0.02, ratio = 1.02, ratio_se = 0.001, same_top = 0.95;
  int num_layers = 2;
};

inline LinearDecision MakeLinear(const std::string& role, int layer, const EvalValues& v) {
  LinearDecision d{.module = absl::StrCat("model.layers.", layer, ".", role), .role = role, .layer = layer};
  d.n = 64;
  d.k = 32;
  d.weight = "s8c";
  d.act = v.act;
  d.bits = v.bits;
  d.weight_error = 0.001 * (layer + 1);
  d.reason = "INT8 weights per channel";
  return d;
}

inline EvalDocument MakeEval(const EvalValues& v = {}) {
  EvalDocument e{.tool_version = "0.1.0 (test)", .name = v.name, .scheme = "w8a8", .backend = v.backend};
  e.model = {
      .path = "out/" + v.name, .fingerprint = "model " + v.name, .architecture = "Llama", .file_bytes = 1000};
  e.reference = {.path = "models/float", .fingerprint = "float", .architecture = "Llama", .file_bytes = 2000};
  e.text_source = "text.raw";
  e.text_sha256 = "173c";
  e.calibration = Json::MakeObject().Set("tokens", 4096).Set("source", "calibration.txt");
  e.command = "spikefold eval";
  e.threads = 2;
  EvalResult& r = e.result;
  r.context = 512;
  r.num_windows = 20;
  r.num_scored = 10220;
  r.ppl_reference = 14;
  r.ppl = 14 * v.ratio;
  r.ppl_ratio = v.ratio;
  r.ppl_ratio_se = v.ratio_se;
  r.ln_ratio = 0.5;
  r.kld_mean = v.kld;
  r.kld_se = 0.1 * v.kld;
  r.kld.p50 = 0.5 * v.kld;
  r.kld.p99 = 9 * v.kld;
  r.same_top = v.same_top;
  r.same_top_se = 0.002;
  r.kld_by_position = {v.kld, v.kld, v.kld, v.kld, v.kld, v.kld, v.kld, 2 * v.kld};
  r.seconds_quantized = 2;
  e.bits_linear = v.bits;
  e.bits_total = v.bits + 1;
  e.activation_bits = v.activation_bits;
  for (int layer = 0; layer < v.num_layers; ++layer) {
    for (const char* role : {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}) {
      e.linears.push_back(MakeLinear(role, layer, v));
    }
  }
  return e;
}

inline ReportScan MakeScan(int num_layers, int num_heads) {
  ReportScan scan{.source = "scan/outliers.json"};
  OutlierMap& map = scan.map;
  map.num_layers = num_layers;
  map.hidden = 64;
  map.treatment_needed = true;
  map.verdict = "Massive activations in layers 1 to 2.";
  map.stages = {{.step_up = 1,
                 .step_down = 3,
                 .plateau = 800,
                 .channels = {{.channel = 7, .peak = 800, .leader = true}}}};
  map.prefix = {198};
  map.prefixes = {
      {.tokens = {198}, .text = "\n", .ppl_ratio = 0.99, .score = 12, .chosen = true, .reason = "the best"}};
  for (int layer = -1; layer < num_layers; ++layer) {
    map.life_plain.push_back({.layer = layer, .top = {800, 20, 10}, .top_channel = {7, 1, 2}, .median = 0.5});
  }
  map.sinks_plain = {.num_layers = num_layers, .num_heads = num_heads, .ratio = 0.5};
  for (int i = 0; i < num_layers * num_heads; ++i) map.sinks_plain.mass.push_back(i % 97 / 97.0);
  for (int layer = 0; layer < num_layers; ++layer) {
    for (const char* kind : {"attn_in", "ctx", "ffn_in", "down_in"}) {
      const double score = 10 + layer;
      map.sites.push_back({.site = static_cast<int>(scan.sites.size()),
                           .score = score,
                           .absmax = 100,
                           .median_peak = 2,
                           .absmax_prefix = 10,
                           .score_prefix = 3});
      scan.sites.push_back(absl::StrCat("layers.", layer, ".", kind));
    }
  }
  return scan;
}

}  // namespace spikefold::testing
