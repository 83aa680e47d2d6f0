#include "formats/base/hash.h"

#include <openssl/evp.h>
#include <xxhash.h>

#include <algorithm>
#include <cstdlib>
#include <vector>

#include "formats/base/file.h"
#include "formats/base/status.h"

namespace spikefold {
namespace {

std::string Hex(const unsigned char* bytes, size_t n) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string out;
  out.reserve(2 * n);
  for (size_t i = 0; i < n; ++i) {
    out.push_back(kDigits[bytes[i] >> 4]);
    out.push_back(kDigits[bytes[i] & 15]);
  }
  return out;
}

// OpenSSL fails here only when memory is gone or SHA-256 is disabled; there is no sensible way on.
void Require(bool ok) {
  if (!ok) std::abort();
}

}  // namespace

struct Sha256::State {
  EVP_MD_CTX* context = EVP_MD_CTX_new();
  ~State() { EVP_MD_CTX_free(context); }
};

Sha256::Sha256() : state_(std::make_unique<State>()) {
  Require(state_->context != nullptr && EVP_DigestInit_ex(state_->context, EVP_sha256(), nullptr) == 1);
}
Sha256::~Sha256() = default;
Sha256::Sha256(Sha256&&) noexcept = default;
Sha256& Sha256::operator=(Sha256&&) noexcept = default;

void Sha256::Update(absl::Span<const char> bytes) {
  Require(EVP_DigestUpdate(state_->context, bytes.data(), bytes.size()) == 1);
}

std::string Sha256::Hex() {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int n = 0;
  Require(EVP_DigestFinal_ex(state_->context, digest, &n) == 1);
  return spikefold::Hex(digest, n);
}

std::string Sha256Hex(absl::string_view bytes) {
  Sha256 sha;
  sha.Update(absl::MakeConstSpan(bytes.data(), bytes.size()));
  return sha.Hex();
}

absl::StatusOr<std::string> Sha256Source(const ByteSource& source, const Progress& progress) {
  constexpr int kMiB = 20;
  Sha256 sha;
  std::vector<char> chunk(size_t{1} << kMiB);
  for (uint64_t offset = 0; offset < source.size();) {
    if (!Report(progress, "hashing the model", static_cast<int64_t>(offset >> kMiB),
                static_cast<int64_t>(source.size() >> kMiB))) {
      return absl::CancelledError("hashing: stopped");
    }
    const size_t n = static_cast<size_t>(std::min<uint64_t>(chunk.size(), source.size() - offset));
    SF_RETURN_IF_ERROR(source.Read(offset, absl::MakeSpan(chunk.data(), n)));
    sha.Update(absl::MakeConstSpan(chunk.data(), n));
    offset += n;
  }
  return sha.Hex();
}

absl::StatusOr<std::string> Sha256File(const std::string& path, const Progress& progress) {
  SF_ASSIGN_OR_RETURN(const std::unique_ptr<ByteSource> file, OpenFile(path));
  return Sha256Source(*file, progress);
}

std::string Xxh3Hex(absl::Span<const char> bytes) {
  XXH64_canonical_t canonical;  // big-endian, so the text is the same on every machine
  XXH64_canonicalFromHash(&canonical, XXH3_64bits(bytes.data(), bytes.size()));
  return Hex(canonical.digest, sizeof(canonical.digest));
}

}  // namespace spikefold
