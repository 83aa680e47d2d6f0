// Who writes and who reads a value of a ModelGraph: what the legality of a fold is derived from.
#pragma once

#include <string>
#include <vector>

#include "formats/model_graph.h"

namespace spikefold {

// Nodes of a layer in execution order. Attention reads kV too, which no node names.
std::vector<int> WritersOf(const ModelGraph& graph, int layer, ValueKind value);
std::vector<int> ReadersOf(const ModelGraph& graph, int layer, ValueKind value);
// The node of a layer with this op and role, or -1.
int FindNode(const ModelGraph& graph, int layer, Op op, Role role);

// The linear that alone makes a value, or -1 and `why` says what else does.
int OnlyLinearInto(const ModelGraph& graph, int layer, ValueKind value, std::string* why);
// Whether linears alone read a value; else `why` names the node that is none.
bool LinearsOnlyRead(const ModelGraph& graph, int layer, ValueKind value, std::string* why);
// "model.layers.0.mlp.up_proj", or "attention of layer 0" for a node without weights.
std::string Describe(const ModelGraph& graph, int node);

}  // namespace spikefold
