// The command line: which options there are, and nothing else. Each command lives in its own file.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <functional>
#include <memory>
#include <new>
#include <optional>

#include "absl/strings/numbers.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "apps/spikefold/ablate_command.h"
#include "apps/spikefold/bench_command.h"
#include "apps/spikefold/cli_shape.h"
#include "apps/spikefold/compare_command.h"
#include "apps/spikefold/completion.h"
#include "apps/spikefold/eval_command.h"
#include "apps/spikefold/exit_code.h"
#include "apps/spikefold/fixture_command.h"
#include "apps/spikefold/folds_command.h"
#include "apps/spikefold/generate_command.h"
#include "apps/spikefold/guard.h"
#include "apps/spikefold/help.h"
#include "apps/spikefold/inspect_command.h"
#include "apps/spikefold/interrupt.h"
#include "apps/spikefold/learn_rotations_command.h"
#include "apps/spikefold/machine.h"
#include "apps/spikefold/man_page.h"
#include "apps/spikefold/option_groups.h"
#include "apps/spikefold/plan_command.h"
#include "apps/spikefold/quantize_command.h"
#include "apps/spikefold/refine_command.h"
#include "apps/spikefold/scan_command.h"
#include "apps/spikefold/simple_commands.h"
#include "apps/spikefold/standard_streams.h"
#include "apps/spikefold/sweep_command.h"
#include "apps/spikefold/usage_error.h"
#include "formats/base/version.h"
#include "quant/scheme.h"

namespace spikefold {
namespace {

struct GlobalOptions {
  int threads = DefaultNumThreads();
  std::optional<uint64_t> seed;
  bool quiet = false, verbose = false, json = false;
  std::string color = "auto", progress = "auto", isa;
};

struct Command {
  CLI::App* app;
  std::function<absl::Status(Context&)> run;
};

class CommandLine {
 public:
  CommandLine() {
    app_.name("spikefold");
    app_.description(
        "Quantizes language models whose activations have outliers, and measures what that costs.");
    app_.footer(
        "spikefold inspect MODEL                              # what is it?\n"
        "spikefold generate MODEL -p \"The capital of France is\"\n"
        "spikefold bench MODEL --threads 2                    # tokens a second");
    app_.set_help_flag("-h,--help", "This text; after a command: its options");
    app_.set_version_flag("--version", "spikefold " + ToolVersionAndCommit(), "Version and commit");
    app_.require_subcommand(1);
    app_.fallthrough();
    AddGlobalOptions();
    AddInspect();
    AddScan();
    AddAblate();
    AddCompare();
    AddFolds();
    AddPlan();
    AddQuantize();
    AddLearnRotations();
    AddRefine();
    AddEval();
    AddSweep();
    for (CommandSpec& spec : simple_) AddSimple(spec);
    AddGenerate();
    AddBench();
    AddFixture();
    AddShellCommands();
  }

  // Fills the options; Ok, or what to say and the exit code.
  struct Outcome {
    bool run = false;
    ExitCode exit = kExitOk;
    std::string out, err;
  };
  Outcome Parse(int argc, char** argv) {
    try {
      app_.parse(argc, argv);
    } catch (const CLI::CallForHelp&) {
      return {.out = HelpText(PageOf(app_, *chosen()))};
    } catch (const CLI::CallForVersion& version) {
      return {.out = absl::StrCat(version.what(), "\n")};
    } catch (const CLI::ParseError& error) {
      if (argc < 2) return {.exit = kExitUsage, .err = HelpText(PageOf(app_, app_))};
      if (std::string empty = EmptyValue(app_, *chosen(), argc, argv); !empty.empty()) {
        return {.exit = kExitUsage, .err = std::move(empty)};
      }
      return {.exit = kExitUsage, .err = UsageError(error, app_, *chosen(), argc, argv)};
    }
    if (std::string empty = EmptyValue(app_, *chosen(), argc, argv); !empty.empty())
      return {.exit = kExitUsage, .err = std::move(empty)};
    return {.run = true};
  }

  const GlobalOptions& globals() const { return globals_; }
  // The command that was chosen; null if none was.
  const Command* command() const {
    for (const Command& command : commands_) {
      if (command.app->parsed()) return &command;
    }
    return nullptr;
  }

 private:
  const CLI::App* chosen() const { return command() == nullptr ? &app_ : command()->app; }

  void AddGlobalOptions() {
    CLI::Option* threads = app_.add_option("--threads", globals_.threads, "Threads to compute with");
    threads->check(Integer(1, 1024))->type_name("N")->capture_default_str();
    app_.add_option("--seed", globals_.seed, "Seed of whatever is drawn at random")
        ->type_name("N")
        ->check(Integer(0, INT64_MAX))
        ->default_str("1");
    app_.add_option("--isa", globals_.isa, "Use these vector instructions instead of this CPU's best")
        ->type_name("LEVEL");
    app_.add_flag("--json", globals_.json, "One JSON document on stdout instead of text");
    app_.add_flag("-q,--quiet", globals_.quiet, "Only results and errors");
    app_.add_flag("-v,--verbose", globals_.verbose, "Say more on the way");
    AddWhen("--color", globals_.color, "Colors: on a terminal (auto; NO_COLOR is minded), always, never");
    AddWhen("--progress", globals_.progress, "Progress: on a terminal (auto), always, never");
  }
  void AddWhen(const char* name, std::string& value, const char* text) {
    app_.add_option(name, value, text)->type_name("WHEN")->check(OneOf({"auto", "always", "never"}));
  }

  // A command with its options, which live as long as this object.
  template <typename Options>
  CLI::App* Add(const char* name, const char* summary, const char* examples,
                absl::Status (*run)(const Options&, Context&), Options** options) {
    auto owned = std::make_shared<Options>();
    *options = owned.get();
    CLI::App* command = app_.add_subcommand(name, summary)->footer(examples);
    commands_.push_back({command, [owned, run](Context& context) { return run(*owned, context); }});
    return command;
  }
  static CLI::Option* AddModel(CLI::App* command, std::string& model, const char* text) {
    return command->add_option("MODEL", model, text)->required()->type_name("");
  }
  static CLI::Option* AddBackend(CLI::App* command, std::string& backend) {
    return command
        ->add_option("--backend", backend, "What runs the models: this machine's processor or its GPU")
        ->check(OneOf({"cpu", "cuda"}))
        ->type_name("NAME")
        ->capture_default_str();
  }
  template <typename Number>
  static CLI::Option* AddCount(CLI::App* command, const char* name, Number& value, const char* text,
                               int64_t min, int64_t max = kMany) {
    return command->add_option(name, value, text)
        ->check(Integer(min, max))
        ->type_name("N")
        ->capture_default_str();
  }

  static void AddRotateFrom(CLI::App* command, std::string& path) {
    command->add_option("--rotate-from", path, "What learn-rotations wrote, in place of Hadamard matrices")
        ->type_name("FILE");
  }
  static void AddLearningText(CLI::App* command, LearningText& text) {
    command->add_option("--text", text.texts, "UTF-8 text to learn from")->required()->type_name("FILE...");
    AddCount(command, "--windows", text.windows, "Steps, each on a window of its own", 1, 1 << 20);
    AddCount(command, "--length", text.length, "Tokens of a window", 8, 1 << 14);
    AddBackend(command, text.backend);
  }

  void AddInspect();
  void AddScan();
  void AddAblate();
  void AddCompare();
  void AddFolds();
  void AddPlan();
  void AddQuantize();
  void AddLearnRotations();
  void AddRefine();
  void AddEval();
  void AddSweep();
  void AddGenerate();
  void AddBench();
  void AddSimple(CommandSpec& spec);
  void AddFixture();
  void AddShellCommands();

  CLI::App app_;
  GlobalOptions globals_;
  std::vector<Command> commands_;
  std::vector<CommandSpec> simple_ = SimpleCommands();
};

constexpr char kAnyModel[] = "A Hugging Face directory, a GGUF file or a directory that quantize wrote";

void CommandLine::AddInspect() {
  InspectCommandOptions* o = nullptr;
  CLI::App* c = Add("inspect", "Says what a model is, from its headers alone",
                    "spikefold inspect models/smollm2-135m-instruct-q4_1.gguf\n"
                    "spikefold inspect model-w8a8 --json",
                    RunInspect, &o);
  AddModel(c, o->model, kAnyModel);
}

constexpr char kFloatModel[] = "A Hugging Face directory or a GGUF file";

void CommandLine::AddScan() {
  ScanCommandOptions* o = nullptr;
  CLI::App* c = Add("scan", "Finds a model's outliers: where they are, who writes them, what helps",
                    "spikefold scan MODEL -o scan\n"
                    "spikefold scan MODEL -o scan --text train.txt --windows 64 --length 512",
                    RunScan, &o);
  AddModel(c, o->model, kFloatModel);
  c->add_option("-o,--output", o->output, "Write outliers.json and scan.spike into this directory")
      ->required()
      ->type_name("DIR");
  AddScanText(c, o->text);
  AddBackend(c, o->backend);
  c->add_flag(
      "--anatomy", o->text.anatomy,
      "Also ask which tokens spike when they stand first, and for sinks in random and repeated tokens");
  c->add_flag("--force", o->force, "Replace a scan that is there");
}

void CommandLine::AddAblate() {
  AblateCommandOptions* o = nullptr;
  CLI::App* c = Add("ablate", "Measures what a model loses when its spikes or its attention sink are changed",
                    "spikefold ablate MODEL --scan scan --text wiki.test.raw -o ablate.json\n"
                    "spikefold ablate MODEL --text wiki.test.raw --windows 16",
                    RunAblate, &o);
  AddModel(c, o->model, kFloatModel);
  c->add_option("--text", o->texts, "UTF-8 text to measure on")->required()->type_name("FILE...");
  c->add_option("--scan", o->scan, "What scan wrote; without it the text is scanned first")->type_name("DIR");
  c->add_option("-o,--output", o->output, "Write the result here, as JSON")->type_name("FILE");
  AddCount(c, "--windows", o->windows, "Measure on so many windows", 1);
  AddCount(c, "--context", o->context, "Tokens of a window", 8, 1 << 20);
}

void CommandLine::AddCompare() {
  CompareCommandOptions* o = nullptr;
  CLI::App* c = Add("compare", "Puts the outliers of several models side by side, and what each allows",
                    "spikefold compare scan-a scan-b", RunCompare, &o);
  c->add_option("SCAN", o->scans, "What scan wrote")->required()->type_name("");
}

void CommandLine::AddFolds() {
  FoldsCommandOptions* o = nullptr;
  CLI::App* c = Add("folds", "Which exact rewrites a model allows, and the proof that each changes nothing",
                    "spikefold folds MODEL\n"
                    "spikefold folds MODEL --text wiki.test.raw --json",
                    RunFolds, &o);
  AddModel(c, o->model, kFloatModel);
  c->add_option("--text", o->texts, "UTF-8 text to compare on; without it the model writes its own")
      ->type_name("FILE");
  AddCount(c, "--windows", o->windows, "Windows of text", 1);
  AddCount(c, "--length", o->length, "Tokens of a window", 2);
  AddRotateFrom(c, o->rotate_from);
}

void CommandLine::AddPlan() {
  PlanCommandOptions* o = nullptr;
  CLI::App* c = Add("plan", "Decides for each tensor how it will be stored, with the reason and the bytes",
                    "spikefold plan MODEL --scan scan --scheme w8a8-static -o plan.json\n"
                    "spikefold plan MODEL --scan scan --scheme w4a16 --group-size 32",
                    RunPlan, &o);
  AddModel(c, o->model, kFloatModel);
  c->add_option("--scan", o->scan, "What scan wrote")->type_name("DIR");
  c->add_option("-o,--output", o->output, "Write the plan here, one tensor a line")->type_name("FILE");
  c->add_flag("--dry-run", o->dry_run, "Say what quantizing by this plan would write and take");
  AddBackend(c, o->backend);
  AddRotateFrom(c, o->rotate_from);
  AddRecipe(c, o->recipe);
}

void CommandLine::AddQuantize() {
  QuantizeCommandOptions* o = nullptr;
  CLI::App* c = Add("quantize", "Quantizes a model; scans and plans it first where that is not given",
                    "spikefold quantize MODEL --scheme w8a8-static -o model-q\n"
                    "spikefold quantize MODEL --scan scan --scheme w4a16 -o model-w4\n"
                    "spikefold quantize MODEL --scan scan --plan plan.json -o model-q --force\n"
                    "spikefold quantize MODEL --scan scan --scheme w4a16 -o model-w4 --resume",
                    RunQuantize, &o);
  AddModel(c, o->model, kFloatModel);
  c->add_option("-o,--output", o->output, "The quantized model's directory")->type_name("DIR");
  c->add_option("--scan", o->scan, "What scan wrote; made here if not given")->type_name("DIR");
  c->add_option("--plan", o->plan, "What plan wrote; made here if not given")->type_name("FILE");
  c->add_flag("--force", o->force, "Replace a model that is there");
  c->add_flag("--resume", o->resume, "Go on with what an interrupted run left, to the same bytes");
  c->add_flag("--dry-run", o->dry_run, "Only say what would be written and how much memory it would take");
  c->add_option("--max-memory", o->max_memory, "Refuse, before the work, what would take more: 6GiB")
      ->type_name("SIZE");
  c->add_option("--shard", o->shard, "Only the I-th of N ranges of layers, as a part for merge")
      ->type_name("I/N");
  c->add_option("--after", o->after, "With --shard and GPTQ: the parts of all shards before it")
      ->type_name("DIR...");
  AddBackend(c, o->backend);
  AddRotateFrom(c, o->rotate_from);
  AddRecipe(c, o->recipe);
  AddScanText(c, o->text);
}

void CommandLine::AddLearnRotations() {
  LearnRotationsCommandOptions* o = nullptr;
  CLI::App* c =
      Add("learn-rotations", "Learns R1 and R2 in place of Hadamard matrices, for quantize",
          "spikefold learn-rotations MODEL --scan scan --scheme w4a4 --text train.txt -o rotations.spike\n"
          "spikefold quantize MODEL --scan scan --scheme w4a4 --rotate-from rotations.spike -o model-q",
          RunLearnRotations, &o);
  AddModel(c, o->model, kFloatModel);
  c->add_option("--scan", o->scan, "What scan wrote")->type_name("DIR");
  c->add_option("-o,--output", o->output, "The rotations")->required()->type_name("FILE");
  AddLearningText(c, o->text);
  c->add_option("--rate", o->rate, "The angle in radians that a step turns an axis by, where gradients agree")
      ->check(Number(1e-9, 1))
      ->type_name("X")
      ->capture_default_str();
  AddRecipe(c, o->recipe);
}

void CommandLine::AddRefine() {
  RefineCommandOptions* o = nullptr;
  CLI::App* c =
      Add("refine", "Learns scales, biases and gains of a quantized model from its float model",
          "spikefold refine model-w3 --reference MODEL --text train.txt -o model-w3-refined", RunRefine, &o);
  AddModel(c, o->model, "A directory that quantize wrote");
  c->add_option("--reference", o->reference, "The float model it came from")->required()->type_name("MODEL");
  c->add_option("-o,--output", o->output, "The refined model's directory")->required()->type_name("DIR");
  AddLearningText(c, o->text);
  c->add_option("--rate", o->rate, "Largest relative change of a step, nearly")
      ->check(Number(1e-9, 1))
      ->type_name("X")
      ->capture_default_str();
  c->add_flag("--force", o->force, "Replace a model that is there");
}

void CommandLine::AddEval() {
  EvalCommandOptions* o = nullptr;
  CLI::App* c =
      Add("eval", "Measures on text what quantization cost, beside the float model",
          "spikefold eval model-q --reference MODEL --text wiki.test.raw -o model-q.eval.json\n"
          "spikefold eval model-q --reference MODEL --text wiki.test.raw --protocol paper --windows 0\n"
          "spikefold eval MODEL --text wiki.test.raw                   # a float model's perplexity",
          RunEval, &o);
  AddModel(c, o->model, kAnyModel);
  c->add_option("--reference", o->reference, "The float model to compare with")->type_name("MODEL");
  c->add_option("--text", o->texts, "UTF-8 text, not what was calibrated on")
      ->required()
      ->type_name("FILE...");
  c->add_option("-o,--output", o->output, "Write the result here, for report")->type_name("FILE");
  c->add_option("--name", o->name, "What a report calls it; its file name if not given")->type_name("NAME");
  c->add_option("--protocol", o->protocol,
                "paper: windows of 2048 tokens, all scored; llamacpp: chunks of 512, their second half "
                "scored; chunks: chunks of 512, all scored")
      ->check(OneOf({"paper", "llamacpp", "chunks"}))
      ->type_name("NAME")
      ->capture_default_str();
  AddCount(c, "--context", o->context, "Tokens of a window; 0: as the protocol says", 0);
  AddCount(c, "--windows", o->windows, "Measure on so many windows; 0: on all", 0);
  c->add_option("--bos", o->bos,
                "BOS: never (none), before the text (once), before each window (window), or "
                "as the tokenizer asks (auto)")
      ->check(OneOf({"auto", "none", "once", "window"}))
      ->type_name("WHERE")
      ->capture_default_str();
  c->add_option("--backend", o->backend,
                "What runs the models: this machine's processor, its GPU, or, with --parity, LibTorch")
      ->check(OneOf({"cpu", "cuda", "torch"}))
      ->type_name("NAME")
      ->capture_default_str();
  c->add_flag("--parity", o->parity,
              "Compare that backend with this program on the CPU instead, linear by linear and run by run");
  AddCount(c, "--parity-tokens", o->parity_tokens,
           "Evaluated on a GPU: so many of the first tokens run on the CPU, too, and are compared; 0: none",
           0);
  c->add_flag("--simulate", o->simulate, "Run the quantized model in float instead of on integer kernels");
  AddKv(c, o->kv, kKvForm);
  c->add_flag("--noise-floor", o->noise_floor, "Also measure the reference with bf16 activations");
}

void CommandLine::AddSweep() {
  SweepCommandOptions* o = nullptr;
  CLI::App* c = Add("sweep", "Quantizes and evaluates many ways from one scan: accuracy against bits",
                    "spikefold sweep MODEL --scan scan --text wiki.test.raw -o sweep\n"
                    "spikefold sweep MODEL --scan scan --text wiki.test.raw -o sweep --recipes recipes.json",
                    RunSweep, &o);
  AddModel(c, o->model, kFloatModel);
  c->add_option("--scan", o->scan, "What scan wrote")->required()->type_name("DIR");
  c->add_option("--text", o->texts, "UTF-8 text to measure on, not what was calibrated on")
      ->required()
      ->type_name("FILE...");
  c->add_option("-o,--output", o->output, "Evaluations, sweep.json and report.* go into this directory")
      ->required()
      ->type_name("DIR");
  c->add_option("--recipes", o->recipes, "A JSON array of recipes, or grid: the frontier and its controls")
      ->type_name("FILE|grid")
      ->capture_default_str();
  c->add_option("--protocol", o->protocol,
                "llamacpp: chunks of 512, their second half scored; chunks: all scored")
      ->check(OneOf({"llamacpp", "chunks"}))
      ->type_name("NAME")
      ->capture_default_str();
  AddCount(c, "--context", o->context, "Tokens of a window; 0: as the protocol says", 0);
  AddCount(c, "--windows", o->windows, "Measure on so many windows; 0: on all", 0);
  AddCount(c, "--max-points", o->max_points, "Only the first N recipes; 0: all", 0);
  c->add_flag("--keep-models", o->keep_models, "Leave each quantized model in its directory");
  c->add_flag("--force", o->force, "Run points again that are done, and replace models that are there");
}

void CommandLine::AddGenerate() {
  GenerateCommandOptions* o = nullptr;
  CLI::App* c = Add("generate", "Continues a text",
                    "spikefold generate MODEL -p \"The capital of France is\"\n"
                    "spikefold generate MODEL -p \"Once upon a time\" --temperature 0.8 --top-k 40 --seed 7",
                    RunGenerate, &o);
  AddModel(c, o->model, kAnyModel);
  c->add_option("-p,--prompt", o->prompt, "The text to continue; \"<|im_start|>\" and the like are parsed")
      ->required()
      ->type_name("TEXT");
  AddCount(c, "--max-tokens", o->max_tokens, "Stop after so many tokens", 1);
  c->add_option("--temperature", o->temperature, "0: always the likeliest token; 1: as the model says")
      ->check(Number(0, 100))
      ->type_name("T")
      ->capture_default_str();
  AddBackend(c, o->backend);
  AddCount(c, "--top-k", o->top_k, "Draw from the K likeliest tokens only; 0: from all", 0)->type_name("K");
  AddKv(c, o->kv, kKvForm);
}

void CommandLine::AddBench() {
  BenchCommandOptions* o = nullptr;
  CLI::App* c = Add("bench", "Measures tokens a second, as llama-bench defines and prints them",
                    "spikefold bench model-w8a8 --threads 2\n"
                    "spikefold bench MODEL --prefill 512 --decode 64 --repeat 3 --json",
                    RunBench, &o);
  AddModel(c, o->model, kAnyModel);
  AddCount(c, "--prefill", o->prefill, "Tokens of the prompt (pp); 0: not measured", 0);
  AddCount(c, "--decode", o->decode, "Tokens decoded one by one (tg); 0: not measured", 0);
  AddCount(c, "--batch", o->batch, "Sequences decoded side by side, so many tokens each", 1, 1024);
  AddBackend(c, o->backend);
  c->add_flag("--bf16-rows", o->bf16_rows,
              "Float models on a GPU: rows rounded to bf16 before bf16 weights, as other engines' bf16 does");
  c->add_flag_function(  // an optional value would become false where nothing is said
       "--kernels,!--no-kernels", [o](int64_t count) { o->kernels = count > 0; },
       "Also what each kind of kernel takes and reaches of the machine [with --backend cuda]")
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  AddCount(c, "--repeat", o->repeat, "Repetitions, after one to warm up", 1, 100000);
  AddKv(c, o->kv, kKvForm);
}

void CommandLine::AddSimple(CommandSpec& spec) {
  CLI::App* c = app_.add_subcommand(spec.name, spec.summary)->footer(spec.examples);
  for (OptionSpec& o : spec.options) {
    CLI::Option* option = nullptr;
    if (bool* const* flag = std::get_if<bool*>(&o.value)) {
      option = c->add_flag(o.names, **flag, o.text);
    } else if (auto* const* list = std::get_if<std::vector<std::string>*>(&o.value)) {
      option = c->add_option(o.names, **list, o.text)->type_name(o.type_name);
    } else {
      option = c->add_option(o.names, *std::get<std::string*>(o.value), o.text)->type_name(o.type_name);
    }
    if (!o.words.empty()) option->check(OneOf(o.words));
    option->required(o.required);
  }
  commands_.push_back({c, spec.run});
}

void CommandLine::AddFixture() {
  FixtureCommandOptions* o = nullptr;
  CLI::App* c = Add("fixture", "Writes a model of a known shape with random weights, to measure speed with",
                    "spikefold fixture --shape llama3-8b --layers 4 -o random-8b", RunFixture, &o);
  c->add_option("-o,--output", o->output, "The model's directory")->required()->type_name("DIR");
  c->add_option("--shape", o->shape, "tiny, smollm2, llama3-8b or llama3-70b")
      ->type_name("NAME")
      ->capture_default_str();
  AddCount(c, "--layers", o->layers, "Layers; 0: as many as the shape has", 0, 1000);
  c->add_flag("--sparse", o->sparse, "Matrices are zeros that take no room on the disk");
  c->add_flag("--force", o->force, "Replace a model that is there");
}

// What describes the command line itself: shells, the manual.
void CommandLine::AddShellCommands() {
  auto shell = std::make_shared<std::string>();
  CLI::App* completion =
      app_.add_subcommand("completion", "Writes a script that lets a shell complete commands")
          ->footer(
              "source <(spikefold completion bash)\n"
              "spikefold completion fish > ~/.config/fish/completions/spikefold.fish");
  completion->add_option("SHELL", *shell, "bash, zsh or fish")
      ->required()
      ->type_name("")
      ->check(OneOf({"bash", "zsh", "fish"}));
  commands_.push_back({completion, [this, shell](Context& context) {
                         const ToolShape tool = ShapeOf(app_);
                         context.console.Print(*shell == "bash"  ? BashCompletion(tool)
                                               : *shell == "zsh" ? ZshCompletion(tool)
                                                                 : FishCompletion(tool));
                         return context.console.Flush();
                       }});
  CLI::App* man = app_.add_subcommand("man", "Writes the manual page")
                      ->footer("spikefold man > spikefold.1; man ./spikefold.1");
  commands_.push_back({man, [this](Context& context) {
                         context.console.Print(ManPage(ShapeOf(app_)));
                         return context.console.Flush();
                       }});
}

int Main(int argc, char** argv) {
  CommandLine line;
  const CommandLine::Outcome outcome = line.Parse(argc, argv);
  const GlobalOptions& globals = line.globals();
  Console console({.color = ParseWhen(globals.color),
                   .progress = ParseWhen(globals.progress),
                   .verbosity = globals.quiet     ? -1
                                : globals.verbose ? 1
                                                  : 0,
                   .json = globals.json});
  if (!outcome.run) {
    console.Print(outcome.out);
    if (!outcome.err.empty()) console.Error(outcome.err.substr(0, outcome.err.size() - 1));
    const absl::Status written = console.Flush();
    if (written.ok()) return outcome.exit;
    console.Error(absl::StrCat("spikefold: ", std::string(written.message())));
    return ExitCodeOf(written);
  }
  Context context(console, globals.threads, globals.seed,
                  absl::StrJoin(std::vector<std::string>(argv + 1, argv + argc), " "));
  absl::Status status = ChooseIsa(globals.isa);
  if (status.ok()) status = RunGuarded(line.command()->run, context);
  if (!status.ok()) {
    const std::string& name = line.command()->app->get_name();
    // Libraries name their part of the work, which is often the command itself.
    const absl::string_view text = absl::StripPrefix(status.message(), name + ": ");
    console.EndProgress();
    console.Error(absl::StrCat("spikefold ", name, ": ", Printable(text, 4000)));
  }
  return ExitCodeOf(status);
}

}  // namespace
}  // namespace spikefold

int main(int argc, char** argv) {
  spikefold::ProtectStandardStreams();
  spikefold::InstallInterruptHandlers();
  try {
    return spikefold::Main(argc, argv);
  } catch (const std::bad_alloc&) {
    return spikefold::kExitMemory;
  }
}
