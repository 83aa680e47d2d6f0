#include "kernels/attention_f32_f32_ukv/attention_f32_f32_ukv.h"

#include "absl/strings/str_cat.h"
#include "formats/base/status.h"
#include "kernels/attention_f32_f32_ukv/attention_f32_f32_ukv_isa.h"
#include "kernels/cpu/cpu_features.h"

namespace spikefold::kernels::attention_f32_f32_ukv {
namespace {

constexpr char kName[] = "attention_f32_f32_ukv";

absl::Status Missing(const char* what) {
  return absl::InvalidArgumentError(absl::StrCat(kName, ": ", what, " is null; set it"));
}

absl::Status CheckBuffers(const Params& p) {
  const int64_t last = p.first + p.m - 1;
  if (p.q == nullptr || p.o == nullptr) return Missing("q or o");
  if (p.num_pinned > 0 && (p.pinned_k == nullptr || p.pinned_v == nullptr)) return Missing("a pinned row");
  if (last >= p.num_pinned && (p.rows_k == nullptr || p.rows_v == nullptr)) return Missing("a recent row");
  if (p.first_row_page > 0 && p.pages == nullptr) return Missing("pages");
  if (p.page_base != nullptr && p.page_offset == nullptr) return Missing("page_offset");
  if (p.evict > 0 && p.pinned_turn == nullptr) return Missing("pinned_turn");
  const bool by_channel = p.format.k_bits < 16 && p.format.key_scale == KeyScale::kChannel;
  if (by_channel && (p.channels.scale == nullptr || p.channels.min == nullptr)) return Missing("channels");
  return absl::OkStatus();
}

}  // namespace

absl::Status Supports(const Params& p) {
  if (p.m < 1 || p.num_heads < 1 || p.num_kv_heads < 1 || p.head_dim < 1 || p.first < 0 || p.recent < 1 ||
      p.num_pinned < 0 || p.evict < 0 || p.first_row_page < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(kName, ": M=", p.m, " num_heads=", p.num_heads, " num_kv_heads=", p.num_kv_heads,
                     " head_dim=", p.head_dim, " recent=", p.recent, " first=", p.first,
                     " num_pinned=", p.num_pinned, " evict=", p.evict, " first_row_page=", p.first_row_page,
                     "; the first five must be at least 1, the others at least 0"));
  }
  if (p.num_heads % p.num_kv_heads != 0) {
    return absl::InvalidArgumentError(absl::StrCat(kName, ": num_heads=", p.num_heads,
                                                   " is not a multiple of num_kv_heads=", p.num_kv_heads));
  }
  if (!IsKvBits(p.format.k_bits) || !IsKvBits(p.format.v_bits)) {
    return absl::InvalidArgumentError(absl::StrCat(kName, ": keys of ", p.format.k_bits, " and values of ",
                                                   p.format.v_bits, " bits; use 2, 3, 4, 8 or 16"));
  }
  const bool turns = p.page_base != nullptr || p.evict > 0;
  if (p.format.num_kv_heads != p.num_kv_heads || p.format.head_dim != p.head_dim ||
      (turns && p.head_dim % 2)) {
    return absl::InvalidArgumentError(absl::StrCat(kName, ": pages of ", p.format.num_kv_heads, " heads of ",
                                                   p.format.head_dim, "; the call has ", p.num_kv_heads,
                                                   " of ", p.head_dim, " (even with a rotation)"));
  }
  return CheckBuffers(p);
}

absl::Status Run(const Params& p, ThreadPool& pool) {
  SF_RETURN_IF_ERROR(Supports(p));
  if (ActiveIsa() >= Isa::kAvx2) {
    const AttentionSizes sizes = {.num_spans = SpansOf(p).num_spans, .scratch_floats = ScratchFloats(p)};
    AttentionCall<Params>(p, sizes, ActiveIsa() >= Isa::kAvx512 ? kAvx512 : kAvx2, pool).Run();
    return absl::OkStatus();
  }
  pool.ParallelFor(p.num_heads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t head = begin; head < end; ++head) RowsPlain(p, head, 0, p.m);
  });
  return absl::OkStatus();
}

}  // namespace spikefold::kernels::attention_f32_f32_ukv
