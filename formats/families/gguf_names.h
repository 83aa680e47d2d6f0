// What converters call the tensors of a node (llama.cpp, gguf-py's tensor mapping).
#pragma once

#include <string>

#include "formats/model_graph.h"

namespace spikefold {

// Name of a node's tensors in a GGUF file, without ".weight" or ".bias": "blk.3.attn_q".
std::string GgufModule(const Node& node);

}  // namespace spikefold
