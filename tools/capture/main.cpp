// SPDX-License-Identifier: Apache-2.0
#include <moeroute/core/error.hpp>
#include <moeroute/core/version.hpp>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <exception>
#include <new>
#include <string>

#if __has_include(<malloc.h>)
#include <malloc.h>
#endif

#include <CLI/CLI.hpp>

#include "family.hpp"
#include "http.hpp"
#include "model.hpp"
#include "plan.hpp"
#include "session.hpp"

namespace {

using namespace moeroute::capture;

extern "C" void on_signal(int) { interrupted = true; }

// The first Ctrl-C ends the capture after the batch at hand, the second at once.
void install_signal_handlers() {
  static_assert(std::atomic<bool>::is_always_lock_free);
  struct ::sigaction action {};
  action.sa_handler = on_signal;
  action.sa_flags = static_cast<int>(SA_RESETHAND);
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
}

// Every operation allocates its result. glibc gives large ones back to the kernel, which zeroes them for the next one:
// a fifth of the time of a small model.
void keep_freed_memory() {
#ifdef M_TRIM_THRESHOLD
  ::mallopt(M_MMAP_THRESHOLD, 32 << 20);  // the most it allows
  ::mallopt(M_TRIM_THRESHOLD, 256 << 20);
#endif
}

int complain(int code, std::string const& what) {
  std::fprintf(stderr, "moeroute: %s\n", what.c_str());
  return code;
}

int guarded(capture_options const& options, bool tokenize_only) {
  try {
    return tokenize_only ? tokenize(options) : capture(options);
  } catch (usage_error const& e) {
    return complain(2, e.what());
  } catch (moeroute::argument_error const& e) {
    return complain(2, e.what());
  } catch (moeroute::io_error const& e) {
    bool const full = e.error_number() == ENOSPC || e.error_number() == EDQUOT;
    return complain(3,
                    std::string(e.what()) + (full ? "; free some space and run the same command with --resume" : ""));
  } catch (resource_error const& e) {
    return complain(3, e.what());
  } catch (download_error const& e) {
    return complain(3, e.what());
  } catch (download_interrupted const& e) {
    return complain(130, std::string(e.what()) + "; the same command goes on where the download stopped");
  } catch (std::bad_alloc const&) {
    return complain(3, "out of memory; try a smaller --batch-tokens or --shard-tokens");
  } catch (std::filesystem::filesystem_error const& e) {
    return complain(3, e.path1().string() + ": " + e.code().message());
  } catch (std::exception const& e) {
    return complain(1, e.what());
  }
}

}  // namespace

int main(int argc, char** argv) {
  capture_options options;
  bool list_families = false, tokenize_only = false;
  std::vector<std::string> labels;

  CLI::App app{"Runs a Mixture-of-Experts model over texts and records the routing of every token.",
               "moeroute-capture"};
  app.set_version_flag("--version", std::string("moeroute-capture ") + moeroute::version);
  app.add_option("model", options.model, "Model folder, or owner/name[@revision] of the Hugging Face cache, else of the hub; with --plan also a config.json");
  app.add_option("texts", options.inputs.files,
                 ".jsonl: one document a line; .csv, .tsv: one a row; other files: one document each; -: JSON lines on "
                 "standard input; any of them also packed with gzip");
  app.add_option("--data", options.inputs.data,
                 "KIND:FILE, where KIND is text, jsonl, csv, tsv, or a data set with its scoring: lambada, hellaswag, "
                 "wikitext, gsm8k, math, aqua, humaneval, mgsm; FILE may be -; may be repeated")
      ->take_all()
      ->allow_extra_args(false);
  app.add_option("--model-type", options.model_type, "Family to run it as, instead of model_type in config.json");
  app.add_option("--tokenizer", options.tokenizer, "Folder of tokenizer.json, if it is not the model's");
  app.add_option("-o,--out", options.out, "Folder of the trace");
  app.add_option("--text", options.inputs.texts, "A text given here; may be repeated")
      ->take_all()
      ->allow_extra_args(false);
  app.add_option("--text-field", options.inputs.text_field, "Field of a JSON line, or column, that holds the text")
      ->capture_default_str();
  app.add_option("--token-ids", options.inputs.ids_field,
                 "Field of a JSON line that holds an array of token ids; no text and no tokenizer then");
  app.add_option("--label-field", options.inputs.label_field, "Field of a JSON line, or column, that becomes the label \"label\"");
  app.add_option("--label", labels, "key=value put on every document; may be repeated")
      ->take_all()
      ->allow_extra_args(false);
  app.add_flag("--lines", options.inputs.lines, "Every line of a text file is a document");
  app.add_option("--max-docs", options.inputs.max_documents, "Take this many documents of every FILE; of a data set: examples")
      ->check(CLI::PositiveNumber);
  app.add_option("--max-tokens", options.max_tokens,
                 "Cut documents to this many tokens (default: what the model allows)")
      ->check(CLI::PositiveNumber);
  app.add_option("--generate", options.generate.tokens,
                 "Go on from every document with up to this many tokens, recorded as its decode rows")
      ->check(CLI::PositiveNumber);
  app.add_option("--temperature", options.generate.temperature,
                 "Draw tokens from softmax(logits / temperature); 0: always the most probable one")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber);
  app.add_option("--top-p", options.generate.top_p, "Draw from the fewest most probable tokens that reach this together")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 1.0));
  app.add_option("--seed", options.generate.seed, "Seed of the draws")->capture_default_str();
  app.add_flag("--skip-special-tokens", options.generate.skip_special_tokens,
               "Leave special tokens out of the generated text");
  app.add_option("--shard-tokens", options.shard_tokens, "Tokens per shard")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  app.add_option("--batch-tokens", options.batch_tokens, "Tokens per pass through the model")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  app.add_option("--device", options.device, "auto, cpu, cuda or cuda:N")->capture_default_str();
  app.add_option("--dtype", options.dtype, "auto (float32 on the CPU, as stored elsewhere), float32, float16 or bfloat16")
      ->capture_default_str();
  app.add_option("--quantize", options.quantize,
                 "none, or nf4: keep the matrices of attention and experts in 4 bits, as bitsandbytes does")
      ->capture_default_str()
      ->check(CLI::IsMember({"none", "nf4"}));
  app.add_option("--attention", options.attention,
                 "auto (sdpa, or eager for a model with attention sinks), eager, sdpa or flash")
      ->capture_default_str();
  app.add_option("--residency", options.residency,
                 "Weights: all in memory, stream (layer by layer, each read once), auto (stream if they do not fit)")
      ->capture_default_str()
      ->check(CLI::IsMember({"auto", "all", "stream"}));
  app.add_option("--host-memory", options.host_memory,
                 "Host memory to stay within, such as 8G (default: what is free); hidden states beyond it go to a scratch file")
      ->transform(CLI::AsSizeValue(false));
  app.add_option("--threads", options.threads, "Threads (default: all processors)")->check(CLI::PositiveNumber);
  app.add_option("--keep", options.keep,
                 "logits: everything; topk: no logits, only experts and weights; counts: no tokens, only the sums that "
                 "analyze makes of them")
      ->capture_default_str()
      ->check(CLI::IsMember({"logits", "topk", "counts"}));
  std::string part;
  auto* shard = app.add_option("--shard", part, "i/n: write part i of n into the folder; the last part makes it a trace");
  auto* resume = app.add_flag("--resume", options.resume, "Go on where an earlier run of the same command stopped");
  app.add_flag("--overwrite", options.overwrite, "Replace the trace in the folder")->excludes(resume)->excludes(shard);
  app.add_flag("--offline", options.offline, "Fetch nothing; also HF_HUB_OFFLINE=1");
  app.add_flag("--skip-empty", options.inputs.skip_empty, "Leave empty documents out");
  app.add_flag("--replace-invalid-utf8", options.inputs.replace_invalid_utf8,
               "Replace bytes that are not UTF-8 by U+FFFD");
  app.add_flag("--fail-on-nonfinite", options.fail_on_nonfinite, "Stop if the model gives NaN or infinite values");
  app.add_flag("--quiet", options.quiet, "Only errors and warnings");
  app.add_flag("--plan", options.plan_only, "Print what it would need, and stop; of a config.json alone also its tensors and their bytes");
  app.add_flag("--tokenize", tokenize_only, "Print ids and pieces of every document as JSON lines, and stop");
  app.add_flag("--families", list_families, "Print the families of models that are built, and stop");
  try {
    app.parse(argc, argv);
  } catch (CLI::Success const& e) {
    return app.exit(e);
  } catch (CLI::ParseError const& e) {
    return complain(2, std::string(e.what()) + "; see moeroute-capture --help");
  }
  if (list_families) {
    std::fputs(describe_families().c_str(), stdout);
    return 0;
  }
  for (auto const& label : labels) {
    auto const equals = label.find('=');
    if (equals == 0 || equals == std::string::npos) return complain(2, "--label " + label + ": expected key=value");
    options.inputs.labels.emplace_back(label.substr(0, equals), label.substr(equals + 1));
  }
  if (!part.empty()) {
    try {
      options.part = parse_part(part);
    } catch (moeroute::argument_error const& e) {
      return complain(2, e.what());
    }
  }
  if (options.model.empty()) return complain(2, "no model given; see moeroute-capture --help");
  bool const texts = !options.inputs.files.empty() || !options.inputs.data.empty() || !options.inputs.texts.empty();
  if (!texts && !options.plan_only) return complain(2, "no texts given; see moeroute-capture --help");
  if (options.out.empty() && !options.plan_only && !tokenize_only)
    return complain(2, "no folder for the trace given; use -o");
  if (auto const memory = free_memory()) options.inputs.document_bytes = std::min(options.inputs.document_bytes, *memory / 4);
  if (options.generate.tokens == 0)
    for (char const* name : {"--temperature", "--top-p", "--seed", "--skip-special-tokens"})
      if (app.count(name) > 0) return complain(2, std::string(name) + " is for --generate, which is not given");
  // Also for what is no number.
  if (!(options.generate.top_p > 0)) return complain(2, "--top-p: expected more than 0 and at most 1");
  if (!std::isfinite(options.generate.temperature)) return complain(2, "--temperature: expected a number");
  if (app.count("--top-p") > 0 && options.generate.temperature == 0)
    return complain(2, "--top-p is for drawing, and at --temperature 0 nothing is drawn; give a temperature");
  install_signal_handlers();
  keep_freed_memory();
  return guarded(options, tokenize_only);
}
