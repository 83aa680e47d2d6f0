// What the native reader and writer share: a linear as tensors, and the sidecar as JSON.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "formats/base/json.h"
#include "formats/quantized/native.h"

namespace spikefold {

inline constexpr int kNativeFormatVersion = 1;
inline constexpr char kSidecarFile[] = "spikefold.json";
inline constexpr char kManifestFile[] = "manifest.json";
inline constexpr char kConfigFile[] = "config.json";
inline constexpr char kQuantMethod[] = "spikefold", kPartMethod[] = "spikefold-part";

// Hands the tensors of a linear to `write`, one at a time, in the order of TensorSpecs().
absl::Status EncodeLinear(const QuantizedLinear& linear,
                          absl::FunctionRef<absl::Status(const std::string&, const TensorView&)> write);
// The reverse: `read` gives a tensor by name, already known to have its declared dtype and shape. DataLoss.
absl::StatusOr<QuantizedLinear> DecodeLinear(
    const QuantizedLinearSpec& spec, absl::FunctionRef<absl::StatusOr<Tensor>(const std::string&)> read);

// Of DecodeLinear()'s tensors the one with the codes, or the float weight, is only read by rows; `read_rows`
// is kept.
using ReadTensorRows =
    std::function<absl::StatusOr<Tensor>(const std::string& name, int64_t begin, int64_t end)>;
absl::StatusOr<std::unique_ptr<LinearRows>> OpenLinearRows(
    const QuantizedLinearSpec& spec, absl::FunctionRef<absl::StatusOr<Tensor>(const std::string&)> read,
    ReadTensorRows read_rows);
// Hands over all tensors of EncodeLinear() but the one with the codes.
absl::Status EncodeSides(const QuantizedLinear& sides,
                         absl::FunctionRef<absl::Status(const std::string&, const TensorView&)> write);

std::vector<SafetensorsWriter::Spec> PrefixTensorSpecs(const NativePrefixSpec& prefix);
std::string PrefixIdsName();
std::string PrefixName(int layer, char k_or_v);

// native_rotations.cc. Read from JSON, signs are all 1 until their tensor is read.
Json RotationsToJson(const std::vector<Rotation>& rotations);
absl::StatusOr<std::vector<Rotation>> RotationsFromJson(const Json& json, absl::string_view sidecar);
SafetensorsWriter::Spec RotationTensorSpec(const Rotation& rotation);  // of its signs
// InvalidArgument: CheckRotation(), or a name twice.
absl::Status CheckRotations(const std::vector<Rotation>& rotations);
// native_shifts.cc. Read from JSON, values are 0 until their tensor is read.
Json ShiftsToJson(const std::vector<NativeShift>& shifts);
absl::StatusOr<std::vector<NativeShift>> ShiftsFromJson(const Json& json, absl::string_view sidecar);
SafetensorsWriter::Spec ShiftTensorSpec(const NativeShift& shift);
absl::Status CheckShifts(const std::vector<NativeShift>& shifts);  // InvalidArgument: values
// The tensors that follow from the sidecar and belong to no linear: of prefix, rotations, shifts, key scales.
std::vector<SafetensorsWriter::Spec> CommonTensorSpecs(const NativeInfo& info);
// native_merge.cc. Of the linears of a part, and where it has them the common and the plain ones; of
// everything without a part.
std::vector<SafetensorsWriter::Spec> PartTensorSpecs(const NativeInfo& info,
                                                     const std::vector<SafetensorsWriter::Spec>& plain,
                                                     const NativePart& part);
inline constexpr char kPartKey[] = "x-part";  // of the sidecar
Json PartToJson(const NativePart& part);
absl::StatusOr<NativePart> PartFromJson(const Json& sidecar, absl::string_view where);

struct NativeBits {
  double linears = 0, all = 0;
};
NativeBits CountBits(const NativeInfo& info, const std::vector<SafetensorsWriter::Spec>& plain);

// The manifest lists the hashes of all other files and ends with its own: the SHA-256 of the bytes before
// that member. `text` is a JSON object on several lines.
std::string SealManifest(absl::string_view text);
// DataLoss unless `text` is what SealManifest() made.
absl::Status CheckManifestSeal(absl::string_view text, absl::string_view where);

// Bytes and SHA-256 of each file of manifest.json, and that there is no other file. DataLoss.
absl::Status VerifyManifest(const std::string& path, const Progress& progress);

using TensorHashes = std::vector<std::pair<std::string, std::string>>;  // name, xxh3
Json SidecarToJson(const NativeInfo& info, const TensorHashes& hashes);
absl::Status SidecarFromJson(const Json& json, absl::string_view where, NativeInfo* info,
                             TensorHashes* hashes);
// Unimplemented for a key of `json` that is not in `known` and does not begin with "x-".
absl::Status CheckKeys(const Json& json, std::initializer_list<absl::string_view> known,
                       absl::string_view where);
// InvalidArgument: sizes that make no sense.
absl::Status CheckPrefixSpec(const NativePrefixSpec& prefix);
// InvalidArgument: another shape than the spec's, negative ids or values that are not finite.
absl::Status CheckPrefix(const NativePrefixSpec& spec, const NativePrefix& prefix);

}  // namespace spikefold
