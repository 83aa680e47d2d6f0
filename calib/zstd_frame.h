// One zstd frame with checksum and content size, written in pieces and read with hard limits.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace spikefold {

class ZstdFrameWriter {
 public:
  // `content_bytes` will be appended in all.
  static absl::StatusOr<std::unique_ptr<ZstdFrameWriter>> Create(uint64_t content_bytes);
  virtual ~ZstdFrameWriter() = default;
  virtual absl::Status Append(absl::Span<const char> bytes) = 0;
  virtual absl::StatusOr<std::string> Finish() = 0;  // the frame; Internal if the size was not kept
};

struct ZstdLimits {
  uint64_t max_bytes = uint64_t{8} << 30;  // of content
  uint64_t max_ratio = 1000;               // content over compressed
};
// The content of a file that is exactly one frame. DataLoss naming `where`: not zstd, no content size, no
// checksum, over the limits, a window above 2^27, damage, a size that lies, bytes after the frame (such as a
// second one). Memory grows with what is really decoded, never with what the header claims.
absl::StatusOr<std::string> ReadZstdFrame(absl::string_view frame, absl::string_view where,
                                          const ZstdLimits& limits = {});

}  // namespace spikefold
