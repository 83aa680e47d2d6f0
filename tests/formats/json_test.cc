#include "formats/base/json.h"

#include <catch2/catch.hpp>
#include <limits>
#include <string>

#include "tests/testing/status_matchers.h"

namespace spikefold {

using testing::Fails;

TEST_CASE("What is written is read back equal, kinds and order included", "[json]") {
  Json doc = Json::MakeObject();
  doc.Set("z", 1).Set("a", 0.1).Set("one", 1.0).Set("big", std::numeric_limits<uint64_t>::max());
  doc.Set("min", std::numeric_limits<int64_t>::min()).Set("none", Json()).Set("yes", true);
  doc.Set("text", std::string("q\"\\\n\x1b[31m\0 \xC3\xA9", 13));
  doc.Set("list", Json::Array{Json(1), Json::MakeObject(), Json::MakeArray()});
  const std::string text = doc.Dump();
  CHECK(text ==
        "{\"z\":1,\"a\":0.1,\"one\":1.0,\"big\":18446744073709551615,\"min\":-9223372036854775808,"
        "\"none\":null,\"yes\":true,\"text\":\"q\\\"\\\\\\n\\u001b[31m\\u0000 \xC3\xA9\","
        "\"list\":[1,{},[]]}");
  for (const int indent : {0, 2}) {
    auto back = ParseJson(doc.Dump(indent), "doc");
    REQUIRE(back.ok());
    CHECK(back->Dump() == text);
  }
  CHECK(doc.Find("one")->is_double());
  CHECK(ParseJson(text, "doc")->Find("one")->is_double());
}

TEST_CASE("Doubles are written in the shortest form that reads back equal", "[json]") {
  for (const double v : {0.1, 1e22, 5e-324, 1.7976931348623157e308, -0.0, 123456789.125}) {
    auto back = ParseJson(Json(v).Dump(), "v");
    REQUIRE(back.ok());
    CHECK(back->number_value() == v);
    CHECK(back->is_double());
  }
  CHECK(Json(0.1).Dump() == "0.1");
  CHECK(Json(std::numeric_limits<double>::quiet_NaN()).Dump() == "\"NaN\"");
  CHECK(Json(-std::numeric_limits<double>::infinity()).Dump() == "\"-Infinity\"");
}

TEST_CASE("A string that is not UTF-8 still makes valid JSON", "[json]") {
  CHECK(Json(std::string("a\xFFz\xED\xA0\x80")).Dump() ==
        "\"a\xEF\xBF\xBDz\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\"");
}

TEST_CASE("Documents that two parsers could read differently are refused", "[json]") {
  struct Case {
    std::string text, message;
  };
  const Case cases[] = {
      {R"({"a":1,"a":2})", "duplicate key \"a\""},
      {R"({"x":{"a":1,"b":2,"a":3}})", "duplicate key \"a\""},
      {R"({} {})", "not valid JSON at byte"},
      {R"([1,2)", "not valid JSON at byte"},
      {"", "not valid JSON at byte"},
      {"[1,]", "not valid JSON at byte"},
      {"{\"a\":NaN}", "not valid JSON at byte"},
      {"[1e999]", "not valid JSON at byte"},
      {"\"\xFF\"", "not valid JSON at byte"},
      {"\"\xC0\xAF\"", "not valid JSON at byte"},
      {R"("\ud800")", "not valid JSON at byte"},
      {std::string("{}\0{\"hidden\":1}", 15), "a NUL byte"},
      {"\xEF\xBB\xBF{}", "byte order mark"},
      {std::string(200000, '['), "nested more than 64 deep"},
  };
  for (const Case& c : cases) {
    INFO(Printable(c.text, 40));
    const absl::Status status = ParseJson(c.text, "doc").status();
    CHECK_THAT(status, Fails(absl::StatusCode::kDataLoss, c.message));
    CHECK_THAT(status, Fails(absl::StatusCode::kDataLoss, "doc: "));
  }
}

TEST_CASE("Depth 64 is read, and equal keys of different objects are no duplicates", "[json]") {
  CHECK(ParseJson(std::string(64, '[') + std::string(64, ']'), "doc").ok());
  CHECK(ParseJson(R"([{"a":{"a":1}},{"a":2}])", "doc").ok());
  JsonLimits limits;
  limits.max_values = 3;
  CHECK(ParseJson("[1,2]", "doc", limits).ok());
  CHECK_THAT(ParseJson("[1,2,3]", "doc", limits).status(),
             Fails(absl::StatusCode::kDataLoss, "more than 3 JSON values"));
}

TEST_CASE("Checked access says what is there and what was expected", "[json]") {
  const Json doc = *ParseJson(R"({"s":"x","f":1.5,"u":18446744073709551615,"i":7,"b":true})", "doc");
  CHECK(*doc.GetInt("i", "doc") == 7);
  CHECK(*doc.GetDouble("i", "doc") == 7.0);
  CHECK(*doc.GetString("s", "doc") == "x");
  CHECK(*doc.GetBool("b", "doc"));
  CHECK_THAT(doc.GetInt("none", "doc").status(),
             Fails(absl::StatusCode::kDataLoss, "doc: \"none\" is missing"));
  CHECK_THAT(doc.GetInt("s", "doc").status(),
             Fails(absl::StatusCode::kDataLoss, "\"s\" is a string; expected an integer"));
  CHECK_THAT(doc.GetInt("f", "doc").status(), Fails(absl::StatusCode::kDataLoss, "fraction or exponent"));
  CHECK_THAT(doc.GetInt("u", "doc").status(), Fails(absl::StatusCode::kDataLoss, "below 2^63"));
  CHECK_THAT(doc.GetString("i", "doc").status(),
             Fails(absl::StatusCode::kDataLoss, "\"i\" is an integer; expected a string"));
}

TEST_CASE("A name from a file is printed without control over the terminal", "[json]") {
  CHECK(Printable("a\x1b[31m\n") == "a\\x1b[31m\\n");
  CHECK(Printable(absl::string_view("n\0l", 3)) == "n\\x00l");
  CHECK(Printable("\xE2\x80\xAE gnp") == "\\u202e gnp");  // right-to-left override
  CHECK(Printable("\xFF") == "\\xff");
  CHECK(Printable("\xC3\xA9") == "\xC3\xA9");
  CHECK(Printable(std::string(1000000, 'x'), 20) == std::string(17, 'x') + "...");
  CHECK(Printable(std::string(20, 'x'), 20) == std::string(20, 'x'));
}

}  // namespace spikefold
