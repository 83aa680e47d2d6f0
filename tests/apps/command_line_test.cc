// What the command line promises to scripts: exit codes, one line of error, results on stdout only.
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "absl/strings/str_split.h"
#include "tests/apps/apps_kit.h"
#include "tests/apps/bad_inputs.h"

namespace spikefold::testing {
namespace {

const std::vector<std::string> kCommands = {
    "inspect", "scan",     "ablate", "compare", "folds",      "plan", "quantize", "learn-rotations",
    "refine",  "eval",     "sweep",  "export",  "gate",       "diff", "report",   "verify",
    "doctor",  "generate", "bench",  "fixture", "completion", "man"};

TEST_CASE("Help names its examples first, fits 100 columns and goes to stdout", "[apps]") {
  std::vector<Args> calls = {{"--help"}};
  for (const std::string& command : kCommands) calls.push_back({command, "--help"});
  for (const Args& call : calls) {
    CAPTURE(call);
    const Finished run = RunSpikefold(call);
    CHECK(run.exit == 0);
    CHECK(run.err.empty());
    const std::vector<std::string> lines = absl::StrSplit(run.out, '\n');
    REQUIRE(lines.size() > 5);
    CHECK(lines[2] == "Examples:");
    CHECK(lines[3].find("spikefold " + (call.size() > 1 ? call[0] : std::string())) != std::string::npos);
    for (const std::string& line : lines) {
      INFO(line);
      CHECK(line.size() <= 100);
    }
  }
  const std::string all = Succeed({"--help"});
  for (const std::string& command : kCommands) CHECK(all.find("\n  " + command + " ") != std::string::npos);
}

TEST_CASE("A command line that makes no sense ends with 2 and a hint", "[apps]") {
  CheckRefused({"scna", "x"}, 2,
               "spikefold: \"scna\" is no command (did you mean \"scan\"?); use inspect, scan, ablate, "
               "compare, folds, plan, quantize, learn-rotations, refine, eval, sweep, merge, export, gate, "
               "diff, report, "
               "verify, doctor, "
               "generate, bench, fixture, completion, man");
  CheckRefused({"bench", "m", "--prefil", "3"}, 2,
               "spikefold bench: option \"--prefil\" is unknown (did you mean \"--prefill\"?); see spikefold "
               "bench --help");
  CheckRefused({"scan", "--thread=2"}, 2,
               "spikefold scan: option \"--thread\" is unknown (did you mean \"--threads\"?); see spikefold "
               "scan --help");
  CheckRefused(
      {"bench", "m", "--prefill", "ten"}, 2,
      "spikefold bench: --prefill: 'ten' is not a whole number from 0 to 1099511627776; see spikefold "
      "bench --help");
  CheckRefused({"inspect"}, 2, "spikefold inspect: MODEL is required; see spikefold inspect --help");
  CheckRefused(
      {"eval", "m", "--text", "t", "--protocol", "papr"}, 2,
      "spikefold eval: --protocol: 'papr' is unknown (did you mean \"paper\"?); use paper, llamacpp, "
      "chunks; see spikefold eval --help");
  const Finished nothing = RunSpikefold({});
  CHECK(nothing.exit == 2);
  CHECK(nothing.out.empty());
  CHECK(nothing.err.find("Commands:") != std::string::npos);
}

TEST_CASE("An empty value, as of an unset variable, turns no option off", "[apps]") {
  const Workplace w;
  const Args quantize = {"quantize", w.model, "--scheme", "w4a16", "-o", w / "out"};
  for (const char* option : {"--bits", "--max-kld", "--max-memory", "--shard", "--recipe", "--rotate-from",
                             "--plan", "--keep", "--scan"}) {
    Args call = quantize;
    call.insert(call.end(), {option, ""});
    CheckRefused(
        call, 2,
        absl::StrCat("spikefold quantize: ", option, ": an empty value; see spikefold quantize --help"));
  }
  CheckRefused({"inspect", ""}, 2, "spikefold inspect: MODEL: an empty value; see spikefold inspect --help");
  CheckRefused({"eval", w.model, "--text", w.text, "-o", ""}, 2,
               "spikefold eval: --output: an empty value; see spikefold eval --help");
  CHECK(!PathExists(w / "out"));
  CheckRefused({"eval", w.model, "--text", w.text, "--name=", "-q"}, 2,
               "spikefold eval: --name: an empty value; see spikefold eval --help");
  CheckRefused({"eval", w.model, "--text", w.text, "--output="}, 2,
               "spikefold eval: --output: an empty value; see spikefold eval --help");
  CheckRefused({"eval", w.model, "--text", w.text, "-o", "-"}, 2,
               "spikefold eval: --output -: nothing is written to standard output but by --json; name a file "
               "(\"./-\" if it is to be called so)");
  CheckRefused({"scan", w.model, "-o", "-"}, 2,
               "spikefold scan: --output -: nothing is written to standard output but by --json; name a "
               "directory (\"./-\" if it is to be called so)");
}

TEST_CASE("An output behind a link may not be a part of an input, and what the link leads to is replaced",
          "[apps]") {
  const Workplace w;
  const auto link = [&](const std::string& to, const char* name) {
    REQUIRE(symlink(to.c_str(), (w / name).c_str()) == 0);
    return w / name;
  };
  const std::string config = link(JoinPath(w.model, "config.json"), "out.json");
  const std::string before = ReadAll(config);
  CheckRefused({"eval", w.model, "--text", w.text, "-o", config}, 2,
               absl::StrCat("spikefold eval: ", std::filesystem::canonical(config).string(),
                            ": is a file of an input of this command; choose another output"));
  CHECK(ReadAll(config) == before);

  const Args scan = {"scan", w.model, "--text", w.text, "--windows", "2", "--length", "32", "--force", "-o"};
  Succeed(With(scan, {w / "scan"}));
  const std::string scanned = link("scan", "scan-link");
  Succeed(With(scan, {scanned}));
  CHECK(std::filesystem::is_symlink(scanned));
  CHECK(ListDirectory(w / "scan")->size() == 2);

  const Args quantize = {"quantize", w.model, "--scheme", "w8a16", "--force", "-o"};
  Succeed(With(quantize, {w / "q"}));
  const std::string good = AllBytes(w / "q"), quantized = link("q", "q-link");
  Succeed(With(quantize, {quantized + "/"}));
  CHECK(std::filesystem::is_symlink(quantized));
  CHECK(AllBytes(w / "q") == good);
}

TEST_CASE("Impossible wishes end with 2 before any work", "[apps]") {
  const Workplace w;
  const auto quantize = [&](Args more) {
    Args args = {"quantize", w.model, "-o", w / "out"};
    args.insert(args.end(), more.begin(), more.end());
    return args;
  };
  CheckRefused(quantize({"--scheme", "w8a8-sttic"}), 2,
               "spikefold quantize: scheme \"w8a8-sttic\" is unknown (did you mean \"w8a8-static\"?); use "
               "w8a16, w8a8, w8a8-static, w4a16, w3a16, w2a16, w4a8, w4a8-static, w4a4, w4a4-group, "
               "w4a4-static");
  CheckRefused(quantize({"--scheme", "w8a8", "--bits", "3"}), 2,
               "spikefold quantize: bits=3: the scheme has one way of storing weights");
  CheckRefused(
      quantize({"--scheme", "w8a8", "--kv-window", "64"}), 2,
      "spikefold quantize: kv: sinks, recent rows and a window need a form of the cache; give kv 16, "
      "8, 4, 3 or 2");
  CheckRefused(
      quantize({"--scheme", "w8a8", "--rotate", "R3", "--kv", "16", "--kv-window", "64"}), 2,
      "spikefold quantize: kv: a window of rows in a model that rotates queries and keys behind rotary "
      "embedding (R3); leave out one of them");
  CheckRefused(quantize({"--scheme", "w4a16", "--bits", "0"}), 2,
               "spikefold quantize: --bits 0: a budget is a positive number");
  CheckRefused(quantize({"--scheme", "w4a16", "--weight-scales", "percentile"}), 2,
               "spikefold quantize: weight_scales=percentile: is for activations; use absmax or mse");
  CheckRefused(quantize({"--scheme", "w4a16", "--codes", "trellis", "--weight-scales", "mse"}), 2,
               "spikefold quantize: weight_scales=mse: trellis codes have scales of their own; use codes "
               "\"grid\" or leave it out");
  CheckRefused({"eval", w.model, "--text", w.text, "--parity", "--backend", "cuda", "-o", w / "e.json"}, 2,
               "spikefold eval: --parity: compares one model with itself; leave out --output, --reference "
               "and --noise-floor");
  CheckRefused({"quantize", w.model, "--scheme", "w8a8", "--activation-scales", "absmax", "-o", w / "q"}, 2,
               "spikefold quantize: --activation-scales: scheme \"w8a8\" has no static scales; use one of "
               "\"...-static\" or leave this out");
  CheckRefused({"eval", w.model, "--text", w.text, "--simulate"}, 2,
               absl::StrCat("spikefold eval: ", w.model, ": is not quantized; leave out --simulate"));
  CheckRefused({"generate", w.model, "-p", "hello", "--top-k", "5"}, 2,
               "spikefold generate: --top-k: without --temperature the likeliest token is always taken; give "
               "one above 0");
  CheckRefused({"generate", w.model, "-p", "hello", "--seed", "5"}, 2,
               "spikefold generate: --seed: without --temperature the likeliest token is always taken; give "
               "one above 0");
  CheckRefused(
      quantize({"--scheme", "w4a16", "--group-size", "96"}), 2,
      "spikefold quantize: model.layers.0.self_attn.q_proj: K=64 is not a multiple of group_size=96; "
      "use 16, 32, 64");
  CheckRefused(
      quantize({"--scheme", "w8a8", "--outliers", "kepe"}), 2,
      "spikefold quantize: outlier mode \"kepe\" is unknown (did you mean \"keep\"?); use auto, none, "
      "keep, fold, fold+keep");
  CheckRefused(quantize({"--scheme", "w4a8", "--keep", "*.down_porj"}), 2,
               "spikefold quantize: keep pattern \"*.down_porj\" matches no linear; for example "
               "\"*.layers.3.mlp.down_proj\"");
  CheckRefused(quantize({"--scheme", "w8a8", "--head-bits", "4"}), 2,
               "spikefold quantize: head_bits=4; use 8 or 16 for embedding and head");
  CheckRefused({"plan", w.model, "--scheme", "w8a8-static"}, 2,
               "spikefold plan: scheme \"w8a8-static\" with these options needs a scan; run `scan` first");
  CheckRefused(
      {"quantize", w.model, "--scheme", "w8a8", "-o", w.model}, 2,
      absl::StrCat("spikefold quantize: ", w.model, ": is an input of this command; choose another output"));
  CheckRefused(
      {"eval", w.model, "--text", w.text, "-o", w.text}, 2,
      absl::StrCat("spikefold eval: ", w.text, ": is an input of this command; choose another output"));
  for (const Args& shaped : std::vector<Args>{{"--windows", "3"}, {"--length", "16"}, {"--no-prefix"}}) {
    CheckRefused(With({"quantize", w.model, "--scan", w / "scan", "-o", w / "q"}, shaped), 2,
                 absl::StrCat("spikefold quantize: ", shaped[0],
                              ": is what a scan is made from, and --scan or --plan brings one; leave one of "
                              "them out"));
  }
  // Nor a file that an input directory consists of, whether it is there or not; results may lie beside them.
  for (const std::string name :
       {"config.json", "model.safetensors", "spikefold.json", "tokenizer.gguf", "outliers.json"}) {
    const std::string file = w.model + "/" + name;
    CheckRefused({"eval", w.model, "--text", w.text, "-o", file}, 2,
                 absl::StrCat("spikefold eval: ", file,
                              ": is a file of an input of this command; choose another output"));
  }
  for (int i = 0; i < 2; ++i) {
    Succeed({"eval", w.model, "--text", w.text, "--windows", "1", "--context", "32", "-o",
             w.model + "/eval.json"});
  }
  std::filesystem::remove(w.model + "/eval.json");
  CheckRefused(
      {"eval", w.model, "--text", w.text, "-o", w.directory.path()}, 2,
      absl::StrCat("spikefold eval: ", w.directory.path(), ": is a directory; --output names one file"));
  WriteBytes(w.model + "/tokenizer_config.json", R"({"add_bos_token": true, "bos_token": "a"})");
  CheckRefused(
      {"eval", w.model, "--text", w.text, "--protocol", "llamacpp", "--bos", "none"}, 2,
      "spikefold eval: --bos none: llama.cpp's protocol begins each window with the BOS token that this "
      "model's tokenizer adds; use \"auto\" or another protocol");
  CHECK(!PathExists(w / "out"));
}

TEST_CASE("LibTorch that is not there, or no plugin, ends with 4 and what to do", "[apps]") {
  const Workplace w;
  const Args call = {"eval", w.model, "--text", w.text, "--backend", "torch", "--parity"};
  const auto run = [&](const std::string& plugin) {
    return RunSpikefold(call, {.environment = {"SPIKEFOLD_TORCH_PLUGIN=" + plugin}});
  };
  const Finished missing = run(w / "none.so"), foreign = run(w.text);
  CHECK(missing.exit == 4);
  CHECK(missing.err == absl::StrCat("spikefold eval: backend \"torch\": no libspikefold_torch.so (",
                                    w / "none.so",
                                    "); `make deps-torch torch` builds it, $SPIKEFOLD_TORCH_PLUGIN may name "
                                    "one elsewhere\n"));
  CHECK(foreign.exit == 4);
  CHECK(foreign.err.find("cannot be loaded") != std::string::npos);
  const Finished learn =
      RunSpikefold({"refine", w.model, "--reference", w.model, "--text", w.text, "-o", w / "refined"},
                   {.environment = {"SPIKEFOLD_TORCH_PLUGIN=" + (w / "none.so")}});
  CHECK(learn.exit == 4);
  CHECK(!PathExists(w / "refined"));
  const Finished rotations =
      RunSpikefold({"learn-rotations", w.model, "--scheme", "w8a8", "--text", w.text, "-o", w / "r.spike"},
                   {.environment = {"SPIKEFOLD_TORCH_PLUGIN=" + (w / "none.so")}});
  CHECK(rotations.exit == 4);
  CHECK(!PathExists(w / "r.spike"));
  CheckRefused({"eval", w.model, "--text", w.text, "--backend", "torch"}, 2,
               "spikefold eval: --backend torch: is an oracle for this program's own results; add --parity, "
               "or use cpu or cuda");
}

TEST_CASE("Calibrating on a GPU that is not there leaves nothing behind", "[apps]") {
  const Workplace w;
  const ProcessOptions no_device{.environment = {"CUDA_VISIBLE_DEVICES="}};
  for (const Args& call :
       {Args{"scan", w.model, "--text", w.text, "--windows", "2", "--length", "32", "-o", w / "out"},
        Args{"quantize", w.model, "--scheme", "w8a8", "--outliers", "none", "--rounding", "nearest", "-o",
             w / "out"},  // runs no model
        Args{"plan", w.model, "--scheme", "w8a8", "--outliers", "none", "-o", w / "out"}}) {
    const Finished run = RunSpikefold(With(call, {"--backend", "cuda"}), no_device);
    CAPTURE(run.err);
    CHECK((run.exit == 4 || run.exit == 8));  // not built in, or no device
    CHECK(run.err.find("backend \"cuda\": ") != std::string::npos);
    CHECK(!PathExists(w / "out"));
  }
  CheckRefused({"scan", w.model, "--backend", "torch", "-o", w / "out"}, 2,
               "spikefold scan: --backend: 'torch' is unknown; use cpu, cuda; see spikefold scan --help");
}

TEST_CASE("A text too short says how short it is and what is needed", "[apps]") {
  const Workplace w;
  const std::string shorter = w / "short.txt";
  REQUIRE(WriteFileAtomically(shorter, RandomText(40, 1)).ok());
  const std::string tokens = absl::StrCat(ReadAll(shorter).size());
  CheckRefused({"scan", w.model, "-o", w / "scan", "--text", shorter, "--length", "128"}, 2,
               absl::StrCat("spikefold scan: short.txt: ", tokens,
                            " tokens; 64 windows of 128 need 8,192; give more text or ask for fewer or "
                            "shorter windows"));
  CheckRefused({"eval", w.model, "--text", shorter, "--context", "250"}, 2,
               absl::StrCat("spikefold eval: text: ", tokens,
                            " tokens; one window needs 250; give more text or a shorter context"));
  CHECK(!PathExists(w / "scan"));
}

TEST_CASE("Files that are not there, not readable or not writable end with 6", "[apps]") {
  const Workplace w;
  CheckRefused({"inspect", w / "nowhere"}, 6,
               absl::StrCat("spikefold inspect: ", w / "nowhere", ": no such file or directory"));
  CheckRefused({"scan", w.model, "-o", w / "a/b"}, 6,
               absl::StrCat("spikefold scan: ", w / "a/b", ": its directory ", w / "a",
                            " does not exist; make it first (mkdir -p)"));
  CheckRefused({"plan", w.model, "--scan", w / "scan", "--scheme", "w8a8"}, 6,
               absl::StrCat("spikefold plan: ", w / "scan",
                            ": no such directory; make it with `spikefold scan MODEL -o ", w / "scan", "`"));
  std::filesystem::create_directory(w / "there");
  CheckRefused({"quantize", w.model, "--scheme", "w8a8", "-o", w / "there"}, 6,
               absl::StrCat("spikefold quantize: ", w / "there",
                            ": exists; choose another output, or replace it with --force"));
  // Nobody, root included, can make a file in /sys.
  const Finished readonly =
      RunSpikefold({"eval", w.model, "--text", w.text, "--context", "64", "-o", "/sys/spikefold.json"});
  CHECK(readonly.exit == 6);
  CHECK(readonly.out.empty());
  CHECK(readonly.err.find("/sys/spikefold.json") != std::string::npos);
}

TEST_CASE("A disk that takes no more ends with 6 and leaves nothing behind", "[apps]") {
  const Workplace w;
  Succeed({"scan", w.model, "-o", w / "scan", "--text", w.text, "--windows", "4", "--length", "32"});
  const auto names = ListDirectory(w.directory.path());
  for (const Args& args :
       {Args{"quantize", w.model, "--scheme", "w8a16", "-o", w / "out"},
        Args{"plan", w.model, "--scheme", "w8a16", "-o", w / "out"},
        Args{"scan", w.model, "--text", w.text, "--windows", "4", "--length", "32", "-o", w / "out"},
        Args{"scan", w.model, "--text", w.text, "--windows", "4", "--length", "32", "-o", w / "scan",
             "--force"}}) {
    CAPTURE(args);
    const Finished run = RunSpikefold(args, {.max_file = 1000});
    CHECK(run.exit == 6);
    CHECK(run.err.find("File too large") != std::string::npos);
    CHECK(*ListDirectory(w.directory.path()) == *names);
  }
  Succeed({"plan", w.model, "--scheme", "w8a8", "--scan", w / "scan"});
}

TEST_CASE("--force replaces a model, but no directory that is none", "[apps]") {
  const Workplace w;
  const Args quantize = {"quantize", w.model, "--scheme", "w8a16", "-o", w / "out", "--force"};
  Succeed(quantize);
  Succeed(quantize);
  std::filesystem::create_directory(w / "home");
  REQUIRE(WriteFileAtomically(w / "home/diary.txt", "mine").ok());
  CheckRefused({"quantize", w.model, "--scheme", "w8a16", "-o", w / "home", "--force"}, 2,
               absl::StrCat("spikefold quantize: ", w / "home",
                            ": has neither config.json nor manifest.json, so it is no model directory and is "
                            "not replaced; choose another output"));
  CheckRefused(
      {"scan", w.model, "-o", w / "home", "--force"}, 2,
      absl::StrCat("spikefold scan: ", w / "home",
                   ": holds \"diary.txt\", so it is no scan and is not replaced; choose another output"));
  CHECK(ReadAll(w / "home/diary.txt") == "mine");
}

TEST_CASE("Corrupt files end with 3, unsupported ones with 4", "[apps]") {
  const Workplace w;
  const std::string gguf = ReadAll(SPIKEFOLD_TEST_DATA "/tiny/llama/model.gguf"), cut = w / "cut.gguf";
  REQUIRE(WriteFileAtomically(cut, gguf.substr(0, gguf.size() - 1)).ok());
  const Finished truncated = RunSpikefold({"generate", cut, "-p", "hello"});
  CHECK(truncated.exit == 3);
  CHECK(truncated.out.empty());
  CHECK(truncated.err.find("spikefold generate: " + cut) == 0);
  CHECK(std::count(truncated.err.begin(), truncated.err.end(), '\n') == 1);

  std::string config = ReadAll(w.model + "/config.json");
  const std::string known = "LlamaForCausalLM";
  config.replace(config.find(known), known.size(), "MambaForCausalLM");
  REQUIRE(WriteFileAtomically(w.model + "/config.json", config).ok());
  const Finished unsupported = RunSpikefold({"inspect", w.model});
  CHECK(unsupported.exit == 4);
  CHECK(unsupported.err.find("MambaForCausalLM") != std::string::npos);

  CHECK(RunSpikefold({"doctor", "--isa", "sse9"}).exit == 2);
}

TEST_CASE("A stdout that takes nothing is an error of its own", "[apps]") {
  const Workplace w;
  for (const Args& args :
       {Args{"inspect", w.model}, Args{"--help"}, Args{"generate", w.model, "-p", "hello"}}) {
    CAPTURE(args);
    const Finished gone = RunSpikefold(args, {.unread_stdout = true});
    CHECK(gone.exit == 6);
    CHECK(gone.err.find("stdout: Broken pipe; its reader has gone\n") != std::string::npos);
    CHECK(RunSpikefold(args, {.close_stdout = true}).exit == 6);
  }
  // A file that is opened later must not become stdout.
  const Finished closed = RunSpikefold(
      {"eval", w.model, "--text", w.text, "--context", "64", "--windows", "1", "-o", w / "eval.json"},
      {.close_stdout = true});
  CHECK(closed.exit == 6);
  CHECK(ParseJson(ReadAll(w / "eval.json"), "eval.json").ok());
}

TEST_CASE("Results go to stdout and everything else to stderr", "[apps]") {
  const Workplace w;
  const Args scan = {"scan", w.model, "-o", w / "scan", "--text", w.text, "--windows", "8", "--length", "64"};
  const Finished run = RunSpikefold(scan);
  REQUIRE(run.exit == 0);
  CHECK(run.err == "scanned 512 tokens, 8 windows of 64: text.txt\n");
  CHECK(run.out.find("Attention sink") != std::string::npos);
  CHECK(run.out.find('\033') == std::string::npos);

  Args quiet = scan;
  quiet.insert(quiet.end(), {"--force", "--quiet"});
  CHECK(RunSpikefold(quiet).err.empty());
  Args colorful = scan;
  colorful.insert(colorful.end(), {"--force", "--color", "always", "--progress", "always"});
  const Finished colored = RunSpikefold(colorful);
  CHECK(colored.out.find("\033[1m") != std::string::npos);
  CHECK(colored.err.find("scanning: 0 of 4\n") != std::string::npos);
}

TEST_CASE("--json puts one versioned document on stdout", "[apps]") {
  const Workplace w;
  const Json inspect = SucceedJson({"inspect", w.model});
  CHECK(*inspect.GetString("command", "") == "inspect");
  CHECK(*inspect.Find("model")->GetInt("layers", "") == 2);
  CHECK(*inspect.Find("all")->GetInt("weights", "") == 72000);

  const Json bench = SucceedJson({"bench", w.model, "--prefill", "32", "--decode", "8", "--repeat", "2"});
  CHECK(*bench.GetDouble("prefill_tokens_per_second", "") > 0);
  CHECK(*bench.GetDouble("decode_tokens_per_second", "") > 0);
  CHECK(bench.Find("prefill_seconds")->array().size() == 2);
  CHECK(*bench.GetInt("decode_step_bytes", "") < *bench.GetInt("weight_memory_bytes", ""));
  CHECK(*bench.GetDouble("decode_read_bytes_per_second", "") ==
        Approx(*bench.GetDouble("decode_tokens_per_second", "") *
               static_cast<double>(*bench.GetInt("decode_step_bytes", ""))));
  CHECK(*bench.GetDouble("memory_read_bytes_per_second", "") > 1e8);

  const Json generated = SucceedJson({"generate", w.model, "-p", "hello", "--max-tokens", "5"});
  CHECK(*generated.GetString("prompt", "") == "hello");
  CHECK(generated.Find("tokens")->array().size() <= 5);
  const Json doctor = SucceedJson({"doctor", "--threads", "1"});
  CHECK(*doctor.GetInt("threads", "") == 1);
  CHECK(doctor.Find("kernels")->array().size() > 10);
}

TEST_CASE("bench --kernels says where the time of a step and of a prompt goes", "[apps]") {
  const Workplace w;
  const Args bench = {"bench", w.model, "--prefill", "32", "--decode", "8", "--repeat", "1"};
  const std::string plain = Succeed(bench), out = Succeed(With(bench, {"--kernels", "--batch", "2"}));
  CHECK(!absl::StrContains(plain, "| kernel "));
  CHECK(!absl::StrContains(Succeed(With(bench, {"--kernels", "--no-kernels"})), "| kernel "));
  CHECK(absl::StrContains(Succeed(With(bench, {"--no-kernels", "--kernels"})), "| kernel "));
  CHECK(absl::StrContains(out, "\nA block of 32 rows of the prompt at position 0, "));
  CHECK(absl::StrContains(out, "\nA step of 2 sequences at position 4, "));
  CHECK(absl::StrContains(out, " | calls | us each | "));
  size_t width = 0, tables = 0;
  for (const std::string& line : std::vector<std::string>(absl::StrSplit(out, '\n'))) {
    if (absl::StartsWith(line, "| kernel ")) {
      ++tables;
      width = line.size();
    }
    if (width > 0 && absl::StartsWith(line, "|")) CHECK(line.size() == width);
    if (!absl::StartsWith(line, "|")) width = 0;
  }
  CHECK(tables == 2);
  for (const char* kernel : {"embedding", "norm", "qkv_proj", "attention", "o_proj", "gate_up_proj",
                             "gated_product", "down_proj", "head", "sum"}) {
    CHECK(absl::StrContains(out, absl::StrCat("\n| ", kernel, " ")));
  }
  const Json json = SucceedJson(With(bench, {"--kernels"}));
  int64_t bytes = 0, calls = 0;
  double prefill_ops = 0;
  for (const Json& kernel : json.Find("kernels")->array()) {
    CHECK(*kernel.GetDouble("seconds", "") > 0);
    if (*kernel.GetString("walk", "") == "prefill") prefill_ops += *kernel.GetDouble("ops", "");
    if (*kernel.GetString("walk", "") != "decode") continue;
    bytes += *kernel.GetInt("bytes", "");
    calls += *kernel.GetInt("calls", "");
  }
  CHECK(bytes == *json.GetInt("decode_step_bytes", ""));
  CHECK(calls == 3 + 2 * 8);  // embedding, norm and head; a layer's two norms, four products, ...
  CHECK(prefill_ops > 0);
  CHECK(*json.GetDouble("decode_walk_seconds", "") > 0);
  CHECK(*json.GetDouble("prefill_walk_seconds", "") > 0);
  CHECK(*json.GetInt("decode_walk_position", "") == 4);
  CHECK(*json.GetDouble("memory_read_bytes_per_second", "") > 1e8);
  CHECK(SucceedJson(bench).Find("kernels") == nullptr);
}

TEST_CASE("A prompt longer than the model is refused as such; a model that names no limit has none",
          "[apps]") {
  const Workplace w;
  CheckRefused({"generate", w.model, "-p", std::string(300, 'a'), "--max-tokens", "2"}, 2,
               "spikefold generate: --prompt: 300 tokens; the model has 256 positions; give a shorter one");
  CheckRefused({"generate", w.model, "-p", "hello", "--max-tokens", "300"}, 2,
               "spikefold generate: --max-tokens 300: with 5 tokens before them they exceed the model's 256 "
               "positions; ask for fewer");
  ReplaceInFile(w.model + "/config.json", "\"max_position_embeddings\"", "\"no_limit\"");
  const Json generated = SucceedJson({"generate", w.model, "-p", std::string(300, 'a'), "--max-tokens", "2"});
  CHECK(*generated.GetInt("prompt_tokens", "") == 300);
  const std::string one = Succeed({"bench", w.model, "--prefill", "8", "--decode", "2", "--repeat", "1"}),
                    three = Succeed({"bench", w.model, "--decode", "2", "--repeat", "1", "--batch", "3"});
  CHECK(absl::StrContains(one, " tg2 |"));
  CHECK(absl::StrContains(three, " 3x tg2 |"));
  for (const char* size : {"--kv-recent", "--kv-sinks"}) {  // the default values, said aloud
    CheckRefused(
        {"bench", w.model, "--kv", "float", size, size[5] == 'r' ? "16" : "1"}, 2,
        "spikefold bench: kv: sinks, recent rows and a window need a form of the cache; give kv 16, 8, 4, "
        "3 or 2");
  }
  CheckRefused({"bench", w.model, "--decode", "0", "--batch", "3"}, 2,
               "spikefold bench: --batch with --decode 0: a prompt is of one sequence; leave out --batch");
  const Finished large = RunSpikefold({"bench", w.model, "--decode", "1000000", "--batch", "1024"});
  CHECK(large.exit == 7);
  CHECK(absl::StartsWith(large.err,
                         "spikefold bench: --batch 1024: keys and values of 1000000 positions each"));
  const std::string inspect = Succeed({"inspect", w.model});
  CHECK(inspect.find("unknown positions") != std::string::npos);
}

TEST_CASE("A group size has to fit only what --keep-modules may leave", "[apps]") {
  const Workplace w;
  Succeed({"scan", w.model, "-o", w / "scan", "--text", w.text, "--windows", "2", "--length", "32"});
  const Args quantize = {"quantize", w.model, "--scan",       w / "scan", "--scheme",   "w4a16",
                         "-o",       w / "q", "--group-size", "48",       "--codes",    "grid",
                         "--rotate", "none",  "--outliers",   "none",     "--rounding", "nearest"};
  const Finished few = RunSpikefold(quantize);
  CHECK(few.exit == 2);
  CHECK(few.err.find("is not a multiple of group_size=48") != std::string::npos);
  const Finished all = RunSpikefold(With(quantize, {"--keep-modules", "1000"}));
  CAPTURE(all.err);
  CHECK(all.err.find("is not a multiple of group_size=48") == std::string::npos);
}

TEST_CASE("A fixture is a model that other commands take, and equal seeds give equal files", "[apps]") {
  const TempDirectory directory;
  const std::string a = directory / "a", b = directory / "b", c = directory / "c";
  const Json made = SucceedJson({"fixture", "-o", a, "--layers", "1", "--seed", "5"});
  CHECK(*made.GetInt("layers", "") == 1);
  Succeed({"fixture", "-o", b, "--layers", "1", "--seed", "5"});
  Succeed({"fixture", "-o", c, "--layers", "1", "--seed", "6"});
  const std::string weights = "/model.safetensors";
  CHECK(ReadAll(a + weights) == ReadAll(b + weights));
  CHECK(ReadAll(a + weights) != ReadAll(c + weights));
  const Json inspect = SucceedJson({"inspect", a});
  CHECK(*inspect.Find("all")->GetInt("weights", "") == *made.GetInt("weights", ""));
  const Json generated = SucceedJson({"generate", a, "-p", "hello", "--max-tokens", "2"});
  CHECK(generated.Find("tokens")->array().size() <= 2);
  CheckRefused({"fixture", "-o", directory / "d", "--shape", "llama9"}, 2,
               "spikefold fixture: no shape \"llama9\"; tiny, smollm2, llama3-8b and llama3-70b are known");
  CHECK(!PathExists(directory / "d"));
}

TEST_CASE("A sparse fixture has the size of its shape and takes next to no room", "[apps]") {
  const TempDirectory directory;
  const std::string model = directory / "model";
  const Json made = SucceedJson({"fixture", "-o", model, "--shape", "llama3-70b", "--sparse"});
  CHECK(*made.GetInt("weights", "") == 70'553'706'496);  // Llama 3 70B's number
  struct stat st;
  REQUIRE(stat((model + "/model.safetensors").c_str(), &st) == 0);
  CHECK(st.st_size > 141'000'000'000);
  CHECK(st.st_blocks * 512 < 8'000'000);
  CHECK(*SucceedJson({"inspect", model}).Find("all")->GetInt("weights", "") == 70'553'706'496);
}

TEST_CASE("Memory that is not there ends with 7", "[apps]") {
  if (kSanitized) return;
  const TempDirectory directory;
  WritePlantedModel(directory / "model");  // 20 MB of weights
  const std::vector<std::string> bench = {"bench", directory / "model", "--prefill", "8", "--decode", "0"};
  const Finished run = RunSpikefold(bench, {.max_memory = uint64_t{32} << 20});
  CAPTURE(run.signal);
  CHECK(run.exit == 7);
  CHECK(run.err == "spikefold bench: out of memory; use a smaller model or a machine with more memory\n");
  CHECK(RunSpikefold(bench).exit == 0);
}

TEST_CASE("Version and commit are one line", "[apps]") {
  const std::string version = Succeed({"--version"});
  CHECK(version.substr(0, 16) == "spikefold 0.1.0 ");
  CHECK(std::count(version.begin(), version.end(), '\n') == 1);
}

}  // namespace
}  // namespace spikefold::testing
