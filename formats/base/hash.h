// SHA-256 (integrity, provenance) and XXH3 (fast change detection), both as lower-case hex.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "formats/base/progress.h"

namespace spikefold {

class ByteSource;

class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(Sha256&&) noexcept;
  Sha256& operator=(Sha256&&) noexcept;
  void Update(absl::Span<const char> bytes);
  std::string Hex();  // once, at the end

 private:
  struct State;
  std::unique_ptr<State> state_;
};
std::string Sha256Hex(absl::string_view bytes);
// `progress` in MiB; Cancelled where it asks to stop.
absl::StatusOr<std::string> Sha256Source(const ByteSource& source, const Progress& progress = {});
absl::StatusOr<std::string> Sha256File(const std::string& path, const Progress& progress = {});
std::string Xxh3Hex(absl::Span<const char> bytes);

}  // namespace spikefold
