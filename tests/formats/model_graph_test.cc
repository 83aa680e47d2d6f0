#include "formats/model_graph.h"

#include <catch2/catch.hpp>

#include "tests/testing/status_matchers.h"

namespace spikefold {
namespace {

ModelConfig Config() {
  ModelConfig c;
  c.family = "llama";
  c.hidden = 96;
  c.intermediate = 160;
  c.num_layers = 3;
  c.num_heads = 6;
  c.num_kv_heads = 2;
  c.head_dim = 32;  // 6 * 32 is not 96: linear widths must come from the head counts
  c.vocab = 500;
  c.max_positions = 128;
  c.attention_scale = 0.25f;
  return c;
}

std::string Ops(const ModelGraph& graph, int layer) {
  std::string s;
  for (const Node& node : graph.nodes) {
    if (node.layer != layer) continue;
    switch (node.op) {
      case Op::kEmbed:
        s += "embed ";
        break;
      case Op::kRope:
        s += "rope_" + std::string(ValueKindName(node.in0)) + " ";
        break;
      case Op::kAttention:
        s += "attention ";
        break;
      case Op::kGatedMul:
        s += "gatedmul ";
        break;
      case Op::kAdd:
        s += "add_" + std::string(ValueKindName(node.in1)) + " ";
        break;
      default:
        s += std::string(RoleName(node.role)) + " ";
    }
  }
  return s;
}

}  // namespace

TEST_CASE("A Llama layer has its nodes in order of execution", "[graph]") {
  const auto graph = BuildGraph(Config());
  REQUIRE(graph.ok());
  CHECK(Ops(*graph, 1) ==
        "attn_norm q_proj k_proj v_proj rope_q rope_k attention o_proj add_attn_out "
        "ffn_norm gate_proj up_proj gatedmul down_proj add_ffn_out ");
  CHECK(Ops(*graph, -1) == "embed final_norm head ");
  CHECK(graph->nodes.front().op == Op::kEmbed);
  CHECK(graph->nodes.back().role == Role::kHead);
}

TEST_CASE("Sandwich and head norms stand where Gemma 3 has them", "[graph]") {
  ModelConfig c = Config();
  c.sandwich_norm = c.qk_norm = true;
  const auto graph = BuildGraph(c);
  REQUIRE(graph.ok());
  CHECK(Ops(*graph, 0) ==
        "attn_norm q_proj k_proj v_proj q_norm k_norm rope_q rope_k attention o_proj post_attn_norm "
        "add_attn_out ffn_norm gate_proj up_proj gatedmul down_proj post_ffn_norm add_ffn_out ");
  const Node& ffn_norm =
      graph->nodes[static_cast<size_t>(graph->FindModule("model.layers.0.pre_feedforward_layernorm"))];
  CHECK(ffn_norm.role == Role::kFfnNorm);
  const Node& post =
      graph->nodes[static_cast<size_t>(graph->FindModule("model.layers.0.post_attention_layernorm"))];
  CHECK(post.role == Role::kPostAttnNorm);
  CHECK(post.in0 == ValueKind::kAttnOut);
  CHECK(post.out == ValueKind::kAttnOut);
}

TEST_CASE("Sites group the linears that read one activation", "[graph]") {
  const auto graph = BuildGraph(Config());
  REQUIRE(graph.ok());
  REQUIRE(graph->sites.size() == 3 * 4 + 1);
  std::vector<std::string> names;
  std::vector<size_t> counts;
  for (size_t i = 4; i < 8; ++i) {
    names.push_back(graph->sites[i].name);
    counts.push_back(graph->sites[i].linears.size());
  }
  CHECK(names ==
        std::vector<std::string>{"layers.1.attn_in", "layers.1.ctx", "layers.1.ffn_in", "layers.1.down_in"});
  CHECK(counts == std::vector<size_t>{3, 1, 2, 1});
  CHECK(graph->sites.back().name == "final");
  CHECK(graph->sites[5].k == 6 * 32);
  const int down = graph->FindModule("model.layers.2.mlp.down_proj");
  REQUIRE(down >= 0);
  CHECK(graph->SiteOf(down) == 11);
  CHECK(graph->SiteOf(0) == -1);
  CHECK(graph->FindModule("") == -1);
}

TEST_CASE("The tensor list follows from head counts, biases and tying", "[graph]") {
  ModelConfig c = Config();
  c.num_layers = 1;
  c.qkv_bias = true;
  const auto graph = BuildGraph(c);
  REQUIRE(graph.ok());
  std::string list;
  for (const auto& t : graph->Tensors()) {
    list += t.name + ":";
    for (const int64_t d : t.shape) list += std::to_string(d) + ",";
    list += " ";
  }
  CHECK(list ==
        "model.embed_tokens.weight:500,96, model.layers.0.input_layernorm.weight:96, "
        "model.layers.0.self_attn.q_proj.weight:192,96, model.layers.0.self_attn.q_proj.bias:192, "
        "model.layers.0.self_attn.k_proj.weight:64,96, model.layers.0.self_attn.k_proj.bias:64, "
        "model.layers.0.self_attn.v_proj.weight:64,96, model.layers.0.self_attn.v_proj.bias:64, "
        "model.layers.0.self_attn.o_proj.weight:96,192, model.layers.0.post_attention_layernorm.weight:96, "
        "model.layers.0.mlp.gate_proj.weight:160,96, model.layers.0.mlp.up_proj.weight:160,96, "
        "model.layers.0.mlp.down_proj.weight:96,160, model.norm.weight:96, lm_head.weight:500,96, ");
  c.tied_embeddings = true;
  const auto tied = BuildGraph(c);
  REQUIRE(tied.ok());
  CHECK(tied->Tensors().size() == graph->Tensors().size() - 1);
  CHECK(tied->Tensors().back().name == "model.norm.weight");
}

TEST_CASE("Contradicting sizes are refused with both numbers", "[graph]") {
  const auto message = [](auto edit) {
    ModelConfig c = Config();
    edit(c);
    const auto graph = BuildGraph(c);
    REQUIRE(graph.status().code() == absl::StatusCode::kDataLoss);
    return std::string(graph.status().message());
  };
  CHECK(message([](ModelConfig& c) { c.num_layers = 0; }) ==
        "model config: num_layers=0 is out of range; allowed are 1 to 1024");
  CHECK(message([](ModelConfig& c) { c.num_layers = 1000000000; }) ==
        "model config: num_layers=1000000000 is out of range; allowed are 1 to 1024");
  CHECK(message([](ModelConfig& c) { c.num_kv_heads = 4; }) ==
        "model config: num_key_value_heads=4 does not divide num_attention_heads=6");
  CHECK(message([](ModelConfig& c) { c.head_dim = 15; }) ==
        "model config: head_dim=15 is odd; rotary embedding needs pairs");
  CHECK(message([](ModelConfig& c) { c.hidden = -1; }) ==
        "model config: hidden_size=-1 is out of range; allowed are 1 to 16777216");
  CHECK(message([](ModelConfig& c) { c.sliding_layers = {true}; }) ==
        "model config: 1 layer types for 3 layers; one a layer is needed");
  CHECK(message([](ModelConfig& c) {
          c.sliding_layers = {true, false, true};
        }) == "model config: sliding_window=0 with sliding-window layers; at least 1 is needed");
}

TEST_CASE("A rotation marks the sites that are rotated online, and one that does not fit is refused") {
  ModelGraph graph = *BuildGraph(Config());
  const auto refused = [&](const Rotation& r, const char* message) {
    CHECK_THAT(AddRotation(r, &graph), testing::Fails(absl::StatusCode::kInvalidArgument, message));
  };
  const std::vector<int8_t> ones(96, 1), f(160, 1), head(32, -1);
  refused({"R1", RotationPlace::kResidual, {12, 16}, ones}, "factors 12 x 16 of width 96");
  refused({"R1", RotationPlace::kResidual, {8, 12}, ones}, "factors 8 x 12 of width 96");
  refused({"R1", RotationPlace::kResidual, {20, 8}, f},
          "\"R1\" at residual: width 160; the model has 96 there");
  refused({"R/1", RotationPlace::kResidual, {12, 8}, ones}, "letters, digits and underscores");
  refused({"R3", RotationPlace::kQueriesKeys, {32}, head, {1}}, "at queries_keys all layers rotate");
  refused({"R4", RotationPlace::kDownIn, {20, 8}, f, {1, 3}}, "layer 3; the model has 3");
  CHECK(graph.rotations.empty());

  REQUIRE(AddRotation({"R1", RotationPlace::kResidual, {12, 8}, ones}, &graph).ok());
  REQUIRE(AddRotation({"R3", RotationPlace::kQueriesKeys, {32}, head}, &graph).ok());
  REQUIRE(AddRotation({"R4", RotationPlace::kDownIn, {20, 8}, f, {0, 2}}, &graph).ok());
  refused({"R5", RotationPlace::kDownIn, {20, 8}, f}, "there is \"R4\" already");
  refused({"R4", RotationPlace::kValues, {32}, head}, "there is \"R4\" already");
  CHECK(graph.qk_rotation == 1);
  for (const Site& site : graph.sites) {
    CHECK((site.rotation == 2) == (site.name == "layers.0.down_in" || site.name == "layers.2.down_in"));
    CHECK((site.rotation == -1 || site.rotation == 2));
  }
}

}  // namespace spikefold
