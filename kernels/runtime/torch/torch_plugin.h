// Finds and loads libspikefold_torch.so, the part of the tool that is linked with LibTorch.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "kernels/runtime/torch/torch_abi.h"

namespace spikefold {

struct TorchPlugin {
  const SfTorchApi* api = nullptr;
  std::string path;
};
// $SPIKEFOLD_TORCH_PLUGIN if it is set and nothing else; otherwise beside the executable, then in the lib
// directory of its installation. Loaded once and never unloaded (LibTorch's threads outlive what uses them).
// Unimplemented, with the places that were looked at and what to do: not there, of another version, or
// LibTorch cannot be loaded.
absl::StatusOr<TorchPlugin> LoadTorchPlugin();

}  // namespace spikefold
