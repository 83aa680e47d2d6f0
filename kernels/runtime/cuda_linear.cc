// Linears of the CUDA backend: weights are uploaded when they are packed; the linears of a site share a
// launch.
#include <algorithm>
#include <atomic>
#include <bit>
#include <cstring>
#include <memory>
#include <numeric>
#include <vector>

#include "absl/strings/str_cat.h"
#include "formats/base/dtype.h"
#include "formats/base/status.h"
#include "kernels/matmul_f32_f32_bf16/matmul_f32_f32_bf16_cuda.h"
#include "kernels/matmul_f32_f32_f32/matmul_f32_f32_f32_cuda.h"
#include "kernels/matmul_f32_f32_s4g/matmul_f32_f32_s4g_cuda.h"
#include "kernels/matmul_f32_f32_s8c/matmul_f32_f32_s8c_cuda.h"
#include "kernels/matmul_f32_f32_sxg/matmul_f32_f32_sxg_cuda.h"
#include "kernels/matmul_f32_s8r_s4g/matmul_f32_s8r_s4g_cuda.h"
#include "kernels/matmul_f32_s8r_s8c/matmul_f32_s8r_s8c_cuda.h"
#include "kernels/matmul_f32_s8r_sxg/matmul_f32_s8r_sxg_cuda.h"
#include "kernels/matmul_f32_s8r_sxg/matmul_f32_s8r_sxg_grids_cuda.h"
#include "kernels/matmul_f32_s8r_u4h/matmul_f32_s8r_u4h_cuda.h"
#include "kernels/runtime/code_sums.h"
#include "kernels/runtime/cuda_ops.h"
#include "kernels/runtime/cuda_options.h"
#include "kernels/runtime/two_level.h"

namespace spikefold {
namespace {

namespace s4g = kernels::matmul_f32_f32_s4g;
namespace s8c = kernels::matmul_f32_s8r_s8c;
namespace u4h = kernels::matmul_f32_s8r_u4h;
using Kind = LinearWeights::Kind;

constexpr int64_t kGroupStep = 16;  // columns that the kernels take at a time
constexpr int64_t kMaxK = 131072;   // 2^17 products of up to 127^2 would no longer fit in int32

template <typename T>
absl::Status Upload(const std::vector<T>& values, const cuda::Stream& stream, CudaWeights& owner,
                    cuda::DeviceMemory& to) {
  const size_t bytes = values.size() * sizeof(T);
  owner.bytes += bytes;
  SF_RETURN_IF_ERROR(to.Reserve(bytes));
  return cuda::CopyIn(to.as<T>(), values.data(), bytes, stream);
}

// [n, r] -> [r, n]: neighbouring channels load together.
std::vector<uint16_t> Transposed(const std::vector<uint16_t>& w, int64_t n) {
  const int64_t r = static_cast<int64_t>(w.size()) / n;
  std::vector<uint16_t> out(w.size());
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t c = 0; c < r; ++c) out[static_cast<size_t>(c * n + i)] = w[static_cast<size_t>(i * r + c)];
  }
  return out;
}

// [n, r] -> [n, KeptColumns(r)]: rows that the tensor cores read.
std::vector<uint16_t> KeptRows(const std::vector<uint16_t>& w, int64_t n) {
  const int64_t r = static_cast<int64_t>(w.size()) / n, columns = s8c::KeptColumns(r);
  std::vector<uint16_t> out(static_cast<size_t>(n * columns), 0);
  for (int64_t i = 0; i < n; ++i) std::copy_n(w.begin() + i * r, r, out.begin() + i * columns);
  return out;
}

// Codes without their zero points, rows padded with zeros to the kernels' row bytes. `group` 0: no zero
// points.
absl::StatusOr<std::vector<int8_t>> CodeRows(const CodeMatrix& w, int64_t group) {
  const int64_t stride = s8c::RowBytes(w.k), groups = group == 0 ? 0 : w.k / group;
  std::vector<int8_t> rows(static_cast<size_t>(w.n * stride), 0);
  for (int64_t n = 0; n < w.n; ++n) {
    const int8_t* codes = w.codes.data() + n * w.k;
    int8_t* row = rows.data() + n * stride;
    if (w.zeros.empty()) {
      std::memcpy(row, codes, static_cast<size_t>(w.k));
      continue;
    }
    for (int64_t k = 0; k < w.k; ++k) {
      const int code = codes[k] - w.zeros[static_cast<size_t>(n * groups + k / group)];
      if (code < -128 || code > 127) {
        return absl::UnimplementedError(
            absl::StrCat("backend \"cuda\": ", FormatText(w.format, w.group),
                         " weights whose codes and zero points lie too far apart; use --backend cpu"));
      }
      row[k] = static_cast<int8_t>(code);
    }
  }
  return rows;
}

// INT8 codes of a weight in two levels, rows padded with zeros.
std::vector<int8_t> WholeRows(const CodeMatrix& w, const TwoLevel& levels) {
  const int64_t stride = s8c::RowBytes(w.k), groups = w.k / w.group;
  std::vector<int8_t> rows(static_cast<size_t>(w.n * stride), 0);
  for (int64_t n = 0; n < w.n; ++n) {
    for (int64_t k = 0; k < w.k; ++k) {
      const auto group = static_cast<size_t>(n * groups + k / w.group);
      const int code = w.codes[static_cast<size_t>(n * w.k + k)] - (w.zeros.empty() ? 0 : w.zeros[group]);
      rows[static_cast<size_t>(n * stride + k)] = static_cast<int8_t>(levels.factor[group] * code);
    }
  }
  return rows;
}

// What zero points of activations multiply.
absl::Status UploadSums(const CodeMatrix& w, bool channels, const cuda::Stream& stream, CudaWeights& device) {
  if (channels) return Upload(CodeSums(w.codes, w.n, w.k), stream, device, device.code_sum);
  const kernels::GroupWeights groups{.n = w.n,
                                     .k = w.k,
                                     .group = w.group > 0 ? w.group : w.k,
                                     .bits = w.format.bits,
                                     .codes = w.codes.data(),
                                     .scales = w.scales.data(),
                                     .zeros = w.zeros.empty() ? nullptr : w.zeros.data()};
  return Upload(RowSums(groups), stream, device, device.row_sum);
}

// The weights in bf16; null if some value needs more.
std::unique_ptr<uint16_t[]> Bf16Rows(const Tensor& w, ThreadPool* pool) {
  const absl::Span<const float> values = w.as<float>();
  const auto holds = [](float v) { return (std::bit_cast<uint32_t>(v) & 0xffff) == 0; };
  const absl::Span<const float> some = values.first(std::min<size_t>(values.size(), 4096));
  if (!std::all_of(some.begin(), some.end(), holds)) return nullptr;  // before there is memory for all
  auto rows = std::make_unique_for_overwrite<uint16_t[]>(values.size());
  std::atomic<bool> all{true};
  const auto convert = [&](int64_t begin, int64_t end) {
    uint32_t lost = 0;
    for (size_t i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
      const uint32_t bits = std::bit_cast<uint32_t>(values[i]);
      lost |= bits & 0xffff;
      rows[i] = static_cast<uint16_t>(bits >> 16);
    }
    if (lost != 0) all = false;
  };
  const int64_t count = static_cast<int64_t>(values.size());
  constexpr int64_t kGrain = 1 << 16;
  if (pool != nullptr) {
    pool->ParallelFor(count, kGrain, convert);
  } else {
    convert(0, count);
  }
  return all ? std::move(rows) : nullptr;
}

cuda::Linear LinearOf(const LinearWeights& w, const CudaWeights& device, float* y) {
  return {.n = w.n,
          .w = device.w.as<void>(),
          .w_stride = w.kind == Kind::kF32 ? w.k : s8c::RowBytes(w.k),
          .w_scale = device.scale.as<float>(),
          .w_zero = device.zero.as<uint8_t>(),
          .w_unit = device.unit.as<float>(),
          .group = w.kind == Kind::kGroups ? w.group : 0,
          .kept_w = device.kept.as<uint16_t>(),
          .kept_stride = w.n,
          .kept_rows = device.kept_rows.as<uint16_t>(),
          .bias = w.bias.empty() ? nullptr : device.bias.as<float>(),
          .y = y};
}

}  // namespace

std::vector<std::string> CudaOps::notes() const {
  std::vector<std::string> lines;
  for (const auto& [reason, count] : notes_) {
    lines.push_back(absl::StrCat(count, count == 1 ? " linear: " : " linears: ", reason));
  }
  return lines;
}

absl::Status CudaOps::PackF32(const Tensor& w, LinearWeights& out) {
  out.kind = Kind::kF32;
  out.n = w.dim(0);
  out.k = w.dim(1);
  auto device = std::make_shared<CudaWeights>();
  if (const auto rows = Bf16Rows(w, pool_); rows != nullptr) {
    const size_t bytes = static_cast<size_t>(out.n * out.k) * sizeof(uint16_t);
    SF_RETURN_IF_ERROR(device->w.Reserve(bytes));
    SF_RETURN_IF_ERROR(cuda::CopyIn(device->w.as<void>(), rows.get(), bytes, *stream_));
    device->bytes = bytes;
    device->bf16 = true;
    out.device = std::move(device);
    return stream_->Sync();
  }
  ++notes_["float weights that bf16 does not hold stay float32, on the CUDA cores"];
  const size_t bytes = static_cast<size_t>(out.n * out.k) * sizeof(float);
  SF_RETURN_IF_ERROR(device->w.Reserve(bytes));
  SF_RETURN_IF_ERROR(cuda::CopyIn(device->w.as<float>(), w.data(), bytes, *stream_));
  device->bytes = bytes;
  out.device = std::move(device);
  return stream_->Sync();
}

absl::Status CudaOps::PackCodes(const CodeMatrix& w, const ActivationFormat& act, LinearWeights& out) {
  const bool channels = w.format == WeightFormat::kS8c && act.group == 0;
  // Groups of weights lie within those of the activations.
  const int64_t stored = w.group > 0 ? w.group : w.k;
  const int64_t group = channels ? 0 : act.group > 0 ? std::gcd(stored, act.group) : stored;
  if (group % kGroupStep != 0 && group != w.k) {
    return absl::UnimplementedError(
        absl::StrCat("backend \"cuda\": no kernel for ", FormatText(w.format, w.group), " weights with ",
                     FormatText(act), " activations: groups of ", group, " are not a multiple of ",
                     kGroupStep, "; use 32, 64 or 128, or --backend cpu"));
  }
  const int64_t max_k = HasWideZeros(act) ? kMaxK / 2 : kMaxK;
  if (w.k >= max_k) {
    return absl::UnimplementedError(
        absl::StrCat("backend \"cuda\": K=", w.k, " is not below ", max_k, "; use --backend cpu"));
  }
  out.kind = channels ? Kind::kS8c : Kind::kGroups;
  out.n = w.n;
  out.k = w.k;
  out.group = group;
  auto device = std::make_shared<CudaWeights>();
  if (const auto levels = TwoLevelsFor(w, act)) {
    if (u4h::Supports(w.group, device_)) {
      const std::vector<uint8_t> tiles = u4h::Pack({.n = w.n,
                                                    .k = w.k,
                                                    .group = w.group,
                                                    .codes = w.codes,
                                                    .factors = levels->factor,
                                                    .zeros = w.zeros},
                                                   pool_);
      SF_RETURN_IF_ERROR(Upload(tiles, *stream_, *device, device->w));
      device->tiles = CudaWeights::Tiles::kU4h;
    } else {
      ++notes_[absl::StrCat(
          FormatText(w.format, w.group), " weights with ", FormatText(act),
          " activations run as INT8: the kernel of their own takes groups of a multiple of ",
          u4h::kFactorColumns, ", on sm_90")];
      SF_RETURN_IF_ERROR(Upload(WholeRows(w, *levels), *stream_, *device, device->w));
      out.kind = Kind::kS8c;
      out.group = 0;
    }
    SF_RETURN_IF_ERROR(Upload(levels->scale, *stream_, *device, device->scale));
    out.scale = levels->scale;
    out.device = std::move(device);
    return stream_->Sync();
  }
  const bool takes_tiles = act.is_float() ? s4g::Supports(w.k, group)
                                          : act.group == 0 && !HasWideZeros(act) &&
                                                kernels::matmul_f32_s8r_s4g::Supports(w.k, group, device_);
  if (w.format.bits <= 4 && takes_tiles) {
    const s4g::Packed packed = s4g::Pack(
        {.n = w.n, .k = w.k, .group = group, .codes = w.codes, .scales = w.scales, .zeros = w.zeros}, pool_);
    SF_RETURN_IF_ERROR(Upload(packed.codes, *stream_, *device, device->w));
    SF_RETURN_IF_ERROR(Upload(packed.scales, *stream_, *device, device->scale));
    SF_RETURN_IF_ERROR(Upload(packed.zeros, *stream_, *device, device->zero));
    SF_RETURN_IF_ERROR(Upload(packed.units, *stream_, *device, device->unit));
    device->tiles = CudaWeights::Tiles::kS4g;
    out.device = std::move(device);
    return stream_->Sync();
  }
  if (w.format.bits <= 4 && !channels) {
    const bool grids = act.group > 0 || HasWideZeros(act);
    const std::string reason =
        grids ? "codes of activations in groups or with zero points have no kernel for less"
              : absl::StrCat("kernels of 4-bit codes take K and groups of a multiple of ", s4g::kTileColumns,
                             act.is_float() ? "" : ", on sm_90");
    ++notes_[absl::StrCat(FormatText(w.format, w.group), " weights with ", FormatText(act),
                          " activations, K = ", w.k, ", lie as bytes: ", reason)];
  }
  SF_ASSIGN_OR_RETURN(const std::vector<int8_t> rows, CodeRows(w, w.zeros.empty() ? 0 : stored));
  SF_RETURN_IF_ERROR(Upload(rows, *stream_, *device, device->w));
  std::vector<float> scales = Repeat(w.scales, channels ? 1 : stored / group);
  if (HasWideZeros(act)) SF_RETURN_IF_ERROR(UploadSums(w, channels, *stream_, *device));
  SF_RETURN_IF_ERROR(Upload(scales, *stream_, *device, device->scale));
  if (channels) out.scale = std::move(scales);
  out.device = std::move(device);
  return stream_->Sync();
}

// What was not known when the weight was packed. weight_bytes() counts it on the host already.
absl::StatusOr<const CudaWeights*> CudaOps::Complete(const LinearWeights& w) {
  if (w.device == nullptr) {
    return absl::InternalError("backend \"cuda\": a linear was packed for another backend");
  }
  auto& device = static_cast<CudaWeights&>(*w.device);
  if (device.complete) return &device;
  const uint64_t bytes = device.bytes;
  SF_RETURN_IF_ERROR(Upload(w.bias, *stream_, device, device.bias));
  SF_RETURN_IF_ERROR(Upload(Transposed(w.kept_weight, w.n), *stream_, device, device.kept));
  SF_RETURN_IF_ERROR(Upload(KeptRows(w.kept_weight, w.n), *stream_, device, device.kept_rows));
  SF_RETURN_IF_ERROR(Upload(w.super_slot, *stream_, device, device.super_slot));
  SF_RETURN_IF_ERROR(Upload(w.super_row, *stream_, device, device.super_row));
  SF_RETURN_IF_ERROR(Upload(w.super_value, *stream_, device, device.super_value));
  device.bytes = bytes;
  device.complete = true;
  return &device;
}

absl::Status CudaOps::FloatLinears(const CudaActivation& x, absl::Span<const LinearWeights* const> w,
                                   absl::Span<float* const> y) {
  cuda::SimtParams params = {.m = x.rows, .k = x.buffer.width(), .x = x.buffer.data()};
  cuda::SimtParams bf16 = params;
  for (size_t i = 0; i < w.size(); ++i) {
    if (!w[i]->super_row.empty()) {
      return absl::InternalError("backend \"cuda\": super weights of a float linear");
    }
    SF_ASSIGN_OR_RETURN(const CudaWeights* device, Complete(*w[i]));
    cuda::LinearGroup& group = device->bf16 ? bf16.linears : params.linears;
    group.linear[group.count++] = LinearOf(*w[i], *device, y[i]);
  }
  if (bf16.linears.count > 0) SF_RETURN_IF_ERROR(Bf16Linears(bf16));
  if (params.linears.count == 0) return absl::OkStatus();
  return kernels::matmul_f32_f32_f32::RunCuda(params, *stream_);
}

absl::Status CudaOps::Bf16Linears(const cuda::SimtParams& p) {
  namespace bf16 = kernels::matmul_f32_f32_bf16;
  // Rounded rows are faster from five on.
  const bool few = bf16::TakesFewRows(p) && (p.m <= 4 || !cuda_rounds_rows);
  if (device_.sm != 90 || p.m < bf16::kHopperRows || !bf16::SupportsHopper(p.k) || few) {
    return bf16::RunCuda(p, *stream_);
  }
  const bf16::Rows rows = cuda_rounds_rows ? bf16::Rows::kBf16 : bf16::Rows::kExact;
  SF_RETURN_IF_ERROR(row_parts_.Reserve(bf16::PartsBytes(p.m, p.k, rows)));
  return bf16::RunHopper(p, rows, row_parts_.as<uint16_t>(), device_, *stream_);
}

absl::Status CudaOps::CodeLinears(const CudaActivation& x, absl::Span<const LinearWeights* const> w,
                                  absl::Span<float* const> y) {
  s8c::CudaParams params = {.m = x.rows,
                            .k = x.buffer.width(),
                            .x = x.codes.as<int8_t>(),
                            .x_scale = x.scale.as<float>(),
                            .num_kept = static_cast<int64_t>(x.form->kept.size()),
                            .kept_x = x.kept_x.as<float>(),
                            .kept_rows = x.kept_rows.as<uint16_t>()};
  const ActivationFormat& format = x.form->format;
  kernels::matmul_f32_s8r_sxg::GridParams grids = {
      .x_group = format.group, .x_zero = HasWideZeros(format) ? x.zero.as<int32_t>() : nullptr};
  s8c::CudaParams tiled = params, two_levels = params;  // the linears whose codes lie in tiles
  for (size_t i = 0; i < w.size(); ++i) {
    SF_ASSIGN_OR_RETURN(const CudaWeights* device, Complete(*w[i]));
    grids.code_sum[i] = device->code_sum.as<int32_t>();
    grids.row_sum[i] = device->row_sum.as<float>();
    cuda::LinearGroup& group = device->tiles == CudaWeights::Tiles::kU4h   ? two_levels.linears
                               : device->tiles == CudaWeights::Tiles::kS4g ? tiled.linears
                                                                           : params.linears;
    group.linear[group.count++] = LinearOf(*w[i], *device, y[i]);
  }
  if (tiled.linears.count > 0) {
    SF_RETURN_IF_ERROR(kernels::matmul_f32_s8r_s4g::RunHopper(tiled, *stream_));
  }
  if (two_levels.linears.count > 0) {
    SF_RETURN_IF_ERROR(u4h::RunHopper(two_levels, device_, *stream_));
  }
  if (params.linears.count == 0) {
    // Done.
  } else if (grids.x_group > 0 || grids.x_zero != nullptr) {
    grids.base = params;
    SF_RETURN_IF_ERROR(kernels::matmul_f32_s8r_sxg::RunGrids(grids, *stream_));
  } else if (w[0]->kind == Kind::kGroups) {
    SF_RETURN_IF_ERROR(kernels::matmul_f32_s8r_sxg::RunCuda(params, device_, *stream_));
  } else {
    SF_RETURN_IF_ERROR(s8c::RunCuda(params, device_, *stream_));
  }
  for (size_t i = 0; i < w.size(); ++i) SF_RETURN_IF_ERROR(AddSupers(x, *w[i], y[i]));
  return absl::OkStatus();
}

absl::Status CudaOps::AddSupers(const CudaActivation& x, const LinearWeights& w, float* y) {
  if (w.super_row.empty()) return absl::OkStatus();
  SF_ASSIGN_OR_RETURN(const CudaWeights* device, Complete(w));
  return cuda::AddSuperWeights({.m = x.rows,
                                .n = w.n,
                                .num_super = static_cast<int64_t>(w.super_row.size()),
                                .x_stride = static_cast<int64_t>(x.form->super_columns.size()),
                                .x = x.super_x.as<float>(),
                                .slot = device->super_slot.as<int32_t>(),
                                .row = device->super_row.as<int32_t>(),
                                .value = device->super_value.as<float>(),
                                .y = y},
                               *stream_);
}

absl::Status CudaOps::MixedLinears(const CudaActivation& x, absl::Span<const LinearWeights* const> w,
                                   absl::Span<float* const> y, bool spikes_only) {
  SF_ASSIGN_OR_RETURN(const CudaConstants::Form* columns, constants_.Columns(*x.form, x.buffer.width()));
  cuda::SimtParams params = {.m = spikes_only ? std::min(x.rows, x.max_spike_rows) : x.rows,
                             .k = x.buffer.width(),
                             .x = x.buffer.data(),
                             .rows = spikes_only ? x.spike_rows.as<int32_t>() + 1 : nullptr,
                             .num_rows = spikes_only ? x.spike_rows.as<int32_t>() : nullptr,
                             .tail = {.num_kept = static_cast<int64_t>(x.form->kept.size()),
                                      .kept = columns->device_kept.as<int32_t>(),
                                      .super_column = columns->device_super.as<int32_t>()}};
  cuda::SimtParams tiled = params, two_levels = params;  // the linears whose codes lie in tiles
  for (size_t i = 0; i < w.size(); ++i) {
    SF_ASSIGN_OR_RETURN(const CudaWeights* device, Complete(*w[i]));
    cuda::SimtParams& p = device->tiles == CudaWeights::Tiles::kU4h   ? two_levels
                          : device->tiles == CudaWeights::Tiles::kS4g ? tiled
                                                                      : params;
    p.super[p.linears.count] = {.num = static_cast<int64_t>(w[i]->super_row.size()),
                                .slot = device->super_slot.as<int32_t>(),
                                .row = device->super_row.as<int32_t>(),
                                .value = device->super_value.as<float>()};
    p.linears.linear[p.linears.count++] = LinearOf(*w[i], *device, y[i]);
  }
  if (tiled.linears.count > 0) {
    SF_RETURN_IF_ERROR(spikes_only ? kernels::matmul_f32_f32_sxg::RunTiles(tiled, *stream_)
                                   : TiledLinears(tiled));
  }
  if (two_levels.linears.count > 0) {
    SF_RETURN_IF_ERROR(kernels::matmul_f32_f32_sxg::RunTwoLevels(two_levels, *stream_));
  }
  if (params.linears.count == 0) return absl::OkStatus();
  return RowLinears(params);
}

absl::Status CudaOps::RowLinears(const cuda::SimtParams& p) {
  namespace rows = kernels::matmul_f32_f32_s8c;
  rows::Path path = rows::PathOf(p, device_);
  for (const rows::Path slower : {rows::Path::kDigits, rows::Path::kDirect}) {  // in less
    SF_ASSIGN_OR_RETURN(const bool fits, HasRoom(rows::ScratchBytes(path, p)));
    if (fits) break;
    path = slower;
  }
  switch (path) {
    case rows::Path::kRow:
      return rows::RunRow(p, *stream_);
    case rows::Path::kWide:
      return rows::RunWide(p, row_parts_.as<void>(), device_, *stream_);
    case rows::Path::kDigits:
      return rows::RunDigits(p, row_parts_.as<void>(), device_, *stream_);
    case rows::Path::kDirect:
      break;
  }
  return p.linears.linear[0].group > 0 ? kernels::matmul_f32_f32_sxg::RunCuda(p, *stream_)
                                       : rows::RunCuda(p, *stream_);
}

// False: the device has no room for so much. A step does not ask again, so that its recording goes the way of
// the walk before it.
absl::StatusOr<bool> CudaOps::HasRoom(size_t bytes) {
  if (!step_.active && !step_.timed) no_room_ = std::numeric_limits<size_t>::max();
  if (bytes >= no_room_) return false;
  const absl::Status status = row_parts_.Reserve(bytes);
  if (!absl::IsResourceExhausted(status)) {
    SF_RETURN_IF_ERROR(status);
    return true;
  }
  no_room_ = bytes;
  return false;
}

absl::Status CudaOps::TiledLinears(const cuda::SimtParams& p) {
  s4g::Path path = s4g::PathOf(p, device_);
  for (const s4g::Path slower : {s4g::Path::kFew, s4g::Path::kDirect}) {  // in less
    SF_ASSIGN_OR_RETURN(const bool fits, HasRoom(s4g::ScratchBytes(path, p)));
    if (fits) break;
    path = slower;
  }
  return s4g::RunCuda(p, path, row_parts_.as<void>(), device_, *stream_);
}

bool CudaOps::TakesF16(const LinearWeights* w, int64_t rows) const {
  if (w == nullptr || w->device == nullptr || w->kind == Kind::kF32) return false;
  const CudaWeights::Tiles tiles = static_cast<const CudaWeights&>(*w->device).tiles;
  cuda::SimtParams p = {.m = rows, .k = w->k, .linears = {.count = 1}};
  p.linears.linear[0].n = w->n;
  p.linears.linear[0].group = w->kind == Kind::kGroups ? w->group : 0;
  if (tiles == CudaWeights::Tiles::kNone) {
    return kernels::matmul_f32_f32_s8c::PathOf(p, device_) == kernels::matmul_f32_f32_s8c::Path::kWide;
  }
  if (tiles != CudaWeights::Tiles::kS4g) return false;
  const s4g::Path path = s4g::PathOf(p, device_);
  return path == s4g::Path::kFew || path == s4g::Path::kMany;
}

// The linears of a site share a launch with those of their kind.
absl::Status CudaOps::LinearsTo(const CudaActivation& x, absl::Span<const LinearWeights* const> w,
                                absl::Span<float* const> y) {
  if (w.size() > cuda::kMaxLinears)
    return absl::InternalError("backend \"cuda\": too many linears of a site");
  for (const Kind kind : {Kind::kF32, Kind::kS8c, Kind::kGroups}) {
    const LinearWeights* of_kind[cuda::kMaxLinears];
    float* outs[cuda::kMaxLinears];
    size_t count = 0;
    for (size_t i = 0; i < w.size(); ++i) {
      if (w[i]->kind != kind) continue;
      of_kind[count] = w[i];
      outs[count++] = y[i];
    }
    if (count > 0) SF_RETURN_IF_ERROR(KindTo(kind, x, {of_kind, count}, {outs, count}));
  }
  return absl::OkStatus();
}

absl::Status CudaOps::KindTo(LinearWeights::Kind kind, const CudaActivation& x,
                             absl::Span<const LinearWeights* const> w, absl::Span<float* const> y) {
  if (kind == Kind::kF32) return FloatLinears(x, w, y);
  if (x.form->format.is_float()) return MixedLinears(x, w, y, false);
  SF_RETURN_IF_ERROR(CodeLinears(x, w, y));
  return x.max_spike_rows > 0 ? MixedLinears(x, w, y, true) : absl::OkStatus();
}

absl::Status CudaOps::Linears(const Activation& x, absl::Span<const LinearWeights* const> w,
                              absl::Span<Buffer* const> y) {
  std::vector<float*> outs;
  for (const Buffer* buffer : y) outs.push_back(static_cast<const CudaBuffer*>(buffer)->data());
  return LinearsTo(static_cast<const CudaActivation&>(x), w, outs);
}

}  // namespace spikefold
