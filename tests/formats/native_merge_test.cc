// Parts that several processes wrote, and the whole that they become.
#include <algorithm>
#include <catch2/catch.hpp>
#include <filesystem>
#include <functional>

#include "formats/base/file.h"
#include "formats/quantized/native.h"
#include "formats/quantized/native_parts.h"
#include "tests/formats/native_kit.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_directory.h"

namespace spikefold {
namespace {

using namespace native_kit;
using absl::StatusCode;
using testing::Fails;
using testing::TempDirectory;

// The first of two holds down_proj and what belongs to no linear, the second the rest.
NativePart PartOf(int64_t index) {
  NativePart part;
  part.index = index;
  part.count = 2;
  part.common = index == 1;
  part.modules = index == 1 ? std::vector<std::string>{DownProj().module}
                            : std::vector<std::string>{QProj().module, Head().module};
  part.made_by = "0.1.0 plain";
  return part;
}

void WritePart(const std::string& path, const NativePart& part, NativeInfo info = Info(),
               const std::string& tokenizer = "{\"a\": 1}") {
  NativeWriter::Options options;
  options.part = part;
  auto writer = Begin(path, options, {{"tokenizer.json", tokenizer}}, std::move(info));
  REQUIRE(writer.status() == absl::OkStatus());
  for (const QuantizedLinear& q : {DownProj(), QProj(), Head()}) {
    if (std::find(part.modules.begin(), part.modules.end(), q.module) == part.modules.end()) continue;
    REQUIRE((*writer)->WriteLinear(q) == absl::OkStatus());
  }
  if (part.common) {
    REQUIRE((*writer)->WriteTensor(kGain, Tensor::FromFloats({6}, {1, 2, 3, 4, 5, 6}).view()).ok());
    REQUIRE((*writer)->WritePrefix(Prefix()).ok());
  }
  REQUIRE((*writer)->Commit() == absl::OkStatus());
}

struct Merge {
  Merge() {
    WritePart(one, PartOf(1));
    WritePart(two, PartOf(2));
  }
  absl::Status operator()(const std::vector<std::string>& parts, const Progress& progress = {}) const {
    return MergeNativeParts(parts, out, {.progress = progress});
  }
  TempDirectory directory;
  const std::string one = directory / "one", two = directory / "two", out = directory / "out";
};

}  // namespace

TEST_CASE("Parts in any order become the files of the whole, to the last byte", "[native][merge]") {
  const TempDirectory directory;
  const std::string one = directory / "one", two = directory / "two";
  WriteAll(directory / "whole");
  WritePart(one, PartOf(1));
  NativePart second = PartOf(2);
  const auto first = NativeReader::OpenPart(one);
  REQUIRE(first.ok());
  second.rests_on = {(*first)->part().sha256};
  WritePart(two, second);
  const std::vector<SafetensorsWriter::Spec> plain = {{kGain, DType::kF32, {6}}};
  CHECK(Read(one + "/model.safetensors").size() == NativeFileBytes(Info(), plain, PartOf(1)));
  CHECK(Read(two + "/model.safetensors").size() == NativeFileBytes(Info(), plain, second));
  for (const auto& parts : {std::vector{one, two}, std::vector{two, one}}) {
    const std::string merged = directory / "merged";
    REQUIRE(MergeNativeParts(parts, merged, {.overwrite = true}) == absl::OkStatus());
    const auto names = *ListDirectory(directory / "whole");
    CHECK(names == *ListDirectory(merged));
    for (const std::string& name : names) {
      INFO(name);
      CHECK(Read(directory / ("whole/" + name)) == Read(merged + "/" + name));
    }
  }
}

TEST_CASE("Parts that make no whole are refused by name, and nothing is written", "[native][merge]") {
  const Merge merge;
  const std::string odd = merge.directory / "odd";
  const auto odd_part = [&](const std::function<void(NativePart&)>& spoil, NativeInfo info = Info(),
                            const std::string& tokenizer = "{\"a\": 1}") {
    std::filesystem::remove_all(odd);
    NativePart part = PartOf(2);
    spoil(part);
    WritePart(odd, part, std::move(info), tokenizer);
    return merge({merge.one, odd});
  };
  const auto nothing = [](NativePart&) {};
  CHECK_THAT(merge({}), Fails(StatusCode::kInvalidArgument, "no parts; give the directories of all"));
  CHECK_THAT(merge({merge.two}),
             Fails(StatusCode::kInvalidArgument,
                   "part 1 of 2 is missing, 1 are given; write it by quantize --shard 1/2"));
  CHECK_THAT(merge({merge.one}), Fails(StatusCode::kInvalidArgument, "part 2 of 2 is missing"));
  CHECK_THAT(merge({merge.one, merge.two, merge.one}),
             Fails(StatusCode::kInvalidArgument, "one: both are part 1 of 2; give each part once"));
  NativeInfo other = Info();
  other.scheme = "w4a16";
  const char* kForeign = "part 2 of 2, is of another model, plan, calibration or version than";
  CHECK_THAT(odd_part(nothing, other), Fails(StatusCode::kInvalidArgument, kForeign));
  other = Info();
  other.linears[0].reason = "another plan";
  CHECK_THAT(odd_part(nothing, other), Fails(StatusCode::kInvalidArgument, kForeign));
  CHECK_THAT(odd_part(nothing, Info(), "{\"a\": 2}"), Fails(StatusCode::kInvalidArgument, kForeign));
  CHECK_THAT(odd_part([](NativePart& p) { p.count = 3; }),
             Fails(StatusCode::kInvalidArgument, "part 2 of 3, is of another model"));
  CHECK_THAT(odd_part([](NativePart& p) { p.made_by = "0.1.0 avx2"; }),
             Fails(StatusCode::kInvalidArgument, "was made by 0.1.0 avx2, "));
  CHECK_THAT(odd_part([](NativePart& p) { p.rests_on = {"f00d"}; }),
             Fails(StatusCode::kInvalidArgument, "was rounded behind a part that is not among these"));
  CHECK_THAT(odd_part([](NativePart& p) { p.modules.push_back(DownProj().module); }),
             Fails(StatusCode::kDataLoss, "down_proj, which another part holds too; write the parts again"));
  CHECK_THAT(
      odd_part([](NativePart& p) { p.modules.push_back("model.layers.7.mlp.down_proj"); }),
      Fails(StatusCode::kDataLoss, "lists model.layers.7.mlp.down_proj, which is no linear of the model"));
  CHECK_THAT(odd_part([](NativePart& p) { p.modules.pop_back(); }),
             Fails(StatusCode::kDataLoss, "no part holds lm_head; write the parts again"));
  NativePart bare = PartOf(1);
  bare.common = false;
  std::filesystem::remove_all(odd);
  WritePart(odd, bare);
  CHECK_THAT(merge({odd, merge.two}), Fails(StatusCode::kDataLoss, "no part holds the norms"));
  CHECK(!PathExists(merge.out));
}

TEST_CASE("A part is no model, a model is no part, and a damaged part is found", "[native][merge]") {
  const Merge merge;
  WriteAll(merge.directory / "whole");
  CHECK_THAT(merge({merge.directory / "whole"}),
             Fails(StatusCode::kInvalidArgument, "whole: is no part of a model; give the directories that"));
  CHECK_THAT(NativeReader::Open(merge.one).status(),
             Fails(StatusCode::kUnimplemented, "is a part of a quantized model; put all together"));
  CHECK(!IsNativeCheckpoint(merge.one));
  const std::string weights = merge.two + "/model.safetensors";
  std::string bytes = Read(weights);
  bytes.back() = static_cast<char>(bytes.back() ^ 1);
  REQUIRE(WriteFileAtomically(weights, bytes).ok());
  CHECK_THAT(merge({merge.one, merge.two}),
             Fails(StatusCode::kDataLoss, "two/manifest.json: model.safetensors has SHA-256 "));
  CHECK(!PathExists(merge.out));
}

TEST_CASE("What a part says of itself must make sense", "[native][merge]") {
  const Merge merge;
  const std::string sidecar = merge.two + "/spikefold.json", good = Read(sidecar);
  const auto spoilt = [&](const std::function<void(Json&)>& spoil) {
    Json json = *ParseJson(good, sidecar), part = *json.Find(kPartKey);
    spoil(part);
    json.Set(kPartKey, std::move(part));
    REQUIRE(WriteFileAtomically(sidecar, json.Dump(2) + "\n").ok());
    return merge({merge.one, merge.two});
  };
  CHECK_THAT(spoilt([](Json& p) { p.Set("index", 3); }),
             Fails(StatusCode::kDataLoss, "spikefold.json: \"x-part\" says part 3 of 2"));
  CHECK_THAT(spoilt([](Json& p) { p.Set("index", 0); }),
             Fails(StatusCode::kDataLoss, "\"x-part\" says part 0 of 2"));
  CHECK_THAT(spoilt([](Json& p) { p.Set("modules", Json::MakeObject()); }),
             Fails(StatusCode::kDataLoss, "\"x-part\" has no list \"modules\""));
  CHECK_THAT(spoilt([](Json& p) { p.Set("rests_on", Json(Json::Array{Json(7)})); }),
             Fails(StatusCode::kDataLoss, "\"rests_on\" holds what is no string"));
  CHECK_THAT(spoilt([](Json& p) { p.Set("twist", 1); }),
             Fails(StatusCode::kUnimplemented, "unknown key \"twist\""));
  CHECK_THAT(spoilt([](Json& p) { p = Json(1); }),
             Fails(StatusCode::kDataLoss, "spikefold.json: is not a JSON object"));
  REQUIRE(WriteFileAtomically(sidecar, good).ok());
  Edit(sidecar, "\"x-part\"", "\"x-whole\"");
  CHECK_THAT(merge({merge.one, merge.two}), Fails(StatusCode::kDataLoss, "has no \"x-part\""));
  CHECK(!PathExists(merge.out));
}

TEST_CASE("A merge that is stopped, or has no place, leaves what there was", "[native][merge]") {
  const Merge merge;
  for (const int64_t last : {0, 2, 3}) {
    const auto stop = [&](absl::string_view stage, int64_t done, int64_t) {
      return stage != "merging" || done < last;
    };
    CHECK_THAT(merge({merge.one, merge.two}, stop), Fails(StatusCode::kCancelled, "merge: stopped"));
    CHECK(*ListDirectory(merge.directory.path()) == std::vector<std::string>{"one", "two"});
  }
  REQUIRE(merge({merge.one, merge.two}) == absl::OkStatus());
  const std::string before = Read(merge.out + "/manifest.json");
  CHECK_THAT(merge({merge.one, merge.two}), Fails(StatusCode::kAlreadyExists, "out: exists"));
  CHECK(Read(merge.out + "/manifest.json") == before);
}

}  // namespace spikefold
