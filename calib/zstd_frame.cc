#include "calib/zstd_frame.h"

#include <zstd.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "calib/format_count.h"
#include "formats/base/status.h"

namespace spikefold {
namespace {

constexpr int kLevel = 3;
constexpr int kWindowLogMax = 27;
constexpr size_t kStep = size_t{1} << 20;
// RFC 8878, 3.1.1: magic number, then the frame header descriptor, whose bit 2 is the checksum flag.
constexpr size_t kDescriptorOffset = 4;
constexpr unsigned char kChecksumFlag = 1 << 2, kSingleSegmentFlag = 1 << 5;
constexpr int kMinWindowLog = 10;

struct FreeC {
  void operator()(ZSTD_CCtx* c) const { ZSTD_freeCCtx(c); }
};
struct FreeD {
  void operator()(ZSTD_DCtx* d) const { ZSTD_freeDCtx(d); }
};

class Writer : public ZstdFrameWriter {
 public:
  explicit Writer(ZSTD_CCtx* context) : context_(context), buffer_(ZSTD_CStreamOutSize(), '\0') {}

  absl::Status Append(absl::Span<const char> bytes) override {
    return Push({.src = bytes.data(), .size = bytes.size(), .pos = 0}, ZSTD_e_continue);
  }
  absl::StatusOr<std::string> Finish() override {
    SF_RETURN_IF_ERROR(Push({.src = nullptr, .size = 0, .pos = 0}, ZSTD_e_end));
    return std::move(frame_);
  }

 private:
  absl::Status Push(ZSTD_inBuffer in, ZSTD_EndDirective directive) {
    for (;;) {
      ZSTD_outBuffer out = {.dst = buffer_.data(), .size = buffer_.size(), .pos = 0};
      const size_t left = ZSTD_compressStream2(context_.get(), &out, &in, directive);
      if (ZSTD_isError(left)) {
        return absl::InternalError(absl::StrCat("zstd: ", ZSTD_getErrorName(left), " while compressing"));
      }
      frame_.append(buffer_, 0, out.pos);
      if (directive == ZSTD_e_end ? left == 0 : in.pos == in.size) return absl::OkStatus();
    }
  }

  std::unique_ptr<ZSTD_CCtx, FreeC> context_;
  std::string buffer_, frame_;
};

absl::Status Corrupt(absl::string_view where, absl::string_view what) {
  return absl::DataLossError(absl::StrCat(where, ": ", what, "; make the file again"));
}

// Everything the header and the frame's extent tell, before anything is decoded.
absl::StatusOr<uint64_t> CheckFrame(absl::string_view frame, absl::string_view where,
                                    const ZstdLimits& limits) {
  const unsigned long long size = ZSTD_getFrameContentSize(frame.data(), frame.size());
  if (size == ZSTD_CONTENTSIZE_ERROR) return Corrupt(where, "not a zstd frame, or cut off in its header");
  if (size == ZSTD_CONTENTSIZE_UNKNOWN)
    return Corrupt(where, "the zstd frame does not tell its content size");
  if (frame.size() <= kDescriptorOffset ||
      (static_cast<unsigned char>(frame[kDescriptorOffset]) & kChecksumFlag) == 0) {
    return Corrupt(where, "the zstd frame has no checksum");
  }
  // The decoder asks for a window's memory only when a frame comes in pieces, so it does not always look.
  if (const unsigned char* header = reinterpret_cast<const unsigned char*>(frame.data()) + kDescriptorOffset;
      (header[0] & kSingleSegmentFlag) == 0) {
    const int window_log = kMinWindowLog + (header[1] >> 3);  // there: the content size follows it
    if (window_log > kWindowLogMax) {
      return Corrupt(where, absl::StrCat("a window of 2^", window_log, " bytes; at most 2^", kWindowLogMax,
                                         " are allowed"));
    }
  }
  if (size > limits.max_bytes) {
    return Corrupt(where, absl::StrCat("claims ", size, " bytes of content; at most ", limits.max_bytes,
                                       " are allowed"));
  }
  if (size / limits.max_ratio > frame.size()) {
    return Corrupt(where, absl::StrCat("claims ", size, " bytes of content from ", frame.size(),
                                       " bytes; at most ", limits.max_ratio, " times are allowed"));
  }
  const size_t extent = ZSTD_findFrameCompressedSize(frame.data(), frame.size());
  if (ZSTD_isError(extent)) return Corrupt(where, "the zstd frame is damaged or cut off");
  if (extent != frame.size()) {
    return Corrupt(where,
                   absl::StrCat(frame.size() - extent, " bytes after the zstd frame; one frame is allowed"));
  }
  return size;
}

}  // namespace

absl::StatusOr<std::unique_ptr<ZstdFrameWriter>> ZstdFrameWriter::Create(uint64_t content_bytes) {
  ZSTD_CCtx* context = ZSTD_createCCtx();
  if (context == nullptr) return absl::ResourceExhaustedError("zstd: no memory for a compressor");
  auto writer = std::make_unique<Writer>(context);
  const size_t results[] = {ZSTD_CCtx_setParameter(context, ZSTD_c_compressionLevel, kLevel),
                            ZSTD_CCtx_setParameter(context, ZSTD_c_checksumFlag, 1),
                            ZSTD_CCtx_setParameter(context, ZSTD_c_contentSizeFlag, 1),
                            ZSTD_CCtx_setPledgedSrcSize(context, content_bytes)};
  for (const size_t result : results) {
    if (ZSTD_isError(result)) return absl::InternalError(absl::StrCat("zstd: ", ZSTD_getErrorName(result)));
  }
  return writer;
}

absl::StatusOr<std::string> ReadZstdFrame(absl::string_view frame, absl::string_view where,
                                          const ZstdLimits& limits) {
  SF_ASSIGN_OR_RETURN(const uint64_t size, CheckFrame(frame, where, limits));
  std::unique_ptr<ZSTD_DCtx, FreeD> context(ZSTD_createDCtx());
  if (context == nullptr) return absl::ResourceExhaustedError("zstd: no memory for a decompressor");
  ZSTD_DCtx_setParameter(context.get(), ZSTD_d_windowLogMax, kWindowLogMax);
  ZSTD_inBuffer in = {.src = frame.data(), .size = frame.size(), .pos = 0};
  std::string content;
  size_t left = 1;  // 0: the frame is complete and its checksum held
  while (left != 0) {
    const size_t at = content.size();
    content.resize(std::min<uint64_t>(size, at + kStep) + (at == size ? 1 : 0));  // one more shows a lie
    ZSTD_outBuffer out = {.dst = content.data() + at, .size = content.size() - at, .pos = 0};
    left = ZSTD_decompressStream(context.get(), &out, &in);
    if (ZSTD_isError(left)) {
      return Corrupt(where, absl::StrCat("damaged zstd frame (", ZSTD_getErrorName(left), ")"));
    }
    content.resize(at + out.pos);
    if (content.size() > size || (out.pos == 0 && in.pos == in.size && left != 0)) break;
  }
  if (left != 0 || content.size() != size) {
    return Corrupt(where, absl::StrCat("the zstd frame claims ", size, " bytes and holds ", content.size()));
  }
  return content;
}

}  // namespace spikefold
