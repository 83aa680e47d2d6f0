// What converters call the tensors of a node (llama.cpp, gguf-py's tensor mapping).
#pragma once

#include <cstdint>
#include <string>

#include "formats/model_graph.h"

namespace spikefold {

// Name of a node's tensors in a GGUF file, without ".weight" or ".bias": "blk.3.attn_q".
std::string GgufModule(const Node& node);

// Rows of q and k of the "llama" architecture are in the order of adjacent rotary pairs there: row
// h*d + t*d/2 + j of HF is row h*d + 2j + t of the file (t = 0, 1).
int64_t GgufRotaryRow(int64_t hf_row, int64_t head_dim);

}  // namespace spikefold
