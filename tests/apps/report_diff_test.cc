#include <catch2/catch.hpp>

#include "apps/report/json_diff.h"

namespace spikefold {
namespace {

TEST_CASE("Elements of lists are matched by their names and lists of scalars are one value", "[diff]") {
  const auto parse = [](const char* text) { return *ParseJson(text, "test"); };
  const Json a =
      parse(R"({"t": [{"module": "x", "bits": 4}, {"module": "y", "bits": 8}], "s": [1, 2], "seconds": 3})");
  const Json b =
      parse(R"({"t": [{"module": "y", "bits": 8}, {"module": "x", "bits": 3}], "s": [1, 3], "new": null})");
  const auto changes = DiffJson(a, b, {"seconds"});
  REQUIRE(changes.size() == 3);
  CHECK((changes[0].path == "t.x.bits" && changes[0].a == "4" && changes[0].b == "3"));
  CHECK((changes[1].path == "s" && changes[1].a == "[1,2]" && changes[1].b == "[1,3]"));
  CHECK((changes[2].path == "new" && changes[2].a.empty() && changes[2].b == "null"));
  CHECK(DiffJson(a, a, {}).empty());
}

}  // namespace
}  // namespace spikefold
