// GPTQ through a device, here one in plain loops (plain_rounder.h): what lies on this side of it (chunks of
// rows, scales, super weights, fits, what happens when it is full) against panels on the host.
#include <catch2/catch.hpp>
#include <random>

#include "kernels/cpu/cpu_features.h"
#include "kernels/runtime/cpu_ops.h"
#include "quant/rounding/gptq.h"
#include "quant/rounding/sequential.h"
#include "tests/quant/plain_rounder.h"
#include "tests/testing/forwarding_model.h"
#include "tests/testing/tiny_model.h"

namespace spikefold {
namespace {

using testing::NoRoom;
using testing::PlainRounder;
using testing::TestPool;

size_t Size(int64_t n) { return static_cast<size_t>(n); }

// H of correlated columns of unequal size, one of them dead, in values that float32 holds.
std::vector<float> SomeHessian(int64_t k) {
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  std::vector<float> h(Size(k * k)), x(Size(k));
  for (int64_t t = 0; t < 2 * k; ++t) {
    float common = normal(random);
    for (int64_t c = 0; c < k; ++c) {
      common = 0.9f * common + 0.45f * normal(random);
      x[Size(c)] = c == 9 ? 0 : common * static_cast<float>(1 + c % 7);
    }
    for (int64_t i = 0; i < k * k; ++i) h[Size(i)] += x[Size(i / k)] * x[Size(i % k)];
  }
  return h;
}

}  // namespace

TEST_CASE("Rows rounded through a device in chunks are those of panels on the host") {
  if (kernels::ActiveIsa() < kernels::Isa::kAvx2)
    return;  // whose matrix product fuses multiplications with additions
  constexpr int64_t kK = 192, kN = 37;
  const std::vector<float> h = SomeHessian(kK);
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> w(Size(kN * kK));
  for (float& v : w) v = normal(random);
  const std::vector<int32_t> kept = {3, 100};
  // Out of order, two in a row, the ends of a chunk.
  const std::vector<PlannedSuper> supers = {{.row = 36, .column = 191},
                                            {.row = 4, .column = 7},
                                            {.row = 2, .column = 0},
                                            {.row = 5, .column = 3},
                                            {.row = 4, .column = 60}};
  const RoundingInput inputs[] = {{.w = w, .n = kN, .k = kK},
                                  {.w = w, .n = kN, .k = kK, .kept = kept, .supers = supers}};
  const WeightGrid grids[] = {{.bits = 4, .symmetric = false, .group = 32},
                              {.bits = 3, .symmetric = true, .group = 64},
                              {.bits = 4, .symmetric = false, .group = 64, .multiples = true},
                              {.bits = 8, .symmetric = true, .scale_dtype = DType::kF32}};
  for (const RoundingInput& input : inputs) {
    PlainRounder device(h, kK, 5);
    const auto host =
        FactorHessian(std::vector<double>(h.begin(), h.end()), kK, {.kept = input.kept}, TestPool());
    const auto factor = FactorHessian(device, kK, {.kept = input.kept});
    REQUIRE(host.ok());
    REQUIRE(factor.ok());
    CHECK(factor->order == host->order);
    CHECK(factor->damping == host->damping);
    CHECK(factor->num_dead == 1);
    for (const WeightGrid& grid : grids) {
      CAPTURE(grid.bits, grid.group, input.kept.size());
      const auto expected = Gptq(input, *host, grid, {}, TestPool()),
                 actual = Gptq(input, *factor, grid, {}, TestPool());
      REQUIRE(expected.ok());
      REQUIRE(actual.ok());
      CHECK(actual->codes == expected->codes);
      CHECK(actual->scales == expected->scales);
      CHECK(actual->zeros == expected->zeros);
      CHECK(actual->relative_error == Approx(expected->relative_error).epsilon(1e-9));
    }
  }
}

TEST_CASE("What a device cannot round is refused, what it has no room for is said") {
  PlainRounder device(SomeHessian(64), 64, 5);
  const auto factor = FactorHessian(device, 64, {});
  REQUIRE(factor.ok());
  const std::vector<float> w(64, 1.0f);
  const RoundingInput input{.w = w, .n = 1, .k = 64};
  CHECK(CanRoundOnDevice({.bits = 4, .group = 32}));
  const WeightGrid trellis{.bits = 3, .trellis = true};
  CHECK_FALSE(CanRoundOnDevice(trellis));
  CHECK(absl::IsInvalidArgument(Gptq(input, *factor, trellis, {}, TestPool()).status()));
  device.no_room = NoRoom::kFactor;
  CHECK(absl::IsResourceExhausted(FactorHessian(device, 64, {}).status()));
}

namespace {

// The CPU, but for second moments, which lie on a device that may be full.
class DeviceOps : public CpuOps {
 public:
  explicit DeviceOps(NoRoom no_room) : CpuOps(&TestPool()), no_room_(no_room) {}
  std::string device() const override { return "plain loops"; }
  absl::StatusOr<std::unique_ptr<CodeProductSum>> NewCodeProductSum(int64_t k) override {
    if (no_room_ == NoRoom::kSum) return std::unique_ptr<CodeProductSum>();
    return std::make_unique<testing::RoundingSum>(k, no_room_, rounders_);
  }
  absl::Status PackF32(const Tensor& w, LinearWeights& out) override {
    if (no_room_ == NoRoom::kWeights && *rounders_ > 0) return absl::ResourceExhaustedError("device: full");
    return CpuOps::PackF32(w, out);
  }

 private:
  const NoRoom no_room_;
  const std::shared_ptr<int> rounders_ = std::make_shared<int>(0);
};

class WithOps : public testing::ForwardingModel {
 public:
  WithOps(std::unique_ptr<RuntimeModel> model, std::unique_ptr<Ops> ops)
      : ForwardingModel(std::move(model)), ops_(std::move(ops)) {}
  Ops& ops() const override { return *ops_; }

 private:
  const std::unique_ptr<Ops> ops_;
};

}  // namespace

TEST_CASE("A model rounded through a device has the host's codes, wherever the device is full") {
  if (kernels::ActiveIsa() < kernels::Isa::kAvx2) return;
  const testing::TinyModel tiny = testing::MakeTinyModel({.num_layers = 2, .write_scale = 0.3});
  const CheckpointReader& reader = *tiny.checkpoint;
  std::vector<std::vector<int32_t>> windows(4);
  for (size_t w = 0; w < windows.size(); ++w) {
    for (size_t i = 0; i < 40; ++i) windows[w].push_back(static_cast<int32_t>((w * 31 + i * i * 7) % 64));
  }
  using ByNode = std::map<int, std::vector<int8_t>>;
  const auto round = [&](RuntimeModel& model, HostRounding* host_rounding, bool keep) {
    ByNode codes;
    SequentialOptions options;
    options.pool = &TestPool();
    options.weights_on_demand = true;
    options.host_rounding = host_rounding;
    const absl::Status status = RoundSequentially(
        reader, model, windows, options,
        [&](int node) -> absl::StatusOr<LinearRounding> {
          LinearRounding wanted{.round = true, .grid = {.bits = 3, .symmetric = false, .group = 32}};
          if (keep && node % 2 == 0) wanted.kept = {1, 17};  // linears of a site that do not agree
          return wanted;
        },
        [&](int node, RoundedWeights rounded) {
          codes[node] = rounded.codes;
          return absl::OkStatus();
        });
    INFO(status);
    REQUIRE(status.ok());
    return codes;
  };
  const auto load = [&] {
    auto model = LoadModel(reader, {.pool = &TestPool(), .linears = false});
    REQUIRE(model.ok());
    return *std::move(model);
  };
  for (const bool keep : {false, true}) {
    HostRounding none;
    const auto cpu = load();
    const ByNode expected = round(*cpu, &none, keep);
    CHECK(none.empty());  // a CPU gives no reason for being one
    for (const NoRoom no_room : {NoRoom::kNever, NoRoom::kSum, NoRoom::kRounder, NoRoom::kFactor,
                                 NoRoom::kRows, NoRoom::kFit, NoRoom::kWeights}) {
      CAPTURE(keep, static_cast<int>(no_room));
      HostRounding host_rounding;
      WithOps model(load(), std::make_unique<DeviceOps>(no_room));
      CHECK(round(model, &host_rounding, keep) == expected);
      if (no_room == NoRoom::kWeights) {  // noticed when a site's first linears are rounded: later ones move
        CHECK(host_rounding.empty() == !keep);
        continue;
      }
      const int64_t sites = static_cast<int64_t>(reader.graph().sites.size());
      const HostRounding full = {{std::string(SiteRounding::kNoRoom), sites}};
      CHECK(host_rounding == (no_room == NoRoom::kNever ? HostRounding{} : full));
    }
  }
}

}  // namespace spikefold
