#include <catch2/catch.hpp>
#include <functional>

#include "quant/scheme.h"
#include "quant/storage_budget.h"
#include "quant/storage_costs.h"
#include "tests/quant/quant_kit.h"
#include "tests/testing/status_matchers.h"

namespace spikefold::testing {
namespace {

// Pseudo-random units whose errors fall with bits, some off the convex hull.
std::vector<StorageUnit> RandomUnits(uint32_t seed, size_t count) {
  const auto next = [&seed] {
    seed = seed * 1664525u + 1013904223u;
    return static_cast<double>(seed >> 8) / static_cast<double>(1u << 24);
  };
  std::vector<StorageUnit> units(count);
  for (StorageUnit& unit : units) {
    unit.num_weights = 100 + static_cast<int64_t>(900 * next());
    unit.loss = std::exp(4 * next());
    for (const int bits : {2, 3, 4, 8}) {
      StorageOption o;
      o.bits = bits;
      o.bits_a_weight = bits + 0.5 * next();
      o.error = std::exp2(-2.0 * bits + next());
      unit.options.push_back(o);
    }
  }
  return units;
}

// The least loss of all combinations that fit, and the largest gain of one step up the options.
double BestLoss(const std::vector<StorageUnit>& units, double budget) {
  double weights = 0, best = 1e300;
  for (const StorageUnit& unit : units) weights += static_cast<double>(unit.num_weights);
  const std::function<void(size_t, double, double)> walk = [&](size_t u, double bits, double loss) {
    if (bits > budget) return;
    if (u == units.size()) {
      best = std::min(best, loss);
      return;
    }
    for (const StorageOption& o : units[u].options) {
      walk(u + 1, bits + o.bits_a_weight * static_cast<double>(units[u].num_weights) / weights,
           loss + units[u].loss * o.error);
    }
  };
  walk(0, 0, 0);
  return best;
}

// Rotating in place of a scan's folds is left out: units only need weights and text.
StorageCostInput InputOf(const Scanned& s) {
  StorageCostInput in;
  in.reader = s.tiny.checkpoint.get();
  in.stats = &s.scan.stats;
  in.pool = &TestPool();
  return in;
}

}  // namespace

TEST_CASE("A budget is spent nearly as well as the best of all combinations spends it") {
  for (uint32_t seed = 1; seed <= 20; ++seed) {
    const auto units = RandomUnits(seed, 6);
    for (const double budget : {3.0, 3.7, 4.4, 6.0, 9.0}) {
      CAPTURE(seed, budget);
      const auto plan = SpendBits(units, budget);
      REQUIRE(plan.ok());
      double bits = 0, weights = 0, loss = 0;
      for (size_t u = 0; u < units.size(); ++u) {
        const auto& options = units[u].options;
        const auto chosen = std::find_if(options.begin(), options.end(), [&](const StorageOption& o) {
          return o.bits == plan->choices[u].bits;
        });
        bits += chosen->bits_a_weight * static_cast<double>(units[u].num_weights);
        weights += static_cast<double>(units[u].num_weights);
        loss += units[u].loss * chosen->error;
      }
      CHECK(bits / weights == Approx(plan->bits));
      CHECK(loss == Approx(plan->loss));
      CHECK(plan->bits <= budget + 1e-9);
      const double best = BestLoss(units, budget);
      CHECK(plan->loss >= best * (1 - 1e-9));
      // What one step more would have bought is all that can be missed.
      CHECK(plan->loss <= BestLoss(units, plan->bits) * 1.5);
      CHECK(SpendBits(units, budget + 1)->loss <= plan->loss);
    }
  }
}

TEST_CASE("A budget below the smallest storage is refused with what it takes") {
  auto units = RandomUnits(3, 4);
  CHECK_THAT(SpendBits(units, 1.9).status(),
             Fails(absl::StatusCode::kInvalidArgument, "bits=1.9: the least that this scheme takes"));
  units[2].options.clear();
  CHECK_THAT(SpendBits(units, 5).status(), Fails(absl::StatusCode::kInvalidArgument, "no way to be stored"));
}

TEST_CASE("Linears whose rounding changes nothing cost nothing; prices are kept beside the scan") {
  Scanned s = ScanTiny(PlainModel());
  for (int l = 0; l < 3; ++l) {  // without o_proj attention is of no account
    for (float& w : s.tiny.checkpoint->tensor(absl::StrCat("model.layers.", l, ".self_attn.o_proj.weight"))
                        .as<float>()) {
      w = 0;
    }
  }
  const TempDirectory directory;
  StorageCostInput in = InputOf(s);
  in.cache = directory / "costs.json";
  const auto units = MeasureStorageCosts(in);
  CAPTURE(units.status().ToString());
  REQUIRE(units.ok());
  CHECK(units->size() == 7 * 3);
  int64_t weights = 0;
  for (const StorageUnit& unit : *units) {
    CAPTURE(RoleName(unit.role), unit.first_layer);
    const bool mlp =
        unit.role == Role::kGateProj || unit.role == Role::kUpProj || unit.role == Role::kDownProj;
    CHECK((unit.loss > 1e-5) == mlp);
    if (!mlp) CHECK(unit.loss < 1e-9);
    weights += unit.num_weights;
    const int64_t k = unit.role == Role::kDownProj ? 96 : 64;
    for (const StorageOption& o : unit.options) {
      if (o.group > 0) CHECK(k % o.group == 0);
      if (mlp && o.bits == 2) CHECK(o.error > 8);
      if (mlp && o.bits == 8) CHECK(o.error < 0.02);
    }
  }
  CHECK(weights == 3 * (64 * 64 * 2 + 32 * 64 * 2 + 96 * 64 * 3));

  const auto again = MeasureStorageCosts(in);
  REQUIRE(again.ok());
  CHECK((*again)[6].loss == Approx((*units)[6].loss).epsilon(1e-9));
  double sum = 0;
  for (const StorageUnit& unit : *units) sum += unit.loss;
  CHECK(sum == Approx(ParseJson(*ReadFileToString(in.cache, 1 << 20), "costs")
                          ->Find("whole_loss")
                          ->array()[0]
                          .number_value()));
  REQUIRE(WriteFileAtomically(in.cache,
                              "{\"format_version\": 3, \"role_loss\": [0,0,0,0,0,3,0], "
                              "\"layer_loss\": [0, 0, 2], \"whole_loss\": [1.5]}")
              .ok());
  const auto edited = MeasureStorageCosts(in);
  REQUIRE(edited.ok());
  for (const StorageUnit& unit : *edited) {
    CHECK(unit.loss == (unit.role == Role::kUpProj && unit.first_layer == 2 ? 1.5 : 0.0));
  }
  in.gptq = false;  // to the nearest differs, and is measured anew where the file is of another version
  REQUIRE(WriteFileAtomically(in.cache, "{\"format_version\": 1}").ok());
  const auto nearest = MeasureStorageCosts(in);
  REQUIRE(nearest.ok());
  CHECK(nearest->at(6).loss > 1e-5);
  CHECK(nearest->at(6).loss != units->at(6).loss);
}

TEST_CASE("A plan within a budget gives more to what costs more, and no unit far less than the budget") {
  const Scanned s = ScanTiny(PlainModel());
  StorageCostInput in = InputOf(s);
  for (const bool trellis : {false, true}) {
    in.trellis = trellis;
    const auto units = MeasureStorageCosts(in);
    REQUIRE(units.ok());
    PlannerInput input = s.input();
    input.storage_costs = &*units;
    for (const double bits : {6.9, 5.0, 3.6, 3.0}) {
      CAPTURE(trellis, bits);
      const auto plan = MakePlan({.scheme = "w4a16", .bits = bits}, input);
      CAPTURE(plan.status().ToString());
      REQUIRE(plan.ok());
      CHECK(plan->totals.bits_linear() <= bits);
      CHECK(plan->totals.bits_linear() > bits - 0.4);
      int least = 16, most = 0;
      for (const TensorDecision& d : plan->linears) {
        least = std::min(least, d.weight_bits);
        most = std::max(most, d.weight_bits);
        CHECK(d.weight_zeros == (d.group_size > 0));
        CHECK(d.trellis == (trellis && d.weight_bits < 8));
      }
      CHECK(least >= std::min(4, static_cast<int>(bits) - 1));
      CHECK(most > least);
      CHECK(PlanToJson(*PlanFromJson(PlanToJson(*plan), "plan")) == PlanToJson(*plan));
    }
    CHECK_THAT(MakePlan({.scheme = "w4a16", .bits = 1.9}, input).status(),
               Fails(absl::StatusCode::kInvalidArgument, "bits=1.9: the least that this scheme takes"));
  }
}

// A scanned model whose storage as trellis codes is priced.
struct Priced {
  Priced() {
    StorageCostInput in = InputOf(scanned);
    in.trellis = true;
    auto measured = MeasureStorageCosts(in);
    REQUIRE(measured.ok());
    units = *std::move(measured);
    input = scanned.input();
    input.storage_costs = &units;
  }
  const Scanned scanned = ScanTiny(PlainModel());
  std::vector<StorageUnit> units;
  PlannerInput input;
};

TEST_CASE("The control of a budget spends as much, elsewhere, and elsewhere again with another seed") {
  const Priced priced;
  const auto bits_of = [&](bool random, uint64_t seed) {
    const auto plan =
        MakePlan({.scheme = "w4a16", .bits = 3.6, .random_bits = random, .seed = seed}, priced.input);
    REQUIRE(plan.ok());
    CHECK(plan->totals.bits_linear() <= 3.6);
    CHECK(plan->totals.bits_linear() > 3.6 - 0.4);
    std::vector<int> bits;
    for (const TensorDecision& d : plan->linears) bits.push_back(d.weight_bits);
    return bits;
  };
  CHECK(bits_of(true, 1) != bits_of(false, 1));
  CHECK(bits_of(true, 1) != bits_of(true, 2));
  CHECK(bits_of(false, 1) == bits_of(false, 2));
}

TEST_CASE("A budget of bits counts all that linears store: biases, shifts, kept columns, 16-bit ones") {
  Priced priced;
  ModelGraph shifted = *priced.input.graph;
  for (Site& site : shifted.sites) site.shift.assign(static_cast<size_t>(site.k), 0.5f);
  priced.input.graph = &shifted;
  for (const Recipe& recipe : {Recipe{.scheme = "w4a8", .bits = 4.5}, Recipe{.scheme = "w4a8", .bits = 6},
                               Recipe{.scheme = "w4a8-static", .bits = 7, .keep_columns = 4},
                               Recipe{.scheme = "w4a16", .bits = 9, .keep = {"*.layers.0.*"}}}) {
    CAPTURE(recipe.scheme, recipe.bits);
    const auto plan = MakePlan(recipe, priced.input);
    CAPTURE(plan.status().ToString());
    REQUIRE(plan.ok());
    CHECK(plan->totals.bits_linear() <= recipe.bits);
    CHECK(plan->totals.bits_linear() > recipe.bits - 0.4);
  }
  CHECK_THAT(MakePlan({.scheme = "w4a16", .bits = 4, .keep = {"*.down_proj"}}, priced.input).status(),
             Fails(absl::StatusCode::kInvalidArgument,
                   "these linears, with what they keep in higher precision, is"));
  for (const Recipe& all : {Recipe{.scheme = "w4a16", .bits = 4, .keep = {"*"}},
                            Recipe{.scheme = "w4a16", .max_bytes = 1000, .keep = {"*"}}}) {
    CHECK_THAT(MakePlan(all, priced.input).status(),
               Fails(absl::StatusCode::kInvalidArgument, "the least that this scheme takes for"));
  }
}

TEST_CASE("A budget of bytes is kept and nearly used; one of divergence takes the least bits that reach it") {
  const Priced priced;
  const auto plan = [&](const Recipe& recipe) {
    auto made = MakePlan(recipe, priced.input);
    CAPTURE(made.status().ToString());
    REQUIRE(made.ok());
    return *std::move(made);
  };
  const int64_t small = plan({.scheme = "w4a16", .bits = 3.2}).totals.total_bytes;
  const int64_t large = plan({.scheme = "w4a16", .bits = 6}).totals.total_bytes;
  for (const int64_t budget : {small, (small + large) / 2, large}) {
    const int64_t bytes = plan({.scheme = "w4a16", .max_bytes = budget}).totals.total_bytes;
    CHECK(bytes <= budget);
    CHECK(bytes > budget - (large - small) / 8);
  }
  for (const Recipe& rich :
       {Recipe{.scheme = "w4a16", .max_bytes = int64_t{1} << 62}, Recipe{.scheme = "w4a16", .bits = 1e300}}) {
    for (const TensorDecision& d : plan(rich).linears) CHECK(d.weight_bits == 8);
  }
  // What stays in 16 bit is paid for, and takes no part of what is spent.
  const int64_t kept = plan({.scheme = "w4a16", .bits = 9, .keep = {"*.down_proj"}}).totals.total_bytes;
  const Plan beside = plan({.scheme = "w4a16", .max_bytes = kept + 2000, .keep = {"*.down_proj"}});
  CHECK(beside.totals.total_bytes <= kept + 2000);
  CHECK(beside.totals.total_bytes > kept);
  const Plan loose = plan({.scheme = "w4a16", .max_kld = 0.02}),
             tight = plan({.scheme = "w4a16", .max_kld = 0.002});
  CHECK(loose.totals.bits_linear() + 0.5 < tight.totals.bits_linear());
  const auto refused = [&](const Recipe& recipe, const char* text) {
    CHECK_THAT(MakePlan(recipe, priced.input).status(), Fails(absl::StatusCode::kInvalidArgument, text));
  };
  refused({.scheme = "w4a16", .max_bytes = small / 4}, "the least that this scheme takes for this model is");
  refused({.scheme = "w4a16", .max_kld = 1e-12}, "this scheme's best storage is expected to diverge by");
  refused({.scheme = "w4a16", .bits = 4, .max_kld = 0.1}, "bits=4, max_kld=0.1: one budget at a time");
  refused({.scheme = "w4a16", .max_kld = -1}, "a budget is a positive number");
  refused({.scheme = "w4a16", .bits = std::nan("")}, "a budget is a positive number");
  refused({.scheme = "w8a8", .bits = 8.5}, "one way of storing weights");
  refused({.scheme = "w4a16", .group_size = 32, .max_kld = 0.1}, "goes without a group size");
  CHECK_THAT(MakePlan({.scheme = "w4a16", .bits = 5}, priced.scanned.input()).status(),
             Fails(absl::StatusCode::kInvalidArgument, "bits=5 needs a scan"));
}

}  // namespace spikefold::testing
