// Design: kernels/cuda/pingpong_tiles.cuh, bf16 outputs through the copy engine.
#include "kernels/cuda/pingpong_tiles.cuh"
#include "kernels/matmul_bf16_s8r_s8c/matmul_bf16_s8r_s8c_few.h"

namespace spikefold::kernels::matmul_bf16_s8r_s8c {
namespace {

static_assert(kKeptStep == cuda::pingpong::kKeptStep);

cuda::pingpong::Params TilesOf(const Params& p) {
  cuda::pingpong::Params tiles = {.name = "matmul_bf16_s8r_s8c",
                                  .m = p.m,
                                  .row_bytes = p.k,
                                  .x = p.x,
                                  .x_scale = p.x_scale,
                                  .num_kept = p.num_kept,
                                  .kept_x = p.kept_x,
                                  .linears = {.count = 1}};
  tiles.linears.linear[0] = LinearOf(p);
  return tiles;
}

}  // namespace

absl::Status Run(const Params& p, const cuda::DeviceInfo& device, const cuda::Stream& stream) {
  SF_RETURN_IF_ERROR(Supports(p, device));
  if (device.sm != 90 || p.sm80) return RunFew(p, stream);
  const cuda::pingpong::Params tiles = TilesOf(p);
  if (p.tiles.tile_m == 0) {
    if (p.m <= kFewRows && p.plan.groups == 0) return RunFew(p, stream);
    const int64_t steps = cuda::CeilDiv(p.k, cuda::pingpong::kStep);
    const bool few =
        p.plan.groups > 0 || !cuda::pingpong::BeatsFewRows(p.m, tiles.linears, steps, device.num_sms);
    if (few && FitsFewHopper(p, device)) return RunFewHopper(p, device, stream);
  }
  return cuda::pingpong::Run<cuda::pingpong::Type::kS8, __nv_bfloat16>(tiles, p.tiles, device, stream);
}

}  // namespace spikefold::kernels::matmul_bf16_s8r_s8c
