// Design: kernels/cuda/few_rows_wgmma.cuh, with its left operand made of nibbles in registers: while half of
// a stage is multiplied, the next half is unpacked into others.
#include <algorithm>

#include "kernels/cuda/few_rows_wgmma.cuh"
#include "kernels/matmul_f32_s8r_u4h/matmul_f32_s8r_u4h_tiles.cuh"

namespace spikefold::kernels::matmul_f32_s8r_u4h {

namespace few = cuda::few;

template <int kGroups>
struct Nibbles {
  static constexpr bool kMapped = false;
  static constexpr int kBytes = kGroups * static_cast<int>(kTileBytes);
  static constexpr int kReaders = 4;  // each warp reads what it unpacks
  using Registers = Operands;
  // Saves an XOR for four codes; sums of x take less where so many warpgroups share the rows.
  template <int kRows>
  static constexpr bool kBiased = 16 * kGroups >= kRows;
  static constexpr int kParts = 2;
  __device__ static void Load(const few::Maps&, const cuda::Linear& w, int, int n0, int step, uint32_t to,
                              uint32_t barrier) {
    LoadTiles<kGroups>(w, n0, step, to, barrier);
  }
  __device__ static int LoadedBytes(const cuda::Linear& w, int n0) { return TileBytes<kGroups>(w, n0); }
  template <int kPart, int kCount>
  __device__ static void Multiply(uint32_t (&acc)[kCount], Registers& registers, const char* at, uint64_t x,
                                  bool add) {
    const int group = static_cast<int>(threadIdx.x) / few::kWarpgroup;
    MultiplyHalf<kBiased<2 * kCount>>(acc, registers, LoadHalf(at + group * kTileBytes, kPart), kPart, x,
                                      add);
  }
};

namespace {

few::Operands OperandsOf(const Params& p) {
  return {.m = p.m,
          .row_bytes = matmul_f32_s8r_s8c::RowBytes(p.k),
          .x = p.x,
          .x_scale = p.x_scale,
          .num_kept = p.num_kept,
          .kept_x = p.kept_rows,
          .linears = p.linears};
}

template <int kRows>
absl::Status LaunchRows(const few::Operands& p, const few::Plan& plan, const cuda::Stream& stream) {
  constexpr char kName[] = "matmul_f32_s8r_u4h";
  if (plan.groups == 1) return few::Launch<float, kRows, 1, Nibbles>(kName, p, plan, stream);
  if (plan.groups == 2) return few::Launch<float, kRows, 2, Nibbles>(kName, p, plan, stream);
  return few::Launch<float, kRows, 4, Nibbles>(kName, p, plan, stream);
}

// As measured on an H200 with K of 4096 and 14336 (cuda_bench --plans). A cluster has as many blocks as there
// is room for, each with at least 8 steps.
class Planner {
 public:
  Planner(const few::Operands& p, const cuda::DeviceInfo& device) : p_(p), num_sms_(device.num_sms) {}

  few::Plan Choose() const {
    const int rows = few::RowsOf(p_);
    const few::Plan four = PlanOf(4, num_sms_);  // reads x least often
    const bool fills = 3 * Blocks(four) >= 2 * num_sms_;
    const bool is_long = Steps() >= 2 * kLeastSteps * four.splits && Blocks(four) <= num_sms_;
    if (rows == 16 && four.splits > 1 && fills) return four;
    if (rows == 64 && is_long && fills && p_.num_kept == 0) return four;
    few::Plan two = PlanOf(2, num_sms_ * 3 / 2);
    // Of blocks that fit two at a time, and are no more than there are multiprocessors, two may share one.
    const bool crowded = rows > 16 && two.splits > 1 && Blocks(two) <= num_sms_;
    return crowded ? WithStages({.groups = 1, .splits = two.splits}) : two;
  }

 private:
  static constexpr int kLeastSteps = 8;

  int64_t Steps() const { return cuda::CeilDiv(p_.row_bytes, few::kStep); }
  int64_t Blocks(const few::Plan& plan) const {
    return few::Tiles(p_.linears, plan.groups * few::kChannels) * plan.splits;
  }
  few::Plan PlanOf(int groups, int64_t most_blocks) const {
    few::Plan plan = {.groups = groups, .splits = 1};
    for (const int splits : {2, 3, 4, 6}) {
      const few::Plan next = {.groups = groups, .splits = splits};
      if (Blocks(next) <= most_blocks && Steps() >= kLeastSteps * splits) plan = next;
    }
    return WithStages(plan);
  }
  few::Plan WithStages(few::Plan plan) const {
    constexpr int kMaxStages = 24, kFewBytes = 72 << 10, kManyBytes = 152 << 10, kBarrierBytes = 1024;
    const int rows = few::RowsOf(p_), kept = few::KeptStages(p_) * few::KeptStageBytes(rows, plan.groups);
    const bool shares = rows == 64 && plan.groups == 2 && plan.splits > 1;
    const bool alone = rows == 64 && plan.groups == 4 && plan.splits == 1;
    const bool fewer = rows > 16 && plan.groups < 4 && kept == 0 && !shares;
    const int room = alone ? kManyBytes : fewer ? kFewBytes : few::kSharedBytes;
    const int stage = few::StageBytes(rows, plan.groups * static_cast<int>(kTileBytes));
    plan.stages = std::clamp((room - kept - kBarrierBytes) / stage, 2, kMaxStages);
    return plan;
  }

  const few::Operands& p_;
  const int64_t num_sms_;
};

}  // namespace

bool FitsFew(const Params& p, const cuda::DeviceInfo& device) { return few::Fits(OperandsOf(p), device); }

absl::Status RunFew(const Params& p, const few::Plan& plan, const cuda::DeviceInfo& device,
                    const cuda::Stream& stream) {
  const few::Operands operands = OperandsOf(p);
  const few::Plan chosen = plan.groups > 0 ? plan : Planner(operands, device).Choose();
  switch (few::RowsOf(operands)) {
    case 16:
      return LaunchRows<16>(operands, chosen, stream);
    case 32:
      return LaunchRows<32>(operands, chosen, stream);
    default:
      return LaunchRows<64>(operands, chosen, stream);
  }
}

}  // namespace spikefold::kernels::matmul_f32_s8r_u4h
