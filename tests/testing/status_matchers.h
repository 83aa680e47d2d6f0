// CHECK_THAT(status, Fails(absl::StatusCode::kDataLoss, "part of the text"))
#pragma once

#include <catch2/catch.hpp>
#include <string>

#include "absl/status/status.h"

namespace Catch {
template <>
struct StringMaker<absl::Status> {
  static std::string convert(const absl::Status& status) { return status.ToString(); }
};
}  // namespace Catch

namespace spikefold::testing {

class Fails : public Catch::MatcherBase<absl::Status> {
 public:
  Fails(absl::StatusCode code, std::string part) : code_(code), part_(std::move(part)) {}
  bool match(const absl::Status& status) const override {
    return status.code() == code_ && std::string(status.message()).find(part_) != std::string::npos;
  }
  std::string describe() const override {
    return "fails with " + absl::StatusCodeToString(code_) + " and \"" + part_ + "\"";
  }

 private:
  absl::StatusCode code_;
  std::string part_;
};

}  // namespace spikefold::testing
