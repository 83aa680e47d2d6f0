#include <cuda_runtime.h>
#include <cutlass/cutlass.h>
#include <cutlass/gemm/device/gemm_universal_adapter.h>
#include <cutlass/kernel_hardware_info.h>

#include <cutlass/epilogue/collective/collective_builder.hpp>
#include <cutlass/epilogue/fusion/sm90_callbacks_tma_warpspecialized.hpp>
#include <cutlass/gemm/collective/collective_builder.hpp>
#include <cutlass/gemm/kernel/gemm_universal.hpp>
#include <cutlass/util/packed_stride.hpp>

#include "benchmarks/cutlass_peer.h"
#include "formats/base/status.h"

namespace spikefold::benchmarks {
namespace {

using cute::_0;
using cute::_1;
using cute::Int;
using cute::Shape;
using cute::Stride;
namespace fusion = cutlass::epilogue::fusion;

enum class Schedule { kCooperative, kPingpong };

template <int kTileM, int kTileN, int kTileK, int kClusterM, int kClusterN, Schedule kSchedule>
struct Gemm {
  using Tile = Shape<Int<kTileM>, Int<kTileN>, Int<kTileK>>;
  using Cluster = Shape<Int<kClusterM>, Int<kClusterN>, _1>;
  static constexpr bool kPingpong = kSchedule == Schedule::kPingpong;
  static constexpr auto kRound = cutlass::FloatRoundStyle::round_to_nearest;
  template <typename Out>
  using Times = fusion::Sm90Compute<cutlass::multiplies, Out, float, kRound>;
  using RowScale = fusion::Sm90ColBroadcast<0, Tile, float, float, Stride<_1, _0, _0>>;     // one a row of x
  using ColumnScale = fusion::Sm90RowBroadcast<0, Tile, float, float, Stride<_0, _1, _0>>;  // one a channel
  using Scaled = fusion::Sm90EVT<Times<float>, ColumnScale, fusion::Sm90AccFetch>;
  using Output = fusion::Sm90EVT<Times<cutlass::bfloat16_t>, RowScale, Scaled>;
  using Epilogue = typename cutlass::epilogue::collective::CollectiveBuilder<
      cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, Tile, Cluster,
      cutlass::epilogue::collective::EpilogueTileAuto, int32_t, float, void, cutlass::layout::RowMajor, 8,
      cutlass::bfloat16_t, cutlass::layout::RowMajor, 8,
      cute::conditional_t<kPingpong, cutlass::epilogue::TmaWarpSpecialized,
                          cutlass::epilogue::TmaWarpSpecializedCooperative>,
      Output>::CollectiveOp;
  using Mainloop = typename cutlass::gemm::collective::CollectiveBuilder<
      cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, int8_t, cutlass::layout::RowMajor, 16, int8_t,
      cutlass::layout::ColumnMajor, 16, int32_t, Tile, Cluster,
      cutlass::gemm::collective::StageCountAutoCarveout<static_cast<int>(
          sizeof(typename Epilogue::SharedStorage))>,
      cute::conditional_t<kPingpong, cutlass::gemm::KernelTmaWarpSpecializedPingpong,
                          cutlass::gemm::KernelTmaWarpSpecializedCooperative>>::CollectiveOp;
  using Kernel = cutlass::gemm::kernel::GemmUniversal<Shape<int, int, int, int>, Mainloop, Epilogue, void>;
  using Device = cutlass::gemm::device::GemmUniversalAdapter<Kernel>;

  static absl::Status Run(const CutlassParams& p, kernels::cuda::DeviceMemory& workspace,
                          const kernels::cuda::Stream& stream) {
    static const cutlass::KernelHardwareInfo device = [] {
      cutlass::KernelHardwareInfo info;
      info.sm_count = cutlass::KernelHardwareInfo::query_device_multiprocessor_count(info.device_id);
      return info;
    }();
    const int m = static_cast<int>(p.m), n = static_cast<int>(p.n), k = static_cast<int>(p.k);
    const auto packed = [](auto stride, int rows, int columns) {
      return cutlass::make_cute_packed_stride(stride, cute::make_shape(rows, columns, 1));
    };
    typename Device::Arguments arguments = {
        cutlass::gemm::GemmUniversalMode::kGemm,
        {m, n, k, 1},
        {p.x, packed(typename Kernel::StrideA{}, m, k), p.w, packed(typename Kernel::StrideB{}, n, k)},
        {{{p.x_scale}, {{p.w_scale}, {}, {}}, {}},
         nullptr,
         typename Kernel::StrideC{},
         reinterpret_cast<cutlass::bfloat16_t*>(p.y),
         packed(typename Kernel::StrideD{}, m, n)},
        device};
    Device gemm;
    if (gemm.can_implement(arguments) != cutlass::Status::kSuccess) {
      return absl::UnimplementedError("cutlass: not for this shape");
    }
    SF_RETURN_IF_ERROR(workspace.Reserve(Device::get_workspace_size(arguments)));
    const cutlass::Status status =
        gemm.run(arguments, workspace.as<void>(), static_cast<cudaStream_t>(stream.handle()));
    return status == cutlass::Status::kSuccess ? absl::OkStatus()
                                               : absl::InternalError(cutlassGetStatusString(status));
  }
};

constexpr CutlassGemm kGemms[] = {
    {"cutlass 256x128x128 2x1", Gemm<256, 128, 128, 2, 1, Schedule::kCooperative>::Run},
    {"cutlass 128x256x128 2x1", Gemm<128, 256, 128, 2, 1, Schedule::kCooperative>::Run},
    {"cutlass 128x128x128 2x1", Gemm<128, 128, 128, 2, 1, Schedule::kPingpong>::Run},
    {"cutlass 64x256x128 1x1", Gemm<64, 256, 128, 1, 1, Schedule::kPingpong>::Run},
    {"cutlass 64x128x128 1x1", Gemm<64, 128, 128, 1, 1, Schedule::kPingpong>::Run},
    {"cutlass 64x64x256 1x1", Gemm<64, 64, 256, 1, 1, Schedule::kPingpong>::Run},
};

}  // namespace

absl::Span<const CutlassGemm> CutlassGemms() { return kGemms; }

}  // namespace spikefold::benchmarks
