// Second moments against plain loops, and the weights of rows that stand out.
#include "calib/hessian.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <random>

#include "absl/strings/str_cat.h"
#include "calib/observers/hessian_observer.h"
#include "calib/window_run.h"
#include "kernels/runtime/forward.h"
#include "tests/testing/plain_product_sum.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/tiny_model.h"

namespace spikefold {
namespace {

ThreadPool& Pool() {
  static ThreadPool pool(2);
  return pool;
}

// Which also copies the rows.
RowSizes Sizes(const std::vector<float>& x, int64_t rows, int64_t k) {
  std::vector<float> copy(x.size());
  RowSizes sizes = MeasureRows(x.data(), rows, k, copy.data(), Pool());
  CHECK(copy == x);
  return sizes;
}

std::vector<float> Gaussian(int64_t count, uint64_t seed) {
  std::mt19937_64 rng(seed);
  std::normal_distribution<float> normal;
  std::vector<float> out(static_cast<size_t>(count));
  for (float& v : out) v = normal(rng);
  return out;
}

// sum_t weight_t a_t b_t^T in float64.
std::vector<double> Plain(const std::vector<float>& a, const std::vector<float>& b, size_t k,
                          const std::vector<float>& weight) {
  std::vector<double> out(k * k);
  for (size_t t = 0; t < a.size() / k; ++t) {
    for (size_t i = 0; i < k; ++i) {
      for (size_t j = 0; j < k; ++j) {
        out[i * k + j] += static_cast<double>(weight[t]) * static_cast<double>(a[t * k + i]) *
                          static_cast<double>(b[t * k + j]);
      }
    }
  }
  return out;
}

// sqrt(weight_t) a_t, each column rounded to 127 steps of its largest value over rows [begin, end).
std::vector<float> Rounded(std::vector<float> a, size_t k, const std::vector<float>& weight, size_t begin,
                           size_t end) {
  std::vector<float> out;
  for (size_t t = begin; t < end; ++t) {
    for (size_t c = 0; c < k; ++c) out.push_back(a[t * k + c] * std::sqrt(weight[t]));
  }
  for (size_t c = 0; c < k; ++c) {
    float peak = 0;
    for (size_t i = c; i < out.size(); i += k) peak = std::max(peak, std::abs(out[i]));
    for (size_t i = c; i < out.size(); i += k) out[i] = std::nearbyint(out[i] * (127 / peak)) * (peak / 127);
  }
  return out;
}

// Of a and b, rounded in the chunks in which they are added.
std::vector<double> PlainOfCodes(const std::vector<float>& a, const std::vector<float>& b, size_t k,
                                 const std::vector<float>& weight, const std::vector<size_t>& bounds) {
  std::vector<double> sum(k * k);
  for (size_t i = 0; i + 1 < bounds.size(); ++i) {
    const std::vector<float> ones(bounds[i + 1] - bounds[i], 1.0f);
    const std::vector<double> part = Plain(Rounded(a, k, weight, bounds[i], bounds[i + 1]),
                                           Rounded(b, k, weight, bounds[i], bounds[i + 1]), k, ones);
    for (size_t j = 0; j < sum.size(); ++j) sum[j] += part[j];
  }
  return sum;
}

double WorstError(const std::vector<double>& a, const std::vector<double>& b) {
  REQUIRE(a.size() == b.size());
  double worst = 0;
  for (size_t i = 0; i < a.size(); ++i) worst = std::max(worst, std::abs(a[i] - b[i]));
  return worst;
}

}  // namespace

TEST_CASE("Sums of outer products are those of plain loops, for any width and split of the rows") {
  for (const int64_t k : {1, 40, 128, 300}) {
    const int64_t rows = 700;
    const std::vector<float> a = Gaussian(rows * k, 1), b = Gaussian(rows * k, 2);
    std::vector<float> weight = Gaussian(rows, 3);
    for (float& w : weight) w = std::abs(w);
    OuterProductSum half(k, true), whole(k, false);
    for (const auto& [at, count] : {std::pair<int64_t, int64_t>{0, 1}, {1, 599}, {600, 100}}) {
      const absl::Span<const float> w =
          absl::MakeConstSpan(weight).subspan(static_cast<size_t>(at), static_cast<size_t>(count));
      REQUIRE(half.Add(a.data() + at * k, a.data() + at * k, count, w, Pool()).ok());
      REQUIRE(whole.Add(a.data() + at * k, b.data() + at * k, count, w, Pool()).ok());
    }
    const std::vector<double> h = *half.Full(Pool());
    const size_t width = static_cast<size_t>(k);
    const std::vector<size_t> chunks = {0, 1, 513, 600, 700};  // 599 rows are 512 and 87
    CHECK(WorstError(h, PlainOfCodes(a, a, width, weight, chunks)) < 2e-3);
    CHECK(WorstError(*whole.Full(Pool()), PlainOfCodes(a, b, width, weight, chunks)) < 2e-3);
    // Rounding is a hundredth of a per cent of a column's power, and as good as unbiased.
    const std::vector<double> exact = Plain(a, a, width, weight);
    CHECK(WorstError(h, exact) < 6e-3 * exact[0]);
    double trace = 0, off = 0;
    for (size_t i = 0; i < width; ++i) {
      trace += exact[i * width + i];
      off += h[i * width + i] - exact[i * width + i];
    }
    CHECK(std::abs(off) < 2e-3 * trace);
    for (size_t i = 0; i < h.size(); ++i) {
      CHECK(h[i] == h[i % static_cast<size_t>(k) * static_cast<size_t>(k) + i / static_cast<size_t>(k)]);
    }
    CHECK(half.num_rows() == rows);
    weight[650] += 1;  // canary: one row counts more
    if (k > 1) CHECK(WorstError(h, Plain(a, a, static_cast<size_t>(k), weight)) > 0.1);
  }
}

TEST_CASE("A device that sums outer products gives the host's bits") {
  for (const int64_t k : {1, 40, 300}) {
    for (const bool symmetric : {true, false}) {
      const int64_t rows = 600;  // two chunks
      const std::vector<float> a = Gaussian(rows * k, 7), b = Gaussian(rows * k, 8);
      std::vector<float> weight = Gaussian(rows, 9);
      for (float& w : weight) w = std::abs(w);
      auto plain = std::make_unique<testing::PlainProductSum>(k);
      testing::PlainProductSum* const device = plain.get();
      OuterProductSum on_host(k, symmetric), on_device(k, symmetric, std::move(plain));
      for (OuterProductSum* sum : {&on_host, &on_device}) {
        REQUIRE(sum->Add(a.data(), symmetric ? a.data() : b.data(), rows, weight, Pool()).ok());
      }
      CHECK(*on_device.Full(Pool()) == *on_host.Full(Pool()));
      CHECK(on_device.weight() == on_host.weight());
      device->fails = true;
      CHECK(absl::IsInternal(on_device.Full(Pool()).status()));
      CHECK(absl::IsInternal(on_device.Add(a.data(), a.data(), rows, {}, Pool())));
      device->fails = false;
      REQUIRE(
          on_device.NewRounder().ok());  // who rounds by it must not see it change; asymmetric: nobody does
      CHECK(absl::IsFailedPrecondition(on_device.Add(a.data(), a.data(), rows, {}, Pool())) == symmetric);
    }
  }
}

TEST_CASE("A row far above the others counts no more than the cap, a spike row not at all") {
  std::vector<float> x = Gaussian(64 * 33, 4);
  for (size_t c = 0; c < 33; ++c) x[7 * 33 + c] *= 480;
  x[9 * 33 + 32] = 1e4f;
  const auto weights = RowWeights(Sizes(x, 64, 33), {.cap = 16, .spike_threshold = 5e3f});
  double norm = 0;
  for (size_t c = 0; c < 33; ++c) {
    norm += static_cast<double>(weights[7]) * static_cast<double>(x[7 * 33 + c]) *
            static_cast<double>(x[7 * 33 + c]);
  }
  CHECK(norm == Approx(16 * 33).epsilon(0.25));  // the median squared norm of 33 normal values is about 33
  CHECK(weights[9] == 0);
  for (size_t t = 0; t < 64; ++t) {
    if (t != 7 && t != 9) CHECK(weights[t] == 1);
  }
  CHECK(RowWeights(Sizes(x, 64, 33), {.cap = 0}) == std::vector<float>(64, 1.0f));
}

TEST_CASE("A value that is not finite is refused with its channel") {
  for (const float bad : {std::nanf(""), std::numeric_limits<float>::infinity()}) {
    std::vector<float> x = Gaussian(20 * 70, 5);
    x[13 * 70 + 66] = bad;
    Hessian hessian(70);
    CHECK(hessian.Add(x.data(), x.data(), 20, {}, Pool()).message() ==
          "second moments: input channel 66 of 70 holds values that are not finite");
  }
}

TEST_CASE("The observer sums the inputs of the sites it was asked for") {
  const testing::TinyModel tiny =
      testing::MakeTinyModel({.hidden = 64, .intermediate = 96, .num_layers = 2, .vocab = 64});
  const auto model = LoadModel(*tiny.checkpoint, {.pool = &Pool()});
  REQUIRE(model.ok());
  const ModelGraph& graph = (*model)->graph();
  class Recorder : public Taps {
   public:
    bool Wants(int layer, ValueKind value) const override {
      return layer == 1 && value == ValueKind::kDownIn;
    }
    void OnRows(const TapRows& r) override { rows.insert(rows.end(), r.data, r.data + r.num_rows * r.width); }
    std::vector<float> rows;
  } recorder;
  int site = -1;
  for (const Site& s : graph.sites) {
    if (s.layer == 1 && s.value == ValueKind::kDownIn) site = s.id;
  }
  HessianObserver observer(graph, {0, site}, {}, Pool());
  std::vector<float> hidden(5 * 64);
  for (Taps* taps : {static_cast<Taps*>(&recorder), static_cast<Taps*>(&observer)}) {
    KvCache cache(graph.config, 5);
    REQUIRE(Forward(**model, {{3, 1, 4, 1, 5}}, cache, absl::MakeSpan(hidden), {.taps = taps}).ok());
  }
  REQUIRE(observer.status().ok());
  const auto weight = RowWeights(Sizes(recorder.rows, 5, 96), {});
  const std::vector<double> h = *observer.hessian(1).Full(Pool());
  const std::vector<double> sum = PlainOfCodes(recorder.rows, recorder.rows, 96, weight, {0, 5});
  CHECK(WorstError(h, sum) < 1e-6 * h[0] + 1e-9);
  CHECK(observer.hessian(0).num_rows() == 5);
  CHECK(observer.hessian(0).k() == 64);
}

TEST_CASE("A value that is not finite ends a calibration with its place: layer, linear, token, channel") {
  testing::TinyModel tiny =
      testing::MakeTinyModel({.hidden = 64, .intermediate = 96, .num_layers = 2, .vocab = 64});
  // One unit overflows for tokens whose gate is open: 1e30 * 1e30.
  for (const char* linear : {"gate_proj", "up_proj"}) {
    const auto w =
        tiny.checkpoint->tensor(absl::StrCat("model.layers.1.mlp.", linear, ".weight")).as<float>();
    for (size_t c = 0; c < 64; ++c) w[77 * 64 + c] *= 1e30f;
  }
  const auto model = LoadModel(*tiny.checkpoint, {.pool = &Pool()});
  REQUIRE(model.ok());
  const Windows windows = {{3}, {5, 9, 2, 6, 11, 12}, {1, 4, 8, 7}, {21, 22, 23, 24}};
  // Where that is, found value by value.
  class Recorder : public Taps {
   public:
    bool Wants(int layer, ValueKind value) const override {
      return layer == 1 && value == ValueKind::kDownIn;
    }
    void OnRows(const TapRows& r) override { rows.assign(r.data, r.data + r.num_rows * r.width); }
    std::vector<float> rows;
  } recorder;
  std::string place;
  for (size_t w = 0; w < windows.size() && place.empty(); ++w) {
    KvCache cache((*model)->graph().config, 8);
    std::vector<float> hidden(windows[w].size() * 64);
    REQUIRE(Forward(**model, windows[w], cache, absl::MakeSpan(hidden), {.taps = &recorder}).ok());
    for (size_t i = 0; i < recorder.rows.size() && place.empty(); ++i) {
      if (std::isfinite(recorder.rows[i])) continue;
      CHECK(i % 96 == 77);
      place = absl::StrCat("infinite in channel 77 at token ", i / 96, " (id ", windows[w][i / 96],
                           ") of window ", w, "; the model overflows on this text");
    }
  }
  REQUIRE(!place.empty());
  CHECK_THAT(
      RunWindows(**model, windows, nullptr, recorder, "scanning", {}),
      testing::Fails(
          absl::StatusCode::kDataLoss,
          absl::StrCat("scanning: layers.1.down_in, the input of model.layers.1.mlp.down_proj, is ", place)));
}

}  // namespace spikefold
