#include "kernels/runtime/torch/torch_plugin.h"

#include <dlfcn.h>
#include <limits.h>
#include <unistd.h>

#include <cstdlib>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace spikefold {
namespace {

constexpr char kFile[] = "libspikefold_torch.so";

std::string ExecutableDirectory() {
  char path[PATH_MAX];
  const ssize_t size = readlink("/proc/self/exe", path, sizeof path);
  const std::string file(path, size > 0 ? static_cast<size_t>(size) : 0);
  return file.substr(0, file.rfind('/') + 1);
}

std::vector<std::string> Places() {
  if (const char* named = std::getenv("SPIKEFOLD_TORCH_PLUGIN"); named != nullptr && *named != '\0') {
    return {named};
  }
  const std::string here = ExecutableDirectory();
  return {absl::StrCat(here, kFile), absl::StrCat(here, "../", SPIKEFOLD_LIBDIR, "/", kFile)};
}

absl::Status Refused(const std::string& path, const std::string& text) {
  return absl::UnimplementedError(absl::StrCat("backend \"torch\": ", path, ": ", text));
}

absl::StatusOr<TorchPlugin> Load(const std::string& path) {
  void* const library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    return Refused(path, absl::StrCat("cannot be loaded (", dlerror(),
                                      "); LibTorch must be where it was when the plugin was built, see "
                                      "docs/building.md"));
  }
  const auto entry = reinterpret_cast<SfTorchEntry>(dlsym(library, SPIKEFOLD_TORCH_ENTRY));
  if (entry == nullptr) return Refused(path, "is no plugin of Spikefold; build target spikefold_torch");
  const SfTorchApi* const api = entry();
  if (api->abi != kSfTorchAbi) {
    return Refused(path, absl::StrCat("speaks version ", api->abi, " of the plugin's interface; version ",
                                      static_cast<int>(kSfTorchAbi), " is needed; build both together"));
  }
  return TorchPlugin{.api = api, .path = path};
}

absl::StatusOr<TorchPlugin> FindAndLoad() {
  const std::vector<std::string> places = Places();
  for (const std::string& place : places) {
    if (access(place.c_str(), F_OK) == 0) return Load(place);
  }
  return absl::UnimplementedError(
      absl::StrCat("backend \"torch\": no ", kFile, " (", absl::StrJoin(places, ", "),
                   "); `make deps-torch torch` builds it, $SPIKEFOLD_TORCH_PLUGIN may name one elsewhere"));
}

}  // namespace

absl::StatusOr<TorchPlugin> LoadTorchPlugin() {
  static const absl::StatusOr<TorchPlugin> plugin = FindAndLoad();
  return plugin;
}

}  // namespace spikefold
