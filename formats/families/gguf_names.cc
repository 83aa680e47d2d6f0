#include "formats/families/gguf_names.h"

#include "absl/strings/str_cat.h"

namespace spikefold {

std::string GgufModule(const Node& node) {
  const char* name = "";
  switch (node.role) {
    case Role::kEmbedding:
      return "token_embd";
    case Role::kHead:
      return "output";
    case Role::kFinalNorm:
      return "output_norm";
    case Role::kAttnNorm:
      name = "attn_norm";
      break;
    case Role::kFfnNorm:
      name = "ffn_norm";
      break;
    case Role::kPostAttnNorm:
      name = "post_attention_norm";
      break;
    case Role::kPostFfnNorm:
      name = "post_ffw_norm";
      break;
    case Role::kQNorm:
      name = "attn_q_norm";
      break;
    case Role::kKNorm:
      name = "attn_k_norm";
      break;
    case Role::kQProj:
      name = "attn_q";
      break;
    case Role::kKProj:
      name = "attn_k";
      break;
    case Role::kVProj:
      name = "attn_v";
      break;
    case Role::kOProj:
      name = "attn_output";
      break;
    case Role::kGateProj:
      name = "ffn_gate";
      break;
    case Role::kUpProj:
      name = "ffn_up";
      break;
    case Role::kDownProj:
      name = "ffn_down";
      break;
  }
  return absl::StrCat("blk.", node.layer, ".", name);
}

int64_t GgufRotaryRow(int64_t hf_row, int64_t head_dim) {
  const int64_t half = head_dim / 2, in_head = hf_row % head_dim;
  return hf_row - in_head + 2 * (in_head % half) + in_head / half;
}

}  // namespace spikefold
