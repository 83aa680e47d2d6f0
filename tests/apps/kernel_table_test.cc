// bench's table of kernels, of times that are known.
#include "apps/spikefold/kernel_table.h"

#include <catch2/catch.hpp>

namespace spikefold::testing {
namespace {

WalkProfile Step() {
  WalkProfile profile = {.sequences = 8, .rows = 8, .position = 64, .seconds = 400e-6};
  profile.kernels.push_back({.name = "norm", .calls = 65, .seconds = 100e-6});
  profile.kernels.push_back({.name = "qkv_proj",
                             .calls = 32,
                             .seconds = 200e-6,
                             .bytes = 400'000'000,
                             .ops = 10e9,
                             .int8_ops = 10e9,
                             .peer_seconds = 300e-6});
  profile.kernels.push_back(
      {.name = "head", .calls = 1, .seconds = 120e-6, .bytes = 24'000'000, .ops = 12e9, .repeats_fit = true});
  return profile;
}

}  // namespace

TEST_CASE("A table of kernels says what each reaches of the machine's limits and of its peer", "[apps]") {
  KernelLimits limits = {
      .read_rate = 4e12,
      .device = {.ops = 1e15, .int8_ops = 2e15, .clock_hz = 1.98e9, .cache_bytes = 60 << 20},
      .is_gpu = true};
  WalkProfile profile = Step();
  profile.no_peer = "cuBLASLt: no algorithm for M=8";
  CHECK(KernelText("A step of 8 sequences", profile, limits) == R"(
A step of 8 sequences at position 64, 400.0 us; each kind of kernel by itself, over all layers:
| kernel   | calls | us each |    us |   share |   GB/s | of memory | Tops/s | of peak | over cuBLASLt bf16 |
| -------- | ----: | ------: | ----: | ------: | -----: | --------: | -----: | ------: | -----------------: |
| norm     |    65 |     1.5 | 100.0 |  25.0 % |      - |         - |      - |       - |                  - |
| qkv_proj |    32 |     6.2 | 200.0 |  50.0 % | 2000.0 |      0.50 |   50.0 |   0.025 |               1.50 |
| head *   |     1 |   120.0 | 120.0 |  30.0 % |  200.0 |      0.05 |  100.0 |   0.100 |                  - |
| sum      |    98 |       - | 420.0 | 105.0 % |      - |         - |      - |       - |                  - |
The kinds together take 1.05 of the whole: there each launch overlaps the end of the one before.
GB/s are of weights, memory gives 4000.0. Tops/s are of linears, the peak is 1000 at 1980 MHz (2000 where
codes meet codes), less where the card throttles. *: all of these weights fit into the cache of 60.0 MiB and
may have been read from there. No peer: cuBLASLt: no algorithm for M=8.
)");
  // On the host nothing is known but the memory, and nothing overlaps.
  CHECK(KernelText("A step", Step(), {.read_rate = 0}).find("peak") == std::string::npos);
  profile.seconds = 420e-6;
  const std::string host = KernelText("A step", profile, {.read_rate = 4e12});
  CHECK(host.find("over cuBLASLt") == std::string::npos);
  CHECK(host.find("together") == std::string::npos);
}

TEST_CASE("The JSON of kernels has a peer's time only where there is one", "[apps]") {
  Json kernels = Json::MakeArray(), document = Json::MakeObject();
  AddKernels("decode", Step(), true, kernels, document);
  REQUIRE(kernels.array().size() == 3);
  CHECK(kernels.array()[0].Find("peer_seconds") == nullptr);
  CHECK(*kernels.array()[1].GetDouble("peer_seconds", "") == 300e-6);
  CHECK(*kernels.array()[1].GetString("walk", "") == "decode");
  CHECK(*document.GetInt("decode_walk_rows", "") == 8);
  CHECK(document.Find("decode_no_peer") == nullptr);
  CHECK(document.Find("decode_has_host") == nullptr);
  WalkProfile lacking = Step();
  lacking.no_peer = "cuBLASLt: not there";
  lacking.has_host = true;
  Json host = Json::MakeObject(), gpu = Json::MakeObject();
  AddKernels("decode", lacking, false, kernels, host);
  AddKernels("decode", lacking, true, kernels, gpu);
  CHECK(host.Find("decode_no_peer") == nullptr);
  CHECK(*gpu.GetString("decode_no_peer", "") == "cuBLASLt: not there");
  CHECK(*gpu.GetBool("decode_has_host", ""));
}

}  // namespace spikefold::testing
