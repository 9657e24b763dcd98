// SPDX-License-Identifier: Apache-2.0
// The command line: arguments in, exit code out. 0 done, 1 bad data, 2 wrong usage, 3 the system refused.
#include <cli/analyze.hpp>
#include <report/report.hpp>

#include <moeroute/core/version.hpp>

#include <CLI/CLI.hpp>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <new>
#include <string_view>

#include <unistd.h>

namespace {

enum exit_code { done = 0, bad_data = 1, bad_usage = 2, system_refused = 3 };

int complain(exit_code code, std::string const& what) {
  std::cerr << "moeroute: " << what << "\n";
  return code;
}

// `moeroute capture …` is moeroute-capture beside this program: only that one carries libtorch.
int hand_over_to_capture(char** argv) {
  std::error_code error;
  auto const self = std::filesystem::read_symlink("/proc/self/exe", error);
  auto const beside = self.parent_path() / "moeroute-capture";
  std::string const program = !error && std::filesystem::exists(beside) ? beside.string() : "moeroute-capture";
  argv[1] = const_cast<char*>("moeroute-capture");
  ::execvp(program.c_str(), argv + 1);
  return complain(system_refused, "moeroute-capture: cannot start: " + std::string(std::strerror(errno)) +
                                      "; it is built where libtorch is found (see README, Install)");
}

// Commands that the design names and this version lacks.
constexpr std::array planned{"import", "check", "kde", "weights", "compare", "export", "merge", "inspect", "demo"};

void refuse_foreign_folder(std::filesystem::path const& folder) {
  if (!std::filesystem::exists(folder)) return;
  if (!std::filesystem::is_directory(folder)) throw moeroute::io_error(folder.string(), "cannot write results", ENOTDIR);
  bool const ours = std::filesystem::exists(folder / "results.json") || std::filesystem::exists(folder / "summary_report.txt");
  if (!ours && !std::filesystem::is_empty(folder))
    throw moeroute::argument_error(folder.string() + ": is not empty and holds no results of an earlier run; choose another folder");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1 && std::string_view(argv[1]) == "capture") return hand_over_to_capture(argv);
  if (argc > 1)
    for (std::string_view const name : planned)
      if (name == argv[1])
        return complain(bad_usage, std::string(name) + ": not in version " + moeroute::version + " yet; `moeroute --help` lists what is");

  CLI::App app{"moeroute: how Mixture-of-Experts language models route tokens"};
  app.require_subcommand(1);
  app.set_version_flag("--version", std::string("moeroute ") + moeroute::version);
  app.footer("exit codes: 0 done, 1 bad data, 2 wrong usage, 3 the system refused (disk, permission)");
  // Handled above; here for --help.
  app.add_subcommand("capture", "run a model on texts and record its routing: moeroute capture MODEL texts... -o trace/");

  moeroute::cli::analyze_options analyze;
  bool quiet = false;
  auto* const analyze_command = app.add_subcommand("analyze", "compute every statistic that a trace supports");
  analyze_command->add_option("trace", analyze.trace, "folder written by moeroute capture")->required();
  analyze_command->add_option("-o,--output", analyze.output, "folder for results.json, summary_report.txt, .npy and .csv; results of an earlier run are replaced")->required();
  analyze_command->add_option("--label", analyze.collecting.label_key, "label of the documents that is compared")->capture_default_str();
  analyze_command->add_option("--block", analyze.collecting.block_key, "label that dependent documents share, such as the passage they translate")->capture_default_str();
  std::string phase = "all";
  analyze_command->add_option("--phase", phase, "rows of prompts (prefill), of generated tokens (decode), or all")->capture_default_str()->check(CLI::IsMember({"all", "prefill", "decode"}));
  analyze_command->add_option("--threads", analyze.collecting.threads, "threads, 0 = all; results do not depend on it")->capture_default_str()->check(CLI::Range(0, 4096));
  analyze_command->add_option("--seed", analyze.inference.seed, "seed of bootstrap and permutations")->capture_default_str();
  analyze_command->add_option("--permutations", analyze.inference.permutations, "relabellings of documents; the smallest p-value is 1/(N+1)")->capture_default_str()->check(CLI::Range(0, 1000000));
  analyze_command->add_option("--bootstrap", analyze.inference.bootstrap_replicates, "bootstrap replicates")->capture_default_str()->check(CLI::Range(0, 1000000));
  analyze_command->add_option("--level", analyze.inference.level, "coverage of intervals")->capture_default_str()->check(CLI::Range(0.5, 0.9999));
  analyze_command->add_option("--delta-max", analyze.lags.delta_max, "largest lag between layers")->capture_default_str()->check(CLI::Range(1, 10000));
  analyze_command->add_option("--example-tokens", analyze.collecting.example_tokens, "longest example document in the report")->capture_default_str();
  std::uint64_t count_mebibytes = 512;
  analyze_command->add_option("--count-memory", count_mebibytes, "MiB for counts per document; beyond it, 256 groups of documents per label stand for them")->capture_default_str();
  analyze_command->add_flag("-q,--quiet", quiet, "print nothing but errors");

  moeroute::report::report_options report;
  auto* const report_command = app.add_subcommand("report", "write one self-contained HTML page from results");
  report_command->add_option("results", report.results, "folder written by moeroute analyze")->required();
  report_command->add_option("-o,--output", report.output, "HTML file; replaced if it is there")->capture_default_str();
  report_command->add_option("--plotly", report.plotly, "plotly.min.js to inline instead of the one built in");
  report_command->add_flag("-q,--quiet", quiet, "print nothing but errors");

  try {
    app.parse(argc, argv);
  } catch (CLI::ParseError const& e) {
    if (e.get_exit_code() == 0) return app.exit(e);
    return complain(bad_usage, std::string(e.what()) + "; see moeroute --help");
  }

  try {
    if (*analyze_command) {
      refuse_foreign_folder(analyze.output);
      analyze.collecting.progress = !quiet;
      if (phase != "all") analyze.collecting.phase = phase == "decode" ? moeroute::cli::phase_choice::decode : moeroute::cli::phase_choice::prefill;
      analyze.collecting.count_memory = count_mebibytes << 20;
      auto const a = moeroute::cli::analyze(analyze);
      moeroute::cli::write_results(a);
      if (!quiet) {
        for (auto const& sentence : a.answers) std::cout << sentence << "\n";
        for (auto const& warning : a.warnings) std::cerr << "moeroute: warning: " << warning << "\n";
        for (auto const& [what, why] : a.not_computed) std::cout << "Not computed: " << what << ": " << why << "\n";
        std::cout << "Results: " << analyze.output.string() << " (summary_report.txt, results.json)\n";
      }
    } else if (*report_command) {
      moeroute::report::write_report(report);
      if (!quiet) std::cout << "Report: " << report.output.string() << "\n";
    }
    std::cout.flush();
    if (!std::cout) return complain(system_refused, "standard output: cannot write");
  } catch (moeroute::io_error const& e) {
    return complain(system_refused, e.what());
  } catch (std::filesystem::filesystem_error const& e) {
    return complain(system_refused, e.what());
  } catch (moeroute::argument_error const& e) {
    return complain(bad_usage, e.what());  // what is wrong with data comes as format_error
  } catch (std::bad_alloc const&) {
    return complain(system_refused, "out of memory");
  } catch (std::exception const& e) {
    return complain(bad_data, e.what());
  }
  return done;
}
