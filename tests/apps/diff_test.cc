// diff, as a person uses it.
#include "tests/apps/apps_kit.h"

namespace spikefold::testing {
namespace {

TEST_CASE("Two models differ in what a changed setting changed, and equal ones end with exit code 0",
          "[apps][diff]") {
  const Workplace w;
  const auto quantize = [&](const char* name, const char* scheme, const char* scales) {
    Succeed({"quantize", w.model, "-o", w / name, "--scheme", scheme, "--rounding", "nearest", "--rotate",
             "none", "--weight-scales", scales});
  };
  quantize("a", "w8a8", "absmax");
  quantize("same", "w8a8", "absmax");
  quantize("b", "w8a8", "mse");
  quantize("c", "w8a16", "absmax");
  CHECK(Succeed({"diff", w / "a", w / "same"}) == "equal quantized models\n");
  const Finished values = RunSpikefold({"diff", w / "a", w / "b"});
  CHECK(values.exit == 5);
  CHECK(values.out.find("weights of model.layers.") != std::string::npos);
  CHECK(values.out.find(" codes\n") != std::string::npos);
  const Finished format = RunSpikefold({"diff", w / "a", w / "c", "--json"});
  CHECK(format.exit == 5);
  const auto document = ParseJson(format.out, "stdout");
  REQUIRE(document.ok());
  CHECK_FALSE(*document->GetBool("equal", ""));
  CHECK(document->Find("changes")->array()[0].Find("path")->string_value() == "scheme");
}

TEST_CASE("Plans are compared with plans only", "[apps][diff]") {
  const Workplace w;
  for (const char* scheme : {"w8a8", "w8a16"}) {
    Succeed({"plan", w.model, "--scheme", scheme, "--rounding", "nearest", "-o", w / scheme});
  }
  CHECK(RunSpikefold({"diff", w / "w8a8", w / "w8a16"}).exit == 5);
  CHECK(RunSpikefold({"diff", w / "w8a8", w / "w8a8"}).exit == 0);
  REQUIRE(WriteFileAtomically(w / "x.json", "{\"a\": 1}").ok());
  for (const std::string& path : {w / "x.json", w.model}) {
    CheckRefused({"diff", w / "w8a8", path}, 2,
                 absl::StrCat("spikefold diff: ", path,
                              ": is no quantized model, plan, scan or evaluation; only those are compared"));
  }
  CHECK(RunSpikefold({"diff", w / "w8a8", w / "nothing"}).exit == 6);
}

}  // namespace
}  // namespace spikefold::testing
