#include "quant/folds/graph_links.h"

#include "absl/strings/str_cat.h"

namespace spikefold {
namespace {

absl::string_view OpName(Op op) {
  static constexpr const char* kNames[] = {"embedding", "norm",      "linear",        "head norm",
                                           "RoPE",      "attention", "gated product", "residual add"};
  return kNames[static_cast<size_t>(op)];
}

}  // namespace

std::vector<int> WritersOf(const ModelGraph& graph, int layer, ValueKind value) {
  std::vector<int> nodes;
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    const Node& node = graph.nodes[i];
    if (node.layer == layer && node.out == value) nodes.push_back(static_cast<int>(i));
  }
  return nodes;
}

std::vector<int> ReadersOf(const ModelGraph& graph, int layer, ValueKind value) {
  std::vector<int> nodes;
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    const Node& node = graph.nodes[i];
    const bool two = node.op == Op::kAdd || node.op == Op::kGatedMul || node.op == Op::kAttention;
    const bool reads = node.in0 == value || (two && node.in1 == value) ||
                       (node.op == Op::kAttention && value == ValueKind::kV);
    if (node.layer == layer && reads) nodes.push_back(static_cast<int>(i));
  }
  return nodes;
}

int FindNode(const ModelGraph& graph, int layer, Op op, Role role) {
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    const Node& node = graph.nodes[i];
    if (node.layer == layer && node.op == op && node.role == role) return static_cast<int>(i);
  }
  return -1;
}

std::string Describe(const ModelGraph& graph, int index) {
  const Node& node = graph.nodes[static_cast<size_t>(index)];
  if (!node.module.empty()) return node.module;
  return absl::StrCat(OpName(node.op), " of layer ", node.layer);
}

int OnlyLinearInto(const ModelGraph& graph, int layer, ValueKind value, std::string* why) {
  int linear = -1;
  for (const int writer : WritersOf(graph, layer, value)) {
    const bool is_linear = graph.nodes[static_cast<size_t>(writer)].op == Op::kLinear;
    if (!is_linear || linear >= 0) {
      *why = absl::StrCat(Describe(graph, writer), " changes ", ValueKindName(value),
                          " after the linear that makes it");
      return -1;
    }
    linear = writer;
  }
  if (linear < 0) *why = absl::StrCat("no linear makes ", ValueKindName(value), " of layer ", layer);
  return linear;
}

bool LinearsOnlyRead(const ModelGraph& graph, int layer, ValueKind value, std::string* why) {
  for (const int reader : ReadersOf(graph, layer, value)) {
    if (graph.nodes[static_cast<size_t>(reader)].op == Op::kLinear) continue;
    *why = absl::StrCat(Describe(graph, reader), " reads ", ValueKindName(value), " and is no linear");
    return false;
  }
  return true;
}

}  // namespace spikefold
